"""Invent the history of many runs with the files of its products, and measure what `ccat-wm verify` takes for it.

    python -m tests.bench.verifying --runs 200000

needs 3 GB for 200,000 runs. The directory of each run is a link to one of its pipeline, which has the files of all its
runs: quick to make and to remove, and always in the memory of the system.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psycopg

from ccat_workflow_manager.embedded import EmbeddedValkey
from ccat_workflow_manager.execution.layout import attempt_dirs
from ccat_workflow_manager.settings import PREFIX
from tests.bench.filling import fill
from tests.bench.million import count_figures, server

_FILES = """
SELECT r.pipeline, s.step, s.key, p.attempt, p.path, p.size
FROM products p JOIN step_runs s ON s.id = p.step_run_id JOIN runs r ON r.id = p.run_id WHERE NOT p.is_directory
GROUP BY 1, 2, 3, 4, 5, 6
"""
_RUNS = "SELECT DISTINCT r.pipeline, r.id::text FROM products p JOIN runs r ON r.id = p.run_id"
_ALL = "all"
_MIB = 1024


def make_files(url: str, base_dir: Path) -> int:
    """A file without content, of the right size, for every product, which is collected after that.

    Returns how many runs have products.
    """
    linked = 0
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        for pipeline, step, key, attempt, path, size in connection.execute(_FILES):
            file = Path(attempt_dirs(str(base_dir), pipeline, _ALL, step, key, attempt).output) / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("wb") as opened:
                opened.truncate(size)
        for pipeline, run_id in connection.cursor().stream(_RUNS):
            os.symlink(_ALL, base_dir / pipeline / run_id)
            linked += 1
        connection.execute("UPDATE products SET created_at = now()")
        connection.execute("VACUUM (ANALYZE) products")
    return linked


def verify(url: str, redis: str, home: Path, *options: str) -> tuple[int, float, float]:
    """Exit code, seconds, and the largest memory in MiB of the command."""
    environment = {
        **os.environ,
        f"{PREFIX}DATABASE_URL": url,
        f"{PREFIX}REDIS_URL": redis,
        f"{PREFIX}DATA_DIR": str(home),
        f"{PREFIX}PIPELINE_BASE_DIR": str(home / "runs"),
    }
    began = time.monotonic()
    command = [str(Path(sys.executable).with_name("ccat-wm")), "verify", "--no-jobs", *options]
    running, most = subprocess.Popen(command, env=environment), 0.0
    while running.returncode is None:
        most = max(most, _peak_of(running.pid))
        with suppress(subprocess.TimeoutExpired):
            running.wait(0.2)
    return running.returncode, time.monotonic() - began, most


def _peak_of(pid: int) -> float:
    """MiB; 0 for a process that has ended. (What `wait4` says counts the process that has started it as well.)"""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) / _MIB if found else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.verifying", description=__doc__)
    parser.add_argument("--runs", type=int, default=200_000)
    parser.add_argument("--directory", type=Path, help="where the database and the files are made")
    arguments = parser.parse_args()
    with (
        server(arguments.directory, keep=False) as url,
        tempfile.TemporaryDirectory(prefix="ccat-verifying-", dir=arguments.directory) as name,
    ):
        home = Path(name)
        began = time.monotonic()
        fill(url, arguments.runs, say=True)
        count_figures(url)
        print(f"filled in {time.monotonic() - began:.0f} s", flush=True)
        print(f"{make_files(url, home / 'runs')} runs have products, {time.monotonic() - began:.0f} s", flush=True)
        valkey = EmbeddedValkey(home)
        redis = valkey.start()
        try:
            for options in ([], ["--share", "100"]):
                code, seconds, mib = verify(url, redis, home, *options)
                print(f"verify {' '.join(options)}: exit code {code}, {seconds:.0f} s, {mib:.0f} MiB", flush=True)
        finally:
            valkey.stop()


if __name__ == "__main__":
    main()
