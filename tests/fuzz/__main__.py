"""`make fuzz`: looks for texts that a parser does not refuse as it should, and keeps what it finds in `cases`.

The target `api` sends requests that are made from the OpenAPI document, and prints the seed of what it finds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import CASES, TARGETS, Target, samples, texts

_PROFILE = settings(
    max_examples=500,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


API = "api"
_API_EXAMPLES = 50


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join((*TARGETS, API)))
    asked = parser.parse_args()
    found = 0
    for name in asked.targets or (*TARGETS, API):
        deadline = time.monotonic() + 60 * asked.minutes
        found += _fuzz_api(deadline) if name == API else _fuzz(name, TARGETS[name], deadline)
    return found


def _fuzz_api(deadline: float) -> int:
    """Run the tests of conformance with new seeds until the deadline, or until one fails."""
    while time.monotonic() < deadline:
        number = time.time_ns() % 2**32
        given = {"API_EXAMPLES": str(_API_EXAMPLES), "API_SEED": str(number)}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:xdist",
            "--timeout=3600",
            "tests/api/test_conformance.py",
        ]
        if subprocess.run(command, env={**os.environ, **given}, check=False).returncode:
            sys.stdout.write(f"{API}: again with {' '.join(f'{name}={value}' for name, value in given.items())}\n")
            return 1
    return 0


def _fuzz(name: str, target: Target, deadline: float) -> int:
    """Fuzz one parser until the deadline, or until it fails. Returns how many texts it has kept."""
    tried, failing = 0, ""

    def attempt(text: str) -> None:
        nonlocal tried, failing
        tried += 1
        try:
            target.check(text)
        except Exception:
            failing = text  # the last one is the smallest
            raise

    while time.monotonic() < deadline:
        run = seed(time.time_ns())(_PROFILE(given(texts(samples(name)))(attempt)))
        try:
            run()
        except Exception as error:  # noqa: BLE001 - any error that a parser may not raise is a find
            data = failing.encode("utf-8", "surrogatepass")
            path = CASES / name / f"{hashlib.sha256(data).hexdigest()[:12]}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            sys.stdout.write(f"{name}: {type(error).__name__}: {str(error)[:200]}; kept as {path}\n")
            return 1
    sys.stdout.write(f"{name}: {tried} texts\n")
    return 0


sys.exit(main())
