"""Lists and downloads the products of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ccat_workflow_manager.client import download
from ccat_workflow_manager.client.both import finished
from ccat_workflow_manager.client.download import Fetched
from ccat_workflow_manager.commands.client import Client


def run_products(client: Client, run_id: str, **filters: str | None) -> Iterator[dict[str, Any]]:
    """The products of a run that fit the filters."""
    return client.items(f"/runs/{quote(run_id, safe='')}/products", None, **filters)


def fetch(client: Client, product: Mapping[str, Any], directory: Path) -> Fetched:
    """Download a product to `directory/<step>/<key>/<path>`, unless it is there already. Raises Damaged."""
    return finished(download.fetch(client.api, product, directory))
