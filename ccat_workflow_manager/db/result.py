"""What a statement returns."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import Any, TypeVar

import psycopg

T = TypeVar("T")


class Result:
    """All rows of one statement. Each is a tuple whose values also have the names of their columns."""

    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        self.rowcount = cursor.rowcount
        """How many rows the statement has returned or changed."""
        described = cursor.description
        self.columns = () if described is None else tuple(column.name for column in described)
        self.tuples: list[tuple[Any, ...]] = [] if described is None else cursor.fetchall()

    @cached_property
    def _rows(self) -> list[Any]:
        return list(map(_row_of(self.columns), self.tuples))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._rows)

    def shaped(self, shape: type[T]) -> list[T]:
        """The rows as `shape`, a dataclass: each field takes the column of its own name."""
        by_name = itemgetter(*(self.columns.index(name) for name in shape.__match_args__))  # type: ignore[attr-defined]
        return [shape(*by_name(row)) for row in self.tuples]

    def all(self) -> list[Any]:
        return self._rows

    def first(self) -> Any:
        """The first row. Returns None if there is none."""
        return self._rows[0] if self.tuples else None

    def one(self) -> Any:
        """The only row. Raises LookupError if there are more or none."""
        if len(self.tuples) != 1:
            raise LookupError(f"{len(self.tuples)} rows in place of one")
        return self._rows[0]

    def scalar(self) -> Any:
        """The first value of the first row. Returns None if there is no row."""
        return self.tuples[0][0] if self.tuples else None

    def scalar_one(self) -> Any:
        """The first value of the only row. Raises LookupError if there are more or none."""
        return self.one()[0]


@lru_cache(maxsize=512)
def _row_of(columns: tuple[str, ...]) -> Callable[[tuple[Any, ...]], Any]:
    """Makes the rows with these columns. A name that Python cannot use becomes the number of its column."""
    row: Any = namedtuple("Row", columns, rename=True)  # type: ignore[misc]
    make: Callable[[tuple[Any, ...]], Any] = row._make
    return make
