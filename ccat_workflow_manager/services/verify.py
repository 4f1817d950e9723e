"""Verifies a deployment while it works: rows in slices, each in one snapshot, and the files of products."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain
from threading import Event
from uuid import UUID

from ccat_workflow_manager.db.queries.verify import Finding, ProductRow, findings, products_of, slice_of_runs, strays
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.execution.layout import attempt_dirs
from ccat_workflow_manager.execution.published import checksum_of_published, state_of_published
from ccat_workflow_manager.services.verify_figures import FigureCheck

_SLICE = 500
_PART = 50
_LOOKERS = 4
"""Threads that look at the files of products: most of the time of a look is waiting for the file system."""


class _Stopped(Exception):
    """The verification has ended before its last product."""


@dataclass(slots=True)
class Progress:
    """How far a verification has come."""

    runs: int = 0
    products: int = 0
    last: UUID | None = None
    """The last run that was looked at; a later call goes on behind it."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """Runs, what is wrong with their rows, and their products."""

    ids: list[UUID]
    findings: list[Finding]
    products: list[ProductRow]


@dataclass(frozen=True, slots=True)
class Verification:
    """What to look at. `share` is the part of the time in which it reads; it rests in between.

    A product whose file was changed after it was collected is read; with `checksums` each product is.
    """

    database: Database
    base_dir: str
    checksums: bool = False
    since: datetime | None = None
    share: float = 1.0
    rest: Callable[[float], None] = time.sleep
    keep: Callable[[], None] = lambda: None
    """Called when a slice of runs is done, and its findings were taken."""

    def findings(self, progress: Progress) -> Iterator[Finding]:
        """Everything that is wrong with runs, their products and jobs, as it is found."""
        with self.database.read() as unit:
            yield from list(strays(unit))
        yield from self._in_slices(progress)
        if self.since is None:
            yield from FigureCheck(self.database, self.share, self.rest).findings()

    def _in_slices(self, progress: Progress) -> Iterator[Finding]:
        stop = Event()
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(_LOOKERS) as lookers:
            try:
                yield from self._overlapped(progress, reader, lookers, stop)
            finally:
                stop.set()

    def _overlapped(self, progress: Progress, reader: Executor, lookers: Executor, stop: Event) -> Iterator[Finding]:
        """Look at the files of a slice while the next one is read."""
        following = reader.submit(self._read, progress.last)
        is_last = False
        while not is_last:
            began = time.monotonic()
            present = following.result()
            is_last = len(present.ids) < _SLICE
            if not is_last:
                following = reader.submit(self._read, present.ids[-1])
            yield from present.findings
            parts = [present.products[at : at + _PART] for at in range(0, len(present.products), _PART)]
            yield from chain.from_iterable(lookers.map(partial(self._wrong_among, stop), parts))
            progress.runs += len(present.ids)
            progress.products += len(present.products)
            if not is_last:
                progress.last = present.ids[-1]
                self.keep()
                wait([following])
                self.rest((time.monotonic() - began) * (1 / self.share - 1))

    def _read(self, after: UUID | None) -> _Slice:
        with self.database.read() as unit:
            ids = slice_of_runs(unit, after, self.since, _SLICE)
            return _Slice(ids, list(findings(unit, ids)), products_of(unit, ids))

    def _wrong_among(self, stop: Event, products: Sequence[ProductRow]) -> list[Finding]:
        """What is wrong with these; not all of it once `stop` is set."""

        def go_on() -> None:
            if stop.is_set():
                raise _Stopped

        found = []
        with suppress(_Stopped):
            for product in products:
                go_on()
                if (text := self._fault_of(product, go_on)) is not None:
                    repair = (
                        f"restore the file from a backup, or: ccat-wm run replay {product.run_id} --from {product.step}"
                    )
                    found.append(Finding("product", f"products/{product.id}", text, repair))
        return found

    def _fault_of(self, product: ProductRow, go_on: Callable[[], None]) -> str | None:
        """What is wrong with it. None: it is as it was published, or the run was deleted meanwhile."""
        place = (product.pipeline, str(product.run_id), product.step, product.key, product.attempt)
        path = f"{attempt_dirs(self.base_dir, *place).output}/{product.path}"
        try:
            return self._difference(product, path, go_on)
        except OSError as error:
            return f"{path}: {error.strerror}" if self._is_there_still(product) else None

    def _difference(self, product: ProductRow, path: str, go_on: Callable[[], None]) -> str | None:
        found = state_of_published(path)
        if found.kind != (kind := "directory" if product.is_directory else "regular file"):
            return f"{path} is no {kind}"
        if found.size != product.size:
            return f"{path} has {found.size} bytes, {product.size} were published"
        if product.is_directory and found.files != product.file_count:
            return f"{path} has {found.files} files, {product.file_count} were published"
        if (self.checksums or found.changed > product.collected) and (
            sha256 := checksum_of_published(path, product.is_directory, go_on)
        ) != product.sha256:
            return f"{path} has the SHA-256 {sha256}, {product.sha256} was published"
        return None

    def _is_there_still(self, product: ProductRow) -> bool:
        with self.database.read() as unit:
            return any(each.id == product.id for each in products_of(unit, [product.run_id]))
