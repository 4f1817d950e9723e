"""Attempts that travel through S3, for jobs that share no filesystem with the worker.

The directory of an attempt goes up before its job is submitted, with everything that links in it lead to, each under
its own path; output, logs and exit record come back before the job is said to be over. Inside the job a small program
does the other half (`stand-alone/stager.py`).
"""

from __future__ import annotations

import base64
import fcntl
import io
import json
import os
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from ccat_workflow_manager.errors import BackendError, BackendUnavailable
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH
from ccat_workflow_manager.hpc.aws_batch.client import Aws, AwsError
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission

STAGER = Path(__file__).parent / "stand-alone" / "stager.py"
_BLOCK = 1024 * 1024
_IN, _OUT, _CLAIM, _TABLE = "in.tar.gz", "out.tar.gz", "claim", "table.json"
_GONE = frozenset({"NoSuchKey", "404"})
_DELETED_AT_ONCE = 300


class S3Staging:
    """The worker's half."""

    def __init__(self, backend: str, aws: Aws, url: str, region: str, home: str | None) -> None:
        scheme, _, rest = url.partition("://")
        bucket, _, prefix = rest.partition("/")
        if scheme != "s3" or not bucket:
            raise ValueError(f"{url!r} is not s3://BUCKET/PREFIX")
        self._backend = backend
        self._aws = aws
        self._bucket = bucket
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        self._config = {
            "region": region,
            "bucket": bucket,
            "prefix": self._prefix,
            "environment": {"PATH": CLEAN_PATH, "HOME": home, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"} if home else None,
        }

    # --- there -------------------------------------------------------------------------------------------------------

    def send(self, submission: Submission) -> list[str]:
        """Upload all attempts of a submission; the command of its jobs. Raises BackendError and OSError."""
        for member in submission.members:
            with tempfile.TemporaryFile() as file:
                pack(Path(member.files.script).parent, file)
                file.seek(0)
                self._put(self._key(member, _IN), file)
        table = [[member.job_name, member.files.script, _log_name(member)] for member in submission.members]
        key = f"{self._prefix}{submission.name}/{_TABLE}"
        self._put(key, io.BytesIO(json.dumps(table).encode()))
        packed = base64.b64encode(zlib.compress(STAGER.read_bytes(), 9)).decode()
        start = f"import base64,zlib;exec(zlib.decompress(base64.b64decode('{packed}')))"
        return ["python3", "-c", start, json.dumps({**self._config, "endpoint": self._aws.address("s3"), "table": key})]

    def _put(self, key: str, body: IO[bytes]) -> None:
        self._act("put_object", Bucket=self._bucket, Key=key, Body=body)

    # --- and back ----------------------------------------------------------------------------------------------------

    def fetch(self, member: ArrayTask) -> None:
        """Bring back what a job that is over has left, if it has; once, however many workers look."""
        files = member.files
        attempt = Path(files.script).parent
        if os.path.exists(files.record) or not attempt.is_dir():
            return
        with _locked(attempt / f"{member.job_name}.fetch"), tempfile.TemporaryFile() as file:
            if os.path.exists(files.record) or not self._download(self._key(member, _OUT), file):
                return
            file.seek(0)
            try:
                with tarfile.open(fileobj=file, mode="r:gz") as tar:
                    unpack(tar, attempt)
            except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
                text = f"what the job {member.job_name} has sent cannot be unpacked: {error}"
                raise BackendUnavailable(text, backend=self._backend) from error

    def _download(self, key: str, file: IO[bytes]) -> bool:
        try:
            answer = self._aws.act("s3", "get_object", Bucket=self._bucket, Key=key)
            body = answer["Body"]
            while block := self._aws.read(body, _BLOCK):
                file.write(block)
        except AwsError as error:
            if error.code in _GONE:
                return False
            raise error.error from error
        return True

    def forget(self, job_names: Sequence[str], submissions: Sequence[str]) -> None:
        """Delete what was sent for these jobs and came back from them, and the tables of submissions that are over."""
        keys = [f"{self._prefix}{name}/{each}" for name in job_names for each in (_IN, _OUT, _CLAIM)]
        keys += [f"{self._prefix}{name}/{_TABLE}" for name in submissions]
        for start in range(0, len(keys), _DELETED_AT_ONCE):
            objects = [{"Key": key} for key in keys[start : start + _DELETED_AT_ONCE]]
            self._act("delete_objects", Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True})

    def _key(self, member: ArrayTask, name: str) -> str:
        return f"{self._prefix}{member.job_name}/{name}"

    def _act(self, operation: str, **arguments: Any) -> None:
        try:
            self._aws.act("s3", operation, **arguments)
        except AwsError as error:
            failed: BackendError = error.error
            raise failed from error


def _log_name(member: ArrayTask) -> str:
    """The directory of the logs, as it is called in that of the attempt."""
    return Path(member.files.stdout).parent.name


def pack(attempt: Path, file: IO[bytes]) -> None:
    """The directory of an attempt and whatever links in it lead to, each thing under its own path."""
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
    """Where the links below a directory lead to in the end."""
    for parent, directories, files in os.walk(directory):
        for name in [*directories, *files]:
            path = os.path.join(parent, name)
            if os.path.islink(path) and os.path.exists(path):
                yield os.path.realpath(path)


def unpack(tar: tarfile.TarFile, attempt: Path) -> None:
    """Everything that stays inside the attempt; a job cannot write elsewhere by what it sends."""
    for member in tar:
        with suppress(tarfile.FilterError):
            tar.extract(member, attempt, filter="data")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
