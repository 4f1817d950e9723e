"""Describes and lists jobs of AWS Batch, in as few calls as possible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.hpc.aws_batch.arrays import DESCRIBED_DIRECTLY, ArrayChildren, child_id, chunks, index_of
from ccat_workflow_manager.hpc.aws_batch.client import Aws
from ccat_workflow_manager.hpc.aws_batch.request import CANCEL_REASON, MOST_DESCRIBED, aws_name
from ccat_workflow_manager.hpc.aws_batch.status import ENDED_BY_ITSELF, OVER, STATES, DescribedJob, parse_job
from ccat_workflow_manager.hpc.batch.scheduler_backend import JobKey

_PAGE = 1000
_TERMINATED = 128 + 15
"""The exit code of a command that was asked to end."""
_ARRAYS = 100
"""The number of arrays whose children are cached; those of others are listed again."""


class JobQueries:
    """The queries of one backend."""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._arrays: BoundedCache[str, ArrayChildren] = BoundedCache(_ARRAYS)

    def describe(self, keys: Sequence[JobKey], *, urgent: bool = False) -> dict[JobKey, DescribedJob]:
        """Ask for these jobs. Jobs that AWS Batch does not show are missing in the answer."""
        arrays: dict[str, list[JobKey]] = {}
        for key in keys:
            if key.index is not None:
                arrays.setdefault(key.number, []).append(key)
        direct = [key for each in arrays.values() if len(each) <= DESCRIBED_DIRECTLY for key in each]
        described = self._describe([key.number for key in keys] + [aws_id(key) for key in direct], urgent=urgent)
        for number, wanted in arrays.items():
            if len(wanted) > DESCRIBED_DIRECTLY and (parent := described.get(number)) is not None:
                children = self._list_children(parent)
                described |= {aws_id(key): children.child(parent, key.index or 0) for key in wanted}
        found = {}
        for key in keys:
            job = described.get(aws_id(key))
            if job is not None and key.index is not None:
                found[key] = _with_parent(job, described.get(key.number))
            elif job is not None and job.name == aws_name(key.job_name):
                found[key] = job
        return found

    def _describe(self, ids: Iterable[str], *, urgent: bool) -> dict[str, DescribedJob]:
        described = {}
        for some in chunks(list(dict.fromkeys(ids)), MOST_DESCRIBED):
            answer = self._aws.look("batch", "describe_jobs", urgent=urgent, jobs=list(some))
            for data in self._aws.items(answer, "jobs", "describe_jobs"):
                job = parse_job(data)
                described[job.job_id] = job
        return described

    def _list_children(self, parent: DescribedJob) -> ArrayChildren:
        children = self._arrays.get(parent.job_id) or ArrayChildren(parent.job_id)
        self._arrays.put(parent.job_id, children)
        states = children.to_list(parent)
        listed = [parse_job(data) for state in states for data in self._list(arrayJobId=parent.job_id, jobStatus=state)]
        children.listed(parent, states, listed)
        return children

    def named(self, queue: str, name: str) -> list[DescribedJob]:
        """The jobs of this name in a queue, in any state."""
        filters = [{"name": "JOB_NAME", "values": [name]}]
        pages = self._aws.pages("batch", "list_jobs", "jobSummaryList", jobQueue=queue, filters=filters)
        # The filter ignores case.
        return [job for job in map(parse_job, pages) if job.name == name]

    def live(self, queue: str) -> Iterable[tuple[JobKey, datetime | None]]:
        """The jobs of a queue that are not over. The children of an array have the name of the array."""
        live: dict[JobKey, datetime | None] = {}
        for state in sorted(STATES - OVER):
            for data in self._list(jobQueue=queue, jobStatus=state):
                job = parse_job(data)
                size = (data.get("arrayProperties") or {}).get("size")
                indices = self._live_children(job, int(size)) if size else (None,)
                live |= {JobKey(job.job_id, index, job.name): job.created_at for index in indices}
        return live.items()

    def _live_children(self, parent: DescribedJob, size: int) -> list[int]:
        states = [state for state in sorted(OVER) if parent.children.get(state, 1)]
        listings = (self._list(arrayJobId=parent.job_id, jobStatus=state) for state in states)
        over = {index_of(str(data.get("jobId"))) for listing in listings for data in listing}
        return [index for index in range(size) if index not in over]

    def _list(self, **arguments: str) -> Iterator[Mapping[str, Any]]:
        return self._aws.pages("batch", "list_jobs", "jobSummaryList", maxResults=_PAGE, **arguments)


def aws_id(key: JobKey) -> str:
    """The id of a job at AWS Batch."""
    return key.number if key.index is None else child_id(key.number, key.index)


def _with_parent(child: DescribedJob, parent: DescribedJob | None) -> DescribedJob:
    """The child of a cancelled array with the reason of the array, unless the child ended by itself before."""
    ended = parent is not None and parent.status_reason.startswith(CANCEL_REASON)
    if parent is None or not ended or child.status != "FAILED" or child.container_reason:
        return child
    if child.status_reason.startswith(ENDED_BY_ITSELF) and child.exit_code != _TERMINATED:
        return child
    return replace(child, status_reason=parent.status_reason)
