"""What a program says about its own outputs: `products.json` and `warnings.json`, read with suspicion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from ccat_workflow_manager.errors import OutputError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.json_values import JSON, scan_json

PRODUCTS_FILE = "products.json"
WARNINGS_FILE = "warnings.json"
MAX_WARNINGS = 100
_MAX_TEXT = 1000
_FIELDS = frozenset({"path", "name", "type", "quality", "quality_metrics", "metadata", "parents"})


class ProductType(StrEnum):
    """What a product is good for."""

    SCIENCE = "SCIENCE"
    QA_METRIC = "QA_METRIC"
    PLOT = "PLOT"
    STATISTICS = "STATISTICS"
    LOG = "LOG"
    INTERMEDIATE = "INTERMEDIATE"


TYPE_OF_FOLDER: Mapping[str, ProductType] = {
    "science": ProductType.SCIENCE,
    "qa": ProductType.QA_METRIC,
    "plots": ProductType.PLOT,
    "statistics": ProductType.STATISTICS,
    "logs": ProductType.LOG,
}


def type_of(path: str) -> ProductType:
    """The type of a product that nobody declared, by its top folder."""
    return TYPE_OF_FOLDER.get(path.partition("/")[0], ProductType.INTERMEDIATE)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One entry of products.json; `parents` is None when it does not say, `by_name` if its name stands for its path."""

    path: str
    name: str
    type: ProductType
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    parents: Sequence[str] | None = None
    by_name: bool = False


def parse_products(data: bytes) -> dict[str, Declaration]:
    """The entries of products.json by path; OutputError with the place of the fault."""
    content = _parse(PRODUCTS_FILE, data)
    if isinstance(content, dict) and set(content) <= {"products"}:
        content = content.get("products", [])
    if not isinstance(content, list):
        _fault(PRODUCTS_FILE, "must be a list of products or an object with the one field 'products'")
    declarations: dict[str, Declaration] = {}
    for index, entry in enumerate(content):
        declaration = _declaration(f"{PRODUCTS_FILE}[{index}]", entry)
        if declaration.path in declarations:
            said = "name" if declaration.by_name else "path"
            _fault(f"{PRODUCTS_FILE}[{index}].{said}", f"{declaration.path!r} is declared twice")
        declarations[declaration.path] = declaration
    return declarations


def parse_warnings(data: bytes) -> list[str]:
    """The texts of warnings.json."""
    content = _parse(WARNINGS_FILE, data)
    if isinstance(content, dict) and set(content) <= {"warnings"}:
        content = content.get("warnings", [])
    if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
        _fault(WARNINGS_FILE, "must be a list of texts or an object with the one field 'warnings'")
    warnings = [text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..." for text in content[:MAX_WARNINGS]]
    if len(content) > MAX_WARNINGS:
        warnings.append(f"{len(content) - MAX_WARNINGS} more warnings are not shown")
    return warnings


def _declaration(place: str, entry: Any) -> Declaration:
    if not isinstance(entry, dict):
        _fault(place, "must be an object")
    unknown = sorted(set(entry) - _FIELDS)
    if unknown:
        _fault(f"{place}.{unknown[0]}", f"is not a known field; known are {', '.join(sorted(_FIELDS))}")
    by_name = entry.get("path") is None and "name" in entry
    said = f"{place}.name" if by_name else f"{place}.path"
    path = _text(said, entry["name"] if by_name else entry.get("path"))
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        why = " and there is no 'path'" if by_name else ""
        _fault(said, f"{path!r} is not a plain path inside the output directory{why}")
    metadata = dict(_object(f"{place}.metadata", entry.get("metadata", {})))
    if quality := _quality(place, entry):
        metadata["quality"] = quality
    parents = entry.get("parents")
    if parents is not None and not (isinstance(parents, list) and all(isinstance(name, str) for name in parents)):
        _fault(f"{place}.parents", "must be a list of texts")
    name = _text(f"{place}.name", entry.get("name", path))
    return Declaration(path, name, _type(place, entry, path), metadata, parents, by_name)


def _type(place: str, entry: Mapping[str, Any], path: str) -> ProductType:
    kind = entry.get("type", type_of(path))
    if not isinstance(kind, str) or kind.upper() not in set(ProductType):
        _fault(f"{place}.type", f"{kind!r} is not one of {', '.join(ProductType)}")
    return ProductType(kind.upper())


def _quality(place: str, entry: Mapping[str, Any]) -> dict[str, JSON]:
    """`quality` and `quality_metrics` are the same field, by its short and by its long name."""
    if "quality" in entry and "quality_metrics" in entry:
        _fault(f"{place}.quality_metrics", "is the same as quality, which is there too; give one of them")
    name = "quality_metrics" if "quality_metrics" in entry else "quality"
    return _object(f"{place}.{name}", entry.get(name, {}))


def _text(place: str, value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > _MAX_TEXT:
        _fault(place, f"must be a text of 1 to {_MAX_TEXT} characters")
    return value


def _object(place: str, value: Any) -> dict[str, JSON]:
    if not isinstance(value, dict):
        _fault(place, "must be an object")
    return value


def _parse(name: str, data: bytes) -> Any:
    try:
        content = json.loads(data.decode("utf-8"))
    except RecursionError:
        _fault(name, "is nested too deeply")
    except ValueError as error:
        _fault(name, f"is not valid JSON: {error}")
    faults = scan_json(content).faults
    if faults:
        _fault(f"{name}{'' if faults[0].path.startswith('[') else ' '}{faults[0].path}", faults[0].message)
    return content


def _fault(place: str, message: str) -> NoReturn:
    raise OutputError(FailureReason.OUTPUT_INVALID, f"{place} {message}")
