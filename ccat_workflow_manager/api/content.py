"""The content of a product as a response: a file as it is, a directory as a tar archive made while it is sent.

The directory was filled by a program of a stranger. So every component of a path is opened relative to the one before,
and no link is ever followed: neither a `..` in a name nor a link put there later leads out of the output directory.
"""

from __future__ import annotations

import mimetypes
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from typing import BinaryIO
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from ccat_workflow_manager.db.products import StoredProduct
from ccat_workflow_manager.errors import NotFound, OutputError, ServiceUnavailable
from ccat_workflow_manager.execution.layout import attempt_dirs
from ccat_workflow_manager.execution.scan import open_directory, open_file, stays_inside

_CHUNK = 1024 * 1024
_SHOWN_IN_BROWSERS = (
    "image/png", "image/jpeg", "image/gif", "image/webp", "application/json", "text/plain", "text/csv",
)  # fmt: skip


def respond(product: StoredProduct, base_dir: str, known: str | None) -> Response:
    """The content, or 304 for who has it already (`known` is the If-None-Match of the request)."""
    etag = f'"{product.sha256}"'
    if known is not None and etag in known:
        return Response(status_code=304, headers={"ETag": etag})
    opened = _open(product, base_dir)
    name = product.path.rpartition("/")[2]
    if product.is_directory:
        os.close(opened)  # it was there; a client that leaves before the first byte must not keep it open
        return StreamingResponse(
            _archive(product, base_dir),
            media_type="application/x-tar",
            headers=_headers(f"{name}.tar", etag, "attachment"),
        )
    media_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
    headers = _headers(name, etag, "inline" if media_type in _SHOWN_IN_BROWSERS else "attachment")
    file = os.fdopen(opened, "rb", buffering=0)
    return StreamingResponse(
        _chunks(file, product.size), media_type=media_type, headers={**headers, "Content-Length": str(product.size)}
    )


def _headers(name: str, etag: str, disposition: str) -> dict[str, str]:
    # The content comes from a stranger's program and is served beside the operators' pages: it may not act as one.
    return {
        "ETag": etag,
        "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(name, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self'; style-src 'unsafe-inline'",
        "X-Content-Type-Options": "nosniff",
    }


def _open(product: StoredProduct, base_dir: str) -> int:
    """A descriptor of the file or directory, opened without following any link below the run's directory."""
    dirs = attempt_dirs(base_dir, product.pipeline, str(product.run_id), product.step, product.key, product.attempt)
    if not os.path.isdir(dirs.run):
        raise ServiceUnavailable(f"the files of the run {product.run_id} cannot be seen from here, or are removed")
    parts = product.path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise NotFound(f"the path {product.path!r} of this product leads nowhere")
    opener = open_directory if product.is_directory else open_file
    try:
        with ExitStack() as stack:
            directory = stack.enter_context(open_directory(dirs.output, "output"))
            for depth, part in enumerate(parts[:-1]):
                directory = stack.enter_context(open_directory(part, product.path, directory, depth))
            found = stack.enter_context(opener(parts[-1], product.path, directory))
            if not product.is_directory and (size := os.fstat(found).st_size) != product.size:
                raise NotFound(f"{product.path} has {size} bytes now; {product.size} were collected")
            return os.dup(found)
    except OutputError as error:
        raise NotFound(f"the content of this product is gone: {error.message}") from error


def _chunks(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes, or an error that cuts the connection."""
    with file:
        left = size
        while left:
            chunk = file.read(min(_CHUNK, left))
            if not chunk:
                raise OSError("a file became shorter while it was being sent")
            left -= len(chunk)
            yield chunk


# --- archives -------------------------------------------------------------------------------------------------------


def _archive(product: StoredProduct, base_dir: str) -> Iterator[bytes]:
    """A tar archive of a directory."""
    directory = _open(product, base_dir)
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
