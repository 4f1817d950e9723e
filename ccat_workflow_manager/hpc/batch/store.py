"""The submissions of a scheduler. Each is recorded before it is submitted, so that none is lost or repeated.

A *submission* is one call of the scheduler's submit command: a single job, or an array of alike ones. Its file holds
its name at the scheduler, its members and, once known, its number. For each member there is a symbolic link from the
job's name to `SUBMISSION:INDEX`; a link is made, found and removed in one step, and needs no file to point to.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.errors import BackendUnavailable, JobDeferred
from ccat_workflow_manager.hpc.note_store import JobNote, NoteStore

ARRAY_PREFIX = "ccat-array-"
_CACHED = 1000
_TAKEN_OVER = "another worker is submitting the job"


class ArrayTask(JobNote):
    """One job of a submission."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of the submit command."""

    name: str
    """The name at the scheduler."""
    array: bool
    members: tuple[ArrayTask, ...]
    tried_at: float
    settled_at: float
    """From then on the scheduler either knows the submission or never will."""
    number: str | None = None
    """The number at the scheduler, once it is known."""

    def job_id(self, index: int) -> str | None:
        if self.number is None:
            return None
        task = f"_{index}" if self.array else ""
        return f"{self.number}{task}:{self.members[index].job_name}"


def array_name(job_names: Sequence[str]) -> str:
    """The name of an array, from the names of its members, which are unique for ever."""
    return ARRAY_PREFIX + blake2b("\n".join(job_names).encode(), digest_size=12).hexdigest()


class SubmissionStore:
    """The submissions of one backend, in a directory that all its workers should share."""

    def __init__(self, directory: Path, backend: str = "batch") -> None:
        """Make the directory. Raises BackendUnavailable."""
        self.directory = directory
        self._submissions: NoteStore[Submission] = NoteStore(
            backend, directory / "submissions", _encode, _decode, ".json"
        )
        self._links = directory / "jobs"
        try:
            self._links.mkdir(exist_ok=True)
        except OSError as error:
            raise BackendUnavailable(f"{self._links} cannot be used: {error.strerror}", backend=backend) from error
        self._numbered: BoundedCache[str, Submission] = BoundedCache(_CACHED)

    def add(self, submission: Submission) -> None:
        """Record a submission before its submit command. Replaces one that is known to have failed.

        Raises JobDeferred if another worker is submitting one of the jobs: it took over while this one was silent.
        """
        if not failpoints.around("files.submission", lambda: self._submissions.add(submission.name, submission)):
            before = self._read(submission.name)
            in_hand = before is not None and before.number is None and time.time() < before.settled_at
            if in_hand or any(self.of_job(member.job_name) for member in submission.members):
                raise JobDeferred(_TAKEN_OVER)
            self._put(submission)
        for index, member in enumerate(submission.members):
            link, target = self._links / member.job_name, f"{submission.name}:{index}"
            try:
                os.symlink(target, link)
            except FileExistsError:
                if (known := self.of_job(member.job_name)) is not None and known[0].name != submission.name:
                    self._withdraw(submission, index)
                    raise JobDeferred(_TAKEN_OVER) from None
                part = self._links / f".{member.job_name}.{os.getpid()}"
                with suppress(FileNotFoundError):
                    part.unlink()
                os.symlink(target, part)
                part.replace(link)

    def _withdraw(self, submission: Submission, linked: int) -> None:
        """Undo `add`: remove the links of the first `linked` members, and the file."""
        for member in submission.members[:linked]:
            with suppress(FileNotFoundError):
                (self._links / member.job_name).unlink()
        self._submissions.remove(submission.name)

    def numbered(self, submission: Submission, number: str) -> Submission:
        """Record the number of a submission. Returns the submission with it."""
        known = replace(submission, number=number)
        self._put(known)
        return known

    def unconfirmed(self, submission: Submission, settled_at: float) -> None:
        """Record that the scheduler may have taken a submission; at `settled_at` that is known at the latest."""
        self._put(replace(submission, settled_at=settled_at))

    def drop(self, submission: Submission) -> None:
        """Remove a submission that the scheduler did certainly not take."""
        for member in submission.members:
            self.forget(member.job_name)

    def of_job(self, job_name: str) -> tuple[Submission, int] | None:
        """The submission that a job belongs to, and its index there."""
        try:
            name, _, index = os.readlink(self._links / job_name).rpartition(":")
        except (FileNotFoundError, NotADirectoryError):
            return None
        submission = self._read(name)
        if submission is None or not index.isdecimal() or int(index) >= len(submission.members):
            return None
        return submission, int(index)

    def in_array(self, name: str, index: int) -> ArrayTask | None:
        """A task of an array, by the array's name at the scheduler."""
        submission = self._read(name) if name.startswith(ARRAY_PREFIX) else None
        return submission.members[index] if submission is not None and index < len(submission.members) else None

    def forget(self, job_name: str) -> None:
        """Remove a job. With the last job of a submission its file goes too."""
        try:
            link = self._links / job_name
            name = os.readlink(link).rpartition(":")[0]
            link.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        submission = self._read(name)
        members = () if submission is None else reversed(submission.members)
        if not any(os.path.lexists(self._links / each.job_name) for each in members):
            self._numbered.pop(name)
            self._submissions.remove(name)

    def _put(self, submission: Submission) -> None:
        failpoints.around("files.submission", lambda: self._submissions.put(submission.name, submission))
        self._numbered.pop(submission.name)

    def _read(self, name: str) -> Submission | None:
        submission = self._numbered.get(name) or self._submissions.get(name)
        if submission is not None and submission.number is not None:
            # A submission with a number never changes. (If another worker forgets it, its entry here is only unused.)
            self._numbered.put(name, submission)
        return submission


def _encode(submission: Submission) -> dict[str, Any]:
    return {
        "name": submission.name,
        "array": submission.array,
        "members": [[member.job_name, member.workspace] for member in submission.members],
        "tried_at": submission.tried_at,
        "settled_at": submission.settled_at,
        "number": submission.number,
    }


def _decode(data: dict[str, Any]) -> Submission:
    return Submission(**{**data, "members": tuple(ArrayTask(*each) for each in data["members"])})
