"""From the resources of a step to the requests of the API. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from ccat_workflow_manager.hpc.aws_batch.settings import AwsBatchSettings
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Resources

LARGEST_ARRAY = 10_000
SHORTEST_SECONDS = 60
"""A time limit below this is refused by AWS Batch."""
CANCEL_REASON = "cancelled by ccat-workflow-manager"
HIGHEST_PRIORITY = 9999
MOST_DESCRIBED = 100
"""The most ids of one `describe_jobs`."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/-]{0,254}")
_SHARE = re.compile(r"[A-Za-z0-9]{1,255}")
_OVERRIDES_LIMIT = 8192

FARGATE_MEMORY_MB: Mapping[float, Sequence[int]] = {
    0.25: (512, 1024, 2048),
    0.5: (1024, 2048, 3072, 4096),
    1: tuple(range(2048, 8193, 1024)),
    2: tuple(range(4096, 16385, 1024)),
    4: tuple(range(8192, 30721, 1024)),
    8: tuple(range(16384, 61441, 4096)),
    16: tuple(range(32768, 122881, 8192)),
}
"""The sizes of Fargate: cores, and the memory that goes with them."""


@dataclass(frozen=True, slots=True)
class Ask:
    """The requirements of one job; jobs with the same ones may become one array."""

    queue: str
    vcpus: str
    memory_mb: int
    gpu: int
    seconds: int
    share: str = ""
    priority: int = 0
    image: str = ""
    """Empty: the image of the site."""

    def as_option(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def parse_option(text: str) -> Ask:
    return Ask(**json.loads(text))


def render_ask(resources: Resources, priority: int, site: AwsBatchSettings, image: str = "") -> Ask:
    """Raises ValueError for requirements that cannot be met."""
    extra = _checked(resources.extra)
    vcpus, memory_mb = _size(resources, site.platform)
    share = _word("resources.account (the share identifier)", _SHARE, resources.account or site.share_identifier)
    wanted = extra.get("scheduling_priority", max(0, priority))
    if "scheduling_priority" in extra and not share:
        raise ValueError("resources.extra.scheduling_priority needs a queue with shares: name an account")
    return Ask(
        queue=_word("resources.partition (the job queue)", _WORD, resources.partition or site.job_queue),
        vcpus=vcpus,
        memory_mb=memory_mb,
        gpu=resources.gpu,
        seconds=max(SHORTEST_SECONDS, math.ceil(resources.time_hours * 3600 - 1e-6)),
        share=share,
        priority=min(HIGHEST_PRIORITY, wanted) if share else 0,
        image=image,
    )


def render_submit(ask: Ask, *, name: str, definition: str, command: Sequence[str], size: int | None) -> dict[str, Any]:
    """The arguments of `submit_job`. Raises ValueError for a command that does not fit."""
    requirements = [{"type": "VCPU", "value": ask.vcpus}, {"type": "MEMORY", "value": str(ask.memory_mb)}]
    if ask.gpu:
        requirements.append({"type": "GPU", "value": str(ask.gpu)})
    overrides = {"command": list(command), "resourceRequirements": requirements}
    if len(json.dumps(overrides)) > _OVERRIDES_LIMIT:
        raise ValueError(f"its command is longer than the {_OVERRIDES_LIMIT} characters that AWS Batch takes")
    try:
        "".join(command).encode()
    except UnicodeEncodeError:
        raise ValueError("its directory has a name that is no UTF-8, which AWS Batch does not take") from None
    request: dict[str, Any] = {
        "jobName": aws_name(name),
        "jobQueue": ask.queue,
        "jobDefinition": definition,
        "containerOverrides": overrides,
        "timeout": {"attemptDurationSeconds": ask.seconds},
        "retryStrategy": {"attempts": 1},
        "tags": {"ccat-job-name": name},
        "propagateTags": True,
    }
    if size is not None:
        request["arrayProperties"] = {"size": size}
    if ask.share:
        request["shareIdentifier"] = ask.share
        request["schedulingPriorityOverride"] = ask.priority
    return request


def aws_name(name: str) -> str:
    """The name of a job at AWS Batch: the name itself, or its digest if AWS Batch does not take it."""
    if _NAME.fullmatch(name):
        return name
    return "ccat-" + blake2b(name.encode(), digest_size=16).hexdigest()


def _size(resources: Resources, platform: str) -> tuple[str, int]:
    megabytes = max(4, math.ceil(resources.memory_gb * 1024 - 1e-9))
    if platform == "EC2":
        return str(max(1, math.ceil(resources.cpu - 1e-9))), megabytes
    if resources.gpu:
        raise ValueError("Fargate has no GPUs")
    for vcpus, sizes in FARGATE_MEMORY_MB.items():
        fitting = [size for size in sizes if size >= megabytes]
        if vcpus >= resources.cpu - 1e-9 and fitting:
            return f"{vcpus:g}", fitting[0]
    raise ValueError(f"Fargate has nothing with {resources.cpu:g} cores and {megabytes} MB")


def _checked(extra: Mapping[str, JSON]) -> dict[str, int]:
    values = {}
    for name, value in extra.items():
        if name != "scheduling_priority":
            raise ValueError(f"resources.extra.{name} is unknown; a step may choose: scheduling_priority")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= HIGHEST_PRIORITY:
            raise ValueError(f"resources.extra.{name} must be a number from 0 to {HIGHEST_PRIORITY}, not {value!r}")
        values[name] = value
    return values


def _word(what: str, pattern: re.Pattern[str], value: str | None) -> str:
    if value and not pattern.fullmatch(value):
        raise ValueError(f"{what} cannot be {value!r}")
    return value or ""
