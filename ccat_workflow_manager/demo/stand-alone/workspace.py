"""The part of the container contract that the demo uses: directories, manifest, products."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from files import read_json, write_json


class Workspace:
    """Directories and manifest, from the environment; collects what goes into products.json."""

    def __init__(self) -> None:
        self.output = os.environ["WORKFLOW_OUTPUT_DIR"]
        self.upstream = os.environ["WORKFLOW_UPSTREAM_DIR"]
        self.manifest: dict[str, Any] = read_json(os.environ["WORKFLOW_MANIFEST"])
        self.products: list[dict[str, Any]] = []

    def path(self, name: str) -> str:
        return f"{self.output}/{name}"

    def describe(self, path: str, name: str, parents: Sequence[str] | None = None, **quality: float) -> None:
        """Add a product with its quality metrics to products.json."""
        entry: dict[str, Any] = {"path": path, "name": name, "quality": quality}
        if parents is not None:
            entry["parents"] = list(parents)
        self.products.append(entry)

    def write(self, path: str, content: Any, name: str, parents: Sequence[str] | None = None) -> None:
        """Write a JSON product."""
        write_json(self.path(path), content)
        self.describe(path, name, parents)

    def finish(self, warnings: Sequence[str] = ()) -> None:
        write_json(self.path("products.json"), self.products)
        if warnings:
            write_json(self.path("warnings.json"), list(warnings))


def say(text: str) -> None:
    """Write a line to the log at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
