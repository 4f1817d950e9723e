"""Inputs of stores: `s3://` and `https://` objects in a cache of contents below PIPELINE_BASE_DIR.

`sha256-<digest>` is the content, and for each URL an entry names its content and the version that the store had. One
process transfers an object under a file lock to a temporary name, in a thread, and goes on where a transfer broke off.
Step runs that want the object are deferred until it is there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.errors import JobDeferred, StagingError
from ccat_workflow_manager.execution.background import Background
from ccat_workflow_manager.execution.launch_spec import Input, Progress
from ccat_workflow_manager.execution.sif import digest_of
from ccat_workflow_manager.execution.transfers import BrokeOff, Stream, Transfer, Version, http_transfer, s3_transfer
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.disk import GIB

_FRESH_SECONDS = 60.0
"""How long the version of an object is believed without asking its store again."""
_TRIES = 5
_FIRST_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the cache knows about a URL."""

    url: str
    tag: str
    size: int
    sha256: str


@dataclass(slots=True)
class _Partial:
    """The file of a transfer. Only the holder of the lock uses it."""

    path: Path
    begun_with: Path
    """Holds the version to which the bytes belong."""

    def version(self) -> Version | None:
        """The version of what an interrupted transfer left."""
        try:
            return Version(**json.loads(self.begun_with.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def start(self, version: Version) -> None:
        self.path.write_bytes(b"")
        self.begun_with.write_text(json.dumps(asdict(version)), encoding="utf-8")

    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.begun_with.unlink(missing_ok=True)


class Stager:
    """Brings objects of stores to the filesystem that all step runs share."""

    def __init__(
        self, cache_dir: str, roots: InputRoots, *, limit_gb: float, limit_seconds: float, s3_endpoint: str
    ) -> None:
        self._cache = Path(cache_dir)
        self._roots = roots
        self._most = int(limit_gb * GIB)
        self._seconds = limit_seconds
        self._s3_endpoint = s3_endpoint
        self._going_on: Background[_Entry] = Background(FailureReason.INPUT_FETCH)

    def fetch(self, url: str, sha256: str | None, progress: Progress) -> Input:
        """The object of a URL on this filesystem, if given the content with this checksum.

        Raises StagingError, or JobDeferred while the object is being transferred.
        """
        if problem := self._roots.problem(url):
            raise StagingError(FailureReason.INPUT_REFUSED, problem)
        if sha256 is not None and (kept := self._content(sha256)).exists():
            return Input("", url, str(kept), kept.stat().st_size, sha256)
        entry = self._fresh(url)
        if entry is None:
            entry = self._going_on.result(
                url, lambda: self._under_lock(url), progress, name=f"transfer {url}",
                waiting=f"waiting for {url}, which is being transferred",
            )  # fmt: skip
        return Input("", url, str(self._content(entry.sha256)), entry.size, entry.sha256)

    # --- the cache ---------------------------------------------------------------------------------------------------

    def _content(self, sha256: str) -> Path:
        return self._cache / f"sha256-{sha256}"

    def _stem(self, url: str) -> Path:
        return self._cache / "references" / hashlib.sha256(url.encode()).hexdigest()[:32]

    def _known(self, url: str) -> _Entry | None:
        """The entry of a URL whose content is there."""
        try:
            entry = _Entry(**json.loads(self._stem(url).with_suffix(".json").read_text(encoding="utf-8")))
            return entry if self._content(entry.sha256).stat().st_size == entry.size else None
        except (OSError, ValueError, TypeError):
            return None  # an unreadable entry costs one more transfer

    def _fresh(self, url: str) -> _Entry | None:
        try:
            age = time.time() - self._stem(url).with_suffix(".json").stat().st_mtime
        except OSError:
            return None
        return self._known(url) if age < _FRESH_SECONDS else None

    def _write_entry(self, entry: _Entry) -> None:
        path = self._stem(entry.url).with_suffix(".json")
        part = path.with_suffix(".json.part")
        part.write_text(json.dumps(asdict(entry)), encoding="utf-8")
        part.rename(path)

    # --- transfers ---------------------------------------------------------------------------------------------------

    def _under_lock(self, url: str) -> _Entry:
        stem = self._stem(url)
        try:
            stem.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with stem.with_suffix(".lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise JobDeferred(f"waiting for {url}, which another worker is transferring") from None
                return self._fresh(url) or failpoints.around("files.transfer", lambda: self._transferred(url, stem))
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            reason = FailureReason.DISK_FULL if full else FailureReason.STAGING_FAILED
            raise StagingError(
                reason, f"{url} could not be kept in {self._cache}: {error.strerror or error}"
            ) from error

    def _transferred(self, url: str, stem: Path) -> _Entry:
        partial = _Partial(stem.with_suffix(".partial"), stem.with_suffix(".partial.json"))
        known = self._known(url)
        deadline = time.monotonic() + self._seconds
        transfer = s3_transfer(url, self._s3_endpoint) if url.startswith("s3://") else http_transfer(url, self._roots)
        for left in reversed(range(_TRIES)):
            try:
                version = self._receive(transfer, partial, known, deadline)
                break
            except StagingError as error:
                if error.reason is FailureReason.INPUT_REFUSED:
                    partial.remove()
                raise
            except BrokeOff as error:
                if left == 0 or time.monotonic() > deadline:
                    message = f"{url} could not be transferred: {error}"
                    raise StagingError(FailureReason.INPUT_FETCH, message) from error
                time.sleep(_FIRST_PAUSE_SECONDS * 2 ** (_TRIES - left - 1))
        if version is None and known is not None:
            self._write_entry(known)
            return known
        return self._kept(url, version or Version(), partial)

    def _receive(self, transfer: Transfer, partial: _Partial, known: _Entry | None, deadline: float) -> Version | None:
        """Receive what is missing. None: the store still has the version that is `known`."""
        begun = partial.version()
        offset = partial.size() if begun is not None and begun.tag else 0
        if begun is None or begun.size is None or offset >= begun.size:
            offset = 0
        with transfer(known.tag if known else "", begun.tag if begun and offset else "", offset) as stream:
            if stream is None:
                return None
            if stream.offset != offset or not offset:
                partial.start(stream.version)
            self._append(stream, partial, deadline)
        return stream.version

    def _append(self, stream: Stream, partial: _Partial, deadline: float) -> None:
        size = stream.offset
        if stream.version.size is not None and stream.version.size > self._most:
            self._too_large(stream.version.size)
        with partial.path.open("ab") as file:
            for chunk in stream.chunks:
                size += len(chunk)
                if size > self._most:
                    self._too_large(size)
                file.write(chunk)
                if time.monotonic() > deadline:
                    message = f"the transfer took longer than {self._seconds:g} s (INPUT_FETCH_SECONDS)"
                    raise StagingError(FailureReason.INPUT_FETCH, message)
        if stream.version.size is not None and size < stream.version.size:
            raise BrokeOff(f"it ended after {size} of {stream.version.size} bytes")

    def _too_large(self, size: int) -> None:
        message = f"the object has {size} bytes; {self._most} may be transferred (INPUT_FETCH_GB)"
        raise StagingError(FailureReason.INPUT_REFUSED, message)

    def _kept(self, url: str, version: Version, partial: _Partial) -> _Entry:
        """Check what was received and move it into the cache."""
        digest = digest_of(str(partial.path)).removeprefix("sha256:")
        entry = _Entry(url, version.tag, partial.size(), digest)
        if problem := version.problem(partial.path, replace(version, size=entry.size, sha256=digest)):
            partial.remove()
            raise StagingError(FailureReason.INPUT_FETCH, f"{url} arrived damaged: {problem}")
        partial.path.chmod(0o444)
        partial.path.rename(self._content(digest))
        partial.remove()
        self._write_entry(entry)
        return entry
