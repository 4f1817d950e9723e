"""Products: the newest ones, those of a run, and one with its preview, lineage and facts; directories as trees."""

from __future__ import annotations

import json
import mimetypes
import os
import stat
from contextlib import suppress
from typing import Any
from uuid import UUID

from starlette.responses import Response

from ccat_workflow_manager.api.products import open_product
from ccat_workflow_manager.api.rights import RUN
from ccat_workflow_manager.api.route import page_router
from ccat_workflow_manager.dashboard import fits, rendering
from ccat_workflow_manager.dashboard.board import B, Board
from ccat_workflow_manager.dashboard.drawing.graph import Node, graph
from ccat_workflow_manager.db.products import StoredProduct, find_product
from ccat_workflow_manager.db.queries.products import lineage, product_detail
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.views import products as view
from ccat_workflow_manager.db.views import run as run_view
from ccat_workflow_manager.errors import NotFound, OutputError, ServiceUnavailable
from ccat_workflow_manager.execution.scan import open_directory
from ccat_workflow_manager.identity import Projects

router = page_router()

_PAGE = 50
_OF_RUN = 2000
_BESIDE = 300
"""So many products of its run are listed beside a product."""
_RELATIVES = 300
_TEXT_BYTES = 64 * 1024
_ENTRIES = 1000
_FITS = (".fits", ".fit")
_PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp", "image/svg+xml")
_TEXTS = ("application/json", "application/yaml", "application/xml")


@router.get("/products")
def list_products(board: B, run: UUID | None = None, cursor: UUID | None = None) -> Response:
    if run is not None:
        board.require(RUN, run)
        found = board.read(("products", run), lambda unit: view.of_run(unit, run, _OF_RUN))
        return board.page("products_of_run", "products", run_id=run, steps=_by_step(found), count=len(found))
    found = board.read(("newest products", cursor), lambda unit: view.newest(unit, cursor, _PAGE + 1, board.projects))
    older = f"/products?cursor={found[_PAGE - 1]['id']}" if len(found) > _PAGE else ""
    return board.page("products", "products", items=found[:_PAGE], older=older, cursor=cursor)


