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
"""How much of each pixel is covered, from 0 to 1."""

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


def palette(anchors: Sequence[Colour]) -> list[bytes]:
    """256 pixels from the first colour to the last."""
    colours = []
    for step in range(256):
        index, rest = divmod(step * (len(anchors) - 1), 255)
        pair = zip(anchors[index], anchors[min(index + 1, len(anchors) - 1)], strict=True)
        colours.append(bytes(round(a + rest / 255 * (b - a)) for a, b in pair))
    return colours


class Canvas:
    """An RGB picture with the origin at its upper left."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._pixels = bytearray(bytes(BACKGROUND) * (width * height))

    def save(self, path: str) -> None:
        stride = self.width * 3
        rows = b"".join(b"\0" + self._pixels[row * stride : (row + 1) * stride] for row in range(self.height))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")
            for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 5)), (b"IEND", b"")):
                checksum = zlib.crc32(kind + data)
                file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum))

    def row(self, x: int, y: int, pixels: bytes) -> None:
        """Put a row of finished pixels."""
        start = (y * self.width + x) * 3
        self._pixels[start : start + len(pixels)] = pixels

    def fill(self, x: int, y: int, width: int, height: int, colour: Colour, alpha: float = 1.0) -> None:
        self.stamp({(column, line): 1.0 for line in range(height) for column in range(width)}, x, y, colour, alpha)

    def frame(self, x: int, y: int, width: int, height: int, colour: Colour = FAINT) -> None:
        for line in (y, y + height - 1):
            self.fill(x, line, width, 1, colour)
        for column in (x, x + width - 1):
            self.fill(column, y, 1, height, colour)

    def line(self, points: Iterable[font.Point], colour: Colour, width: float = 1.3) -> None:
        """Connected lines in one mask, so that the pixels where they meet are not drawn twice."""
        mask: Mask = {}
        add_stroke(mask, points, width / 2)
        self.stamp(mask, 0, 0, colour)

    def stamp(self, mask: Mask, x: int, y: int, colour: Colour, alpha: float = 1.0) -> None:
        pixels = self._pixels
        for (column, line), cover in mask.items():
            if 0 <= x + column < self.width and 0 <= y + line < self.height:
                start = ((y + line) * self.width + x + column) * 3
                for at, new in enumerate(colour, start):
                    pixels[at] = int(pixels[at] + (new - pixels[at]) * cover * alpha + 0.5)

    def text(
        self, x: float, y: float, text: str, size: float = 9, colour: Colour = INK, anchor: float = 0, up: bool = False
    ) -> None:
        """Text whose baseline has the point (x, y) at its start (anchor 0), middle (0.5) or end (1). `up`: upwards."""
        scale = size / font.CAPITAL
        along = -anchor * (sum(font.glyph(character)[0] for character in text) - 1) * scale
        for character in text:
            dx, dy = (0.0, -along) if up else (along, 0.0)
            self.stamp(_glyph_mask(character, size, up), round(x + dx), round(y + dy), colour)
            along += font.glyph(character)[0] * scale


def add_stroke(mask: Mask, points: Iterable[font.Point], radius: float) -> None:
    """Add connected lines of a given half width, with soft edges. A line of length 0 is a dot, drawn larger."""
    for (x0, y0), (x1, y1) in pairwise(points):
        dx, dy = x1 - x0, y1 - y0
        length = dx * dx + dy * dy
        reach = 0.5 + (radius if length else radius * 1.35)
        columns = range(math.floor(min(x0, x1) - reach), math.ceil(max(x0, x1) + reach) + 1)
        for y in range(math.floor(min(y0, y1) - reach), math.ceil(max(y0, y1) + reach) + 1):
            for x in columns:
                part = min(1.0, max(0.0, ((x - x0) * dx + (y - y0) * dy) / (length or 1)))
                cover = min(1.0, reach - math.hypot(x - x0 - part * dx, y - y0 - part * dy))
                if cover > mask.get((x, y), 0.0):
                    mask[x, y] = cover


@lru_cache(maxsize=512)
def _glyph_mask(character: str, size: float, up: bool) -> Mask:
    scale = size / font.CAPITAL
    mask: Mask = {}
    for stroke in font.glyph(character)[1]:
        points = [(-y * scale, -x * scale) if up else (x * scale, -y * scale) for x, y in stroke]
        add_stroke(mask, points, max(0.55, size * 0.062))
    return mask
