"""Files that belong to a definition: scripts and small tables, which a program finds at `/workflow/code`.

A definition names each file by its SHA-256. A request may give the content instead of it.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Iterable
from hashlib import sha256
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator

from ccat_workflow_manager.definition.messages import refuse_if
from ccat_workflow_manager.json_values import kind, text_problem

MAX_FILE_BYTES = 1024 * 1024
MAX_FILES_BYTES = 10 * 1024 * 1024
MAX_FILES = 1000

_NAME = re.compile(r"[A-Za-z0-9._+-]{1,100}(/[A-Za-z0-9._+-]{1,100}){0,9}")
_DIGEST = re.compile("^[0-9a-f]{64}$")
_CONTENT = ("text", "base64")


def _digest(text: str) -> str:
    refuse_if(None if _DIGEST.fullmatch(text) else "must be a SHA-256: 64 digits and letters from a to f")
    return text


def _alternatives(schema: dict[str, Any]) -> None:
    stored = {**schema, "description": "A file that the service has already."}
    schema.clear()
    given = [
        {"type": "object", "properties": {name: {"type": "string"}}, "required": [name], "additionalProperties": False}
        for name in _CONTENT
    ]
    schema.update({"anyOf": [*given, stored], "description": "A file of at most 1 MB."})


class FileSpec(BaseModel):
    """One file: `{text: ...}` or `{base64: ...}` in a request, `{sha256: ..., size: ...}` once it is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_alternatives)

    sha256: Annotated[StrictStr, AfterValidator(_digest), Field(json_schema_extra={"pattern": _DIGEST.pattern})]
    size: Annotated[StrictInt, Field(ge=0, le=MAX_FILE_BYTES)]
    content: Annotated[bytes | None, Field(exclude=True, repr=False)] = None
    """Given by this request; None if the file is stored."""

    @model_validator(mode="before")
    @classmethod
    def _from_content(cls, data: Any) -> Any:
        if isinstance(data, str):
            refuse_if(
                "is a path, which `ccat-wm pipeline apply` reads; a request gives the content: {text: ...} or"
                " {base64: ...}"
            )
        if not isinstance(data, dict) or not data:
            refuse_if(f"must be {{text: ...}} or {{base64: ...}}, not {kind(data)}")
        if data.keys().isdisjoint({*_CONTENT, "content"}):
            return data
        if len(data) != 1 or "content" in data:
            refuse_if("takes one of text, base64 and sha256 with size")
        [(form, value)] = data.items()
        refuse_if(None if isinstance(value, str) else f"must have a string as its {form}, not {kind(value)}")
        content = value.encode(errors="surrogatepass") if form == "text" else _decoded(value)
        if len(content) > MAX_FILE_BYTES:
            refuse_if(f"has {len(content)} bytes; a file may have {MAX_FILE_BYTES}. Put larger files into the image")
        return {"sha256": sha256(content).hexdigest(), "size": len(content), "content": content}


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        refuse_if("is not valid base64")
        raise


def name_problem(name: str) -> str | None:
    """Why this cannot be the name of a file below `/workflow/code`; None if it can."""
    if problem := text_problem(name):
        return problem
    if not _NAME.fullmatch(name) or {".", ".."} & set(name.split("/")):
        return "is no name for a file: letters, digits and . _ + - are allowed, / between directories, and no .."
    return None


def files_problem(files: Iterable[str]) -> str | None:
    """Why these names cannot lie in one directory; None if they can."""
    names = set(files)
    for name in sorted(names):
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if (directory := "/".join(parts[:depth])) in names:
                return f"has {directory} both as a file and as the directory of {name}"
    return None


def total_problem(files: Iterable[FileSpec]) -> str | None:
    """Why a definition cannot have so many files; None if it can."""
    sizes = {each.sha256: each.size for each in files}
    if len(sizes) > MAX_FILES:
        return f"are {len(sizes)}; a definition may have {MAX_FILES}"
    if (total := sum(sizes.values())) > MAX_FILES_BYTES:
        return f"have {total} bytes together; a definition may have {MAX_FILES_BYTES}"
    return None
