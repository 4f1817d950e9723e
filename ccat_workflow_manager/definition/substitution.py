"""`${...}` in a step: which ones exist, how they are found in a text, and the values that replace them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from ccat_workflow_manager.definition.image_names import UNKNOWN, image_problem, partial_image_problem
from ccat_workflow_manager.definition.secrets import SecretRef, secrets_of, texts_of
from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.json_values import JSON, invalid, text_problem

ITEM = ("item",)
ITEM_TEXT = "${item}"
RUN_ID = ("run", "id")
STEP_NAME = ("step", "name")
PARAMETERS = "parameters"

ALLOWED = "${parameters.NAME}, ${item}, ${run.id} and ${step.name}"
LITERAL = 'write "$${" where a literal "${" is meant'

MAX_ARGUMENT_BYTES = 128 * 1024 - 1
"""What Linux takes as one argument or one environment entry (MAX_ARG_STRLEN, with the final NUL)."""

_LONGEST_REMEMBERED = 500
_TOKEN = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_WHOLE = re.compile(r"\$\{parameters\.([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Reference:
    """One `${...}`; `names` is the text between the braces, split at its dots."""

    names: tuple[str, ...]

    def __str__(self) -> str:
        return "${" + ".".join(self.names) + "}"


@dataclass(frozen=True, slots=True)
class Template:
    """A text split into literal parts and references."""

    parts: tuple[str | Reference, ...]
    problems: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[Reference, ...]:
        return tuple(part for part in self.parts if isinstance(part, Reference))


@dataclass(frozen=True, slots=True)
class SubstitutedStep:
    """Command, environment and image of one step run, with every `${...}` replaced."""

    command: list[str]
    environment: dict[str, str]
    image: str | None
    secrets: dict[str, str]
    """The names of secrets by variables."""


class StepTexts(Protocol):
    """The part of a step that may contain substitutions."""

    @property
    def command(self) -> tuple[str, ...]: ...
    @property
    def environment(self) -> Mapping[str, str | SecretRef]: ...
    @property
    def image(self) -> str | None: ...


class NoValue(LookupError):
    """A parameter that a text uses has no value in this run."""


def parse_template(text: str) -> Template:
    """Split a text. Faults of its `${...}` are listed in `problems`. Short texts are cached."""
    return _remembered(text) if len(text) <= _LONGEST_REMEMBERED else _parsed(text)


def _parsed(text: str) -> Template:
    parts: list[str | Reference] = []
    problems: list[str] = []
    literal = ""
    end = 0
    for token in _TOKEN.finditer(text):
        literal += text[end : token.start()]
        end = token.end()
        if token.group() == "$${":
            literal += "${"
            continue
        if token.group(1) is None:
            problems.append(f'has "${{" without a closing "}}"; {LITERAL}')
            continue
        names = tuple(token.group(1).split("."))
        if not _exists(names):
            problems.append(f"uses {token.group()}, which does not exist; there are {ALLOWED} ({LITERAL})")
            continue
        if literal:
            parts.append(literal)
            literal = ""
        parts.append(Reference(names))
    literal += text[end:]
    if literal:
        parts.append(literal)
    return Template(tuple(parts), tuple(problems))


_remembered = lru_cache(maxsize=8192)(_parsed)


def _exists(names: tuple[str, ...]) -> bool:
    if names[0] == PARAMETERS:
        return len(names) > 1 and all(names)
    return names in (ITEM, RUN_ID, STEP_NAME)


def whole_parameter(text: str) -> tuple[str, ...] | None:
    """`${parameters.a.b}` and nothing else: the names after `parameters`."""
    match = _WHOLE.fullmatch(text)
    names = tuple(match.group(1).split(".")) if match else ()
    return names if names and all(names) else None


def look_up(parameters: Mapping[str, JSON], names: tuple[str, ...]) -> JSON:
    """The value of a parameter. Raises NoValue if it has none."""
    value: JSON = parameters
    for name in names:
        if not isinstance(value, Mapping) or name not in value:
            raise NoValue(name)
        value = value[name]
    return value


def rendered(value: JSON) -> str:
    """A value inside a text: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def substitute_step(
    step: StepTexts, parameters: Mapping[str, JSON], item: JSON, run_id: str, step_name: str
) -> SubstitutedStep:
    """The command, environment and image of one step run. Raises Invalid with all faults of the result."""
    values = {ITEM: item, RUN_ID: run_id, STEP_NAME: step_name}
    faults: list[Fault] = []

    def put(text: str, path: str) -> str:
        if "${" not in text:
            return text
        try:
            result = _filled(parse_template(text), parameters, values)
        except NoValue as error:
            faults.append(Fault(path, f"uses the parameter {error}, which has no value in this run"))
            return ""
        if problem := argument_problem(result):
            faults.append(Fault(path, f"after substitution {problem}"))
        return result

    command = [put(text, f"command[{index}]") for index, text in enumerate(step.command)]
    environment = {name: put(text, f"environment.{name}") for name, text in texts_of(step.environment).items()}
    image = None if step.image is None else put(step.image, "image")
    if not faults:
        if command and not command[0]:
            faults.append(Fault("command[0]", "is empty after substitution; it must name a program"))
        if image is not None and (problem := image_problem(image)):
            faults.append(Fault("image", f"after substitution {problem}"))
    if faults:
        raise invalid(faults)
    return SubstitutedStep(command, environment, image, secrets_of(step.environment))


def partly_substituted(text: str, parameters: Mapping[str, JSON], item: JSON) -> str:
    """A text with the values that are known before there is a run; without an item `${item}` stays as it is."""
    if "${" not in text:
        return text
    template = parse_template(text)
    values = {reference.names: str(reference) for reference in template.references}
    try:
        return _filled(template, parameters, values if item is None else {**values, ITEM: item})
    except NoValue:
        # A step without step runs does not need its parameters.
        return text


def image_template_problem(text: str, parameters: Mapping[str, JSON] | None = None, item: JSON = None) -> str | None:
    """Why this text cannot name an image for any value of what is not given; None if it can."""
    template = parse_template(text)
    filled, complete = "", True
    for part in template.parts:
        value = _known(part, parameters, item) if isinstance(part, Reference) else part
        complete = complete and value is not None
        filled += UNKNOWN if value is None else value
    if template.problems:
        return None
    return image_problem(filled) if complete else partial_image_problem(filled)


def _known(reference: Reference, parameters: Mapping[str, JSON] | None, item: JSON) -> str | None:
    if reference.names == ITEM and item is not None:
        return rendered(item)
    if reference.names[0] != PARAMETERS or parameters is None:
        return None
    try:
        return rendered(look_up(parameters, reference.names[1:]))
    except NoValue:
        return None


def _filled(template: Template, parameters: Mapping[str, JSON], values: Mapping[tuple[str, ...], JSON]) -> str:
    result = ""
    for part in template.parts:
        if isinstance(part, str):
            result += part
        elif part.names[0] == PARAMETERS:
            try:
                result += rendered(look_up(parameters, part.names[1:]))
            except NoValue:
                raise NoValue(".".join(part.names[1:])) from None
        else:
            result += rendered(values[part.names])
    return result


def argument_problem(text: str) -> str | None:
    """Why this text cannot be an argument of a program; None if it can."""
    if len(text) * 4 > MAX_ARGUMENT_BYTES and len(text.encode(errors="replace")) > MAX_ARGUMENT_BYTES:
        return "is longer than 128 KiB, the most that Linux passes to a program in one piece"
    return text_problem(text)
