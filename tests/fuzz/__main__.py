"""`make fuzz`: looks for texts that a parser does not refuse as it should, and keeps what it finds in `cases`."""

from __future__ import annotations

import argparse
import hashlib
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="for each parser")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    asked = parser.parse_args()
    names = asked.targets or list(TARGETS)
    return sum(_fuzz(name, TARGETS[name], time.monotonic() + 60 * asked.minutes) for name in names)


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
