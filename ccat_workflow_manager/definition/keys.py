"""The key of a step run: its item as a name that any file system, scheduler or shell takes as it is.

A text that is such a name already is its own key, and the key of an absolute path is the name of its file without the
extension. Everything else, and a path whose name another item has, is made readable and gets a hash of the item. So the
same item has the same key in every run, whatever the other items are called. What is readable of a path is the name of
its file, and the directory of that if another item has the name.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from posixpath import basename, dirname, splitext
from typing import TypeGuard

from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.json_values import JSON, PathPart, canonical_json, path_text, shown

Items = Sequence[tuple[str, JSON]]
"""Keys and items."""
SINGLE = "main"
"""The key of the only step run of a step without foreach."""
MAX_LENGTH = 80

_SHORT, _LONG = 12, 64
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".fz", ".lz4")
_SAFE = re.compile(rf"(?![.-])[A-Za-z0-9._-]{{1,{MAX_LENGTH}}}", re.ASCII)
_HASHED = re.compile(r".*--[0-9a-f]+", re.ASCII)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+", re.ASCII)


def first_duplicate(items: Sequence[JSON]) -> int | None:
    """The index of the first item that repeats an earlier one; 1, 1.0, true and "1" are four different items."""
    seen: set[str] = set()
    for index, item in enumerate(items):
        identity = "'" + item if isinstance(item, str) else canonical_json(item)
        if identity in seen:
            return index
        seen.add(identity)
    return None


def item_keys(items: Sequence[JSON]) -> list[str]:
    """A key for each of these items, which must all be different."""
    names = [_own_name(item) for item in items]
    names = _with_names_of_paths(items, names)
    texts = {name for name, item in zip(names, items, strict=True) if name is not None and isinstance(item, str)}
    taken = [
        name if isinstance(item, str) or name not in texts else None for name, item in zip(names, items, strict=True)
    ]
    return _completed(taken, items, _readable(items))


def _completed(names: Sequence[str | None], items: Sequence[JSON], texts: Sequence[str]) -> list[str]:
    """The names, and for each item without one its text with a hash of the item."""
    keys: list[str] = []
    hashed: set[str] = set()
    for name, item, text in zip(names, items, texts, strict=True):
        key = _hashed_name(item, text, _SHORT) if name is None else name
        if name is None and key in hashed:
            key = _hashed_name(item, text, _LONG)
        hashed.add(key)
        keys.append(key)
    return keys


def _readable(items: Sequence[JSON]) -> list[str]:
    """A text for each item, of a path the part that tells it from the others."""
    stems = Counter(_stem(item) for item in items if _is_path(item))
    return [
        ("" if stems[stem := _stem(item)] == 1 else f"{basename(dirname(item))}_") + stem
        if _is_path(item)
        else item
        if isinstance(item, str)
        else canonical_json(item)
        for item in items
    ]


def _is_path(item: JSON) -> TypeGuard[str]:
    return isinstance(item, str) and item.startswith("/")


def with_keys(values: Sequence[JSON], path: tuple[PathPart, ...]) -> tuple[Items, Fault | None]:
    """The items of a list with their keys, or the first fault. An item `{key: ..., value: ...}` brings its key."""
    given = {number: value["key"] for number, value in enumerate(values) if _brings_key(value)}
    plain = [value for number, value in enumerate(values) if number not in given]
    if (twice := first_duplicate(plain)) is not None:
        number = [number for number in range(len(values)) if number not in given][twice]
        return [], Fault(path_text([*path, number]), "is the same as an item before it; every item may occur once")
    for number, key in given.items():
        if problem := key_problem(key):
            return [], Fault(path_text([*path, number, "key"]), problem)
    derived = iter(item_keys(plain))
    keys = [given[number] if number in given else next(derived) for number in range(len(values))]
    seen: dict[str, int] = {}
    for number, key in enumerate(keys):
        if seen.setdefault(key, number) != number:
            own = [*path, number, "key"] if number in given else [*path, number]
            return [], Fault(path_text(own), f"has the key {key}, as item {seen[key]} has; every key may occur once")
    items = [value["value"] if number in given else value for number, value in enumerate(values)]
    return list(zip(keys, items, strict=True)), None


def _brings_key(value: JSON) -> bool:
    return isinstance(value, dict) and value.keys() == {"key", "value"}


def key_problem(key: JSON) -> str | None:
    """Why this cannot be the key of an item that a definition or a run gives; None if it can."""
    if isinstance(key, str) and _SAFE.fullmatch(key):
        return None
    return (
        f"must be a name of up to {MAX_LENGTH} letters, digits and . _ -, not beginning with . or -; not {shown(key)}"
    )


def keys_of_parts(parts: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Keys for paths that differ in these parts: the part, with a hash unless it is a name that no other one has."""
    texts = [part.replace("/", "_") for part in parts]
    count = Counter(texts)
    return _completed([_own_name(text) if count[text] == 1 else None for text in texts], paths, texts)


def _with_names_of_paths(items: Sequence[JSON], names: Sequence[str | None]) -> list[str | None]:
    """The names, with those of absolute paths filled in."""
    short = {n: _stem(item) for n, item in enumerate(items) if _is_path(item)}
    if not short:
        return list(names)
    count = Counter(name for name in names if name is not None) + Counter(short.values())
    return [
        short[n] if n in short and count[short[n]] == 1 and _own_name(short[n]) else name
        for n, name in enumerate(names)
    ]


def _stem(path: str) -> str:
    """`scan_1` for `/data/scan_1.fits` and `/data/scan_1.fits.gz`."""
    name, extension = splitext(basename(path))
    return splitext(name)[0] if extension in _COMPRESSED else name


def _own_name(item: JSON) -> str | None:
    """The item itself if it is a safe name that does not look as if it ended in a hash, else None."""
    if isinstance(item, dict | list):
        return None
    name = item if isinstance(item, str) else canonical_json(item)
    return name if _SAFE.fullmatch(name) and not ("--" in name and _HASHED.fullmatch(name)) else None


def _hashed_name(item: JSON, text: str, length: int) -> str:
    digest = sha256(canonical_json(item).encode(errors="surrogatepass")).hexdigest()[:length]
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    readable = _UNSAFE.sub("_", plain)[: MAX_LENGTH - 2 - length].strip("._-")
    return f"{readable or 'item'}--{digest}"
