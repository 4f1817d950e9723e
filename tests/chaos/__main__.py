"""The whole matrix: every failpoint x every backend that this machine has. `make chaos`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from tests.chaos.matrix import ROWS, Outcome, Row, cases, explore, short_cases, survive
from tests.chaos.report import PAGE, page_with, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--row", choices=[row.name for row in ROWS], action="append", help="only this backend")
    parser.add_argument("--only", default="", help="only cases that have this in their name")
    parser.add_argument("--part", default="1/1", help="every nth case, from which on: 2/3 is the second third")
    parser.add_argument("--jobs", type=int, default=2 * (os.cpu_count() or 1), help="how many deployments at a time")
    parser.add_argument("--short", action="store_true", help="the most telling cases only, with one worker")
    parser.add_argument("--into", type=Path, help="write the outcomes of one backend to this file")
    parser.add_argument(
        "--results", type=Path, help="a directory that keeps the outcomes of each backend for the next call"
    )
    options = parser.parse_args()
    rows = [row for row in ROWS if options.row is None or row.name in options.row]
    if options.short:
        return _short(rows[0])
    if options.into is not None:
        return _one(rows[0], options.only, options.part, options.into)
    return _all(rows, options.only, options.jobs, options.results)


def _one(row: Row, only: str, part: str, into: Path) -> int:
    """One backend, or a part of its cases."""
    first, of = map(int, part.split("/"))
    site = row.site()
    try:
        passed = explore(site)
        todo = [case for case in cases(passed) if only in str(case)][first - 1 :: of]
        with into.open("a", encoding="utf-8") as file:
            for case in todo:
                outcome = survive(site, case)
                print(json.dumps(asdict(outcome)), file=file, flush=True)
                if outcome.problem:
                    print(f"{row.name}: {outcome.case}: {outcome.problem}\n{site.log()}", flush=True)
    finally:
        site.close()
    return 0


def _short(row: Row) -> int:
    """What `make test` does for each backend."""
    site = row.site(workers=1)
    try:
        outcomes = [survive(site, case) for case in short_cases(row)]
        for outcome in outcomes:
            end = outcome.problem or ("survived" if outcome.passed else "nobody came by")
            print(f"{outcome.seconds:5.1f} s  {outcome.case}: {end}")
        failed = any(outcome.problem for outcome in outcomes)
        if failed:
            print(site.log())
        return 1 if failed else 0
    finally:
        site.close()


def _all(rows: Sequence[Row], only: str, jobs: int, results: Path | None) -> int:
    began = time.monotonic()
    absent = {row.name: missing for row in rows if (missing := row.missing())}
    with tempfile.TemporaryDirectory(prefix="ccat-wm-chaos-results-") as temporary:
        directory = results or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        complete = _gather([row for row in rows if row.name not in absent], only, jobs, directory)
        outcomes = {row.name: found for row in ROWS if (found := list(_read(directory / row.name)))}
    text = table(outcomes)
    everything = [outcome for each in outcomes.values() for outcome in each]
    failed = [outcome for outcome in everything if outcome.problem]
    total = sum(outcome.passed for outcome in everything)
    print(text)
    for name, each in outcomes.items():
        for outcome in each:
            if outcome.problem:
                print(f"NOT SURVIVED {name}: {outcome.case}: {outcome.problem}")
    for outcome in everything:
        if not outcome.passed:
            print(f"nobody came by: {outcome.case}")
    for name, missing in absent.items():
        print(f"left out: {name} (no {missing} here; `make lab` installs it)")
    print(f"{total - len(failed)} of {total} survived, in {(time.monotonic() - began) / 60:.0f} minutes")
    if complete and not only and len(outcomes) == len(ROWS):
        PAGE.write_text(page_with(text, total, len(failed)), encoding="utf-8")
    return 0 if complete and total and not failed else 1


def _gather(rows: Sequence[Row], only: str, jobs: int, directory: Path) -> bool:
    """Run each backend in processes of its own, a part of the cases in each, so that waiting is shared."""
    program = [sys.executable, "-m", "tests.chaos", "--only", only]
    parts = max(1, jobs // max(1, len(rows)))
    for row in rows:
        (directory / row.name).unlink(missing_ok=True)
    running = [
        subprocess.Popen(
            [*program, "--row", row.name, "--part", f"{part + 1}/{parts}", "--into", str(directory / row.name)]
        )
        for row in rows
        for part in range(parts)
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        print(f"a part of the matrix could not be carried out: {codes}")
    return not any(codes)


def _read(path: Path) -> Iterable[Outcome]:
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            yield Outcome(**json.loads(line))


if __name__ == "__main__":
    sys.exit(main())
