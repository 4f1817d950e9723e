"""`ccat-wm run compare`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import typer

from ccat_workflow_manager.commands.arguments import ID_HELP, AsJson

_SHOWN = 20
_ABSENT = "-"

Product = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """A value of the first run and the value of the second; None: it has none."""

    name: str
    first: Any
    second: Any


@dataclass(slots=True)
class Comparison:
    """How two runs differ. Products are named `step/key/path`."""

    first: str
    second: str
    facts: list[Change] = field(default_factory=list)
    parameters: list[Change] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[Change] = field(default_factory=list)
    equal_products: int = 0
    changed_products: list[Change] = field(default_factory=list)
    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=ID_HELP)],
    second: Annotated[str, typer.Argument(metavar="B", help=ID_HELP)],
    as_json: AsJson = False,
) -> None:
    """Compare two runs: parameters, versions, outcomes, times, and the checksums of their products.

    Example:  ccat-wm run compare 3f9c latest

    Exit codes:  0 with or without differences,  2 no such run,  3 no service.
    """
    from ccat_workflow_manager.commands.client import connect
    from ccat_workflow_manager.commands.output import print_json

    with connect() as client:
        runs = [client.run(given) for given in (first, second)]
        products = [list(client.products(run["id"])) for run in runs]
    found = compared(runs[0], runs[1], products[0], products[1])
    if as_json:
        print_json(asdict(found))
    else:
        _print(found)


def compared(a: dict[str, Any], b: dict[str, Any], of_a: Iterable[Product], of_b: Iterable[Product]) -> Comparison:
    """How two runs with these products differ."""
    found = Comparison(a["id"], b["id"])
    for name in ("pipeline", "pipeline_version", "status", "backend"):
        if a[name] != b[name]:
            found.facts.append(Change(name, a[name], b[name]))
    found.parameters = _changes(a["parameters"], b["parameters"])
    found.steps = _steps(a, b)
    found.outcomes = _changes(_outcomes(a), _outcomes(b))
    sums_a, sums_b = _checksums(of_a), _checksums(of_b)
    found.only_first = [name for name in sums_a if name not in sums_b]
    found.only_second = [name for name in sums_b if name not in sums_a]
    common = {name: sums_a[name] for name in sums_a if name in sums_b}
    found.changed_products = _changes(common, {name: sums_b[name] for name in common})
    found.equal_products = len(common) - len(found.changed_products)
    return found


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Change]:
    names = dict.fromkeys([*a, *b])
    return [Change(name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)]


def _steps(a: dict[str, Any], b: dict[str, Any]) -> list[dict[str, Any]]:
    """By step: how many step runs completed, and what they took together."""
    rows: dict[str, dict[str, Any]] = {}
    for side, run in (("first", a), ("second", b)):
        for each in run["step_runs"]:
            row = rows.setdefault(each["step"], {"step": each["step"]})
            one = row.setdefault(side, {"completed": 0, "total": 0, "wall_time_seconds": 0.0, "cpu_hours": 0.0})
            one["completed"] += each["status"] == "COMPLETED"
            one["total"] += 1
            for name in ("wall_time_seconds", "cpu_hours"):
                one[name] += each[name] or 0.0
    return list(rows.values())


def _outcomes(run: dict[str, Any]) -> dict[str, str]:
    return {
        f"{each['step']}/{each['key']}": " ".join(filter(None, (each["status"], each["reason"])))
        for each in run["step_runs"]
    }


def _checksums(products: Iterable[Product]) -> dict[str, str]:
    return {f"{one['step']}/{one['key']}/{one['path']}": one["sha256"] for one in products}


def _print(found: Comparison) -> None:
    from ccat_workflow_manager.commands.output import console, cpu_hours, duration, table, value_text
    from ccat_workflow_manager.commands.terminal_text import plain

    out = console()
    out.print(f"A {found.first}\nB {found.second}\n", soft_wrap=True)
    rows = [(each.name, _shown(each.first), _shown(each.second)) for each in found.facts]
    rows += [(f"parameter {each.name}", value_text(each.first), value_text(each.second)) for each in found.parameters]
    rows += [(each.name, _shown(each.first), _shown(each.second)) for each in found.outcomes[:_SHOWN]]
    if rows:
        out.print(table(("what", "A", "B"), rows))
    if len(found.outcomes) > _SHOWN:
        typer.echo(f"{len(found.outcomes) - _SHOWN} more step runs ended differently")
    steps = []
    for each in found.steps:
        cells = [each["step"]]
        for side in ("first", "second"):
            one = each.get(side)
            cells += (
                [f"{one['completed']}/{one['total']}", duration(one["wall_time_seconds"]), cpu_hours(one["cpu_hours"])]
                if one
                else [_ABSENT] * 3
            )
        steps.append(cells)
    columns = ("step", "A done", "A time", "A CPU h", "B done", "B time", "B CPU h")
    out.print(table(columns, steps, right=columns[1:]))
    typer.echo(
        f"products: {found.equal_products} equal, {len(found.changed_products)} changed,"
        f" {len(found.only_first)} only in A, {len(found.only_second)} only in B"
    )
    lines = [f"  changed    {each.name}" for each in found.changed_products]
    lines += [f"  only in A  {name}" for name in found.only_first]
    lines += [f"  only in B  {name}" for name in found.only_second]
    for line in lines[:_SHOWN]:
        out.print(plain(line), soft_wrap=True)
    if len(lines) > _SHOWN:
        typer.echo(f"  and {len(lines) - _SHOWN} more; --json lists all of them")


def _shown(value: Any) -> str:
    return _ABSENT if value is None else str(value)
