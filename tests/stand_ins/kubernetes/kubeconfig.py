"""The file by which clients find the server."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

NAME = "stand-in"


def write(path: Path, url: str, token: str, namespaces: Sequence[str], authority: Path | None) -> None:
    """One context for each namespace; the first one is the current one. Written in one piece."""
    cluster: dict[str, str] = {"server": url}
    if authority is not None:
        cluster["certificate-authority"] = str(authority)
    names = [NAME, *namespaces[1:]]
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": cluster}],
        "users": [{"name": NAME, "user": {"token": token}}],
        "contexts": [
            {"name": name, "context": {"cluster": NAME, "user": NAME, "namespace": namespace}}
            for name, namespace in zip(names, namespaces, strict=True)
        ],
        "current-context": NAME,
    }
    # JSON is YAML.
    replace(path, json.dumps(content, indent=1))


def replace(path: Path, text: str) -> None:
    """A reader sees the old content or the new one, and nobody else may read it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)
