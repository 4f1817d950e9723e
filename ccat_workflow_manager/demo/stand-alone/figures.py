"""The pictures of the demo."""

from __future__ import annotations

import math
from collections.abc import Sequence

from canvas import BACKGROUND, FAINT, INFERNO, INK, SPEED, Canvas, Mask, add_stroke, palette
from gridding import Rows, contours, enlarge
from sky import BEAM, CHANNEL_WIDTH, LINE_WINDOW, VELOCITIES

_LEFT, _TOP, _SIZE = 92, 96, 660
_BAR = 796
_GREEN = (94, 214, 170)


def integrated_map(
    path: str, intensity: Rows, extent: float, noise: float, title: str, subtitle: str, foot: str
) -> None:
    """The integrated intensity with contours, beam and colour bar. `extent`: the width of the map in arcseconds."""
    canvas = Canvas(920, 844)
    peak = max(map(max, intensity))
    smooth = enlarge(intensity, _SIZE)
    # A gentle stretch: faint arms stay visible beside the bright centre.
    scale = 255 / _stretch(peak)
    colours = palette(INFERNO)
    for line, row in enumerate(reversed(smooth)):
        canvas.row(_LEFT, _TOP + line, b"".join([colours[min(255, int(_stretch(v) * scale))] for v in row]))
    levels = [noise * factor for factor in (5, 10, 20, 40, 80) if noise * factor < peak]
    _contours(canvas, enlarge(intensity, _SIZE // 4), levels)
    _frame(canvas, extent, title, subtitle, foot)
    _beam(canvas, extent)
    _bar(canvas, colours, [(_stretch(v) / _stretch(peak), _short(v)) for v in _ticks(0, peak)], "K km/s")
    canvas.save(path)


def velocity_map(
    path: str, velocity: Rows, brightness: Rows, extent: float, span: float, title: str, subtitle: str, foot: str
) -> None:
    """The mean velocity as colour, as bright as the line: the noise around the source stays dark."""
    canvas = Canvas(920, 844)
    colours = palette(SPEED)
    shaded = [[_shade(colour, shade / 24) for shade in range(25)] for colour in colours]
    fields = zip(reversed(enlarge(velocity, _SIZE)), reversed(enlarge(brightness, _SIZE)), strict=True)
    factor = 127.5 / span
    for line, (speeds, lights) in enumerate(fields):
        pixels = [
            shaded[0 if v < -span else 255 if v > span else int(127.5 + v * factor)][
                0 if light < 0 else 24 if light > 1 else int(light * 24 + 0.5)
            ]
            for v, light in zip(speeds, lights, strict=True)
        ]
        canvas.row(_LEFT, _TOP + line, b"".join(pixels))
    _frame(canvas, extent, title, subtitle, foot)
    _beam(canvas, extent)
    _bar(canvas, colours, [((v + span) / (2 * span), _short(v)) for v in _ticks(-span, span)], "km/s")
    canvas.save(path)


def spectra(path: str, curves: Sequence[tuple[str, Sequence[float]]], title: str, subtitle: str) -> None:
    """Line profiles over velocity, the first one filled; the baseline windows are shaded."""
    canvas = Canvas(920, 420)
    left, top, width, height = 80, 80, 810, 276
    high = max(max(curve) for _, curve in curves) * 1.12
    low = -0.14 * high
    first, last = VELOCITIES[0] - CHANNEL_WIDTH / 2, VELOCITIES[-1] + CHANNEL_WIDTH / 2

    def place(velocity: float, value: float) -> tuple[float, float]:
        return left + (velocity - first) / (last - first) * width, top + (high - value) / (high - low) * height

    for start, end in ((first, -LINE_WINDOW), (LINE_WINDOW, last)):
        x = round(place(start, 0)[0])
        canvas.fill(x, top, round(place(end, 0)[0]) - x, height, (28, 34, 46))
    zero = round(place(0, 0)[1])
    colours = (_GREEN, (252, 173, 18), (160, 208, 228))
    for index, ((label, curve), colour) in enumerate(zip(curves, colours, strict=False)):
        steps = [
            place(v + side * CHANNEL_WIDTH / 2, value)
            for v, value in zip(VELOCITIES, curve, strict=True)
            for side in (-1, 1)
        ]
        if index == 0:
            for (x0, y0), (x1, _) in zip(steps[::2], steps[1::2], strict=True):
                canvas.fill(round(x0), min(zero, round(y0)), round(x1) - round(x0), abs(zero - round(y0)), colour, 0.22)
        canvas.line(steps, colour, 1.6)
        canvas.fill(left + 18, top + 18 + 22 * index, 18, 3, colour)
        canvas.text(left + 44, top + 24 + 22 * index, label, 9, colour)
    canvas.fill(left, zero, width, 1, FAINT, 0.6)
    canvas.frame(left, top, width, height)
    for value in _ticks(first, last):
        x = round(place(value, 0)[0])
        canvas.fill(x, top + height - 6, 1, 6, FAINT)
        canvas.text(x, top + height + 20, _short(value), 9, INK, "middle")
    for value in _ticks(low, high):
        y = round(place(0, value)[1])
        canvas.fill(left, y, 6, 1, FAINT)
        canvas.text(left - 8, y + 4, _short(value), 9, INK, "right")
    canvas.text(left + width / 2, top + height + 44, "velocity (km/s)", 10, FAINT, "middle")
    canvas.text(26, top + height / 2, "T (K)", 10, FAINT, "middle", up=True)
    _titles(canvas, left, title, subtitle)
    canvas.save(path)


def waterfall(path: str, rows: Sequence[Sequence[float]], title: str, subtitle: str) -> None:
    """All spectra of a scan, one below the other."""
    tall, wide = 1, 8
    height, width = len(rows) * tall, len(rows[0]) * wide
    canvas = Canvas(width + 110, height + 130)
    colours = [colour * wide for colour in palette(INFERNO)]
    peak = sorted(value for row in rows for value in row)[-len(rows) // 2] or 1.0
    scale = 255 / (peak * 1.08)
    for line, row in enumerate(rows):
        pixels = b"".join([colours[max(0, min(255, int((v + 0.08 * peak) * scale)))] for v in row])
        for copy in range(tall):
            canvas.row(70, 76 + line * tall + copy, pixels)
    canvas.frame(70, 76, width, height)
    for velocity in (-150, -100, -50, 0, 50, 100, 150):
        x = 70 + round((velocity - VELOCITIES[0] + CHANNEL_WIDTH / 2) / CHANNEL_WIDTH * wide)
        canvas.fill(x, 76 + height - 5, 1, 5, INK)
        canvas.text(x, 76 + height + 18, str(velocity), 8, INK, "middle")
    canvas.text(70 + width / 2, 76 + height + 40, "velocity (km/s)", 9, FAINT, "middle")
    canvas.text(44, 76 + height / 2, "time", 9, FAINT, "middle", up=True)
    _titles(canvas, 70, title, subtitle, 15)
    canvas.save(path)


# --- parts ------------------------------------------------------------------------------------------------------------


def _stretch(value: float) -> float:
    return value**0.62 if value > 0 else 0.0


def _shade(colour: bytes, light: float) -> bytes:
    return bytes(round(back + (part - back) * light) for part, back in zip(colour, BACKGROUND, strict=True))


def _titles(canvas: Canvas, x: int, title: str, subtitle: str, size: float = 19) -> None:
    canvas.text(x, 42, title, size)
    canvas.text(x, 42 + size * 1.35, subtitle, 9.5, FAINT)


def _frame(canvas: Canvas, extent: float, title: str, subtitle: str, foot: str) -> None:
    """Axes in arcminutes from the centre; east is to the left."""
    canvas.frame(_LEFT, _TOP, _SIZE, _SIZE, (190, 198, 210))
    half = int(extent / 120)
    for minute in range(-half, half + 1):
        at = round(minute * 60 / extent * _SIZE) + _SIZE // 2
        long = minute % 2 == 0
        length = 9 if long else 5
        for offset in (0, _SIZE - length):
            canvas.fill(_LEFT + _SIZE - at, _TOP + offset, 1, length, INK)
            canvas.fill(_LEFT + offset, _TOP + _SIZE - at, length, 1, INK)
        if long:
            canvas.text(_LEFT + _SIZE - at, _TOP + _SIZE + 22, _short(minute), 10, INK, "middle")
            canvas.text(_LEFT - 12, _TOP + _SIZE - at + 5, _short(minute), 10, INK, "right")
    canvas.text(_LEFT + _SIZE / 2, _TOP + _SIZE + 48, "RA offset (arcmin)", 11, FAINT, "middle")
    canvas.text(40, _TOP + _SIZE / 2, "Dec offset (arcmin)", 11, FAINT, "middle", up=True)
    _titles(canvas, _LEFT, title, subtitle)
    canvas.text(_LEFT, _TOP + _SIZE + 70, foot, 8.5, FAINT)


def _bar(canvas: Canvas, colours: Sequence[bytes], ticks: Sequence[tuple[float, str]], unit: str) -> None:
    for line in range(_SIZE):
        colour = colours[255 - line * 255 // (_SIZE - 1)]
        canvas.row(_BAR, _TOP + line, colour * 24)
    canvas.frame(_BAR, _TOP, 24, _SIZE, (190, 198, 210))
    for place, label in ticks:
        y = _TOP + round((1 - place) * (_SIZE - 1))
        canvas.fill(_BAR + 18, y, 6, 1, INK)
        canvas.text(_BAR + 34, y + 4, label, 10)
    canvas.text(_BAR + 12, _TOP - 14, unit, 10, FAINT, "middle")


def _beam(canvas: Canvas, extent: float) -> None:
    radius = BEAM / extent * _SIZE / 2
    x, y = _LEFT + 34, _TOP + _SIZE - 34
    circle = [(x + radius * math.cos(a * math.pi / 24), y + radius * math.sin(a * math.pi / 24)) for a in range(49)]
    for line in range(-int(radius), int(radius) + 1):
        half = int(math.sqrt(radius**2 - line**2))
        canvas.fill(x - half, y + line, 2 * half + 1, 1, INK, 0.25)
    canvas.line(circle, INK, 1.4)
    canvas.text(x + radius + 12, y + 4, f'{BEAM:g}" beam', 9, INK)


def _contours(canvas: Canvas, rows: Rows, levels: Sequence[float]) -> None:
    step = _SIZE / len(rows)
    for level in levels:
        mask: Mask = {}
        for line in contours(rows, level):
            points = [(_LEFT + (x + 0.5) * step - 0.5, _TOP + _SIZE - (y + 0.5) * step - 0.5) for x, y in line]
            add_stroke(mask, points, 0.5)
        inside = {(x, y): c for (x, y), c in mask.items() if _LEFT < x < _LEFT + _SIZE and _TOP < y < _TOP + _SIZE}
        canvas.stamp(inside, 0, 0, (255, 255, 255), 0.4)


def _ticks(low: float, high: float) -> list[float]:
    """Round values, five to ten of them."""
    step = 10 ** math.floor(math.log10(high - low))
    step *= next(factor for factor in (0.1, 0.2, 0.5, 1.0, 2.0) if (high - low) / (step * factor) <= 9)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _short(value: float) -> str:
    return f"{value:.6g}"
