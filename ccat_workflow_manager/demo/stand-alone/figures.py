"""The pictures of the demo."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from canvas import BACKGROUND, FAINT, INFERNO, INK, SPEED, Canvas, Colour, Mask, add_stroke, palette
from gridding import Rows, contours, enlarge
from sky import BEAM, CHANNEL_WIDTH, LINE_WINDOW, VELOCITIES

Box = tuple[int, int, int, int]
"""Left, top, width, height."""
Span = tuple[float, float]

_MAP: Box = (92, 96, 660, 660)
_SIZE = _MAP[2]
_SPECTRA: Box = (80, 80, 810, 276)
_BAR: Box = (796, 96, 24, 660)
_CURVES: Sequence[Colour] = ((94, 214, 170), (252, 173, 18))
_VELOCITY_SPAN = (VELOCITIES[0] - CHANNEL_WIDTH / 2, VELOCITIES[-1] + CHANNEL_WIDTH / 2)


def integrated_map(path: str, intensity: Rows, extent: float, noise: float, texts: tuple[str, str, str]) -> None:
    """The integrated intensity with contours. `extent`: width in arcseconds; `texts`: title, subtitle, foot."""
    canvas = Canvas(920, 844)
    peak = max(map(max, intensity))
    colours = palette(INFERNO)
    scale = 255 / _stretch(peak)
    rows = ([colours[min(255, int(_stretch(value) * scale))] for value in row] for row in enlarge(intensity, _SIZE))
    _image(canvas, map(b"".join, rows))
    _contours(canvas, enlarge(intensity, _SIZE // 4), [noise * level for level in (5, 10, 20, 40, 80)])
    _bar(canvas, colours, [(_stretch(v) / _stretch(peak), v) for v in _ticks(0, peak)], "K km/s")
    _sky(canvas, extent, texts)
    canvas.save(path)


def velocity_map(
    path: str, velocity: Rows, brightness: Rows, extent: float, span: float, texts: tuple[str, str, str]
) -> None:
    """The mean velocity from -span to span as colour, and the line's brightness (0 to 1) as brightness."""
    canvas = Canvas(920, 844)
    colours = palette(SPEED)
    shaded = [[_shade(colour, light / 24) for light in range(25)] for colour in colours]
    fields = zip(enlarge(velocity, _SIZE), enlarge(brightness, _SIZE), strict=True)
    rows = (
        [
            shaded[0 if v < -span else 255 if v > span else int(127.5 * (1 + v / span))][
                0 if light < 0 else 24 if light > 1 else int(light * 24 + 0.5)
            ]
            for v, light in zip(speeds, lights, strict=True)
        ]
        for speeds, lights in fields
    )
    _image(canvas, map(b"".join, rows))
    _bar(canvas, colours, [((v / span + 1) / 2, v) for v in _ticks(-span, span)], "km/s")
    _sky(canvas, extent, texts)
    canvas.save(path)


def spectra(path: str, curves: Sequence[tuple[str, Sequence[float]]], title: str, subtitle: str) -> None:
    """Two line profiles over velocity, the first one filled. The baseline windows are shaded."""
    canvas = Canvas(920, 420)
    left, top, width, height = _SPECTRA
    high = max(max(curve) for _, curve in curves) * 1.12
    spans = _VELOCITY_SPAN, (-0.14 * high, high)
    for start, end in ((_VELOCITY_SPAN[0], -LINE_WINDOW), (LINE_WINDOW, _VELOCITY_SPAN[1])):
        x0, x1 = (round(_pixel(_SPECTRA, spans, v, 0)[0]) for v in (start, end))
        canvas.fill(x0, top, x1 - x0, height, (28, 34, 46))
    zero = round(_pixel(_SPECTRA, spans, 0, 0)[1])
    sides = -CHANNEL_WIDTH / 2, CHANNEL_WIDTH / 2
    for index, ((label, curve), colour) in enumerate(zip(curves, _CURVES, strict=True)):
        steps = []
        for v, value in zip(VELOCITIES, curve, strict=True):
            (start, y), (end, _) = (_pixel(_SPECTRA, spans, v + side, value) for side in sides)
            steps += [(start, y), (end, y)]
            if index == 0:
                low, base = sorted((zero, round(y)))
                canvas.fill(round(start), low, round(end) - round(start), base - low, colour, 0.22)
        canvas.line(steps, colour, 1.6)
        canvas.fill(left + 18, top + 18 + 22 * index, 18, 3, colour)
        canvas.text(left + 44, top + 24 + 22 * index, label, 9, colour)
    canvas.fill(left, zero, width, 1, FAINT, 0.6)
    _axes(canvas, _SPECTRA, spans, ("velocity (km/s)", "T (K)"), (title, subtitle))
    canvas.save(path)