def _by_step(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The products by step, in their order."""
    steps: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        steps.setdefault(item["step"], []).append(item)
    return [
        {"name": name, "items": found, "size": sum(each["size"] for each in found)} for name, found in steps.items()
    ]


def _gathered(unit: UnitOfWork, product_id: UUID, projects: Projects) -> dict[str, Any]:
    text = product_detail(unit, product_id)
    if text is None:
        raise NotFound(f"there is no product {product_id}")
    product = json.loads(text)
    return {
        "product": product,
        "stored": find_product(unit, product_id),
        "lineage": json.loads(lineage(unit, product_id, _RELATIVES, projects) or "{}"),
        "steps": _by_step(view.of_run(unit, UUID(product["run_id"]), _BESIDE)),
        "every": run_view.products(unit, UUID(product["run_id"])),
        "most_shown": _BESIDE,
    }


@router.get("/products/{product_id}")
def product(board: B, product_id: UUID) -> Response:
    found = board.read(("product", product_id), lambda unit: _gathered(unit, product_id, board.projects), 5)
    shown = _shown(board, found["stored"])
    return board.page("product", "products", dag=_drawn(found["lineage"]), **shown, **found)


def _shown(board: Board, stored: StoredProduct) -> dict[str, Any]:
    """How the content is shown: as a picture, as text, as a list of names, or not at all with the reason."""
    kind = mimetypes.guess_type(stored.path)[0] or ""
    shown: dict[str, Any] = {"shown_as": "", "text": "", "entries": [], "gone": "", "media_type": kind, "image": ""}
    try:
        descriptor = open_product(stored, str(board.context.settings.pipeline_base_dir))
    except (NotFound, ServiceUnavailable) as error:
        return shown | {"gone": error.message}
    try:
        if stored.is_directory:
            return shown | {"shown_as": "tree", "entries": _entries(descriptor)}
        if kind in _PICTURES:
            return shown | {"shown_as": "picture"}
        if stored.path.endswith(_FITS):
            return shown | _fits(descriptor)
        data = os.pread(descriptor, _TEXT_BYTES, 0)
        if kind.startswith("text/") or kind in _TEXTS or (not kind and b"\0" not in data):
            return shown | {"shown_as": "text", "text": _readable(data, kind)}
        return shown
    finally:
        os.close(descriptor)


@router.get("/ui/products/{product_id}/picture")
def picture(board: B, product_id: UUID) -> Response:
    """A small picture of the first image of a FITS file."""
    with board.context.database.read() as unit:
        stored = find_product(unit, product_id)
    if stored is None or not stored.path.endswith(_FITS):
        raise NotFound(f"there is no picture of a product {product_id}")
    headers = {**rendering.HEADERS, "Cache-Control": "private, max-age=3600", "ETag": f'"{stored.sha256}"'}
    if board.request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    descriptor = open_product(stored, str(board.context.settings.pipeline_base_dir))
    try:
        found = fits.picture(descriptor)
    finally:
        os.close(descriptor)
    if found is None:
        raise NotFound("this file has no image that can be shown")
    return Response(found, headers=headers, media_type="image/png")


def _fits(descriptor: int) -> dict[str, Any]:
    first, image = fits.header(descriptor), fits.first_image(descriptor)
    shape = " x ".join(map(str, image.shape())) if image else ""
    return {"shown_as": "fits", "text": first.text() if first else "", "image": shape}


def _readable(data: bytes, kind: str) -> str:
    """A text, JSON with indents if all of it is here."""
    text = data.decode("utf-8", "replace")
    if kind == "application/json" and len(data) < _TEXT_BYTES:
        with suppress(ValueError, RecursionError):
            return rendering.pretty(json.loads(text))
    return text


def _entries(descriptor: int) -> list[dict[str, Any]]:
    """One level of a directory, directories first."""
    found = []
    for name in sorted(os.listdir(descriptor))[:_ENTRIES]:
        with suppress(FileNotFoundError):
            about = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            found.append({"name": name, "is_directory": stat.S_ISDIR(about.st_mode), "size": about.st_size})
    return sorted(found, key=lambda each: (not each["is_directory"], each["name"]))


@router.get("/products/{product_id}/tree/{path:path}")
def tree(board: B, product_id: UUID, path: str) -> Response:
    """One level of a product that is a directory."""
    found = board.read(("product", product_id), lambda unit: _gathered(unit, product_id, board.projects), 5)
    parts = path.strip("/").split("/")
    if not found["stored"].is_directory or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise NotFound(f"there is no directory {path} in this product")
    top = open_product(found["stored"], str(board.context.settings.pipeline_base_dir))
    try:
        entries = _below(top, parts, path)
    except OutputError as error:
        raise NotFound(f"there is no directory {path} in this product: {error.message}") from error
    finally:
        os.close(top)
    values = {"shown_as": "tree", "text": "", "gone": "", "media_type": "", "entries": entries, "image": ""}
    return board.page("product", "products", dag="", inside="/".join(parts), **values, **found)


def _common(files: set[str]) -> str:
    """`*.npz` for files that differ in all but their suffix."""
    suffixes = {os.path.splitext(file)[1] for file in files}
    return f"*{suffixes.pop()}" if len(suffixes) == 1 else ""


def _below(descriptor: int, parts: list[str], path: str, depth: int = 0) -> list[dict[str, Any]]:
    if not parts:
        return _entries(descriptor)
    with open_directory(parts[0], path, descriptor, depth) as inner:
        return _below(inner, parts[1:], path, depth + 1)


def _drawn(found: dict[str, Any]) -> Any:
    """The lineage as a graph: a fan-out of a step is one node."""
    products = [found["product"], *found["ancestors"], *found["descendants"]]
    if len(products) == 1:
        return ""
    own = found["product"]["id"]
    nodes_of: dict[str, list[dict[str, Any]]] = {}
    name_of = {}
    for each in products:
        suffix = each["path"].rpartition("/")[2]
        name = own if each["id"] == own else f"{each['run_id']}/{each['step']}/{each['type']}"
        name_of[each["id"]] = name
        nodes_of.setdefault(name, []).append({**each, "file": suffix})
    upstream: dict[str, list[str]] = {name: [] for name in nodes_of}
    for edge in found["edges"]:
        child, parent = name_of.get(edge["child"]), name_of.get(edge["parent"])
        if child and parent and child != parent and parent not in upstream[child]:
            upstream[child].append(parent)
    nodes = {}
    for name, items in nodes_of.items():
        first = items[0]
        note = f"{first['step']}, {len(items):,} files" if len(items) > 1 else first["step"]
        files = {each["file"] for each in items}
        title = first["file"] if len(files) == 1 else _common(files) or first["type"].lower().replace("_", " ")
        kind = "sel" if name == own else ""
        nodes[name] = Node("COMPLETED", {"done": len(items)}, note, f"/products/{first['id']}", kind, title)
    try:
        return graph(upstream, nodes, frozenset(), w=150)
    except ValueError:  # steps whose products depend on each other in both directions cannot be drawn by step
        return ""
