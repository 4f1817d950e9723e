"""Containers: what the service adds to `apptainer exec`."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ccat_workflow_manager.execution.runtime import Runtime
from tests.bench.bench_running import to_the_end
from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, middle, ratio_at_most
from tests.bench.sizes import Sizes
from tests.support.fixtures_images import build_tools_image

IMAGE = "bench.sif"
AT_ONCE = 2


def containers(there: Deployment, sizes: Sizes, runtime: Runtime) -> Iterator[Figure]:
    """Jobs ask for a whole core, so as many run at once as in the bare loop, which has nothing but the defaults."""
    image = there.data_dir / "sif-cache" / IMAGE
    image.parent.mkdir(parents=True, exist_ok=True)
    build_tools_image(there.data_dir).rename(image)
    step = {"name": "only", "image": IMAGE, "command": ["true"], "resources": {"cpu": 1, "memory_gb": 0.5}}
    pipeline = there.add_pipeline({"name": "contained", "steps": [step]})
    to_the_end(there, pipeline, 2, backend="local")
    bare, ours = [], []
    for _ in range(sizes.rounds):
        bare.append(bare_loop(runtime, image, sizes.containers))
        ours.append(to_the_end(there, pipeline, sizes.containers, backend="local"))
    there.require_completed(sizes.containers * sizes.rounds)
    yield ratio_at_most(
        f"Apptainer, {sizes.containers} runs of `true` to all COMPLETED",
        middle(ours),
        "s",
        middle(bare),
        f"bare loop of `apptainer exec`, {AT_ONCE} at once",
        1.2,
    )


def bare_loop(runtime: Runtime, image: Path, count: int) -> float:
    """Seconds for so many, a few at once."""
    argv = [runtime.program, "exec", str(image), "true"]
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        codes = list(pool.map(lambda _: subprocess.run(argv, capture_output=True).returncode, range(count)))
    if any(codes):
        raise RuntimeError("apptainer exec failed")
    return time.perf_counter() - began
