"""Products: their metadata, lineage and content.

A file is sent as it is, a directory as a tar archive that is made while it is sent. Programs that the service does not
trust have written these files. So every component of a path is opened relative to the one before, and no link is
followed: neither a `..` in a name nor a link that is placed there later leads out of the output directory.
"""

from __future__ import annotations

import mimetypes
import os
import re
import stat
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote
from uuid import UUID

from fastapi import Header
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from ccat_workflow_manager.api import openapi
from ccat_workflow_manager.api.dependencies import Ctx, Who
from ccat_workflow_manager.api.openapi import Page, Shape, Time
from ccat_workflow_manager.api.paging import json_response, matches, read_one
from ccat_workflow_manager.api.problems import problem
from ccat_workflow_manager.api.route import api_router
from ccat_workflow_manager.db.products import StoredProduct, find_product
from ccat_workflow_manager.db.queries import products as queries
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.errors import NotFound, OutputError, ServiceUnavailable
from ccat_workflow_manager.execution.layout import attempt_dirs
from ccat_workflow_manager.execution.scan import open_directory, open_file
from ccat_workflow_manager.hpc.attempt.opener import stays_inside
from ccat_workflow_manager.lifecycle.states import Status

router = api_router(prefix="/products/{product_id}", tags=["products"])

MOST_RELATIVES = 1000
_CHUNK = 1024 * 1024
_RANGE = re.compile(r"bytes=([0-9]{0,4000})-([0-9]{0,4000})", re.IGNORECASE)
"""Python reads numbers of up to 4300 digits."""
_SHOWN_IN_BROWSERS = (
    "image/png", "image/jpeg", "image/gif", "image/webp", "application/json", "text/plain", "text/csv",
)  # fmt: skip


class Caveat(Shape):
    """What a result lacks although its step run COMPLETED."""

    kind: str = Field(description="`tolerated_loss`, `no_work`, `partial`, `unprocessable`, ...")
    text: str


class Product(Shape):
    id: UUID
    run_id: UUID
    step_run_id: UUID
    project: str
    pipeline: str
    step: str
    key: str
    attempt: int
    name: str
    type: str
    path: str = Field(description="Below the output directory of the attempt.")
    size: int
    sha256: str
    is_directory: bool
    file_count: int
    metadata: dict[str, Any]
    caveats: list[Caveat] = Field(description="Those of its step run.")
    created_at: Time


class ProductPage(Page):
    items: list[Product]


class LineageEdge(Shape):
    parent: UUID
    child: UUID
    declared: bool = Field(description="False: derived from the order of the steps.")


class SetByHand(Shape):
    step_run_id: UUID
    run_id: UUID
    step: str
    key: str
    status: Status
    reason_text: str
    finished_at: Time


class LineageInput(Shape):
    """A file of the host or of a store that a step run has read."""

    step_run_id: UUID
    name: str = Field(description="Below `/workflow/input`.")
    source: str
    size: int
    sha256: str = Field(description="Of a directory: of the list of its names, sizes and times.")
    is_directory: bool
    file_count: int


class Lineage(Shape):
    product: Product
    ancestors: list[Product]
    descendants: list[Product]
    edges: list[LineageEdge]
    set_by_hand: list[SetByHand] = Field(description="Step runs before these products whose outcome a person has set.")
    inputs: list[LineageInput] = Field(description="Of its step run and of those of its ancestors.")
    truncated: bool


_CONTENT: dict[int | str, dict[str, Any]] = {200: openapi.content, 206: openapi.part, 304: openapi.not_modified}


@router.get("", response_model=Product)
def get_product(context: Ctx, product_id: UUID) -> Response:
    """A product: type, size, checksum, metadata."""
    return json_response(read_one(context, "product", queries.product_detail, product_id))


@router.get("/lineage", response_model=Lineage)
def get_lineage(context: Ctx, who: Who, product_id: UUID) -> Response:
    """The products that it was made from, and those that were made from it.

    Parents are those that the program declared, by default all products of the step runs before it.
    Up to 1000 products in each direction; `truncated` is true if there are more.
    """

    def view(unit: UnitOfWork, key: UUID) -> str | None:
        return queries.lineage(unit, key, MOST_RELATIVES, who.projects)

    return json_response(read_one(context, "product", view, product_id))


@router.get("/content", response_class=Response, responses=_CONTENT)
def get_content(
    context: Ctx,
    product_id: UUID,
    known: Annotated[str | None, Header(alias="If-None-Match")] = None,
    wanted: Annotated[str | None, Header(alias="Range", description="`bytes=FIRST-` or `bytes=FIRST-LAST`.")] = None,
    part_of: Annotated[
        str | None, Header(alias="If-Range", description="The ETag of what the client has a part of; else all is sent.")
    ] = None,
) -> Response:
    """The file itself or a part of it (206), or a directory as a tar archive."""
    with context.database.read() as unit:
        found = find_product(unit, product_id)
    if found is None:
        raise NotFound(f"there is no product {product_id}")
    if part_of not in (None, _etag(found)):
        wanted = None
    return _content(found, str(context.settings.pipeline_base_dir), known, wanted)


# --- content ---------------------------------------------------------------------------------------------------------


def _etag(product: StoredProduct) -> str:
    return f'"{product.sha256}"'


