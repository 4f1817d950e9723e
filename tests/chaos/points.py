"""The failpoints of the package, found in its syntax."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "ccat_workflow_manager"
_NAMED_BY_FIRST_ARGUMENT = ("point", "around", "begin", "transact", "_call")


def modules() -> list[Path]:
    """All that may touch something outside of its process."""
    left_out = ("testing", "demo")
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in left_out]


def points() -> dict[str, list[str]]:
    """Every point, and the modules that it is in."""
    found: dict[str, list[str]] = {}
    for path in modules():
        for call in calls_named(_NAMED_BY_FIRST_ARGUMENT, path):
            name = point_of(call)
            where = path.relative_to(PACKAGE).as_posix()
            if name is not None and where not in found.setdefault(name, []):
                found[name].append(where)
    return dict(sorted(found.items()))


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def calls_named(names: Sequence[str], path: Path) -> Iterator[ast.Call]:
    """The calls in this module, if it has any of these names at all: to parse takes long."""
    text = path.read_text(encoding="utf-8")
    return calls(ast.parse(text)) if any(name in text for name in names) else iter(())


def called(call: ast.Call) -> str:
    """The last part of what is called: `begin` of `self._database.begin(...)`."""
    match call.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def point_of(call: ast.Call) -> str | None:
    """The name of the point that this call is, if it is one."""
    candidates = [each.value for each in call.keywords if each.arg == "point"]
    if called(call) in _NAMED_BY_FIRST_ARGUMENT:
        candidates += call.args[:1]
    names = [each.value for each in candidates if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return next((name for name in names if "." in name), None)
