"""What is handed to a scheduler, written down before: so that nothing that got through is ever lost or repeated.

A *submission* is one call of the scheduler's submit command: a single job, or an array of alike ones. Its file holds
its name at the scheduler, its members and, once known, its number. For each member there is a symbolic link from the
job's name to `SUBMISSION:INDEX`; a link is made, found and removed in one step, and needs no file to point to.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from threading import Lock

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import JobDeferred
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles

ARRAY_PREFIX = "ccat-array-"
KEPT_IN_MEMORY = 1000
"""Submissions that need not be read again."""
_TAKEN_OVER = "another worker is submitting the job"


@dataclass(frozen=True, slots=True)
class ArrayTask:
    """One job of a submission."""

    job_name: str
    workspace: str

    @property
    def files(self) -> AttemptFiles:
        return AttemptFiles.of(self.workspace, self.job_name)


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of the submit command."""

    name: str
    """Under which the scheduler knows it."""
    array: bool
    members: tuple[ArrayTask, ...]
    tried_at: float
    settled_at: float
    """From then on the scheduler either knows the submission or never will."""
    number: str | None = None
    """Under which the scheduler knows it, once that is known."""

    def job_id(self, index: int) -> str | None:
        """The id of one member, as the outside world knows it."""
        if self.number is None:
            return None
        task = f"_{index}" if self.array else ""
        return f"{self.number}{task}:{self.members[index].job_name}"


def array_name(job_names: Sequence[str]) -> str:
    """The name of an array, from the names of its members, which are unique for ever."""
    return ARRAY_PREFIX + blake2b("\n".join(job_names).encode(), digest_size=12).hexdigest()


class SubmissionStore:
    """The submissions of one backend, in a directory that all its workers should share."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._submissions = directory / "submissions"
        self._jobs = directory / "jobs"
        self._known: OrderedDict[str, Submission] = OrderedDict()
        self._lock = Lock()

    def prepare(self) -> None:
        for path in (self._submissions, self._jobs):
            path.mkdir(parents=True, exist_ok=True)

    def add(self, submission: Submission) -> None:
        """Before the submit command. What a try has left that is known to have failed is replaced.

        Raises JobDeferred if one of the jobs is in the hands of another worker, which took over while this one
        was silent: from looking for a job until here, nothing kept it from doing so.
        """
        self.prepare()
        if not self._publish(submission):
            before = self._read(submission.name)
            in_hand = before is not None and before.number is None and time.time() < before.settled_at
            if in_hand or any(self.of_job(member.job_name) for member in submission.members):
                raise JobDeferred(_TAKEN_OVER)
            self._write(submission)
        for index, member in enumerate(submission.members):
            link = self._jobs / member.job_name
            target = f"{submission.name}:{index}"
            try:
                os.symlink(target, link)
            except FileExistsError:
                if (known := self.of_job(member.job_name)) is not None and known[0].name != submission.name:
                    self._withdraw(submission, index)
                    raise JobDeferred(_TAKEN_OVER) from None
                part = self._jobs / f".{member.job_name}.{os.getpid()}"
                with suppress(FileNotFoundError):
                    part.unlink()
                os.symlink(target, part)
                part.replace(link)

    def _publish(self, submission: Submission) -> bool:
        """Write down a submission that nobody has written down; False if somebody has."""
        part = self._part(submission)
        failpoints.point("files.submission")
        try:
            os.link(part, self._file(submission.name))
        except FileExistsError:
            return False
        finally:
            part.unlink()
        failpoints.point("files.submission", failpoints.AFTER)
        return True

    def _withdraw(self, submission: Submission, linked: int) -> None:
        """Take back what `add` has done so far: links for the first members, and the file."""
        for member in submission.members[:linked]:
            with suppress(FileNotFoundError):
                (self._jobs / member.job_name).unlink()
        with suppress(FileNotFoundError):
            self._file(submission.name).unlink()

    def numbered(self, submission: Submission, number: str) -> Submission:
        """The scheduler has told the number of a submission."""
        known = replace(submission, number=number)
        self._write(known)
        return known

    def unsure(self, submission: Submission, settled_at: float) -> None:
        """Nobody knows whether the scheduler took it; it will be known at the latest then."""
        self._write(replace(submission, settled_at=settled_at))

    def drop(self, submission: Submission) -> None:
        """The scheduler did not take it, for certain."""
        for member in submission.members:
            self.forget(member.job_name)

    def of_job(self, job_name: str) -> tuple[Submission, int] | None:
        """The submission that a job belongs to, and its index there."""
        try:
            name, _, index = os.readlink(self._jobs / job_name).rpartition(":")
        except (FileNotFoundError, NotADirectoryError):
            return None
        submission = self._read(name)
        if submission is None or not index.isdecimal() or int(index) >= len(submission.members):
            return None
        return submission, int(index)

    def in_array(self, name: str, index: int) -> ArrayTask | None:
        """A task of an array, by the name that the scheduler knows."""
        submission = self._read(name) if name.startswith(ARRAY_PREFIX) and "/" not in name else None
        return submission.members[index] if submission is not None and index < len(submission.members) else None

    def forget(self, job_name: str) -> None:
        """A job is over and recorded. With the last of its submission the file goes too."""
        try:
            link = self._jobs / job_name
            name = os.readlink(link).rpartition(":")[0]
            link.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return
        submission = self._read(name)
        members = () if submission is None else reversed(submission.members)
        if not any(os.path.lexists(self._jobs / each.job_name) for each in members):
            self._forget(name)
            with suppress(FileNotFoundError):
                self._file(name).unlink()

    def _file(self, name: str) -> Path:
        return self._submissions / f"{name}.json"

    def _write(self, submission: Submission) -> None:
        part = self._part(submission)
        failpoints.point("files.submission")
        part.replace(self._file(submission.name))
        failpoints.point("files.submission", failpoints.AFTER)
        self._forget(submission.name)

    def _part(self, submission: Submission) -> Path:
        """The file under a name that nobody reads."""
        data = {
            "name": submission.name,
            "array": submission.array,
            "members": [[member.job_name, member.workspace] for member in submission.members],
            "tried_at": submission.tried_at,
            "settled_at": submission.settled_at,
            "number": submission.number,
        }
        part = self._submissions / f".{submission.name}.{os.getpid()}"
        part.write_text(json.dumps(data), encoding="utf-8", errors="surrogateescape")
        return part

    def _read(self, name: str) -> Submission | None:
        with self._lock:
            if name in self._known:
                self._known.move_to_end(name)
                return self._known[name]
        try:
            data = json.loads(self._file(name).read_text(encoding="utf-8", errors="surrogateescape"))
        except FileNotFoundError:
            return None
        data["members"] = tuple(ArrayTask(*each) for each in data["members"])
        submission = Submission(**data)
        if submission.number is not None:
            # From here on it never changes. (Another worker may forget it, which this one never hears of.)
            with self._lock:
                self._known[name] = submission
                while len(self._known) > KEPT_IN_MEMORY:
                    self._known.popitem(last=False)
        return submission

    def _forget(self, name: str) -> None:
        with self._lock:
            self._known.pop(name, None)
