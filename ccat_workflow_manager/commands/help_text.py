"""How `--help` and wrong usage are worded: Typer keeps the lines of docstrings, and shows types that say nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_FOREIGN = {"Value error, ": "", "Input should be ": "must be "}
"""How pydantic begins its messages, which Typer passes on."""


def tidy(command: Any) -> None:
    """Word the help of a command, and of those in its group."""
    if command.help:
        command.help = flowing(command.help)
    params = command.get_params
    command.get_params = lambda ctx: [_without_type(each) for each in params(ctx)]
    for each in getattr(command, "commands", {}).values():
        tidy(each)


def _without_type(param: Any) -> Any:
    """An argument has a name that is shown already, and a flag has no value."""
    if param.param_type_name == "argument":
        param.display_type_rich = lambda ctx: None
    elif param.is_flag and param.metavar is None:
        param.metavar = ""
    return param


def flowing(text: str) -> str:
    """The text with one line for each paragraph, to be broken by the terminal. Indented lines stay lines."""
    return "\n\n".join("\n".join(_lines(paragraph)) for paragraph in text.split("\n\n"))


def _lines(paragraph: str) -> Iterator[str]:
    line = ""
    for each in paragraph.splitlines():
        if not line:
            line = each
        elif each.startswith(" ") or line.startswith(" "):
            yield line
            line = each
        else:
            line += " " + each.strip()
    if line:
        yield line


def own_words(message: str) -> str:
    """The message of a wrong value without the words of pydantic."""
    for words, ours in _FOREIGN.items():
        message = message.replace(words, ours, 1) if message.startswith(words) else message
    return message
