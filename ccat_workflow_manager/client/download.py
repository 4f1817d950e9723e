"""Brings products to this machine, goes on where it was interrupted, and verifies checksums."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ccat_workflow_manager.client.transport import Request, Transport
from ccat_workflow_manager.errors import RequestError, ServiceUnavailable, WorkflowError
from ccat_workflow_manager.execution.scan import tree_checksum
from ccat_workflow_manager.hpc.attempt.opener import stays_inside

_CHUNK = 1024 * 1024
_LONGEST_NAME = 255 - len("..part")


@dataclass(frozen=True, slots=True)
class Fetched:
    """One product on this machine."""

    product: Mapping[str, Any]
    path: Path
    was_there: bool


class Damaged(WorkflowError):
    """What has arrived is not what the service has."""

    code = "damaged"


class Occupied(Damaged, RequestError):
    """There is another file where the product should be."""

    code = "occupied"


async def fetch(api: Transport, product: Mapping[str, Any], directory: Path) -> Fetched:
    """Download a product to `directory/<step>/<key>/<path>`, unless it is there already.

    A file goes on where an earlier download has stopped. Raises Damaged if the checksum differs.
    """
    path = directory.joinpath(*_parts(product))
    if path.exists():
        if await api.apart(_checksum_of, path) != product["sha256"]:
            raise Occupied(f"{path} exists with other content; remove it, or choose another directory")
        return Fetched(product, path, was_there=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(_partial_name(path.name))
    if product["is_directory"]:
        await _fetch_directory(api, product, partial)
    else:
        await _fetch_file(api, product, partial)
    os.replace(partial, path)
    return Fetched(product, path, was_there=False)


def _partial_name(name: str) -> str:
    """The name of an unfinished download; that of a long name is a digest, or no file system would take it."""
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.part"


def _parts(product: Mapping[str, Any]) -> list[str]:
    parts = [product["step"], product["key"], *product["path"].split("/")]
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise Damaged(f"the path of the product {product['id']} is not valid: {product['path']!r}")
    return parts


def _checksum_of(path: Path) -> str:
    return tree_checksum(_lines(path)) if path.is_dir() else _checksum(path)


# --- files -----------------------------------------------------------------------------------------------------------


async def _fetch_file(api: Transport, product: Mapping[str, Any], partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    if have > product["size"]:
        have = 0
    if have < product["size"] or not partial.exists():
        await _receive(api, product, partial, have)
    if await api.apart(_checksum, partial) != product["sha256"]:
        partial.unlink()
        raise Damaged(f"{_label(product)} has arrived with another checksum; download it again")


async def _receive(api: Transport, product: Mapping[str, Any], target: Path, offset: int = 0) -> None:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    request = Request("GET", f"/products/{quote(product['id'], safe='')}/content", headers=headers)
    with target.open("ab") as file:
        file.truncate(offset)
        if product["size"] == 0 and not product["is_directory"]:
            return
        async with api.stream(request) as (response, chunks):
            if offset and response.status_code != 206:
                raise ServiceUnavailable(
                    f"{api.address.url} cannot go on with a download; remove the .part files and repeat"
                )
            async for chunk in chunks:
                file.write(chunk)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- directories -----------------------------------------------------------------------------------------------------


async def _fetch_directory(api: Transport, product: Mapping[str, Any], partial: Path) -> None:
    archive = partial.with_suffix(".tar")
    archive.unlink(missing_ok=True)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        await _receive(api, product, archive)
        await api.apart(_unpack, archive, partial)
    except tarfile.TarError as error:
        raise Damaged(f"{_label(product)} has arrived as an archive that cannot be read: {error}") from error
    finally:
        archive.unlink(missing_ok=True)
    if await api.apart(_checksum_of, partial) != product["sha256"]:
        shutil.rmtree(partial)
        raise Damaged(f"{_label(product)} has arrived with another checksum; download it again")


def _unpack(file: Path, directory: Path) -> None:
    with tarfile.open(file) as archive:
        _unpack_members(archive, directory)


def _unpack_members(archive: tarfile.TarFile, directory: Path) -> None:
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
