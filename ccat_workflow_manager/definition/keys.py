"""The key of a step run: its item as a name that any file system, scheduler or shell takes as it is.

A text that is such a name already is its own key. Everything else is made readable and gets a hash of the item, so the
same item has the same key in every run, whatever the other items are.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from hashlib import sha256

from ccat_workflow_manager.json_values import JSON, canonical_json

SINGLE = "main"
"""The key of the only step run of a step without foreach."""
MAX_LENGTH = 80

_SHORT, _LONG = 12, 64
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
    texts = {name for name, item in zip(names, items, strict=True) if name is not None and isinstance(item, str)}
    keys: list[str] = []
    hashed: set[str] = set()
    for name, item in zip(names, items, strict=True):
        if name is not None and (isinstance(item, str) or name not in texts):
            keys.append(name)
            continue
        key = _hashed_name(item, _SHORT)
        if key in hashed:
            key = _hashed_name(item, _LONG)
        hashed.add(key)
        keys.append(key)
    return keys


def _own_name(item: JSON) -> str | None:
    """The item itself if it is a safe name that does not look as if it ended in a hash, else None."""
    if isinstance(item, dict | list):
        return None
    name = item if isinstance(item, str) else canonical_json(item)
    return name if _SAFE.fullmatch(name) and not ("--" in name and _HASHED.fullmatch(name)) else None


def _hashed_name(item: JSON, length: int) -> str:
    text = canonical_json(item)
    digest = sha256(text.encode(errors="surrogatepass")).hexdigest()[:length]
    plain = unicodedata.normalize("NFKD", item if isinstance(item, str) else text).encode("ascii", "ignore").decode()
    readable = _UNSAFE.sub("_", plain)[: MAX_LENGTH - 2 - length].strip("._-")
    return f"{readable or 'item'}--{digest}"
