"""From an output directory to products: collect (scan and checksum), then publish (rename).

A worker may die at any point, and the next one repeats both: a published directory gives the same products as before,
and publishing it again changes nothing.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ccat_workflow_manager.errors import OutputError
from ccat_workflow_manager.execution.declarations import (
    OUTCOME_BYTES,
    OUTCOME_FILE,
    PRODUCTS_FILE,
    WARNINGS_FILE,
    Declaration,
    parse_outcome,
    parse_products,
    parse_warnings,
    type_of,
)
from ccat_workflow_manager.execution.launch_spec import Progress, no_progress
from ccat_workflow_manager.execution.layout import AttemptDirs
from ccat_workflow_manager.execution.output_limits import Budget, OutputLimits, invalid
from ccat_workflow_manager.execution.scan import Found, Scanner, open_directory, open_file
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Caveat, NewProduct

NO_PRODUCTS = "the program left no products"
DEFAULT_LIMITS = OutputLimits()
_MAX_DECLARATION_BYTES = 16 * 1024 * 1024
_DECLARATION_FILES = frozenset({PRODUCTS_FILE, WARNINGS_FILE, OUTCOME_FILE})
UNREADABLE_OUTCOME = "unreadable_outcome"
_TREE_SUFFIX = ".zarr"
_LISTED = 8
"""The most candidates that an error text lists."""


@dataclass(frozen=True, slots=True)
class Collected:
    """The outputs of a finished attempt."""

    products: list[NewProduct]
    warnings: list[str]
    caveats: list[Caveat] = field(default_factory=list)


def collect(dirs: AttemptDirs, *, limits: OutputLimits = DEFAULT_LIMITS, progress: Progress = no_progress) -> Collected:
    """The products and warnings in the output directory, whether it is published or not."""
    budget = Budget(limits, progress)
    with open_directory(_current(dirs), "output") as root:
        products, warnings = _read(root, PRODUCTS_FILE), _read(root, WARNINGS_FILE)
        declared = {} if products is None else parse_products(products, metadata_kb=limits.metadata_kb)
        texts = [] if warnings is None else parse_warnings(warnings)
        caveats = _caveats(root)
        scanner = Scanner(lambda path: path in declared or path.endswith(_TREE_SUFFIX), budget, unread={OUTCOME_FILE})
        found = [product for product in scanner.scan(root) if product.path not in _DECLARATION_FILES]
    _check_declared(declared, found)
    collected = _products(found, declared, _Parents(dirs.manifest, budget))
    return Collected(collected, texts if collected else [*texts, NO_PRODUCTS], caveats)


def publish(dirs: AttemptDirs) -> None:
    """Rename the output to its final name."""
    try:
        os.rename(dirs.output_partial, dirs.output)
    except FileNotFoundError:
        if not os.path.isdir(dirs.output):
            raise OutputError(FailureReason.OUTPUT_UNREADABLE, "the output directory is gone") from None
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            message = "the output is already published, and there is more beside it"
            raise OutputError(FailureReason.OUTPUT_INVALID, message) from error
        raise OutputError(FailureReason.OUTPUT_UNREADABLE, f"output cannot be published: {error.strerror}") from error


def _current(dirs: AttemptDirs) -> str:
    return dirs.output_partial if os.path.lexists(dirs.output_partial) else dirs.output


def _caveats(root: int) -> list[Caveat]:
    """What outcome.json declares. One that cannot be understood is a caveat too, and no failure: the work is done."""
    try:
        data = _read(root, OUTCOME_FILE, OUTCOME_BYTES)
        return [] if data is None else [parse_outcome(data)]
    except OutputError as error:
        return [Caveat(UNREADABLE_OUTCOME, error.message)]


def _read(root: int, name: str, limit: int = _MAX_DECLARATION_BYTES) -> bytes | None:
    """The content of a declaration file, if there is one."""
    try:
        os.stat(name, dir_fd=root, follow_symlinks=False)
    except FileNotFoundError:
        return None
    with open_file(name, name, root) as file:
        parts, size = list[bytes](), 0
        while size <= limit and (chunk := os.read(file, min(limit + 1, 1024 * 1024))):
            parts.append(chunk)
            size += len(chunk)
    if size > limit:
        invalid(f"{name} is larger than {limit} bytes")
    return b"".join(parts)


def _check_declared(declared: Mapping[str, Declaration], found: Sequence[Found]) -> None:
    missing = declared.keys() - {product.path for product in found}
    if missing:
        path = min(missing)
        inside = next((p.path for p in found if p.is_directory and path.startswith(f"{p.path}/")), None)
        why = f"is part of the product {inside}" if inside else "is not there"
        hint = "; a product whose name is not its path needs 'path'" if declared[path].by_name else ""
        raise OutputError(FailureReason.OUTPUT_INVALID, f"{PRODUCTS_FILE} declares {path}, which {why}{hint}")


def _products(found: Sequence[Found], declared: Mapping[str, Declaration], parents: _Parents) -> list[NewProduct]:
    products = []
    names: dict[str, str] = {}
    for item in found:
        declaration = declared.get(item.path) or Declaration(item.path, item.path, type_of(item.path))
        other = names.setdefault(declaration.name, item.path)
        if other != item.path:
            message = f"{other} and {item.path} are both named {declaration.name!r}"
            raise OutputError(FailureReason.OUTPUT_INVALID, message)
        products.append(
            NewProduct(
                name=declaration.name,
                type=declaration.type,
                path=item.path,
                size=item.size,
                sha256=item.sha256,
                is_directory=item.is_directory,
                file_count=item.file_count,
                metadata=declaration.metadata,
                parents=parents.of(declaration),
            )
        )
    return products


class _Parents:
    """The possible parents of the products of an attempt: the upstream products that its manifest lists."""

    def __init__(self, manifest: str, budget: Budget) -> None:
        self._manifest = manifest
        self._budget = budget
        self._by_name: dict[str, tuple[UUID, ...]] | None = None
        self._by_bare_name: dict[str, list[str]] = {}

    def of(self, declaration: Declaration) -> tuple[UUID, ...]:
        """The declared parents. A product without any has all possible ones, which need not be stored."""
        if not declaration.parents:
            return ()
        if self._by_name is None:
            self._by_name = self._load()
        ids: dict[UUID, None] = {}
        for name in declaration.parents:
            ids.update(dict.fromkeys(self._named(self._by_name, name, declaration.path)))
        self._budget.parents(declaration.path, len(ids))
        return tuple(ids)

    def _named(self, by_name: Mapping[str, tuple[UUID, ...]], name: str, child: str) -> tuple[UUID, ...]:
        """A name is an id, `step/key/product`, `step/key`, or the name of a product that is unique upstream."""
        if name in by_name:
            return by_name[name]
        candidates = self._by_bare_name.get(name, [])
        if len(candidates) != 1:
            why = "; no such product was given"
            if candidates:
                why = f", which may be {' or '.join(candidates[:_LISTED])}: say which"
            invalid(f"{PRODUCTS_FILE} names {name!r} as a parent of {child}{why}")
        return by_name[candidates[0]]

    def _load(self) -> dict[str, tuple[UUID, ...]]:
        try:
            with open(self._manifest, encoding="utf-8") as file:
                upstream: list[dict[str, JSON]] = json.load(file)["upstream"]
            by_name: dict[str, tuple[UUID, ...]] = {}
            for source in upstream:
                group = f"{source['step']}/{source['key']}"
                ids = []
                for product in source["products"]:
                    identity = UUID(product["id"])
                    ids.append(identity)
                    full = f"{group}/{product['name']}"
                    by_name[product["id"]] = by_name[full] = (identity,)
                    self._by_bare_name.setdefault(product["name"], []).append(full)
                by_name[group] = tuple(ids)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise OutputError(FailureReason.OUTPUT_UNREADABLE, f"the manifest cannot be read again: {error}") from error
        return by_name
