"""Inputs: files of the host or of a store, which a program finds at `/workflow/input`.

`inputs: ["/data/raw/${item}", {from: "/data/calib/*.fits", to: "calib/"}, {from: "https://..."}]`
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, model_serializer, model_validator

from ccat_workflow_manager.definition.messages import refuse_if
from ccat_workflow_manager.definition.substitution import (
    ITEM,
    PARAMETERS,
    RUN_ID,
    STEP_NAME,
    NoValue,
    Reference,
    look_up,
    parse_template,
    rendered,
)
from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.json_values import JSON, invalid, kind, text_problem

MAX_INPUTS = 1000
"""Entries of one definition; a pattern is one of them."""
SCHEMES = ("s3", "https", "http")

_LONGEST = 4096
_LONGEST_NAME = 1024
_LONGEST_PART = 255
_MAGIC = re.compile(r"[*?[]")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_CONTROL = re.compile("[\x00-\x1f\x7f]")


def _source(text: str) -> str:
    refuse_if(_form_problem(text))
    return text


def _name(text: str) -> str:
    refuse_if(name_problem(text.removesuffix("/")))
    return text


def _form(schema: dict[str, Any]) -> None:
    mapping = dict(schema)
    schema.clear()
    schema["anyOf"] = [{"type": "string", "description": "A path, a pattern of paths, s3:// or https://."}, mapping]


class InputSpec(BaseModel):
    """One entry of `inputs`; a text means `{from: text}`."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra=_form)

    source: Annotated[StrictStr, Field(alias="from", min_length=1, max_length=_LONGEST), AfterValidator(_source)]
    to: Annotated[StrictStr | None, Field(max_length=_LONGEST_NAME)] = None
    """The name below `/workflow/input`; with a `/` at its end, and for a pattern, that of a directory."""

    @model_validator(mode="before")
    @classmethod
    def _text_alone(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {"from": data}
        refuse_if(None if isinstance(data, dict) else f"must be a path or {{from: PATH, to: NAME}}, not {kind(data)}")
        return {name: value for name, value in data.items() if value is not None or name != "to"}

    @model_validator(mode="after")
    def _named(self) -> InputSpec:
        if self.to is not None:
            _name(self.to)
        return self

    @model_serializer
    def _as_written(self) -> str | dict[str, str]:
        return self.source if self.to is None else {"from": self.source, "to": self.to}


@dataclass(frozen=True, slots=True)
class WantedInput:
    """An input of one step run, all substitutions done."""

    source: str
    """A path, a pattern of `glob` or a URL."""
    to: str | None
    is_pattern: bool

    @property
    def is_url(self) -> bool:
        return is_url(self.source)

    def name_of(self, path: str) -> str:
        """The name below `/workflow/input` of a path or URL that this entry means."""
        own = (urlsplit(path).path if self.is_url else path).rstrip("/").rpartition("/")[2]
        if self.to is None:
            return own
        if self.to.endswith("/") or self.is_pattern:
            return f"{self.to.rstrip('/')}/{own}"
        return self.to


def is_url(text: str) -> bool:
    return _URL.match(text) is not None


def substituted_inputs(
    entries: Iterable[tuple[str, InputSpec]], parameters: Mapping[str, JSON], item: JSON, run_id: str, step_name: str
) -> list[WantedInput]:
    """The inputs of one step run. Each entry comes with its path in the definition. Raises Invalid with all faults."""
    values = {ITEM: item, RUN_ID: run_id, STEP_NAME: step_name}
    faults: list[Fault] = []
    found: list[WantedInput] = []
    for at, entry in entries:
        try:
            source, is_pattern = filled_pattern(entry.source, parameters, values)
            to = None if entry.to is None else filled_pattern(entry.to, parameters, values, literal=True)[0]
        except NoValue as error:
            faults.append(Fault(at, f"uses the parameter {error}, which has no value in this run"))
            continue
        wanted = WantedInput(source, to, is_pattern)
        plain = source if not is_pattern else _MAGIC.sub("_", source)
        problem = _form_problem(plain) or name_problem("x" if is_pattern and to is None else _target(wanted))
        if problem:
            faults.append(Fault(at, f"after substitution {problem}: {source!r}"))
        else:
            found.append(wanted)
    if faults:
        raise invalid(faults)
    return found


def _target(wanted: WantedInput) -> str:
    return wanted.name_of("x" if wanted.is_pattern else wanted.source)


def filled_pattern(
    text: str, parameters: Mapping[str, JSON], values: Mapping[tuple[str, ...], JSON], *, literal: bool = False
) -> tuple[str, bool]:
    """The text with its substitutions, and whether it is a pattern. Raises NoValue.

    The item and the names of run and step stand for themselves in a pattern. A parameter may bring `*`, `?` and `[`.
    """
    parts: list[tuple[str, bool]] = []
    for part in parse_template(text).parts:
        if isinstance(part, Reference):
            if part.names[0] == PARAMETERS:
                parts.append((_parameter(parameters, part), True))
            else:
                parts.append((rendered(values[part.names]), False))
        else:
            parts.append((part, True))
    is_pattern = not literal and not is_url(text) and any(may and _MAGIC.search(each) for each, may in parts)
    return "".join(each if may or not is_pattern else glob.escape(each) for each, may in parts), is_pattern


def _parameter(parameters: Mapping[str, JSON], reference: Reference) -> str:
    try:
        return rendered(look_up(parameters, reference.names[1:]))
    except NoValue:
        raise NoValue(".".join(reference.names[1:])) from None


# --- faults ---------------------------------------------------------------------------------------------------------


def _form_problem(text: str) -> str | None:
    """Why this text, with or without substitutions in it, cannot name an input; None if it can."""
    if (match := _URL.match(text)) and not text_problem(text) and not _CONTROL.search(text):
        scheme, rest = match.groups()
        place, _, key = rest.partition("/")
        if scheme not in SCHEMES:
            return f"begins with {scheme}://, but inputs come from paths, s3:// and https://"
        if not place or not key.strip("/") or key.endswith("/"):
            return f"must name an object: {scheme}://{'BUCKET/KEY' if scheme == 's3' else 'HOST/PATH'}"
        if scheme != "s3" and "@" in place:
            return "must not hold a name or password: every reader of the run would see it"
        return None
    return path_problem(text)


def path_problem(text: str) -> str | None:
    """Why this text, with or without substitutions in it, cannot name files of the host; None if it can."""
    if problem := text_problem(text):
        return problem
    if _CONTROL.search(text):
        return "contains a control character, which no input may have in its name"
    if not text.startswith(("/", "${")):
        return "must be an absolute path, or s3://BUCKET/KEY or https://HOST/PATH"
    if ".." in text.split("/"):
        return "must not contain .."
    return None


def name_problem(name: str) -> str | None:
    """Why this cannot be a name below `/workflow/input`; None if it can."""
    if problem := text_problem(name):
        return problem
    parts = name.split("/")
    if _CONTROL.search(name) or {"", ".", ".."} & set(parts):
        return "must name a file below /workflow/input: no / at the beginning, no .., no control character"
    if max(map(len, map(str.encode, parts))) > _LONGEST_PART:
        return f"must not have a part of more than {_LONGEST_PART} bytes"
    return None


def duplicate(names: Sequence[str]) -> str | None:
    """What is wrong with these names together, for one directory; None if nothing is."""
    known: set[str] = set()
    for name in names:
        if name in known:
            return f"two inputs have the name {name}; give one of them another name with `to`"
        known.add(name)
    for name in known:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if (directory := "/".join(parts[:depth])) in known:
                return f"the input {directory} is the directory of the input {name} too; rename one with `to`"
    return None


def input_faults(owner: str, entries: Sequence[InputSpec]) -> Iterator[Fault]:
    """Faults of inputs that lie together in one directory. Names with substitutions are compared later."""
    if len(entries) > MAX_INPUTS:
        yield Fault(owner, f"are {len(entries)}; a step may have {MAX_INPUTS}, and a pattern counts once")
        return
    literal = [each for each in entries if "${" not in each.source + (each.to or "")]
    wanted = [WantedInput(each.source, each.to, is_pattern_text(each.source)) for each in literal]
    names = [each.name_of(each.source) for each in wanted if not each.is_pattern]
    if problem := duplicate(names):
        yield Fault(owner, problem)


def is_pattern_text(text: str) -> bool:
    return not is_url(text) and _MAGIC.search(text) is not None
