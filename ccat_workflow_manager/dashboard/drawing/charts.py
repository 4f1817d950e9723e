"""Charts over time, and sparks: at most a few hundred buckets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


@dataclass(frozen=True, slots=True)
class Series:
    """One layer of a chart."""

    group: str
    values: Sequence[float | None]
    """None: there is nothing to show for this part. A line begins at its first value."""
    label: str = ""


def nice_top(most: float) -> float:
    """The top of an axis: 1, 2, 4 or 5 times a power of ten."""
    if most <= 0:
        return 1
    power = 10 ** math.floor(math.log10(most))
    return next((step * power for step in (1, 2, 4, 5, 10) if step * power >= most), most)


def _figure(value: float) -> str:
    """A figure of an axis, which has room for four characters: `150`, `1.5k`, `20k`."""
    if value >= 1000:
        return f"{value / 1e6:g}M" if value >= 1e6 else f"{value / 1e3:g}k"
    return f"{value:.0f}" if value == int(value) else f"{value:.2g}"


def _left(unit: str = "") -> int:
    """Where a chart begins: its figures are to the left of that."""
    return 30 + 7 * max(0, len(unit) - 1)


def _frame(
    label: str, top: float, times: Sequence[str], width: int, height: int, unit: str = "", left: int = 30
) -> list[str]:
    """The grid lines with their figures, and the times below."""
    bottom = height - 16
    out = [f'<svg class="chart axis" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">']
    for part in (0.0, 0.5, 1.0):
        y = 4 + (bottom - 4) * (1 - part)
        out.append(f'<line class="gridline" x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(
            f'<text class="lab" x="{left - 5}" y="{y + 3.5:.1f}" text-anchor="end">{_figure(top * part)}{unit}</text>'
        )
    for index, text in enumerate(times):
        x = left + (width - left) * index / max(1, len(times) - 1)
        anchor = "start" if index == 0 else "end" if index == len(times) - 1 else "middle"
        out.append(f'<text class="lab" x="{x:.1f}" y="{height - 4}" text-anchor="{anchor}">{escape(text)}</text>')
    return out


def columns(label: str, layers: Sequence[Series], times: Sequence[str], width: int = 368, height: int = 96) -> Markup:
    """Stacked columns, the first layer at the bottom."""
    count = max((len(layer.values) for layer in layers), default=0) or 1
    sums = [sum(layer.values[i] or 0 for layer in layers) for i in range(count)]
    top, left, bottom = nice_top(max(sums, default=0)), _left(), height - 16
    out, step = _frame(label, top, times, width, height), (width - left) / count
    for index in range(count):
        y = float(bottom)
        for layer in layers:
            tall = (bottom - 4) * (layer.values[index] or 0) / top
            if tall > 0:
                tall = max(tall, 0.8)
                out.append(
                    f'<rect class="f-{layer.group}" x="{left + index * step + 0.5:.1f}" y="{y - tall:.1f}"'
                    f' width="{max(step - 1, 0.6):.1f}" height="{tall:.1f}"/>'
                )
                y -= tall
    return Markup("".join(out) + "</svg>")


def lines(
    label: str,
    layers: Sequence[Series],
    times: Sequence[str],
    unit: str = "",
    width: int = 368,
    height: int = 88,
    room_for: str = "",
) -> Markup:
    """Lines over time; the area under the first is filled. Others that are zero all the time are left out.

    `room_for` is the longest unit of charts below one another, which then begin at the same place.
    """
    top = nice_top(max((value or 0 for layer in layers for value in layer.values), default=0))
    left, bottom = _left(room_for or unit), height - 16
    out = _frame(label, top, times, width, height, unit, left)
    for number, layer in enumerate(layers):
        count = max(1, len(layer.values) - 1)
        points = [
            (left + (width - left) * i / count, 4 + (bottom - 4) * (1 - value / top))
            for i, value in enumerate(layer.values)
            if value is not None
        ]
        if not points or (number and not any(layer.values)):
            continue
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        if number == 0:
            out.append(f'<path class="a-{layer.group}" d="{path}V{bottom}H{points[0][0]:.1f}Z"/>')
        if len(points) == 1:
            x, y = points[0]
            out.append(f'<circle class="path l-{layer.group}" cx="{min(x, width - 3):.1f}" cy="{y:.1f}" r="2"/>')
        else:
            out.append(f'<path class="path l-{layer.group}" d="{path}"/>')
        if layer.label and any(layer.values):
            x, y = min(points, key=lambda point: point[1])
            has_room = x + 6 * len(layer.label) + 4 < width
            out.append(
                f'<text class="lab lab-{layer.group}" x="{x + 4 if has_room else x - 4:.1f}"'
                f' text-anchor="{"start" if has_room else "end"}" y="{max(10.0, y):.1f}">{escape(layer.label)}</text>'
            )
    return Markup("".join(out) + "</svg>")


def spark(values: Sequence[float], group: str = "done", width: int = 90, height: int = 14) -> Markup:
    """A small line without axes."""
    if not values:
        return Markup("")
    top, count = max(values) or 1, max(1, len(values) - 1)
    points = "L".join(
        f"{width * i / count:.1f} {1 + (height - 2) * (1 - value / top):.1f}" for i, value in enumerate(values)
    )
    return Markup(
        f'<svg class="spark" viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">'
        f'<path class="a-{group}" d="M{points}L{width} {height}L0 {height}Z"/>'
        f'<path class="path l-{group}" d="M{points}"/></svg>'
    )


def histogram(label: str, layers: Sequence[Series], times: Sequence[str], width: int = 1184) -> Markup:
    """The history of runs above their list: stacked columns without an axis for counts."""
    count = max((len(layer.values) for layer in layers), default=0) or 1
    sums = [sum(layer.values[i] or 0 for layer in layers) for i in range(count)]
    top, step = max(sums, default=0) or 1, width / count
    out = [f'<svg class="hist axis" viewBox="0 0 {width} 44" preserveAspectRatio="none" role="img"']
    out.append(f' aria-label="{escape(label)}">')
    for index in range(count):
        y = 32.0
        for layer in layers:
            tall = 30 * (layer.values[index] or 0) / top
            if tall > 0:
                tall = max(tall, 0.8)
                out.append(
                    f'<rect class="f-{layer.group}" x="{index * step + 0.6:.1f}" y="{y - tall:.1f}"'
                    f' width="{max(step - 1.2, 0.5):.1f}" height="{tall:.1f}"/>'
                )
                y -= tall
    for index, text in enumerate(times):
        x = width * index / max(1, len(times) - 1)
        anchor = "start" if index == 0 else "end" if index == len(times) - 1 else "middle"
        out.append(f'<text x="{x:.1f}" y="42" text-anchor="{anchor}">{escape(text)}</text>')
    return Markup("".join(out) + "</svg>")


def runs_chart(label: str, runs: Sequence[tuple[str, float, str]], top_label: str, height: int = 130) -> Markup:
    """The last runs of a pipeline, oldest first: (group, minutes, address). A failed one has a cross below."""
    width, left, bottom = 800, _left(), height - 22
    top = nice_top(max((minutes for _, minutes, _ in runs), default=0))
    out = _frame(label, top, ("", top_label), width, height)
    out[0] = out[0].replace('role="img"', 'role="group"')  # it has links
    slots = max(len(runs), 24)
    step = (width - left) / slots
    for index, (group, minutes, href) in enumerate(runs, slots - len(runs)):
        tall, x = max(2.0, (bottom - 10) * minutes / top), left + index * step
        out.append(
            f'<a href="{escape(href)}" aria-label="{minutes:.1f} min"><rect class="f-{group}" x="{x + 1:.1f}"'
            f' y="{bottom + 6 - tall:.1f}" width="{max(step - 2, 1):.1f}" height="{tall:.1f}" rx="1"/></a>'
        )
        if group == "fail":
            middle = x + step / 2
            out.append(f'<path class="path l-fail" d="M{middle - 2.5:.1f} {bottom + 9}l5 5m0 -5l-5 5"/>')
    return Markup("".join(out) + "</svg>")
