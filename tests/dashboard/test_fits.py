"""The reader of FITS files: headers, a picture of any type of pixels, and files that are none."""

from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path

import pytest

from ccat_workflow_manager.dashboard import fits

FORMATS = {8: "B", 16: "h", 32: "i", 64: "q", -32: "f", -64: "d"}


def block(cards: list[str]) -> bytes:
    text = "".join(card.ljust(80) for card in [*cards, "END"])
    return text.ljust(-(-len(text) // 2880) * 2880).encode("ascii")


def image(bits: int, width: int, height: int, values: list[float], *more: str, first: str = "") -> bytes:
    cards = [
        first or "SIMPLE  =                    T", f"BITPIX  = {bits:>20}", "NAXIS   =                    2",
        f"NAXIS1  = {width:>20}", f"NAXIS2  = {height:>20} / rows", *more,
    ]  # fmt: skip
    data = struct.pack(f">{width * height}{FORMATS[bits]}", *(values if bits < 0 else map(int, values)))
    return block(cards) + data.ljust(-(-len(data) // 2880) * 2880, b"\0")


def pixels(png: bytes) -> list[bytes]:
    """The levels of the rows of a picture that `fits.picture` has made."""
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    at = png.index(b"IDAT")
    length = struct.unpack(">I", png[at - 4 : at])[0]
    data = zlib.decompress(png[at + 4 : at + 4 + length])
    return [data[row * (width + 1) + 1 : (row + 1) * (width + 1)] for row in range(height)]


def picture(path: Path, content: bytes) -> bytes | None:
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return fits.picture(descriptor)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("bits", FORMATS)
def test_pixels_of_each_type_are_drawn_north_up(tmp_path: Path, bits: int) -> None:
    found = picture(tmp_path / "a.fits", image(bits, 3, 2, [0, 10, 20, 30, 40, 100]))
    assert found is not None
    upper, lower = pixels(found)  # the file has the southern row first
    assert list(lower) == sorted(lower)
    assert lower[0] == 1
    assert upper[2] == 255


def test_what_has_no_value_is_level_zero(tmp_path: Path) -> None:
    found = picture(tmp_path / "nan.fits", image(-32, 3, 2, [math.nan, 1, 2, 3, math.inf, 5]))
    assert found is not None
    assert [row[at] for row, at in ((pixels(found)[1], 0), (pixels(found)[0], 1))] == [0, 0]
    blank = picture(tmp_path / "blank.fits", image(16, 2, 2, [-1, 1, 2, 3], "BLANK   =                   -1"))
    assert blank is not None
    assert pixels(blank)[1][0] == 0
    empty = picture(tmp_path / "empty.fits", image(-32, 2, 2, [math.nan] * 4))
    assert empty is not None
    assert set(b"".join(pixels(empty))) == {0}


def test_a_large_image_becomes_small_and_an_extension_is_found(tmp_path: Path) -> None:
    primary = block(
        ["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0"]
    )
    wide = image(8, 2000, 1000, [n % 251 for n in range(2_000_000)], first="XTENSION= 'IMAGE   '")
    found = picture(tmp_path / "wide.fits", primary + wide)
    assert found is not None
    assert (len(pixels(found)[0]), len(pixels(found))) == (400, 200)
    assert len(found) < 100_000


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 5760,
        b"SIMPLE  =                    T".ljust(2880),
        block(["SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    x"]),
        image(-32, 3, 2, [1.0] * 6)[:2884],
        image(-32, 3, 2, [1.0] * 6).replace(b"BITPIX  =                  -32", b"BITPIX  =                    7"),
        image(8, 3, 2, [1.0] * 6).replace(b"NAXIS1  =                    3", b"NAXIS1  =        99999999999"),
        image(8, 3, 2, [1.0] * 6).replace(b"NAXIS1  =                    3", b"NAXIS1  =                   -3"),
    ],
)
def test_what_is_no_image_has_no_picture(tmp_path: Path, content: bytes) -> None:
    assert picture(tmp_path / "bad.fits", content) is None
