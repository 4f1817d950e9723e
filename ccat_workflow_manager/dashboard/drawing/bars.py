"""Counts as one bar, and what was used of what was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from markupsafe import Markup, escape

from ccat_workflow_manager.dashboard import times
from ccat_workflow_manager.dashboard.drawing.shapes import GROUP_OF, GROUPS

_OF_NODES = {"full": "f-n1", "mixed": "f-n2", "idle": "f-n3", "other": "f-line", "down": "f-fail"}


def by_group(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by status as counts by group."""
    found: Counter[str] = Counter()
    for status, count in counts.items():
        found[GROUP_OF[status]] += count
    return dict(found)


def parts(groups: Mapping[str, int], width: float) -> list[tuple[str, float, float]]:
    """The parts of a bar as (group, x, width). No part is thinner than 1.5 %: one failure in 10,000 is seen."""
    total = sum(groups.values()) or 1
    widths = {group: max(width * 0.015, width * groups[group] / total) for group, _ in GROUPS if groups.get(group)}
    if widths:
        widest = max(widths, key=widths.__getitem__)
        widths[widest] -= sum(widths.values()) - width
    found, x = [], 0.0
    for group, part in widths.items():
        found.append((group, x, part))
        x += part
    return found


def words(groups: Mapping[str, int]) -> str:
    """For example "65 completed, 6 running"."""
    return ", ".join(f"{groups[group]:,} {word}" for group, word in GROUPS if groups.get(group)) or "nothing"


def bar(groups: Mapping[str, int], kind: str = "", width: int = 200) -> Markup:
    """Counts by group as one bar."""
    rects = "".join(
        f'<rect class="f-{group}" x="{x:.1f}" width="{part:.1f}" height="7"/>'
        for group, x, part in parts(groups, width)
    )
    return Markup(
        f'<svg class="bar {kind}" viewBox="0 0 {width} 7" preserveAspectRatio="none" role="img"'
        f' aria-label="{words(groups)}">{rects}</svg>'
    )


def nodes_bar(nodes: Mapping[str, int], label: str, width: int = 160) -> Markup:
    """The nodes of a queue by their state, as one bar."""
    total, x, rects = sum(nodes.values()) or 1, 0.0, ""
    for state, mark in _OF_NODES.items():
        part = width * nodes.get(state, 0) / total
        rects += f'<rect class="{mark}" x="{x:.1f}" width="{part:.1f}" height="7"/>' if part else ""
        x += part
    return Markup(
        f'<svg class="bar" viewBox="0 0 {width} 7" preserveAspectRatio="none" role="img"'
        f' aria-label="{escape(label)}">{rects}</svg>'
    )


def meter(used: float | None, asked: float | None, group: str = "run") -> Markup:
    """What was used of what was asked for."""
    part = 0.0 if not used or not asked else min(100.0, 100 * used / asked)
    label = "unknown" if used is None or not asked else f"{round(100 * used / asked)} % of what was asked for"
    return Markup(
        f'<svg class="meter" viewBox="0 0 100 5" preserveAspectRatio="none" role="img" aria-label="{label}">'
        f'<rect class="f-{group}" width="{part:.1f}" height="5"/></svg>'
    )


def usage(median: float, high: float, most: float, asked: float, *, short: bool) -> Markup:
    """The median, 95 % and most of what attempts used, on the scale of what they ask for."""
    scale = 112 / (max(most, asked) or 1)
    values = (median, high, most, asked)
    at = [1 + value * scale for value in values]
    label = "median {}, 95 % {}, most {} of {} GB".format(*map(times.number, values))
    return Markup(
        f'<svg class="usage" viewBox="0 0 116 14" width="116" height="14" role="img" aria-label="{escape(label)}">'
        f'<rect class="f-line" x="0" y="6" width="{at[3]:.1f}" height="2"/>'
        f'<rect class="{"f-fail" if short else "f-n2"}" x="0" y="4" width="{at[1]:.1f}" height="6"/>'
        f'<rect class="f-text" x="{at[0]:.1f}" y="3" width="1.5" height="8"/>'
        f'<rect class="f-text" x="{at[2]:.1f}" y="4" width="1" height="6"/>'
        f'<rect class="f-text" x="{at[3]:.1f}" y="1" width="1.5" height="12"/></svg>'
    )
