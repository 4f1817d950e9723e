"""What the service answers: dictionaries with typed names for what programs use most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

FINISHED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "SKIPPED"})
_COLOURS = {"COMPLETED": "#2e7d32", "FAILED": "#c62828", "CANCELLED": "#757575", "SKIPPED": "#bdbdbd",
            "RUNNING": "#1565c0"}  # fmt: skip
_OTHER_COLOUR = "#90a4ae"
_MOST_ROWS = 50
_NAMED = 10


class Record(dict[str, Any]):
    """An object of the API. Its fields are the keys; those of the API documentation."""

    @property
    def id(self) -> str:
        return str(self["id"])


class _WithStatus(Record):
    @property
    def status(self) -> str:
        return str(self["status"])

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    @property
    def succeeded(self) -> bool:
        return self.status == "COMPLETED"


class StepRun(_WithStatus):
    """One execution of a step."""

    @property
    def step(self) -> str:
        return str(self["step"])

    @property
    def key(self) -> str:
        return str(self["key"])


class Run(_WithStatus):
    """A run. In a notebook it shows its steps."""

    @property
    def pipeline(self) -> str:
        return str(self["pipeline"])

    @property
    def step_runs(self) -> list[StepRun]:
        """Those of a run that was read by its id; empty for an item of a list.

        Of a run with more step runs than the service lists at once, the first: `client.runs.step_runs` has all.
        """
        return [StepRun(each) for each in self.get("step_runs", ())]

    def step_run(self, step: str, key: str | None = None) -> StepRun:
        """The step run of this step, and with this key if it has several. Raises LookupError."""
        found = [each for each in self.step_runs if each.step == step and key in (None, each.key)]
        if not found and self.get("step_runs_next"):
            raise LookupError(
                f"the run {self.id} has more step runs than were read; look for it with"
                f" client.runs.step_runs({self.id!r}, step={step!r}, key={key!r})"
            )
        if len(found) != 1:
            raise LookupError(self._not_one(step, key))
        return found[0]

    def _not_one(self, step: str, key: str | None) -> str:
        """What there is in place of the one step run that was asked for."""
        keys = [each.key for each in self.step_runs if each.step == step]
        if not keys:
            return f"the run {self.id} has no step {step!r}, but {_few(dict.fromkeys(s.step for s in self.step_runs))}"
        if key is None:
            return f"the step {step!r} of the run {self.id} has {len(keys)} keys; give one of {_few(keys)}"
        return f"the step {step!r} of the run {self.id} has no key {key!r}, but {_few(keys)}"

    def _repr_html_(self) -> str:
        title = f"<b>{escape(self.pipeline)}</b> <code>{escape(self.id)}</code> {_badge(self.status)}"
        return f"<div>{title}{_bar(self.get('counts') or {})}{''.join(self._rows())}</div>"

    def _rows(self) -> Iterator[str]:
        shown = self.step_runs[:_MOST_ROWS]
        if not shown:
            return
        yield "<table><tr><th>step</th><th>key</th><th>status</th><th>wall time</th><th>about</th></tr>"
        for each in shown:
            seconds = each.get("wall_time_seconds")
            about = each.get("reason_text") or each.get("waiting_for") or ""
            cells = (each.step, each.key, None, "" if seconds is None else f"{seconds:.1f} s", about)
            yield "<tr>"
            for cell in cells:
                yield f"<td>{_badge(each.status) if cell is None else escape(str(cell))}</td>"
            yield "</tr>"
        yield "</table>"
        total = max(len(self.step_runs), sum((self.get("counts") or {}).values()))
        if total > len(shown):
            yield f"<p>and {total - len(shown)} more</p>"


def _few(names: Iterable[str]) -> str:
    known = [repr(name) for name in names]
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more


def _badge(status: str) -> str:
    return f'<span style="color:{_COLOURS.get(status, _OTHER_COLOUR)}">{escape(status)}</span>'


def _bar(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    if not total:
        return ""
    pieces = "".join(
        f'<div title="{escape(status)}: {count}" style="width:{100 * count / total:.2f}%;'
        f'background:{_COLOURS.get(status, _OTHER_COLOUR)}"></div>'
        for status, count in counts.items()
        if count
    )
    return f'<div style="display:flex;height:8px;max-width:600px">{pieces}</div>'
