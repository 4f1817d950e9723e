"""Parse `products.json` and `warnings.json`, in which a program describes its outputs. The content is not trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from ccat_workflow_manager.execution.output_limits import MAX_PATH_BYTES, invalid
from ccat_workflow_manager.json_values import JSON, scan_json
from ccat_workflow_manager.lifecycle.models import Caveat

PRODUCTS_FILE = "products.json"
WARNINGS_FILE = "warnings.json"
OUTCOME_FILE = "outcome.json"
OUTCOME_BYTES = 64 * 1024
MAX_WARNINGS = 100
_LONGEST_WARNING = 1000
_FIELDS = frozenset({"path", "name", "type", "quality", "quality_metrics", "metadata", "parents"})


class ProductType(StrEnum):
    """The purpose of a product."""

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
    """The type of an undeclared product, from its top folder."""
    return TYPE_OF_FOLDER.get(path.partition("/")[0], ProductType.INTERMEDIATE)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One entry of products.json. `by_name`: it has no `path`, so its name is its path."""

    path: str
    name: str
    type: ProductType
    metadata: Mapping[str, JSON] = field(default_factory=dict)
    parents: Sequence[str] | None = None
    """None: the entry does not list them."""
    by_name: bool = False


def parse_products(data: bytes, *, metadata_kb: float) -> dict[str, Declaration]:
    """The entries of products.json by path. Raises OutputError with the JSON path of the fault."""
    content = _parse(PRODUCTS_FILE, data)
    if isinstance(content, dict) and set(content) <= {"products"}:
        content = content.get("products", [])
    if not isinstance(content, list):
        _fault(PRODUCTS_FILE, "must be a list of products or an object with the one field 'products'")
    declarations: dict[str, Declaration] = {}
    for index, entry in enumerate(content):
        at = f"{PRODUCTS_FILE}[{index}]"
        declaration = _declaration(at, entry)
        if declaration.metadata and len(json.dumps(declaration.metadata)) > metadata_kb * 1024:
            _fault(f"{at}.metadata", f"is larger than {metadata_kb:g} kB (OUTPUT_METADATA_KB)")
        if declaration.path in declarations:
            key = "name" if declaration.by_name else "path"
            _fault(f"{at}.{key}", f"{declaration.path!r} is declared twice")
        declarations[declaration.path] = declaration
    return declarations


def parse_warnings(data: bytes) -> list[str]:
    content = _parse(WARNINGS_FILE, data)
    if isinstance(content, dict) and set(content) <= {"warnings"}:
        content = content.get("warnings", [])
    if not isinstance(content, list) or not all(isinstance(text, str) for text in content):
        _fault(WARNINGS_FILE, "must be a list of texts or an object with the one field 'warnings'")
    warnings = [
        text if len(text) <= _LONGEST_WARNING else f"{text[:_LONGEST_WARNING]}..." for text in content[:MAX_WARNINGS]
    ]
    if len(content) > MAX_WARNINGS:
        warnings.append(f"{len(content) - MAX_WARNINGS} more warnings are not shown")
    return warnings


class Outcome(StrEnum):
    """What a program that ended with exit code 0 may say of its results."""

    NO_WORK = "no_work"
    PARTIAL = "partial"
    UNPROCESSABLE = "unprocessable"


def parse_outcome(data: bytes) -> Caveat:
    """The caveat that outcome.json declares. Raises OutputError if it cannot be understood."""
    content = _parse(OUTCOME_FILE, data)
    if not isinstance(content, dict):
        _fault(OUTCOME_FILE, "must be an object with the fields 'outcome' and 'text'")
    unknown = sorted(set(content) - {"outcome", "text"})
    if unknown:
        _fault(f"{OUTCOME_FILE}.{unknown[0][:80]}", "is not a known field; known are outcome, text")
    outcome, text = content.get("outcome"), content.get("text", "")
    if not isinstance(outcome, str) or outcome not in set(Outcome):
        _fault(f"{OUTCOME_FILE}.outcome", f"must be one of {', '.join(Outcome)}")
    if not isinstance(text, str):
        _fault(f"{OUTCOME_FILE}.text", "must be a text")
    text = text if len(text) <= _LONGEST_WARNING else f"{text[:_LONGEST_WARNING]}..."
    return Caveat(outcome, text or f"the program reports {outcome}")


def _declaration(at: str, entry: Any) -> Declaration:
    if not isinstance(entry, dict):
        _fault(at, "must be an object")
    unknown = sorted(set(entry) - _FIELDS)
    if unknown:
        _fault(f"{at}.{unknown[0]}", f"is not a known field; known are {', '.join(sorted(_FIELDS))}")
    by_name = entry.get("path") is None and "name" in entry
    path_at = f"{at}.name" if by_name else f"{at}.path"
    path = _text(path_at, entry["name"] if by_name else entry.get("path"))
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        why = " and there is no 'path'" if by_name else ""
        _fault(path_at, f"{path!r} is not a plain path inside the output directory{why}")
    metadata = dict(_object(f"{at}.metadata", entry.get("metadata", {})))
    if quality := _quality(at, entry):
        metadata["quality"] = quality
    parents = entry.get("parents")
    if parents is not None and not (isinstance(parents, list) and all(isinstance(name, str) for name in parents)):
        _fault(f"{at}.parents", "must be a list of texts")
    name = _text(f"{at}.name", entry.get("name", path))
    return Declaration(path, name, _type(at, entry, path), metadata, parents, by_name)


def _type(at: str, entry: Mapping[str, Any], path: str) -> ProductType:
    kind = entry.get("type", type_of(path))
    if not isinstance(kind, str) or kind.upper() not in set(ProductType):
        _fault(f"{at}.type", f"{kind!r} is not one of {', '.join(ProductType)}")
    return ProductType(kind.upper())


def _quality(at: str, entry: Mapping[str, Any]) -> dict[str, JSON]:
    """The field `quality`, which may also be written `quality_metrics`."""
    if "quality" in entry and "quality_metrics" in entry:
        _fault(f"{at}.quality_metrics", "is the same as quality, which is there too; give one of them")
    name = "quality_metrics" if "quality_metrics" in entry else "quality"
    return _object(f"{at}.{name}", entry.get(name, {}))


def _text(at: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= MAX_PATH_BYTES:
        _fault(at, f"must be a text of 1 to {MAX_PATH_BYTES} bytes")
    return value


def _object(at: str, value: Any) -> dict[str, JSON]:
    if not isinstance(value, dict):
        _fault(at, "must be an object")
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


def _fault(at: str, message: str) -> NoReturn:
    invalid(f"{at} {message}")
