"""Every failpoint x every action, for one backend."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ccat_workflow_manager.failpoints import BEFORE
from tests.chaos.scenarios import PREFERRED, SCENARIOS, Scenario
from tests.chaos.site import Site
from tests.parts import PARTS, found
from tests.support.armed import AROUND, RECORD, Action, Injection
from tests.support.fixtures_images import build_tools_image
from tests.support.waiting import wait_until

_LATE_SECONDS = 8
"""How long a point may take to be passed that is passed only now and then."""
_ASLEEP = 1.6
"""In leases: whoever wakes up then has lost it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A backend of the matrix. Another one is one more line in ROWS."""

    name: str
    backend: str
    runtime: str = "none"

    def missing(self) -> str | None:
        """What this machine lacks for it."""
        if self.runtime != "none" and shutil.which(self.runtime) is None:
            return self.runtime
        return self.backend if self.backend in PARTS and not found(self.backend) else None

    def site(self, workers: int = 2) -> Site:
        site = Site(self.backend, self.runtime, workers=workers)
        if self.runtime != "none":
            site.image = str(build_tools_image(site.directory))
        site.start()
        return site


ROWS = (
    Row("noop", "noop"),
    Row("concurrent", "concurrent"),
    Row("local", "local"),
    Row("local, Apptainer", "local", "apptainer"),
    Row("Slurm", "slurm"),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One injection, and the work during which it happens."""

    injection: Injection
    scenario: Scenario

    def __str__(self) -> str:
        injection = self.injection
        nth = f" #{injection.nth}" if injection.nth > 1 else ""
        what = f"{injection.process} {injection.point} {injection.moment} {injection.action}"
        return f"{what}{nth} ({self.scenario.name})"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a case."""

    process: str
    point: str
    case: str
    problem: str
    """Empty: it was survived."""
    passed: bool
    """Whether anybody came by that point."""
    seconds: float


Passed = dict[tuple[str, str, str], Scenario]
"""Process, point and moment, and during which work they are passed."""


def explore(site: Site, scenarios: Iterable[Scenario] = SCENARIOS) -> Passed:
    """Which points are passed by which process at which moment: each with the first scenario that passes it."""
    passed: Passed = {}
    for scenario in scenarios:
        site.arm(*scenario.provoked_by, RECORD)
        _require(site, scenario)
        for line in sorted(site.seen()):
            process, point, moment = line.split()
            if process in ("manager", "worker"):
                passed.setdefault((process, point, moment), scenario)
                if PREFERRED.get(point) == scenario.name:
                    passed[process, point, moment] = scenario
    return passed


def cases(passed: Passed) -> Iterator[Case]:
    """All that is to be tried at the points that are passed."""
    for (process, point, moment), scenario in sorted(passed.items(), key=lambda entry: entry[0]):
        match moment:
            case "before":
                actions = [Action.CRASH, Action.RAISE, Action.DELAY]
            case "after":
                actions = [Action.CRASH, Action.TIMEOUT]
            case _:
                actions = [Action.TWICE]
        for action in actions:
            provoking = {(injection.point, injection.moment) for injection in scenario.provoked_by}
            nth = 2 if (point, moment) in provoking else 1
            at = BEFORE if moment == AROUND else moment
            yield Case(Injection(process, point, at, action, nth), scenario)


_SHORT = """
manager commit.create before crash work
manager commit.create after crash work
manager commit.cancel after timeout cancel
manager commit.retry after crash repair
manager bell.ring before crash work
manager commit.swept after crash takeover
worker commit.claim after crash work
worker files.manifest after crash work
worker backend.submit before delay work
worker backend.submit after crash work
worker backend.submit after timeout work
worker backend.submit before twice work
worker commit.launched before crash work
worker commit.news after crash work
worker files.publish after crash work
worker commit.collected before crash work
worker commit.collected after timeout work
worker backend.cancel after crash cancel
worker backend.find before timeout takeover
"""
_NOT_IN_NOOP = ("files.", "commit.collected")


def short_cases(row: Row) -> Iterator[Case]:
    """The most telling ones, for every test run."""
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    for line in _SHORT.strip().splitlines():
        process, point, moment, action, name = line.split()
        if not (row.backend == "noop" and point.startswith(_NOT_IN_NOOP)):
            injection = Injection(process, point, moment, Action(action))
            yield Case(injection, scenarios[name])


def survive(site: Site, case: Case) -> Outcome:
    """Let it happen, and see what is left."""
    began = time.monotonic()
    injection = replace(case.injection, seconds=_ASLEEP * site.settings.lease_seconds)
    site.arm(*case.scenario.provoked_by, injection)
    passed = True
    try:
        ends = set(case.scenario.act(site)) - case.scenario.ends
        passed = _happens(site, str(injection))
        problem = _problem(site, ends)
    except AssertionError as error:
        problem = str(error)[:500]
    finally:
        site.disarm()
    return Outcome(case.injection.process, case.injection.point, str(case), problem, passed, time.monotonic() - began)


def _happens(site: Site, injection: str) -> bool:
    def happened() -> bool:
        site.tend()
        return injection in site.fired()

    try:
        wait_until(happened, _LATE_SECONDS)
    except AssertionError:
        return False
    return True


def _problem(site: Site, ends: set[str]) -> str:
    """What is wrong when all has come to rest; empty if nothing is."""
    wrong = site.violations()
    if wrong:
        # What is told once is not told again by every case that follows.
        site.acknowledged.clear()
    elif ends:
        wrong = [f"ended in {', '.join(ends)}"]
    return "; ".join(wrong[:5])


def _require(site: Site, scenario: Scenario) -> None:
    """Without the injection of the case, all must be well."""
    ends = set(scenario.act(site))
    assert ends <= scenario.ends, f"{scenario.name}: {ends}"
    wrong = site.violations()
    assert not wrong, f"{scenario.name}: {wrong}"
