"""Hostile and honest pipelines together, while workers are killed at random. `make soak`.

    python -m tests.chaos.soak --minutes 30

At the end the invariants hold, every honest run has completed within its bound, every hostile one has ended with the
reason that belongs to it, and the processes that were spared have not grown.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from threading import Event
from typing import Any

import psutil

from tests.chaos.site import Site
from tests.support.fixtures_images import build_tools_image
from tests.support.invariants import STARTS

HONEST_SECONDS = 90.0
"""The bound of an honest run: its own work takes 2 seconds, a killed worker costs a lease, 6 CPUs are shared."""
_AT_ONCE = 12
_KILL_SECONDS = (1.0, 6.0)
_SAMPLE_SECONDS = 2.0
_ROUND_SECONDS = 0.2
_GROWTH, _SLACK_MB = 1.25, 24
_SETTINGS = {"BREAKER_FAILURES": 0, "LOG_LIMIT_MB": 8}
_TOOLS = ("ln", "mkfifo", "truncate", "chmod", "seq")
_PAUSE = Event()
SITES = ("local", "slurm")
_START = f'echo started >> "$WORKFLOW_WORKSPACE_DIR/{STARTS}"'


@dataclass(frozen=True, slots=True)
class Kind:
    """A pipeline, and how its runs may end: a status, or the reason of a failed step run."""

    name: str
    text: str
    ends: tuple[str, ...]
    foreach: Sequence[str] = ("a",)
    gathers: bool = False

    @property
    def honest(self) -> bool:
        return self.ends == ("COMPLETED",)


HONEST = (
    Kind("one", f'{_START}; sleep 0.5; echo x > "$WORKFLOW_OUTPUT_DIR/x"', ("COMPLETED",)),
    Kind("fan", f'{_START}; echo x > "$WORKFLOW_OUTPUT_DIR/x"', ("COMPLETED",), ("a", "b", "c", "d"), gathers=True),
)
HOSTILE = (
    Kind("nul", f"{_START}; printf 'FATAL:   \\000 gone' >&2; exit 127", ("command_not_found", "program_failed")),
    Kind("surrogate", f"{_START}; printf '\\355\\240\\200 last words' >&2; exit 3", ("program_failed",)),
    Kind("set-id", f'{_START}; cd "$WORKFLOW_OUTPUT_DIR"; echo x > x; chmod 6755 x', ("COMPLETED", "output_invalid")),
    Kind("link", f'{_START}; ln -s /etc/passwd "$WORKFLOW_OUTPUT_DIR/x"', ("output_invalid",)),
    Kind("pipe", f'{_START}; mkfifo "$WORKFLOW_OUTPUT_DIR/x"', ("output_invalid",)),
    Kind("sparse", f'{_START}; truncate -s 4T "$WORKFLOW_OUTPUT_DIR/x"', ("output_invalid",)),
    Kind(
        "deep", f'{_START}; cd "$WORKFLOW_OUTPUT_DIR"; for i in $(seq 70); do mkdir d; cd d; done', ("output_invalid",)
    ),
    Kind(
        "declares",
        f'{_START}; echo "[{{\\"path\\": \\"../../x\\"}}]" > "$WORKFLOW_OUTPUT_DIR/products.json"',
        ("output_invalid",),
    ),
    Kind("loud", f"{_START}; head -c 30000000 /dev/zero | tr '\\0' 'x'; sleep 5", ("log_limit",)),
    Kind("killed", f"{_START}; kill -9 $$", ("killed_by_signal", "out_of_memory")),
)


@dataclass(slots=True)
class _Run:
    kind: Kind
    since: float


@dataclass(slots=True)
class Soak:
    """What one deployment goes through."""

    site: Site
    dice: random.Random
    running: dict[str, _Run] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    kills: int = 0
    memory: dict[str, list[float]] = field(default_factory=dict)
    next_kill: float = 0.0
    next_sample: float = 0.0

    def begin(self) -> None:
        """Start another run: three of four are honest."""
        kind = self.dice.choice(HONEST if self.dice.random() < 0.75 else HOSTILE)
        steps = [self._step("work", kind.text, foreach=list(kind.foreach))]
        if kind.gathers:
            steps.append(self._step("gather", HONEST[0].text, depends_on=["work"]))
        self.running[self.site.submit(*steps, name=f"soak-{kind.name}")] = _Run(kind, time.monotonic())

    def _step(self, name: str, text: str, **more: Any) -> dict[str, Any]:
        return {
            "name": name,
            "command": ["/bin/sh", "-c", text],
            "image": self.site.image,
            "resources": {"cpu": 0.2, "memory_gb": 0.2},
            "retry": {"max_attempts": 1},
            **more,
        }

    def look(self) -> None:
        """Judge the runs that have ended, and those that are late."""
        for run_id, run in list(self.running.items()):
            found = self.site.run(run_id)
            took = time.monotonic() - run.since
            if found["finished_at"] is None:
                if took > 2 * HONEST_SECONDS:
                    self.wrong.append(f"{run.kind.name} {run_id} has not ended for {took:.0f} s: {_states(found)}")
                    del self.running[run_id]
                continue
            del self.running[run_id]
            self.ended[run.kind.name] += 1
            ends = {found["status"]} if found["status"] == "COMPLETED" else _reasons(found)
            if not ends <= set(run.kind.ends):
                self.wrong.append(f"{run.kind.name} {run_id} has ended with {sorted(ends)}: {_states(found)}")
            if run.kind.honest:
                self.slowest = max(self.slowest, took)
                if took > HONEST_SECONDS:
                    self.wrong.append(f"the honest run {run_id} took {took:.0f} s")

    def disturb(self, now: float) -> None:
        """Kill a worker now and then: any but the first, which shows whether memory grows."""
        if now >= self.next_kill:
            self.next_kill = now + self.dice.uniform(*_KILL_SECONDS)
            victims = self.site.pids("worker")[1:]
            if victims:
                os.kill(self.dice.choice(victims), signal.SIGKILL)
                self.kills += 1
        if now >= self.next_sample:
            self.next_sample = now + _SAMPLE_SECONDS
            for name, pid in [("manager", self.site.pids("manager")[0]), ("worker 0", self.site.pids("worker")[0])]:
                self.memory.setdefault(f"{name} {pid}", []).append(psutil.Process(pid).memory_info().rss / 1024**2)

    def growth(self) -> Iterator[str]:
        """Processes that hold more at the end than after their first third."""
        for name, samples in self.memory.items():
            third = len(samples) // 3
            if third < 3:
                continue
            before, after = median(samples[third : 2 * third]), median(samples[-third:])
            if after > before * _GROWTH + _SLACK_MB:
                yield f"{name} has grown from {before:.0f} to {after:.0f} MB"


def soak(site: Site, minutes: float, seed: int) -> list[str]:
    """Keep a deployment busy for so long. Returns what was wrong."""
    work = Soak(site, random.Random(seed))
    end = time.monotonic() + 60 * minutes
    while (now := time.monotonic()) < end or work.running:
        site.tend()
        if now < end:
            work.disturb(now)
            if len(work.running) < _AT_ONCE:
                work.begin()
        work.look()
        _PAUSE.wait(_ROUND_SECONDS)
    _say(f"{site.backend}: {sum(work.ended.values())} runs, {work.kills} workers killed")
    _say(f"{site.backend}: {dict(sorted(work.ended.items()))}")
    _say(f"{site.backend}: the slowest honest run took {work.slowest:.0f} s")
    for process, samples in work.memory.items():
        _say(f"{site.backend}: {process}: {samples[0]:.0f} MB at first, {samples[-1]:.0f} MB at last")
    return [*work.wrong, *work.growth(), *site.violations()]


def make_site(name: str) -> Site:
    """A started deployment of this backend, local jobs in real containers."""
    site = Site(name, "apptainer" if name == "local" else "none", workers=3, settings_more=_SETTINGS)
    if name == "local":
        site.image = str(build_tools_image(site.directory, *_TOOLS))
    site.start()
    return site


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _reasons(found: Mapping[str, Any]) -> set[str]:
    return {step["reason"] for step in found["step_runs"] if step["status"] == "FAILED"} or {found["status"]}


def _states(found: Mapping[str, Any]) -> list[str]:
    return [f"{each['step']}/{each['key']} {each['status']} {each['reason_text']}" for each in found["step_runs"]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same seed makes the same choices")
    parser.add_argument("--site", choices=SITES, action="append")
    options = parser.parse_args()
    sites: list[str] = options.site or list(SITES)
    if len(sites) > 1:  # each in a process of its own, whose children inherit nothing of the other
        program = [sys.executable, "-m", "tests.chaos.soak", "--minutes", str(options.minutes)]
        running = [subprocess.Popen([*program, "--seed", str(options.seed), "--site", name]) for name in sites]
        return max(process.wait() for process in running)
    name = sites[0]
    _say(f"{name}: seed {options.seed}")
    site = make_site(name)
    try:
        wrong = soak(site, options.minutes, options.seed)
    finally:
        site.close()
    _say("\n".join(f"{name}: {text}" for text in wrong) or f"{name}: all is well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