def _content(product: StoredProduct, base_dir: str, known: str | None, wanted: str | None) -> Response:
    """The content, the part that is `wanted` (the Range of the request), or 304 if the client has it (`known`)."""
    etag = _etag(product)
    if matches(known, etag):
        return Response(status_code=304, headers={"ETag": etag})
    opened = open_product(product, base_dir)
    name = product.path.rpartition("/")[2]
    if product.is_directory:
        os.close(opened)  # it exists; `_archive` opens it again, since a client that disconnects now would keep it open
        return StreamingResponse(
            _archive(product, base_dir),
            media_type="application/x-tar",
            headers=_headers(f"{name}.tar", etag, "attachment"),
        )
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = _headers(name, etag, "inline" if media_type in _SHOWN_IN_BROWSERS else "attachment")
    part = _part(wanted, product.size)
    if part is not None and not part:
        os.close(opened)
        detail = f"the file has {product.size} bytes, none of them in {wanted}"
        headers = {"ETag": etag, "Content-Range": f"bytes */{product.size}"}
        return problem(416, "range_not_satisfiable", detail, headers=headers)
    headers["Accept-Ranges"] = "bytes"
    sent = part if part is not None else range(product.size)
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{product.size}"
    file = os.fdopen(opened, "rb", buffering=0)
    file.seek(sent.start)
    return StreamingResponse(
        _chunks(file, len(sent)),
        status_code=200 if part is None else 206,
        media_type=media_type,
        headers={**headers, "Content-Length": str(len(sent))},
    )


def _part(wanted: str | None, size: int) -> range | None:
    """The bytes that a Range header names, empty if the file has none of them; None for all bytes.

    A server may ignore a Range that it does not support, such as several parts at once.
    """
    match = _RANGE.fullmatch(wanted or "")
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    stop = min(size, int(last) + 1) if last else size
    if last and int(last) < int(first):
        return None
    return range(int(first), max(int(first), stop))


def _headers(name: str, etag: str, disposition: str) -> dict[str, str]:
    # The content is untrusted and is served from the same origin as the dashboard: the browser must not run it.
    return {
        "ETag": etag,
        "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(name, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self'; style-src 'unsafe-inline'",
        "X-Content-Type-Options": "nosniff",
    }


def open_product(product: StoredProduct, base_dir: str) -> int:
    """Open the file or directory without following links below the directory of the run. Returns a descriptor."""
    dirs = attempt_dirs(base_dir, product.pipeline, str(product.run_id), product.step, product.key, product.attempt)
    if not os.path.isdir(dirs.run):
        raise ServiceUnavailable(f"the files of the run {product.run_id} are removed or out of sight of this process")
    parts = product.path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise NotFound(f"the path {product.path!r} of this product is not valid")
    opener = open_directory if product.is_directory else open_file
    try:
        with ExitStack() as stack:
            directory = stack.enter_context(open_directory(dirs.output, "output"))
            for depth, part in enumerate(parts[:-1]):
                directory = stack.enter_context(open_directory(part, product.path, directory, depth))
            found = stack.enter_context(opener(parts[-1], product.path, directory))
            if not product.is_directory and (size := os.fstat(found).st_size) != product.size:
                raise NotFound(f"{product.path} now has {size} bytes; it had {product.size} when it was collected")
            return os.dup(found)
    except OutputError as error:
        raise NotFound(f"the content of this product is gone: {error.message}") from error


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yields exactly `size` bytes. Raises OSError if the file has become shorter, which cuts the connection."""
    with file:
        left = size
        while left:
            chunk = file.read(min(_CHUNK, left))
            if not chunk:
                raise OSError("a file has become shorter while it was sent")
            left -= len(chunk)
            yield chunk


def _archive(product: StoredProduct, base_dir: str) -> Iterator[bytes]:
    """A tar archive of a directory."""
    directory = open_product(product, base_dir)
    try:
        yield from _members(directory, product.path.rpartition("/")[2], "")
        yield bytes(2 * tarfile.BLOCKSIZE)
    finally:
        os.close(directory)


def _members(directory: int, top: str, prefix: str) -> Iterator[bytes]:
    depth = prefix.count("/")
    yield _header(f"{top}/{prefix}".rstrip("/"), os.fstat(directory), tarfile.DIRTYPE)
    for name in sorted(os.listdir(directory)):
        path = prefix + name
        about = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISDIR(about.st_mode):
            with open_directory(name, path, directory, depth) as inner:
                yield from _members(inner, top, f"{path}/")
        elif stat.S_ISREG(about.st_mode):
            with open_file(name, path, directory) as found:
                about = os.fstat(found)
                yield _header(f"{top}/{path}", about, tarfile.REGTYPE)
                yield from _chunks(os.fdopen(os.dup(found), "rb", buffering=0), about.st_size)
                yield bytes(-about.st_size % tarfile.BLOCKSIZE)
        elif stat.S_ISLNK(about.st_mode) and stays_inside(path, target := os.readlink(name, dir_fd=directory)):
            yield _header(f"{top}/{path}", about, tarfile.SYMTYPE, target)


def _header(path: str, about: os.stat_result, kind: bytes, target: str = "") -> bytes:
    info = tarfile.TarInfo(path)
    info.type = kind
    info.size = about.st_size if kind == tarfile.REGTYPE else 0
    info.mtime = int(about.st_mtime)
    info.mode = stat.S_IMODE(about.st_mode) & 0o755
    info.linkname = target
    return info.tobuf(tarfile.PAX_FORMAT)