def waterfall(path: str, rows: Sequence[Sequence[float]], title: str, subtitle: str) -> None:
    """All spectra of a scan, one below the other."""
    wide = 8
    box = (70, 76, len(rows[0]) * wide, len(rows))
    canvas = Canvas(box[2] + 110, box[3] + 130)
    colours = [colour * wide for colour in palette(INFERNO)]
    peak = sorted(value for row in rows for value in row)[-len(rows) // 2] or 1.0
    for line, row in enumerate(rows):
        indices = (max(0, min(255, int((value / peak + 0.08) * 236))) for value in row)
        canvas.row(box[0], box[1] + line, b"".join([colours[index] for index in indices]))
    _axes(canvas, box, (_VELOCITY_SPAN, None), ("velocity (km/s)", "time"), (title, subtitle))
    canvas.save(path)


# --- parts ------------------------------------------------------------------------------------------------------------


def _stretch(value: float) -> float:
    """A gentle stretch, so that faint arms stay visible beside the bright centre."""
    return value**0.62 if value > 0 else 0.0


def _shade(colour: bytes, light: float) -> bytes:
    return bytes(round(back + (part - back) * light) for part, back in zip(colour, BACKGROUND, strict=True))


def _pixel(box: Box, spans: tuple[Span, Span], x: float, y: float) -> tuple[float, float]:
    """The place of a value in a box. A span runs from left to right, or from bottom to top."""
    left, top, width, height = box
    (x0, x1), (y0, y1) = spans
    return left + (x - x0) / (x1 - x0) * width, top + (y1 - y) / (y1 - y0) * height


def _axes(
    canvas: Canvas, box: Box, spans: tuple[Span, Span | None], labels: tuple[str, str], titles: tuple[str, str]
) -> None:
    """Frame, ticks, labels and titles. Without a span the vertical axis has no ticks."""
    left, top, width, height = box
    horizontal, vertical = spans
    both = horizontal, vertical or (0.0, 1.0)
    canvas.frame(*box)
    for value in _ticks(*sorted(horizontal)):
        x = round(_pixel(box, both, value, 0)[0])
        canvas.fill(x, top + height - 6, 1, 6, INK)
        canvas.text(x, top + height + 20, f"{value:g}", 9, INK, 0.5)
    for value in _ticks(*vertical) if vertical else ():
        y = round(_pixel(box, both, 0, value)[1])
        canvas.fill(left, y, 6, 1, INK)
        canvas.text(left - 9, y + 4, f"{value:g}", 9, INK, 1)
    canvas.text(left + width / 2, top + height + 44, labels[0], 10, FAINT, 0.5)
    canvas.text(left - 50, top + height / 2, labels[1], 10, FAINT, 0.5, up=True)
    canvas.text(left, 42, titles[0], 19)
    canvas.text(left, 66, titles[1], 9.5, FAINT)


def _sky(canvas: Canvas, extent: float, texts: tuple[str, str, str]) -> None:
    """Axes in arcminutes from the centre, east to the left, and the beam."""
    half = extent / 120
    _axes(canvas, _MAP, ((half, -half), (-half, half)), ("RA offset (arcmin)", "Dec offset (arcmin)"), texts[:2])
    left, bottom = _MAP[0], _MAP[1] + _SIZE
    canvas.text(left, bottom + 70, texts[2], 8.5, FAINT)
    radius, x, y = BEAM / extent * _SIZE / 2, left + 34, bottom - 34
    angles = [step * math.pi / 24 for step in range(49)]
    canvas.line([(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles], INK, 1.4)
    canvas.text(x + radius + 12, y + 4, f'{BEAM:g}" beam', 9, INK)


def _image(canvas: Canvas, rows: Iterable[bytes]) -> None:
    """Rows of pixels from south to north."""
    for line, row in enumerate(rows, start=1):
        canvas.row(_MAP[0], _MAP[1] + _SIZE - line, row)


def _bar(canvas: Canvas, colours: Sequence[bytes], ticks: Sequence[tuple[float, float]], unit: str) -> None:
    """The colours with values at places from 0 (bottom) to 1 (top)."""
    left, top, width, height = _BAR
    for line in range(height):
        canvas.row(left, top + line, colours[255 - line * 255 // (height - 1)] * width)
    canvas.frame(*_BAR)
    for place, value in ticks:
        y = top + round((1 - place) * (height - 1))
        canvas.fill(left + width - 6, y, 6, 1, INK)
        canvas.text(left + width + 10, y + 4, f"{value:g}", 10)
    canvas.text(left + width / 2, top - 14, unit, 10, FAINT, 0.5)


def _contours(canvas: Canvas, rows: Rows, levels: Sequence[float]) -> None:
    left, top, width, height = _MAP
    step = width / len(rows)
    for level in levels:
        mask: Mask = {}
        for line in contours(rows, level):
            ends = [(left + (x + 0.5) * step - 0.5, top + height - (y + 0.5) * step - 0.5) for x, y in line]
            add_stroke(mask, ends, 0.5)
        canvas.stamp(mask, 0, 0, (255, 255, 255), 0.4)


def _ticks(low: float, high: float) -> list[float]:
    """Round values, five to ten of them."""
    step = 10 ** math.floor(math.log10(high - low))
    step *= next(factor for factor in (0.1, 0.2, 0.5, 1.0, 2.0) if (high - low) / (step * factor) <= 9)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]
