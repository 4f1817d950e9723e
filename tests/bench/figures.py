"""Figures, what they are held against, and the table of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. Without a target it is there for information."""

    what: str
    value: float
    unit: str
    reference: float | None = None
    reference_what: str = ""
    target: str = ""
    ok: bool | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.reference if self.reference else None


def told(what: str, value: float, unit: str, reference: float | None = None, reference_what: str = "") -> Figure:
    """A figure without a target."""
    return Figure(what, value, unit, reference, reference_what)


def at_least(what: str, value: float, unit: str, target: float) -> Figure:
    return Figure(what, value, unit, target=f">= {target:g} {unit}", ok=value >= target)


def at_most(what: str, value: float, unit: str, target: float) -> Figure:
    return Figure(what, value, unit, target=f"<= {target:g} {unit}", ok=value <= target)


def ratio_at_least(what: str, value: float, unit: str, reference: float, reference_what: str, target: float) -> Figure:
    return Figure(what, value, unit, reference, reference_what, f">= {target:g} x", value >= target * reference)


def ratio_at_most(what: str, value: float, unit: str, reference: float, reference_what: str, target: float) -> Figure:
    return Figure(what, value, unit, reference, reference_what, f"<= {target:g} x", value <= target * reference)


def middle(values: Iterable[float]) -> float:
    """The median: what other users of the machine did at some moment is not in it."""
    return median(values)


def table(title: str) -> Table:
    empty = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    empty.add_column("what")
    empty.add_column("figure", justify="right")
    empty.add_column("reference measured in the same run", justify="right")
    empty.add_column("ratio", justify="right")
    empty.add_column("target", justify="right")
    empty.add_column("")
    return empty


def add(to: Table, figure: Figure) -> None:
    reference = ""
    if figure.reference is not None:
        reference = f"{figure.reference_what}: {number(figure.reference)} {figure.unit}".lstrip(": ")
    verdict = {None: "", True: "[green]ok[/green]", False: "[red]below[/red]"}[figure.ok]
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f} x"
    to.add_row(figure.what, f"{number(figure.value)} {figure.unit}", reference, ratio, figure.target, verdict)


def show(console: Console, title: str, figures: Iterable[Figure]) -> None:
    filled = table(title)
    for figure in figures:
        add(filled, figure)
    console.print(filled)


def number(value: float) -> str:
    """With as many digits as mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
