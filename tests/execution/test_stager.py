"""Inputs from stores: one transfer for all, resumed where it broke off, checked before it counts."""

from __future__ import annotations

import fcntl
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import boto3
import pytest
from moto.server import ThreadedMotoServer

from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.errors import JobDeferred, StagingError
from ccat_workflow_manager.execution import stager as stagers
from ccat_workflow_manager.execution import transfers
from ccat_workflow_manager.execution.launch_spec import Input, no_progress
from ccat_workflow_manager.execution.stager import Stager
from ccat_workflow_manager.failures import FailureReason
from tests.support.s3_server import KEY, SECRET, rclone_s3
from tests.support.waiting import wait_for

FREE = InputRoots.of([], free=True)
CONTENT = bytes(range(256)) * 5000


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stagers, "_FIRST_PAUSE_SECONDS", 0)


@dataclass
class WebSite:
    """A server of one object that may die in the middle of it."""

    url: str = ""
    content: bytes = CONTENT
    dies_after: list[int] = field(default_factory=list)
    """Bytes after which each of the next answers breaks off."""
    etag: str = '"one"'
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    ranges: list[str | None] = field(default_factory=list)

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        if self.status != 200:
            request.send_response(self.status)
            for name, value in self.headers.items():
                request.send_header(name, value)
            request.end_headers()
            return
        if self.etag and request.headers.get("If-None-Match") == self.etag:
            request.send_response(304)
            request.end_headers()
            return
        start = 0
        if wanted and request.headers.get("If-Range") == self.etag:
            start = int(re.findall("[0-9]+", wanted)[0])
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.etag:
            request.send_header("ETag", self.etag)
        for name, value in self.headers.items():
            request.send_header(name, value)
        body = self.content[start:]
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.dies_after.pop(0)] if self.dies_after else body)
        request.close_connection = True


@pytest.fixture
def site() -> Iterator[WebSite]:
    found = WebSite()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.answer(self)

        def log_message(self, *_: Any) -> None:
            """The tests say what happens."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        found.url = f"http://127.0.0.1:{server.server_address[1]}/scans/raw.fits"
        yield found
        server.shutdown()


def stager(cache: Path, roots: InputRoots = FREE, **more: Any) -> Stager:
    limits = {"limit_gb": 1.0, "limit_seconds": 60.0, "s3_endpoint": "", **more}
    return Stager(str(cache), roots, **limits)


def fetch(cache: Path, url: str, known: str | None = None, **more: Any) -> Input:
    """The object, asked for again while it is being transferred, as a worker would."""
    staged = stager(cache, **more)

    def brought() -> Input | None:
        try:
            return staged.fetch(url, known, no_progress)
        except JobDeferred:
            return None

    return wait_for(brought, what=f"the transfer of {url}")


def failure(cache: Path, url: str, **more: Any) -> tuple[FailureReason, str]:
    with pytest.raises(StagingError) as failed:
        fetch(cache, url, **more)
    return failed.value.reason, failed.value.message


def left(cache: Path) -> list[str]:
    """What a transfer has left beside its entry and its lock."""
    return sorted(path.name for path in cache.rglob("*") if ".partial" in path.name or path.suffix == ".part")


def test_an_object_is_transferred_once(tmp_path: Path, site: WebSite) -> None:
    found = fetch(tmp_path, site.url)
    assert (found.size, found.sha256) == (len(CONTENT), sha256(CONTENT).hexdigest())
    assert Path(found.path).read_bytes() == CONTENT
    assert fetch(tmp_path, site.url) == found
    assert site.ranges == [None]
    assert left(tmp_path) == []


def test_a_server_that_dies_in_the_middle_is_asked_for_the_rest(tmp_path: Path, site: WebSite) -> None:
    site.dies_after = [1_000_000, 200_000]
    assert fetch(tmp_path, site.url).sha256 == sha256(CONTENT).hexdigest()
    assert site.ranges == [None, "bytes=1000000-", "bytes=1200000-"]


def test_an_interrupted_transfer_is_continued_by_the_next_worker(
    tmp_path: Path, site: WebSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.dies_after = [1_000_000]
    monkeypatch.setattr(stagers, "_TRIES", 1)
    assert failure(tmp_path, site.url)[0] is FailureReason.INPUT_FETCH
    assert fetch(tmp_path, site.url).sha256 == sha256(CONTENT).hexdigest()
    assert site.ranges == [None, "bytes=1000000-"]


def test_an_object_that_changes_meanwhile_begins_anew(
    tmp_path: Path, site: WebSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.dies_after = [1_000_000]
    monkeypatch.setattr(stagers, "_TRIES", 1)
    failure(tmp_path, site.url)
    site.content, site.etag = CONTENT[::-1], '"two"'
    assert fetch(tmp_path, site.url).sha256 == sha256(CONTENT[::-1]).hexdigest()


def test_without_a_version_nothing_is_continued(tmp_path: Path, site: WebSite) -> None:
    site.etag, site.dies_after = "", [1_000_000]
    assert fetch(tmp_path, site.url).sha256 == sha256(CONTENT).hexdigest()
    assert site.ranges == [None, None]


def test_a_server_that_always_dies(tmp_path: Path, site: WebSite) -> None:
    site.dies_after = [0] * 10
    assert failure(tmp_path, site.url)[0] is FailureReason.INPUT_FETCH
    assert [path.name for path in tmp_path.glob("sha256-*")] == []


def test_the_store_is_asked_again_after_a_while_and_sends_what_is_new(
    tmp_path: Path, site: WebSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch(tmp_path, site.url)
    monkeypatch.setattr(stagers, "_FRESH_SECONDS", -1)
    assert fetch(tmp_path, site.url) == first
    site.content, site.etag = b"new", '"two"'
    assert fetch(tmp_path, site.url).size == 3
    assert len(site.ranges) == 3
    assert fetch(tmp_path, site.url, first.sha256) == first  # a later attempt of a step run
    assert len(site.ranges) == 3


def test_a_damaged_object_does_not_count(tmp_path: Path, site: WebSite) -> None:
    site.headers = {"Content-MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}
    reason, message = failure(tmp_path, site.url)
    assert reason is FailureReason.INPUT_FETCH
    assert "MD5" in message
    assert left(tmp_path) == [path.name for path in tmp_path.glob("sha256-*")] == []


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (404, FailureReason.INPUT_MISSING), (410, FailureReason.INPUT_MISSING), (403, FailureReason.INPUT_UNREADABLE),
        (500, FailureReason.INPUT_FETCH), (503, FailureReason.INPUT_FETCH),
    ],
)  # fmt: skip
def test_refusals_of_a_server(tmp_path: Path, site: WebSite, status: int, reason: FailureReason) -> None:
    site.status = status
    found, message = failure(tmp_path, site.url)
    assert found is reason
    assert site.url in message


def test_too_large_or_too_slow(tmp_path: Path, site: WebSite) -> None:
    assert failure(tmp_path, site.url, limit_gb=0.0001)[0] is FailureReason.INPUT_REFUSED
    assert "INPUT_FETCH_SECONDS" in failure(tmp_path, site.url, limit_seconds=-1.0)[1]


def test_only_what_the_roots_allow_also_after_a_redirect(tmp_path: Path, site: WebSite) -> None:
    host = site.url.removesuffix("/scans/raw.fits")
    allowed = InputRoots.of([f"{host}/scans"], free=False)
    assert failure(tmp_path, f"{host}/other", roots=allowed)[0] is FailureReason.INPUT_REFUSED
    site.status, site.headers = 302, {"Location": "/secrets"}
    reason, message = failure(tmp_path, site.url, roots=allowed)
    assert reason is FailureReason.INPUT_REFUSED
    assert "/secrets" in message


def test_a_redirect_without_end(tmp_path: Path, site: WebSite) -> None:
    site.status, site.headers = 302, {"Location": site.url}
    assert failure(tmp_path, site.url)[0] is FailureReason.INPUT_UNREADABLE


def test_a_transfer_of_another_worker_is_waited_for(tmp_path: Path, site: WebSite) -> None:
    fetch(tmp_path, site.url)
    [lock] = (tmp_path / "references").glob("*.lock")
    [content] = tmp_path.glob("sha256-*")
    content.unlink()
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(JobDeferred):
            stager(tmp_path).fetch(site.url, None, no_progress)
    assert fetch(tmp_path, site.url).size == len(CONTENT)


# --- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["moto", "rclone"])
def s3_endpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two servers that have nothing in common."""
    if request.param == "rclone":
        with rclone_s3(tmp_path_factory.mktemp("buckets")) as second:
            yield second.url
        return
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    made = boto3.resource("s3", endpoint_url=s3_endpoint).Bucket(f"night-{uuid4().hex[:8]}")
    made.create()
    return made


