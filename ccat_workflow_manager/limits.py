"""How much one request may cost this process. `Context` takes the numbers from the settings of the same names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    json_depth: int = 32
    json_values: int = 1_000_000
    schema_visits: int = 1_000_000
    request_step_runs: int = 100_000
    listed_step_runs: int = 10_000


_IN_FORCE = [Limits()]


def limits() -> Limits:
    """The limits in force."""
    return _IN_FORCE[0]


def enforce(limits: Limits) -> None:
    """Replace the limits of this process."""
    _IN_FORCE[0] = limits
