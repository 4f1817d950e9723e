"""The first header of a FITS file, and a small picture of its first image. Reads little of it, however large it is."""

from __future__ import annotations

import array
import math
import os
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

_BLOCK, _CARD = 2880, 80
_MOST_BLOCKS = 20
_MOST_HEADERS = 16
_MOST_PIXELS = 480
"""The longer side of the picture has at most so many."""
_MOST_ROW = 4 * 1024 * 1024
_CODES = {8: "B", 16: "h", 32: "i", 64: "q", -32: "f", -64: "d"}
_ANCHORS = (
    (0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
    (249, 201, 50), (252, 255, 164),
)  # fmt: skip
"""Colours from dark to bright, with equal steps of brightness. The first one is for pixels without a value, too."""


@dataclass(frozen=True, slots=True)
class Header:
    """The cards of one header, and where its data begin."""

    cards: list[str]
    data_at: int

    def text(self) -> str:
        return "\n".join(card for card in self.cards if card)

    def number(self, keyword: str, default: float | None = None) -> float | None:
        """The value of a card that has a number."""
        for card in self.cards:
            if card[:8].rstrip() == keyword and card[8:10] == "= ":
                try:
                    return float(card[10:].partition("/")[0].strip().replace("D", "E"))
                except ValueError:
                    return default
        return default

    def shape(self) -> list[int]:
        """The lengths of the axes, the fastest first."""
        axes = int(self.number("NAXIS", 0) or 0)
        return [int(self.number(f"NAXIS{n}", 0) or 0) for n in range(1, min(axes, 9) + 1)]

    def size(self) -> int:
        """The bytes of the data, with what fills their last block."""
        shape = self.shape()
        count = math.prod(shape) if shape else 0
        count = (count + int(self.number("PCOUNT", 0) or 0)) * int(self.number("GCOUNT", 1) or 1)
        used = count * abs(int(self.number("BITPIX", 8) or 8)) // 8
        return -(-used // _BLOCK) * _BLOCK


def header(descriptor: int, at: int = 0) -> Header | None:
    """The header that begins at this byte. Returns None if there is none."""
    cards: list[str] = []
    for block in range(_MOST_BLOCKS):
        data = os.pread(descriptor, _BLOCK, at + block * _BLOCK)
        if len(data) < _BLOCK:
            return None
        text = data.decode("ascii", "replace")
        cards += [text[start : start + _CARD].rstrip() for start in range(0, _BLOCK, _CARD)]
        if block == 0 and not cards[0].startswith(("SIMPLE  =", "XTENSION=")):
            return None
        if "END" in cards:
            return Header(cards[: cards.index("END") + 1], at + (block + 1) * _BLOCK)
    return None


def first_image(descriptor: int) -> Header | None:
    """The header of the first image with at least two axes, here or in an extension."""
    at = 0
    for _ in range(_MOST_HEADERS):
        found = header(descriptor, at)
        if found is None:
            return None
        shape, is_table = found.shape(), found.cards[0].startswith("XTENSION") and "IMAGE" not in found.cards[0]
        if not is_table and len(shape) >= 2 and min(shape[:2]) > 1 and min(shape) > 0:
            return found
        at = found.data_at + found.size()
    return None


def picture(descriptor: int) -> bytes | None:
    """A PNG of the first plane of the first image: north up as stored, the brightest half percent cut off.

    Returns None if there is no image, or if its rows are too long to be read.
    """
    found = first_image(descriptor)
    bits = 0 if found is None else int(found.number("BITPIX", 0) or 0)
    if found is None or bits not in _CODES:
        return None
    width, height = found.shape()[:2]
    row_bytes = width * abs(bits) // 8
    if row_bytes > _MOST_ROW:
        return None
    step = max(1, -(-max(width, height) // _MOST_PIXELS))
    blank = found.number("BLANK") if bits > 0 else None
    rows = []
    for y in range(height - 1 - (height - 1) % step, -1, -step):
        data = os.pread(descriptor, row_bytes, found.data_at + y * row_bytes)
        if len(data) < row_bytes:
            return None
        values = array.array(_CODES[bits], data)
        if sys.byteorder == "little":
            values.byteswap()
        rows.append([math.nan if value == blank else float(value) for value in values[::step]])
    return _png(_levels(rows))


def _levels(rows: Sequence[Sequence[float]]) -> list[bytes]:
    """The values as levels from 1 to 255; 0 has no value."""
    known = sorted(value for row in rows for value in row if math.isfinite(value))
    if not known:
        return [bytes(len(row)) for row in rows]
    low, high = known[len(known) // 100], known[min(len(known) - 1, len(known) * 995 // 1000)]
    scale = 254 / ((high - low) or 1.0)
    return [
        bytes(1 + int(min(254.0, max(0.0, (value - low) * scale))) if math.isfinite(value) else 0 for value in row)
        for row in rows
    ]


def _palette() -> bytes:
    found = bytearray()
    for level in range(256):
        place = level / 255 * (len(_ANCHORS) - 1)
        first = min(int(place), len(_ANCHORS) - 2)
        part = place - first
        pairs = zip(_ANCHORS[first], _ANCHORS[first + 1], strict=True)
        found += bytes(round(a + (b - a) * part) for a, b in pairs)
    return bytes(found)


def _png(rows: Sequence[bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)
    lines = b"".join(b"\0" + row for row in rows)
    parts = (
        chunk(b"IHDR", size),
        chunk(b"PLTE", _palette()),
        chunk(b"IDAT", zlib.compress(lines, 6)),
        chunk(b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