def test_an_object_of_s3(tmp_path: Path, bucket: Any, s3_endpoint: str) -> None:
    bucket.put_object(Key="raw/scan 1.fits", Body=CONTENT, ChecksumAlgorithm="SHA256")
    url = f"s3://{bucket.name}/raw/scan 1.fits"
    found = fetch(tmp_path, url, s3_endpoint=s3_endpoint)
    assert (found.size, found.sha256) == (len(CONTENT), sha256(CONTENT).hexdigest())
    assert Path(found.path).read_bytes() == CONTENT


def test_a_transfer_from_s3_is_continued(
    tmp_path: Path, bucket: Any, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "CHUNK", 100_000)
    bucket.put_object(Key="raw", Body=CONTENT)
    url = f"s3://{bucket.name}/raw"
    assert "INPUT_FETCH_SECONDS" in failure(tmp_path, url, s3_endpoint=s3_endpoint, limit_seconds=-1.0)[1]
    [partial] = tmp_path.rglob("*.partial")
    assert partial.stat().st_size == 100_000
    assert fetch(tmp_path, url, s3_endpoint=s3_endpoint).sha256 == sha256(CONTENT).hexdigest()
    assert left(tmp_path) == []


def test_what_s3_does_not_have(tmp_path: Path, bucket: Any, s3_endpoint: str) -> None:
    for url in (f"s3://{bucket.name}/none", f"s3://none-{uuid4().hex}/raw"):
        reason, message = failure(tmp_path, url, s3_endpoint=s3_endpoint)
        assert reason is FailureReason.INPUT_MISSING
        assert url in message


def test_s3_that_cannot_be_reached(tmp_path: Path, bucket: Any) -> None:
    reason, _ = failure(tmp_path, f"s3://{bucket.name}/raw", s3_endpoint="http://127.0.0.1:9")
    assert reason is FailureReason.INPUT_FETCH
