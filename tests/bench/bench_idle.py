"""What a deployment costs that has nothing to do."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event

from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, at_most, told
from tests.bench.sizes import Sizes

_SETTLE = Event()


def idle(there: Deployment, sizes: Sizes) -> Iterator[Figure]:
    """After it has worked: with its connections open and the supervisor of local jobs running."""
    pipeline = there.add_pipeline()
    for backend in ("noop", "local"):
        there.warm_up(pipeline, backend=backend)
    _SETTLE.wait(min(5.0, sizes.idle_seconds))
    before, began = cpu_seconds(there), time.perf_counter()
    _SETTLE.wait(sizes.idle_seconds)
    seconds = time.perf_counter() - began
    used = cpu_seconds(there)
    used.subtract(before)
    share = {name: 100 * value / seconds for name, value in used.items()}
    yield at_most(f"idle CPU of all processes over {seconds:.0f} s", sum(share.values()), "% of a core", 1)
    for name, value in sorted(share.items(), key=lambda each: -each[1]):
        yield told(f"  {name}", value, "% of a core")
    memory = pss_megabytes(there)
    yield at_most("idle memory (PSS) of all processes, PostgreSQL and Valkey too", sum(memory.values()), "MiB", 180)
    for name, value in sorted(memory.items(), key=lambda each: -each[1]):
        yield told(f"  {name}", value, "MiB")


def cpu_seconds(there: Deployment) -> Counter[str]:
    """By kind of process, the time on a core so far, to the nanosecond (the clock ticks of `stat` are too coarse)."""
    used: Counter[str] = Counter()
    for pid, name in there.pids().items():
        for thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                used[name] += int(thread.read_text().split()[0]) / 1e9  # type: ignore[assignment]
    return used


def pss_megabytes(there: Deployment) -> Counter[str]:
    """By kind of process, memory with what is shared divided among those who share it."""
    found: Counter[str] = Counter()
    for pid, name in there.pids().items():
        with suppress(OSError):
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
            if match:
                found[name] += int(match[1]) / 1024  # type: ignore[assignment]
    return found
