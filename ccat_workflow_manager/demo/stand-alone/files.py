"""Zarr groups, FITS images and JSON, with the standard library only."""

from __future__ import annotations

import array
import json
import os
import struct
import sys
from collections.abc import Mapping
from typing import Any

_CARD, _BLOCK = 80, 2880
_FLOAT32 = "<f4" if sys.byteorder == "little" else ">f4"


def write_json(path: str, content: Any) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def read_json(path: str) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


Arrays = Mapping[str, "tuple[tuple[int, ...], array.array[float]]"]
"""By name: shape and values."""


def write_zarr(path: str, attributes: Mapping[str, Any], arrays: Arrays) -> None:
    """A Zarr (version 2) group of float32 arrays, each in one uncompressed chunk."""
    write_json(f"{path}/.zgroup", {"zarr_format": 2})
    write_json(f"{path}/.zattrs", attributes)
    for name, (shape, values) in arrays.items():
        layout = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": _FLOAT32, "compressor": None}
        write_json(f"{path}/{name}/.zarray", {**layout, "fill_value": 0.0, "order": "C", "filters": None})
        with open(f"{path}/{name}/{'.'.join('0' * len(shape))}", "wb") as file:
            values.tofile(file)


def read_zarr(path: str, name: str) -> tuple[list[int], array.array[float]]:
    """Returns shape and values of one array that `write_zarr` has written on a machine like this."""
    shape: list[int] = read_json(f"{path}/{name}/.zarray")["shape"]
    data = array.array("f")
    with open(f"{path}/{name}/{'.'.join('0' * len(shape))}", "rb") as file:
        data.frombytes(file.read())
    return shape, data


def write_fits(path: str, rows: list[list[float]], cards: dict[str, tuple[str | float, str]]) -> None:
    """A FITS image of 32-bit floats. `rows` run from south to north; `cards` has value and comment by keyword."""
    header = [
        _card("SIMPLE", True, "conforms to FITS"),
        _card("BITPIX", -32, "32-bit floating point"),
        _card("NAXIS", 2, ""),
        _card("NAXIS1", len(rows[0]), ""),
        _card("NAXIS2", len(rows), ""),
        *(_card(keyword, value, comment) for keyword, (value, comment) in cards.items()),
        "END".ljust(_CARD),
    ]
    data = b"".join(struct.pack(f">{len(row)}f", *row) for row in rows)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(_padded("".join(header).encode("ascii"), b" "))
        file.write(_padded(data, b"\0"))


def _card(keyword: str, value: str | float, comment: str) -> str:
    if isinstance(value, bool):
        text = ("T" if value else "F").rjust(20)
    elif isinstance(value, str):
        text = "'" + value.replace("'", "''").ljust(8) + "'"
    else:
        text = f"{value:.12G}".rjust(20)
    return f"{keyword:<8}= {text:<20}{' / ' + comment if comment else ''}".ljust(_CARD)[:_CARD]


def _padded(data: bytes, filler: bytes) -> bytes:
    return data + filler * (-len(data) % _BLOCK)
