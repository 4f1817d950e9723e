"""Values from the command line: parameters, labels, files."""

from __future__ import annotations

import json
import re
import sys
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ccat_workflow_manager.commands.exit_codes import WrongUsage
from ccat_workflow_manager.commands.terminal_text import plain
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.json_values import path_text, similar

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason; every wait shows it.")]
Until = Annotated[
    str, typer.Option(metavar="TIME", help="Such as +2h, or 2027-01-31T12:00:00Z. Default: until it is resumed.")
]
EndsAt = Annotated[
    str, typer.Option("--until", metavar="TIME", help="Such as +2h: then it ends by itself. Default: never.")
]
OfProject = Annotated[str | None, typer.Option("--project", metavar="NAME", help="Only what is of this project.")]
ID_HELP = "Id of a run, its beginning or end, 'latest', or 'latest:PIPELINE'."
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help=ID_HELP)]
Id = Annotated[str, typer.Argument(metavar="ID", help=ID_HELP)]

_MOST_MATCHES = 100_000
_MAX_BYTES = 16 * 1024 * 1024
_LOCATED = 20
_LOCATED_BYTES = 1024 * 1024
_AGO = re.compile(r"([0-9]{1,9})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def read_definition(file: str) -> Any:
    """The value in a YAML or JSON file (`-` is stdin)."""
    from ccat_workflow_manager.definition.text import load_text

    text = _text_of(file, _shown(file))
    try:
        return load_text(text)
    except Invalid as error:
        raise fault_in_file(file, error) from None


def read_pipeline(file: str) -> Any:
    """The definition in a YAML or JSON file, with the content of the files that it names by path.

    The paths are relative to the directory of the definition.
    """
    definition = read_definition(file)
    if not isinstance(definition, dict):
        return definition
    steps = definition.get("steps")
    owners: list[tuple[tuple[str | int, ...], Any]] = [((), definition)]
    owners += [(("steps", index), step) for index, step in enumerate(steps if isinstance(steps, list) else ())]
    base = Path() if file == "-" else Path(file).parent
    faults: list[Fault] = []
    for path, owner in owners:
        files = owner.get("files") if isinstance(owner, dict) else None
        if not isinstance(files, dict):
            continue
        for name, value in files.items():
            if isinstance(value, str):
                files[name] = _content(base / value, path_text([*path, "files", name]), faults)
    if faults:
        raise fault_in_file(file, Invalid(faults=[*faults, *_other_faults(definition)]))
    for step in steps if isinstance(steps, list) else ():
        _warn_of_script(step, definition.get("files"))
    return definition


def _other_faults(definition: Any) -> Sequence[Fault]:
    """What is wrong apart from files that cannot be read, each of which has been replaced by an empty one."""
    from ccat_workflow_manager.definition.spec import parse_pipeline

    try:
        parse_pipeline(definition)
    except Invalid as error:
        return error.faults
    return ()


def _warn_of_script(step: Any, common: Any) -> None:
    """Say why a script that a step runs by itself cannot be started: its first line decides."""
    from ccat_workflow_manager.execution.layout import IN_CONTAINER

    command = step.get("command") if isinstance(step, dict) else None
    if not isinstance(command, list) or not command or not isinstance(command[0], str):
        return
    name = command[0].removeprefix(f"{IN_CONTAINER.code}/")
    known = {**(common if isinstance(common, dict) else {}), **(step.get("files") or {})}
    content = known.get(name) if name != command[0] else None
    text = content.get("text") if isinstance(content, dict) else None
    if text is None:
        return
    first = text.split("\n", 1)[0]
    if not first.startswith("#!"):
        what = f"has no `#!` line; begin it with `#!/usr/bin/env python3`, or write command: [python3, {command[0]}]"
    elif first.endswith("\r"):
        what = f"has the line ends of Windows, so it cannot be started; mend it with: sed -i 's/\\r$//' {name}"
    else:
        return
    typer.echo(f"warning: {plain(name)} {plain(what)}", err=True)


def _content(path: Path, at: str, faults: list[Fault]) -> dict[str, str]:
    """The content of a file as a definition holds it."""
    from ccat_workflow_manager.definition.files import MAX_FILE_BYTES

    try:
        with path.open("rb") as opened:
            data = opened.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        faults.append(Fault(at, f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"))
        return {"text": ""}
    if len(data) > MAX_FILE_BYTES:
        faults.append(Fault(at, f"{path} is larger than 1 MB, the most that a file may have; put it into the image"))
        return {"text": ""}
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = "\0"
    return {"base64": b64encode(data).decode()} if "\0" in text else {"text": text}


def fault_in_file(file: str, error: Invalid) -> WrongUsage:
    """The error for the content of a file: each fault begins with the name of the file."""
    from ccat_workflow_manager.commands.fault_lines import whereabouts

    name, text = _shown(file), _read_again(file)
    faults = tuple(
        Fault(
            f"{name}: {fault.path}" if fault.path else name,
            f"{fault.message} ({where})" if (where := whereabouts(text, fault.path)) else fault.message,
        )
        for fault in error.faults[:_LOCATED]
    ) + tuple(Fault(f"{name}: {fault.path}", fault.message) for fault in error.faults[_LOCATED:])
    return WrongUsage("; ".join(map(str, faults)) or f"{name}: {error.message}", faults)


def _read_again(file: str) -> str:
    """The text of a file of moderate size, to find lines in it; empty if it cannot be had."""
    with suppress(OSError, ValueError):
        if file != "-" and Path(file).stat().st_size <= _LOCATED_BYTES:
            return Path(file).read_text(encoding="utf-8-sig")
    return ""


def _shown(file: str) -> str:
    return "standard input" if file == "-" else file


def _text_of(file: str, name: str) -> str:
    try:
        if file == "-":
            data = sys.stdin.buffer.read(_MAX_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise WrongUsage(f"{name} cannot be read: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise WrongUsage(f"{name!r} is not the name of a file: {error}") from None
    if len(data) > _MAX_BYTES:
        raise WrongUsage(f"{name} is larger than {_MAX_BYTES // 1024**2} MB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WrongUsage(f"{name} is not UTF-8 text: byte {error.start + 1} cannot be decoded") from None


def as_mapping(value: Any, file: str, what: str) -> dict[str, Any]:
    """The value of a file, which must be a mapping."""
    if not isinstance(value, dict):
        raise WrongUsage(f"{file}: {what} must be a mapping of names to values, not {json.dumps(value)[:60]}")
    return value


def parameters(pairs: Iterable[str], file: str | None, definition: Callable[[], Any] = lambda: None) -> dict[str, Any]:
    """The parameters of a run: those of the file, overridden by each `name=value`.

    A value that is valid JSON is parsed, and `@/data/*.fits` is the list of the paths that match, unless the definition
    declares the parameter as text. `definition` is called only if that makes a difference.
    """
    found = as_mapping(read_definition(file), file, "parameters") if file is not None else {}
    typed = dict(_pairs(pairs, "=", "-p"))
    values = {name: None if text.startswith("@") else _value(text) for name, text in typed.items()}
    if any(not isinstance(value, str) for value in values.values()):
        texts = _declared_as_text(definition())
        values |= {name: typed[name] for name, value in values.items() if name in texts and not isinstance(value, str)}
        for name, text in typed.items():
            if text.startswith("@") and name not in texts:
                values[name] = _matches(name, text[1:])
    return found | values


def warn_of_undeclared(given: Iterable[str], definition: Callable[[], Any]) -> None:
    """Say which parameters of an accepted run its pipeline does not declare: one may be a mistyped name."""
    names = list(given)
    schema = definition() if names else None
    schema = schema.get("parameters") if isinstance(schema, dict) else None
    declared = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(declared, dict):
        return
    for name in names:
        if name not in declared:
            close = similar(name, declared)
            hint = f"; did you mean {close}?" if close is not None else ""
            typer.echo(f"warning: the pipeline declares no parameter {plain(name)}{hint}", err=True)


@contextmanager
def naming_the_at_sign(pairs: Iterable[str]) -> Iterator[None]:
    """Add to a refusal of relative paths that `-p NAME=@PATTERN` gives the absolute ones."""
    try:
        yield
    except Invalid as error:
        if pairs and any("absolute path" in fault.message for fault in error.faults):
            typer.echo("hint: -p 'NAME=@raw/*.txt' is the list of the absolute paths of files here", err=True)
        raise


def _matches(name: str, pattern: str) -> list[str]:
    """The absolute paths that match a pattern, sorted."""
    import os
    from glob import iglob
    from itertools import islice

    if not pattern or "\0" in pattern:
        raise WrongUsage(f"-p {name}=@ needs a pattern of paths behind the @; write it in quotes")
    found = sorted(islice(iglob(os.path.abspath(os.path.expanduser(pattern)), recursive=True), _MOST_MATCHES + 1))
    if not found:
        raise WrongUsage(f"-p {name}: no file matches {pattern} here; a pattern needs quotes, or the shell expands it")
    if len(found) > _MOST_MATCHES:
        raise WrongUsage(f"-p {name}: more than {_MOST_MATCHES} files match {pattern}")
    if bad := next((path for path in found if not path.isprintable()), None):
        raise WrongUsage(f"-p {name}: {bad!r} matches {pattern}, but its name has characters that no text can hold")
    return found


def _declared_as_text(definition: Any) -> set[str]:
    """The parameters that a definition, valid or not, declares with `type: string` and no other type."""
    declared = definition
    for name in ("parameters", "properties"):
        declared = declared.get(name) if isinstance(declared, dict) else None
    return {
        name
        for name, schema in (declared.items() if isinstance(declared, dict) else ())
        if isinstance(schema, dict) and schema.get("type") in ("string", ["string"])
    }


def moment_before_now(text: str) -> str:
    """The time that lies so long before now, for `90m`, `24h`, `7d` or `2w`; any other text is a time by itself."""
    return _moment(text, -1)


def after_now(text: str) -> str:
    """The time that lies so long after now; any other text is a time by itself."""
    return _moment(text, 1)


def end_of(until: str) -> str | None:
    """The time of `--until`: `+2h` and `2h` are so long after now. None: it is not given."""
    return after_now(until.removeprefix("+")) if until else None


def terms(why: str, until: str) -> dict[str, str]:
    """The fields of a change that says why it is made, and when it ends."""
    given = {"why": why, "until": end_of(until)}
    return {name: value for name, value in given.items() if value}


def _moment(text: str, direction: int) -> str:
    match = _AGO.fullmatch(text)
    if match is None:
        try:
            datetime.fromisoformat(text)
        except ValueError:
            raise WrongUsage(f"{text!r} is no time: write 90m, 24h, 7d, 2w, or 2026-01-31T12:00:00Z") from None
        return text
    try:
        moment = datetime.now(UTC) + direction * timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError:
        when = "ago is before" if direction < 0 else "from now is after"
        raise WrongUsage(f"{text} {when} all time") from None
    return moment.isoformat()


def labels(pairs: Iterable[str]) -> dict[str, str]:
    """Labels written `name:value`."""
    return dict(_pairs(pairs, ":", "--label"))


def _pairs(pairs: Iterable[str], separator: str, option: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, present, value = pair.partition(separator)
        if not present or not name:
            raise WrongUsage(f"{option} {pair!r} is not of the form NAME{separator}VALUE")
        if name in found:
            raise WrongUsage(f"{option} gives {name!r} twice")
        try:
            pair.encode()
        except UnicodeEncodeError:
            raise WrongUsage(f"{option} {pair!r} is not UTF-8 text") from None
        found[name] = value
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")
