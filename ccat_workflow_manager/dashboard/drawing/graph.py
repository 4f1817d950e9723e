"""The graph of a run: one node for a step, whether it has one step run or 10,000."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from ccat_workflow_manager.dashboard.drawing.bars import parts
from ccat_workflow_manager.dashboard.drawing.layout import LANE, layered
from ccat_workflow_manager.dashboard.drawing.shapes import inner_shape

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Node:
    """A step. `counts` are by group."""

    status: str
    counts: Mapping[str, int]
    note: str
    href: str
    kind: str = ""
    title: str = ""

    @property
    def many(self) -> bool:
        return sum(self.counts.values()) > 1


def graph(
    upstream: Mapping[str, Sequence[str]],
    nodes: Mapping[str, Node],
    by_key: frozenset[tuple[str, str]],
    w: int = 138,
    h: int = 54,
    dx: int = 34,
) -> Markup:
    """The drawing. `by_key` are the edges on which each key waits for itself only.

    The lines of a step of which something is completed are darker.
    """
    layout = layered(upstream, w, h, dx)
    out: list[str] = []
    for (before, node), chain in layout.routes.items():
        many_from, many_to = nodes[before].many, nodes[node].many
        (ax, ay), (bx, by) = layout.place[before], layout.place[node]
        between = [(x, y + LANE / 2) for x, y in (layout.place[lane] for lane in chain[1:-1])]
        points = [(ax + w + 5 * many_from, ay + h / 2), *between, (bx, by + h / 2)]
        lines = _bundle(points, many_from, many_to, w, is_by_key=(before, node) in by_key)
        on = " on" if nodes[before].counts.get("done") else ""
        out.append(f'<path class="edge{on}" d="{lines}"/>')
    out += [_node(name, drawn, layout.place[name], w, h) for name, drawn in nodes.items()]
    width, height = layout.width + 21, layout.height + 21
    return Markup(
        f'<svg class="dag" viewBox="-8 -8 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}"'
        f' role="group" aria-label="Steps and what they wait for">{"".join(out)}</svg>'
    )


def _node(name: str, node: Node, at: Point, w: int, h: int) -> str:
    x, y = at
    sheets = "".join(
        f'<rect class="node-b" x="{x + d:.1f}" y="{y + d:.1f}" width="{w}" height="{h}" rx="6"/>'
        for d in ((5, 2.5) if node.many else ())
    )
    bar = "".join(
        f'<rect class="f-{group}" x="{x + 10 + left:.1f}" y="{y + h - 9:.1f}" width="{width:.1f}" height="4"/>'
        for group, left, width in parts(node.counts, w - 20)
    )
    title = node.title or name
    return (
        f'<a href="{escape(node.href)}" class="node {node.kind}"><title>{escape(title)}: {escape(node.note)}</title>'
        f'{sheets}<rect class="node-f" x="{x:.1f}" y="{y:.1f}" width="{w}" height="{h}" rx="6"/>'
        f'<g class="s-{node.status}"><svg x="{x + 10:.1f}" y="{y + 9:.1f}" width="13" height="13" viewBox="0 0 16 16">'
        f"{inner_shape(node.status)}</svg></g>"
        f'<text class="node-t" x="{x + 29:.1f}" y="{y + 20:.1f}">{escape(_cut(title, 15))}</text>'
        f'<text class="node-s" x="{x + 10:.1f}" y="{y + 34:.1f}">{escape(_cut(node.note, 22))}</text>{bar}</a>'
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _bundle(points: Sequence[Point], many_from: bool, many_to: bool, w: int, *, is_by_key: bool) -> str:
    """The path of an edge. The number of lines says how many.

    Three from a fan-out stay three where each key waits for itself, and meet in one point where all are waited for.
    """
    (x1, y1), (x2, y2) = points[0], points[-1]
    lines = []
    for k in (-5.0, 0.0, 5.0):
        a, b = y1 + k * many_from, y2 + k * many_to
        d, px, py = f"M{x1:.1f} {a:.1f}", x1, a
        for lx, ly in points[1:-1]:
            d += _curve(px, py, lx, ly + k * many_from) + f"L{lx + w:.1f} {ly + k * many_from:.1f}"
            px, py = lx + w, ly + k * many_from
        if many_from and many_to and not is_by_key:
            middle = (px + x2) / 2, (py - k + y2) / 2
            d += _curve(px, py, *middle) + _curve(*middle, x2, b)
        else:
            d += _curve(px, py, x2, b)
        lines.append(d)
    return "".join(dict.fromkeys(lines))


def _curve(x1: float, y1: float, x2: float, y2: float) -> str:
    half = (x2 - x1) / 2
    return f"C{x1 + half:.1f} {y1:.1f} {x2 - half:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
