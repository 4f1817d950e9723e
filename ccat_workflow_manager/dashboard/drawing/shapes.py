"""The shape of each status, the icons, and cells of the keys."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from markupsafe import Markup, escape

GROUPS = (
    ("done", "completed"),
    ("run", "running"),
    ("queue", "queued"),
    ("wait", "waiting"),
    ("stop", "skipped or cancelled"),
    ("fail", "failed"),
)
"""Groups of statuses in the order in which every bar shows them, each with its word."""

GROUP_OF = {
    "PENDING": "wait",
    "STAGING_DATA": "queue",
    "SUBMITTED": "queue",
    "RUNNING": "run",
    "COLLECTING_RESULTS": "run",
    "COMPLETED": "done",
    "FAILED": "fail",
    "CANCELLED": "stop",
    "SKIPPED": "stop",
}
LETTERS = {"wait": ".", "queue": "q", "run": "r", "done": "d", "fail": "f", "stop": "s"}
"""The character that stands for a step run of each group in a field."""

_RING = '<circle cx="8" cy="8" r="5.6" fill="none" stroke="currentColor" stroke-width="1.6"/>'
_DISC = '<circle cx="8" cy="8" r="6.5" fill="currentColor"/>'
# 16 x 16, in currentColor; class k is what is cut out of a filled shape. The outline alone tells them apart.
_SHAPES = {
    "PENDING": _RING,
    "STAGING_DATA": f'{_RING}<path d="M8 8V4.6A3.4 3.4 0 0 1 11.4 8Z" fill="currentColor"/>',
    "SUBMITTED": f'{_RING}<path d="M8 4.6a3.4 3.4 0 0 1 0 6.8Z" fill="currentColor"/>',
    "RUNNING": '<g class="spin"><circle cx="8" cy="8" r="5.7" fill="none" stroke="currentColor" stroke-width="1.6"'
    ' opacity=".32"/><path d="M8 2.3A5.7 5.7 0 1 1 2.3 8" fill="none" stroke="currentColor" stroke-width="2"'
    ' stroke-linecap="round"/></g><circle cx="8" cy="8" r="2.3" fill="currentColor"/>',
    "COLLECTING_RESULTS": f'{_DISC}<path class="k" d="M8 4.8v5.8M5.4 8.2 8 10.8l2.6-2.6"/>',
    "COMPLETED": f'{_DISC}<path class="k" d="m5 8.3 2.1 2.1L11.2 6"/>',
    "FAILED": '<path d="M5.2 1.4h5.6l3.8 3.8v5.6l-3.8 3.8H5.2l-3.8-3.8V5.2Z" fill="currentColor"/>'
    '<path class="k" d="m5.6 5.6 4.8 4.8m0-4.8-4.8 4.8"/>',
    "CANCELLED": '<circle cx="8" cy="8" r="5.7" fill="none" stroke="currentColor" stroke-width="1.8"/>'
    '<path d="m4.2 11.8 7.6-7.6" stroke="currentColor" stroke-width="1.8"/>',
    "SKIPPED": '<circle cx="8" cy="8" r="5.6" fill="none" stroke="currentColor" stroke-width="1.6"'
    ' stroke-dasharray="2.2 2.2"/>',
    "WARN": '<path d="M8 1.5c.5 0 1 .27 1.27.73l5.2 9.1A1.45 1.45 0 0 1 13.2 13.5H2.8a1.45 1.45 0 0 1-1.27-2.17l5.2-9.1'
    'C7 1.77 7.5 1.5 8 1.5Z" fill="currentColor"/><path class="kw1" d="M8 5.4v3.4"/>'
    '<circle class="kw2" cx="8" cy="11" r="1"/>',
    "HELD": '<path d="M.8 9.5h3.4M11.8 9.5h3.4M4.6 8.6l5.9-4.5" stroke="currentColor" stroke-width="1.7"'
    ' stroke-linecap="round" fill="none"/><circle cx="4.4" cy="9.5" r="1.7" fill="currentColor"/>'
    '<circle cx="11.6" cy="9.5" r="1.7" fill="currentColor"/>',
    "PAUSED": '<circle cx="8" cy="8" r="5.7" fill="none" stroke="currentColor" stroke-width="1.6"/>'
    '<path d="M6.5 5.8v4.4M9.5 5.8v4.4" stroke="currentColor" stroke-width="1.6" stroke-linecap="round"/>',
    "OK": '<circle cx="8" cy="8" r="3.6" fill="currentColor"/>',
    "OFF": '<circle cx="8" cy="8" r="3.4" fill="none" stroke="currentColor" stroke-width="1.5"/>',
}
_ICONS = Path(__file__).parents[1] / "static" / "icons.svg"


def shape(status: str, pixels: int = 14) -> Markup:
    """The shape of a status."""
    return Markup(
        f'<svg viewBox="0 0 16 16" width="{pixels}" height="{pixels}" aria-hidden="true">{_SHAPES[status]}</svg>'
    )


def inner_shape(status: str) -> str:
    """The shape without its `svg` element, for drawings that place it."""
    return _SHAPES[status]


@cache
def _icons() -> dict[str, str]:
    return dict(re.findall(r'<symbol id="([\w-]+)"[^>]*>(.*?)</symbol>', _ICONS.read_text(encoding="utf-8")))


def icon(name: str, pixels: int = 15) -> Markup:
    """An icon of the sprite, drawn in the colour of the text."""
    return Markup(
        f'<svg class="ico" viewBox="0 0 24 24" width="{pixels}" height="{pixels}" fill="none" stroke="currentColor"'
        f' stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{_icons()[name]}</svg>'
    )


def cell(status: str, attempt: int) -> Markup:
    """One step run among the keys: colour, a mark, and the number of the attempt if it is not the first."""
    group = GROUP_OF[status]
    full = f'<rect width="15" height="15" rx="3" class="f-{group}"/>'
    frame = '<rect x=".8" y=".8" width="13.4" height="13.4" rx="2.5" class="c-{}"/>'
    stop = f'{frame.format("stop")}<path class="c-stop" d="M4 11 11 4"/>'
    inner = {
        "wait": frame.format("out"),
        "queue": f'{frame.format("out")}<path class="f-queue" d="M1.5 13.5v-10l12 10Z"/>',
        "run": f'{full}<circle class="c-mark" cx="7.5" cy="7.5" r="2.2"/>',
        "done": full,
        "fail": f'{full}<path class="c-cross" d="m4.8 4.8 5.4 5.4m0-5.4-5.4 5.4"/>',
        "stop": stop if status == "CANCELLED" else frame.format("skip"),
    }[group]
    if group == "done" and attempt > 1:
        inner += f'<text class="c-num" x="7.5" y="11" text-anchor="middle">{escape(attempt)}</text>'
    return Markup(f'<svg class="gc" viewBox="0 0 15 15" width="15" height="15" aria-hidden="true">{inner}</svg>')
