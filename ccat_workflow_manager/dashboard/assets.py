"""Static files: kept in memory, compressed once, under an address that changes with their content."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

STATIC = Path(__file__).with_name("static")
_COMPRESSED = (".css", ".js", ".svg", ".txt")
_YEAR = "public, max-age=31536000, immutable"
_TYPES = {".js": "text/javascript", ".woff2": "font/woff2", ".svg": "image/svg+xml", ".css": "text/css"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One static file."""

    content: bytes
    compressed: bytes | None
    media_type: str


@cache
def assets() -> dict[str, Asset]:
    """All static files by their path."""
    found = {}
    for path in sorted(STATIC.rglob("*")):
        if path.is_file() and path.suffix != ".md":
            content = path.read_bytes()
            packed = gzip.compress(content, 9, mtime=0) if path.suffix in _COMPRESSED else None
            kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            found[path.relative_to(STATIC).as_posix()] = Asset(content, packed, kind)
    return found


@cache
def version() -> str:
    """A hash of all static files. It is part of their addresses, so they can be cached for a year."""
    total = hashlib.sha256()
    for name, asset in assets().items():
        total.update(name.encode() + b"\0" + asset.content)
    return total.hexdigest()[:12]


def address(name: str) -> str:
    """The address of a static file."""
    if name not in assets():
        raise KeyError(name)
    return f"/static/{version()}/{name}"


async def serve(request: Request) -> Response:
    """A static file. With the address of an older version: the present file, not to be cached."""
    asset = assets().get(request.path_params["name"])
    if asset is None:
        return Response("there is no such file", 404, media_type="text/plain")
    is_current = request.path_params["version"] == version()
    headers = {
        "Cache-Control": _YEAR if is_current else "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'",
        "Vary": "Accept-Encoding",
    }
    if asset.compressed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
        return Response(asset.compressed, headers=headers, media_type=asset.media_type)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
