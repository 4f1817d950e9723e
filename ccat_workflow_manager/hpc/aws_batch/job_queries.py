"""Looking at jobs: what AWS Batch shows of them, in as few calls as there can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from ccat_workflow_manager.errors import BackendConfused
from ccat_workflow_manager.hpc.aws_batch.arrays import DESCRIBED_DIRECTLY, ArrayBook, child_id, chunks, index_of
from ccat_workflow_manager.hpc.aws_batch.client import Aws
from ccat_workflow_manager.hpc.aws_batch.request import CANCEL_REASON, MOST_DESCRIBED, aws_name
from ccat_workflow_manager.hpc.aws_batch.states import ENDED_BY_ITSELF, OVER, STATES, Seen, parse_job
from ccat_workflow_manager.hpc.batch.scheduler_backend import JobKey

_PAGE = 1000
_TERMINATED = 128 + 15
"""The exit code of a command that was asked to end."""
_BOOKS = 100
"""Of so many arrays it is remembered which children are over; those of others are listed again."""


class JobQueries:
    """Describes and lists jobs."""

    def __init__(self, backend: str, aws: Aws) -> None:
        self._backend = backend
        self._aws = aws
        self._books: dict[str, ArrayBook] = {}

    def at(self, jobs: Sequence[JobKey], *, urgent: bool = False) -> dict[JobKey, Seen]:
        """What AWS Batch shows of these now."""
        arrays: dict[str, list[JobKey]] = {}
        for key in jobs:
            if key.index is not None:
                arrays.setdefault(key.number, []).append(key)
        direct = [key for keys in arrays.values() if len(keys) <= DESCRIBED_DIRECTLY for key in keys]
        ids = list(dict.fromkeys([key.number for key in jobs] + [aws_id(key) for key in direct]))
        described: dict[str, Seen] = {}
        for some in chunks(ids, MOST_DESCRIBED):
            answer = self._aws.look("batch", "describe_jobs", urgent=urgent, jobs=list(some))
            for data in self._aws.items(answer, "jobs", "describe_jobs"):
                seen = self._parsed(data)
                described[seen.job_id] = seen
        found: dict[JobKey, Seen] = {}
        for number, keys in arrays.items():
            parent = described.get(number)
            if parent is not None and len(keys) > DESCRIBED_DIRECTLY:
                book = self._listed_children(parent)
                described |= {aws_id(key): book.child(parent, key.index) for key in keys if key.index is not None}
            for key in keys:
                if (child := described.get(aws_id(key))) is not None:
                    found[key] = _with_parent(child, parent)
        for key in jobs:
            if (
                key.index is None
                and (seen_job := described.get(key.number))
                and seen_job.name == aws_name(key.job_name)
            ):
                found[key] = seen_job
        return found

    def _listed_children(self, parent: Seen) -> ArrayBook:
        book = self._book(parent.job_id)
        states = book.to_list(parent)
        children = [
            self._parsed(data)
            for state in states
            for data in self._aws.pages(
                "batch", "list_jobs", "jobSummaryList", arrayJobId=parent.job_id, jobStatus=state, maxResults=_PAGE
            )
        ]
        book.listed(parent, states, children)
        return book

    def _book(self, number: str) -> ArrayBook:
        book = self._books.pop(number, None) or ArrayBook(number)
        if len(self._books) >= _BOOKS:
            self._books.pop(next(iter(self._books)))
        self._books[number] = book
        return book

    def named(self, queue: str, name: str) -> list[Seen]:
        """The jobs of this name in a queue, whatever their state."""
        filters = [{"name": "JOB_NAME", "values": [name]}]
        pages = self._aws.pages("batch", "list_jobs", "jobSummaryList", jobQueue=queue, filters=filters)
        # The filter does not tell capitals from small letters.
        return [seen for seen in map(self._parsed, pages) if seen.name == name]

    def live(self, queue: str) -> Iterable[tuple[JobKey, datetime | None]]:
        """What has not ended in a queue; the children of an array bear the name of the array."""
        live: dict[JobKey, datetime | None] = {}
        for state in sorted(STATES - OVER):
            arguments = {"jobQueue": queue, "jobStatus": state, "maxResults": _PAGE}
            for data in self._aws.pages("batch", "list_jobs", "jobSummaryList", **arguments):
                seen = self._parsed(data)
                size = (data.get("arrayProperties") or {}).get("size")
                places = self._live_children(seen, int(size)) if size else (None,)
                live |= {JobKey(seen.job_id, place, seen.name): seen.created_at for place in places}
        return live.items()

    def _live_children(self, parent: Seen, size: int) -> list[int]:
        over = {
            index_of(str(data.get("jobId")))
            for state in sorted(OVER)
            if parent.children.get(state, 1)
            for data in self._aws.pages(
                "batch", "list_jobs", "jobSummaryList", arrayJobId=parent.job_id, jobStatus=state, maxResults=_PAGE
            )
        }
        return [index for index in range(size) if index not in over]

    def _parsed(self, data: Mapping[str, Any]) -> Seen:
        try:
            return parse_job(data)
        except ValueError as error:
            raise BackendConfused(f"the answer of AWS Batch cannot be read: {error}", backend=self._backend) from error


def aws_id(key: JobKey) -> str:
    """The id of a job at AWS Batch."""
    return key.number if key.index is None else child_id(key.number, key.index)


def _with_parent(child: Seen, parent: Seen | None) -> Seen:
    """A child that was ended with its array says so with the words of the array; one that had ended before does not."""
    ended = parent is not None and parent.status_reason.startswith(CANCEL_REASON)
    if parent is None or not ended or child.status != "FAILED" or child.container_reason:
        return child
    if child.status_reason.startswith(ENDED_BY_ITSELF) and child.exit_code != _TERMINATED:
        return child
    return replace(child, status_reason=parent.status_reason)
