"""The plans of all statements that a database executes, as its server logs them: no statement can stay out of sight."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

LARGE = re.compile(
    r"(runs|run_steps|step_runs|step_run_inputs|attempts|products|product_parents|(events|audit)_\d{4}_\d{2})$"
)
"""The tables that grow with every run."""
_TIMES = 300
"""As if every large table had so many times the rows."""
_WATCHED = {"log_min_duration": "0", "log_format": "json", "log_nested_statements": "on"}
_GROWN = """
UPDATE pg_class SET reltuples = reltuples * %s
WHERE reltuples > 0 AND oid IN (
  SELECT oid FROM pg_class WHERE relname ~ %s UNION SELECT indexrelid FROM pg_index JOIN pg_class c ON c.oid = indrelid
  WHERE c.relname ~ %s)
"""
_HAS_ROWS = "SELECT relname FROM pg_class WHERE relname ~ %s AND relkind = 'r' AND reltuples >= %s"
_LEAST_ROWS = 500
"""The partitions of months without a history are not large."""
_PARTIAL = "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indpred IS NOT NULL"
_ENTRY = re.compile(r"duration: [0-9.]+ ms  plan:\n((?:\t.*\n)+)")


def watch(url: str) -> None:
    """Let the server log the plans of this database, and believe that its tables are large."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relname ~ %s AND relkind = 'r'", [LARGE.pattern]
        )
        for (table,) in tables.fetchall():
            connection.execute(
                f"ALTER TABLE {table} SET (autovacuum_enabled = off)".encode()
            )  # its count would be real
        connection.execute(_GROWN, [_TIMES, LARGE.pattern, LARGE.pattern])
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET session_preload_libraries = 'auto_explain'".encode())
        for setting, value in _WATCHED.items():
            connection.execute(f"ALTER DATABASE {name} SET auto_explain.{setting} = '{value}'".encode())


@dataclass
class Plans:
    """The plans logged since the begin, by the text of their statement."""

    url: str
    found: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def faults(self) -> list[str]:
        """The statements that read a large table as a whole."""
        with psycopg.connect(self.url.replace("+psycopg", "")) as connection:
            partial = {row[0] for row in connection.execute(_PARTIAL)}
            found = connection.execute(_HAS_ROWS, [LARGE.pattern, _LEAST_ROWS * _TIMES])
            large = {row[0] for row in found}
        return [
            f"{fault}: {statement}"
            for statement, plans in self.found.items()
            if (fault := next((each for plan in plans for each in _faults(plan, large, partial)), None)) is not None
        ]

    def repeated(self) -> list[str]:
        """The statements that look into the months of events, or through rows gathered before, once for each row."""
        return [
            f"{fault}: {statement}"
            for statement, plans in self.found.items()
            if (fault := next((each for plan in plans for each in _repeated(plan)), None)) is not None
        ]


@contextmanager
def logged(log: Path, url: str) -> Iterator[Plans]:
    """The plans of all that is executed in the block."""
    begin, plans = log.stat().st_size, Plans(url)
    yield plans
    with log.open("rb") as file:
        file.seek(begin)
        text = file.read().decode(errors="replace")
    for entry in _ENTRY.findall(text):
        logged_plan = json.loads(entry)
        statement = " ".join(logged_plan["Query Text"].split())
        plans.found.setdefault(statement, []).append(logged_plan["Plan"])


def _faults(node: dict[str, Any], large: set[str], partial: set[str], is_limited: bool = False) -> Iterator[str]:
    """A sequential scan; or an index that is read from one end to the other, with nothing that stops it."""
    kind, index = node["Node Type"], node.get("Index Name", "")
    table = node.get("Relation Name", "")
    if kind == "Seq Scan" and table in large:
        yield f"sequential scan of {table}"
    if "Index" in kind and "Index Cond" not in node and not is_limited and index not in partial and _is_large(index):
        yield f"whole index {index}"
    is_limited = is_limited or kind == "Limit"
    for child in node.get("Plans", ()):
        yield from _faults(child, large, partial, is_limited and node["Node Type"] not in ("Sort", "Aggregate", "Hash"))


def _repeated(node: dict[str, Any], is_repeated: bool = False) -> Iterator[str]:
    """The scans below the inner side of a nested loop, or in a subquery of each row."""
    kind, table = node["Node Type"], node.get("Relation Name", "")
    if is_repeated and (kind == "CTE Scan" or table.startswith("events_")):
        yield f"repeated {kind} of {table or node['CTE Name']}"
    for child in node.get("Plans", ()):
        relation = child["Parent Relationship"]
        is_inner = kind == "Nested Loop" and relation == "Inner"
        yield from _repeated(child, is_inner or relation == "SubPlan" or (is_repeated and relation != "InitPlan"))


def _is_large(index: str) -> bool:
    return re.match(r"(?:(ix|pk|uq)_)?(runs|run_steps|step_runs|attempts|events|products|audit)_", index) is not None
