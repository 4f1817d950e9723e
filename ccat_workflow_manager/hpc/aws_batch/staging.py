"""Attempts that travel through S3, for jobs that share no filesystem with the worker.

The directory of an attempt is uploaded before its job is submitted, with the targets of all links in it, each under its
own path. Output, logs and exit record are fetched before the job is reported as over. Inside the job, a small program
does the other half (`stand-alone/stager.py`).
"""

from __future__ import annotations

import base64
import errno
import fcntl
import io
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.disk import GIB
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.aws_batch.arrays import chunks
from ccat_workflow_manager.hpc.aws_batch.client import Aws, AwsError
from ccat_workflow_manager.hpc.aws_batch.unpack import FAULTS, TooLarge, unpack
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus

STAGER = Path(__file__).parent / "stand-alone" / "stager.py"
_BLOCK = 1024 * 1024
_IN, _OUT, _CLAIM, _TABLE = "in.tar.gz", "out.tar.gz", "claim", "table.json"
_OUTPUT = "output.partial"
_GONE = frozenset({"NoSuchKey", "404"})
_DELETED_AT_ONCE = 300
_OF_WORKER = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE})
"""Errors of the worker's filesystem; all others are those of an archive."""


class S3Staging:
    """The worker's half."""

    def __init__(self, aws: Aws, url: str, region: str, *, home: str | None, limit_gb: float, locks: Path) -> None:
        """`home`: of jobs in an image of the site; None: their environment is that of the image. Raises ValueError."""
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise ValueError(f"{url!r} is not s3://BUCKET/PREFIX")
        self._aws = aws
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._limit_gb = limit_gb
        self._locks = locks
        self._config = {
            "region": region,
            "bucket": bucket,
            "prefix": self._prefix,
            "environment": {"PATH": CLEAN_PATH, "HOME": home, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"} if home else None,
        }

    # --- there -------------------------------------------------------------------------------------------------------

    def send(self, submission: Submission) -> list[str]:
        """Upload all attempts of a submission. Returns the command of its jobs. Raises BackendError and OSError."""
        for member in submission.members:
            with tempfile.TemporaryFile() as file:
                pack(Path(member.files.directory), file)
                file.seek(0)
                self._put(self._key(member.job_name, _IN), file)
        table = [[member.job_name, member.files.script, _log_name(member)] for member in submission.members]
        key = self._key(submission.name, _TABLE)
        self._put(key, io.BytesIO(json.dumps(table).encode()))
        packed = base64.b64encode(zlib.compress(STAGER.read_bytes(), 9)).decode()
        start = f"import base64,zlib;exec(zlib.decompress(base64.b64decode('{packed}')))"
        return ["python3", "-c", start, json.dumps({**self._config, "endpoint": self._aws.address("s3"), "table": key})]

    def _put(self, key: str, body: IO[bytes]) -> None:
        self._aws.act("s3", "put_object", Bucket=self._bucket, Key=key, Body=body)

    # --- and back ----------------------------------------------------------------------------------------------------

    def fetch(self, member: ArrayTask) -> HPCJobInfo | None:
        """Fetch what a job that is over has sent; once, however many workers ask.

        Returns what its results make of this job if they cannot be stored. Raises BackendError if S3 cannot be asked.
        """
        files = member.files
        if os.path.lexists(files.record) or not os.path.isdir(files.directory):
            return None
        try:
            with self._locked(member.job_name), tempfile.TemporaryFile() as file:
                if not os.path.lexists(files.record) and self._download(self._key(member.job_name, _OUT), file):
                    file.seek(0)
                    names = {_OUTPUT, _log_name(member), os.path.basename(files.record)}
                    unpack(file, files.directory, names, self._limit_gb * GIB)
        except TooLarge as error:
            text = f"what the job has sent is too large: {error} (AWS_BATCH_S3_RESULT_LIMIT_GB)"
            return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.OUTPUT_INVALID, message=text)
        except FAULTS as error:
            if isinstance(error, OSError) and error.errno in _OF_WORKER:
                text = f"its results cannot be stored in {files.directory}: {error.strerror}"
                return HPCJobInfo(JobStatus.RUNNING, message=text, attention=True)
            text = f"what the job has sent cannot be unpacked: {error}"
            return HPCJobInfo(JobStatus.FAILED, reason=FailureReason.OUTPUT_UNREADABLE, message=text)
        return None

    def _download(self, key: str, file: IO[bytes]) -> bool:
        """Returns False if there is nothing."""
        try:
            body = self._aws.act("s3", "get_object", Bucket=self._bucket, Key=key)["Body"]
            while block := self._aws.read(body, _BLOCK):
                file.write(block)
                if file.tell() > self._limit_gb * GIB:
                    raise TooLarge(f"it has more than {self._limit_gb:g} GB")
        except AwsError as error:
            if error.aws_code in _GONE:
                return False
            raise
        return True

    @contextmanager
    def _locked(self, job_name: str) -> Iterator[None]:
        self._locks.mkdir(exist_ok=True)
        with (self._locks / job_name).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def forget(self, job_names: Sequence[str], submissions: Sequence[str]) -> None:
        """Delete the archives of these jobs, and the tables of submissions that are over."""
        keys = [self._key(name, each) for name in job_names for each in (_IN, _OUT, _CLAIM)]
        keys += [self._key(name, _TABLE) for name in submissions]
        for some in chunks(keys, _DELETED_AT_ONCE):
            objects = [{"Key": key} for key in some]
            self._aws.act("s3", "delete_objects", Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})
        for name in job_names:
            (self._locks / name).unlink(missing_ok=True)

    def _key(self, directory: str, name: str) -> str:
        return f"{self._prefix}{directory}/{name}"


def _log_name(member: ArrayTask) -> str:
    """The name of the directory of the logs in that of the attempt."""
    return os.path.basename(member.files.logs)


def pack(attempt: Path, file: IO[bytes]) -> None:
    """Pack the directory of an attempt and the targets of all links in it, each under its own path."""
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar:
        packed = {str(attempt)}
        tar.add(attempt, str(attempt))
        waiting = [attempt]
        while waiting:
            for target in _targets(waiting.pop()):
                inside = any(target == each or target.startswith(each + "/") for each in packed)
                if not inside and not str(attempt).startswith(target.rstrip("/") + "/"):
                    packed.add(target)
                    tar.add(target, target)
                    if os.path.isdir(target):
                        waiting.append(Path(target))


def _targets(directory: Path) -> Iterator[str]:
    """The final targets of the links below a directory."""
    for parent, directories, files in os.walk(directory):
        for name in [*directories, *files]:
            path = os.path.join(parent, name)
            if os.path.islink(path) and os.path.exists(path):
                yield os.path.realpath(path)
