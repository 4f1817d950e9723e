"""A picture: pixels, antialiased lines and text, written as PNG. Standard library only."""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

import font

Colour = tuple[int, int, int]
Mask = dict[tuple[int, int], float]

BACKGROUND: Colour = (13, 16, 23)
INK: Colour = (226, 232, 240)
FAINT: Colour = (139, 150, 167)

INFERNO: Sequence[Colour] = (
    (0, 0, 4), (20, 11, 53), (58, 9, 99), (96, 19, 110), (133, 33, 107), (169, 46, 94), (203, 65, 73),
    (230, 93, 47), (247, 131, 17), (252, 173, 18), (245, 219, 75), (252, 255, 164),
)  # fmt: skip
SPEED: Sequence[Colour] = (
    (22, 60, 150), (45, 112, 200), (90, 165, 222), (160, 208, 228), (228, 228, 222), (244, 188, 140),
    (235, 130, 88), (205, 62, 56), (140, 18, 44),
)  # fmt: skip


def palette(anchors: Sequence[Colour], steps: int = 256) -> list[bytes]:
    """Colours in between, as bytes of pixels."""
    colours = []
    for step in range(steps):
        place = step * (len(anchors) - 1) / (steps - 1)
        index = min(int(place), len(anchors) - 2)
        part = place - index
        pair = zip(anchors[index], anchors[index + 1], strict=True)
        colours.append(bytes(round(a + part * (b - a)) for a, b in pair))
    return colours


class Canvas:
    """An RGB picture with the origin at its upper left."""

    def __init__(self, width: int, height: int, background: Colour = BACKGROUND) -> None:
        self.width, self.height = width, height
        self._pixels = bytearray(bytes(background) * (width * height))

    def save(self, path: str) -> None:
        stride = self.width * 3
        rows = b"".join(b"\0" + self._pixels[row * stride : (row + 1) * stride] for row in range(self.height))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            file.write(_chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 5)) + _chunk(b"IEND", b""))

    def row(self, x: int, y: int, pixels: bytes) -> None:
        """Put a row of finished pixels."""
        start = (y * self.width + x) * 3
        self._pixels[start : start + len(pixels)] = pixels

    def fill(self, x: int, y: int, width: int, height: int, colour: Colour, alpha: float = 1.0) -> None:
        for line in range(y, y + height):
            if alpha >= 1:
                self.row(x, line, bytes(colour) * width)
            else:
                for column in range(x, x + width):
                    self.blend(column, line, colour, alpha)

    def blend(self, x: int, y: int, colour: Colour, alpha: float) -> None:
        if not (0 <= x < self.width and 0 <= y < self.height):
            return
        at = (y * self.width + x) * 3
        pixels = self._pixels
        for index in (0, 1, 2):
            old = pixels[at + index]
            pixels[at + index] = int(old + (colour[index] - old) * alpha + 0.5)

    def frame(self, x: int, y: int, width: int, height: int, colour: Colour = FAINT) -> None:
        self.fill(x, y, width, 1, colour)
        self.fill(x, y + height - 1, width, 1, colour)
        self.fill(x, y, 1, height, colour)
        self.fill(x + width - 1, y, 1, height, colour)

    def line(self, points: Iterable[font.Point], colour: Colour, width: float = 1.3, alpha: float = 1.0) -> None:
        """A row of connected lines, drawn as one: where they meet nothing is drawn twice."""
        mask: Mask = {}
        add_stroke(mask, list(points), width / 2)
        self.stamp(mask, 0, 0, colour, alpha)

    def stamp(self, mask: Mask, x: int, y: int, colour: Colour, alpha: float = 1.0) -> None:
        for (column, line), cover in mask.items():
            self.blend(x + column, y + line, colour, cover * alpha)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 9,
        colour: Colour = INK,
        anchor: str = "left",
        up: bool = False,
    ) -> None:
        """Text whose baseline begins, has its middle or ends at a point; `up`: reading upwards."""
        length = font.width(text, size) - size / font.CAPITAL
        along = {"left": 0.0, "middle": -length / 2, "right": -length}[anchor]
        for character in text:
            mask, advance = _glyph_mask(character, size, up)
            dx, dy = (0.0, -along) if up else (along, 0.0)
            self.stamp(mask, round(x + dx), round(y + dy), colour)
            along += advance


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def add_stroke(mask: Mask, points: Sequence[font.Point], radius: float) -> None:
    """Add lines of a given half width to a mask of coverages, with soft edges."""
    if len(points) == 1 or (len(points) == 2 and points[0] == points[1]):
        _add_line(mask, points[0], points[0], radius * 1.35)
        return
    for start, end in pairwise(points):
        _add_line(mask, start, end, radius)


def _add_line(mask: Mask, start: font.Point, end: font.Point, radius: float) -> None:
    (x0, y0), (x1, y1) = start, end
    dx, dy = x1 - x0, y1 - y0
    length = dx * dx + dy * dy
    reach = radius + 0.5
    columns = range(math.floor(min(x0, x1) - reach), math.ceil(max(x0, x1) + reach) + 1)
    steep = abs(dy) > abs(dx)
    for y in range(math.floor(min(y0, y1) - reach), math.ceil(max(y0, y1) + reach) + 1):
        near = columns
        if steep and length:
            # Only a few pixels of each row are near a steep line.
            middle, spread = x0 + dx * (y - y0) / dy, reach * math.sqrt(length) / abs(dy) + 1
            near = range(max(columns.start, int(middle - spread)), min(columns.stop, int(middle + spread) + 2))
        for x in near:
            part = ((x - x0) * dx + (y - y0) * dy) / length if length else 0.0
            part = 0.0 if part < 0 else 1.0 if part > 1 else part
            cover = reach - math.hypot(x - x0 - part * dx, y - y0 - part * dy)
            if cover > 0 and mask.get((x, y), 0.0) < cover:
                mask[x, y] = cover if cover < 1 else 1.0


@lru_cache(maxsize=512)
def _glyph_mask(character: str, size: float, up: bool) -> tuple[Mask, float]:
    scale = size / font.CAPITAL
    advance, strokes = font.glyph(character)
    mask: Mask = {}
    for stroke in strokes:
        points = [(-y * scale, -x * scale) if up else (x * scale, -y * scale) for x, y in stroke]
        add_stroke(mask, points, max(0.55, size * 0.062))
    return mask, advance * scale
