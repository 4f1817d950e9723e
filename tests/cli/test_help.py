"""The help of every command as a terminal of 80 columns shows it, and the words for wrong values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.commands import invoke, program, refused

WIDTH = 80


def commands(command: Any, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, *path, name)


def shown(path: tuple[str, ...]) -> list[str]:
    result = invoke(*path, "--help", env={"COLUMNS": str(WIDTH)})
    assert result.exit_code == 0
    return [line.rstrip() for line in result.stdout.splitlines()]


@pytest.mark.parametrize("path", list(commands(program())), ids=" ".join)
def test_help_fits_a_terminal_and_breaks_no_word(path: tuple[str, ...]) -> None:
    lines = shown(path)
    prose = [line for line in lines if not line.startswith(("│", "╭", "╰"))]
    for line, following in zip(prose, [*prose[1:], ""], strict=True):
        assert len(line) <= WIDTH
        if line.strip() and following.strip() and not following.startswith("  ") and not line.startswith("  "):
            word = following.split()[0]
            assert len(line) + 1 + len(word) >= WIDTH, f"{line!r} had room for {word!r}"
        assert "Example:" not in line or not following, f"{line!r} cannot be pasted"
    for line in lines:
        assert "…" not in line
        assert "<bool>" not in line
        assert not re.search(r"<[a-z][^>]*$", line), f"{line!r} breaks a type"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pause", "night"), "'night' is not one of 'pipeline'"),
        (("run", "list", "--limit", "0"), "must be greater than or equal to 1"),
        (("run", "list", "--limit", "x"), "must be a valid integer"),
        (("run", "list", "--sort", "size"), "'size' is not one of"),
        (("token", "create", "--role", "king", "--name", "x"), "'king' is not one of"),
    ],
)
def test_a_wrong_value_is_named_in_our_words(arguments: tuple[str, ...], words: str) -> None:
    said = re.sub(r"[\s│]+", " ", refused(*arguments))
    assert words in said
    assert "Value error" not in said
    assert "Input should" not in said
