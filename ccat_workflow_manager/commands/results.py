"""Lists and downloads the products of a run."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ccat_workflow_manager.commands.client import Client
from ccat_workflow_manager.errors import ServiceUnavailable, WorkflowError
from ccat_workflow_manager.execution.scan import stays_inside, tree_checksum

_CHUNK = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fetched:
    """One product on this machine."""

    product: Mapping[str, Any]
    path: Path
    was_there: bool


class Damaged(WorkflowError):
    """What has arrived is not what the service has."""

    code = "damaged"


def run_products(client: Client, run_id: str, **filters: str | None) -> Iterator[dict[str, Any]]:
    """The products of a run that fit the filters."""
    return client.items(f"/runs/{quote(run_id, safe='')}/products", None, **filters)


def fetch(client: Client, product: Mapping[str, Any], directory: Path) -> Fetched:
    """Download a product to `directory/<step>/<key>/<path>`, unless it is there already.

    A file goes on where an earlier download has stopped. Raises Damaged if the checksum differs.
    """
    path = directory.joinpath(*_parts(product))
    if path.exists():
        if _checksum_of(path) != product["sha256"]:
            raise Damaged(f"{path} exists with other content; remove it, or choose another directory")
        return Fetched(product, path, was_there=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    if product["is_directory"]:
        _fetch_directory(client, product, partial)
    else:
        _fetch_file(client, product, partial)
    os.replace(partial, path)
    return Fetched(product, path, was_there=False)


def _parts(product: Mapping[str, Any]) -> list[str]:
    parts = [product["step"], product["key"], *product["path"].split("/")]
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise Damaged(f"the path of the product {product['id']} is not valid: {product['path']!r}")
    return parts


def _checksum_of(path: Path) -> str:
    return tree_checksum(_lines(path)) if path.is_dir() else _checksum(path)


# --- files -----------------------------------------------------------------------------------------------------------


def _fetch_file(client: Client, product: Mapping[str, Any], partial: Path) -> None:
    with partial.open("ab") as file:
        have = file.tell()
        if have > product["size"]:
            file.truncate(have := 0)
        if have < product["size"]:
            with _content(client, product, have) as chunks:
                for chunk in chunks:
                    file.write(chunk)
    if _checksum(partial) != product["sha256"]:
        partial.unlink()
        raise Damaged(f"{_label(product)} has arrived with another checksum; download it again")


def _checksum(path: Path) -> str:
    digest = sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _content(client: Client, product: Mapping[str, Any], offset: int = 0) -> Iterator[Iterator[bytes]]:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    with client.stream(f"/products/{quote(product['id'], safe='')}/content", headers) as response:
        if offset and response.status_code != 206:
            raise ServiceUnavailable(f"{client.url} cannot go on with a download; remove the .part files and repeat")
        yield response.iter_bytes(_CHUNK)


# --- directories -----------------------------------------------------------------------------------------------------


def _fetch_directory(client: Client, product: Mapping[str, Any], partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with (
        _content(client, product) as chunks,
        tarfile.open(fileobj=io.BufferedReader(_Stream(chunks), _CHUNK), mode="r|") as archive,
    ):
        _unpack(archive, partial)
    if tree_checksum(_lines(partial)) != product["sha256"]:
        shutil.rmtree(partial)
        raise Damaged(f"{_label(product)} has arrived with another checksum; download it again")


def _unpack(archive: tarfile.TarFile, directory: Path) -> None:
    """Unpack files and directories, then links that stay inside: nothing is written through a link."""
    links: list[tuple[Path, str]] = []
    for member in archive:
        inside = member.name.split("/")[1:]
        if any(part in ("", ".", "..") for part in inside):
            raise Damaged(f"the archive holds the path {member.name!r}")
        target = directory.joinpath(*inside)
        if member.isdir():
            target.mkdir(exist_ok=True)
        elif inside and member.isreg() and (content := archive.extractfile(member)):
            with content, target.open("xb") as file:
                shutil.copyfileobj(content, file, _CHUNK)
        elif member.issym() and stays_inside("/".join(inside), member.linkname):
            links.append((target, member.linkname))
        else:
            raise Damaged(f"the archive holds {member.name!r}, which is neither a file nor a directory")
    for target, points_to in links:
        target.symlink_to(points_to)


class _Stream(io.RawIOBase):
    """A file to read from, made of the chunks of a response."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._rest = self._rest or next(self._chunks, b"")
        taken = self._rest[: len(buffer)]
        buffer[: len(taken)] = taken
        self._rest = self._rest[len(taken) :]
        return len(taken)


def _lines(directory: Path, prefix: str = "") -> Iterator[tuple[str, str]]:
    for entry in directory.iterdir():
        relative = f"{prefix}{entry.name}"
        if entry.is_symlink():
            yield relative, f"link {entry.readlink()}"
        elif entry.is_dir():
            yield relative, "directory"
            yield from _lines(entry, f"{relative}/")
        else:
            yield relative, f"file {entry.stat().st_size} {_checksum(entry)}"


def _label(product: Mapping[str, Any]) -> str:
    return f"{product['step']}/{product['key']}/{product['path']}"
