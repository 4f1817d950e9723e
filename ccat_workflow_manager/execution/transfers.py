"""How objects come from their stores: over HTTP, and from S3 by boto3. Each transfer can go on where one broke off."""

from __future__ import annotations

import base64
import hashlib
import re
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from ccat_workflow_manager.definition.input_roots import InputRoots
from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.failures import FailureReason

if TYPE_CHECKING:
    import httpx

CHUNK = 1024 * 1024
_MOST_REDIRECTS = 5
_SECONDS = 30.0
_MD5 = re.compile("[0-9a-f]{32}")


class BrokeOff(Exception):
    """The transfer ended too early, or the store could not be reached; another try may go on."""


@dataclass(frozen=True, slots=True)
class Version:
    """What a store says about the object that it sends."""

    tag: str = ""
    """Differs for other content; empty if the store has none, then no transfer goes on in the middle."""
    size: int | None = None
    sha256: str = ""
    md5: str = ""

    def problem(self, path: Path, received: Version) -> str | None:
        """Why a file with these properties is not the object; None if it is."""
        if self.size is not None and self.size != received.size:
            return f"it has {received.size} of {self.size} bytes"
        if self.sha256 and self.sha256 != received.sha256:
            return f"its SHA-256 is {received.sha256}, the store says {self.sha256}"
        if self.md5:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            if found != self.md5:
                return f"its MD5 is {found}, the store says {self.md5}"
        return None


@dataclass(frozen=True, slots=True)
class Stream:
    """The bytes of an object from `offset` on."""

    version: Version
    offset: int
    chunks: Iterator[bytes]


Transfer = Callable[[str, str, int], AbstractContextManager[Stream | None]]
"""(tag of the known content, tag of what was begun, its size) -> the rest; None: the known content is still right."""


# --- HTTP -------------------------------------------------------------------------------------------------------------


@cache
def tls_context() -> ssl.SSLContext:
    """How the certificates of other services are checked. To read all authorities takes 60 ms, so it is done once.

    SSL_CERT_FILE names those of the site.
    """
    import httpx  # many deployments call no other service

    return httpx.create_ssl_context()


def http_transfer(url: str, roots: InputRoots) -> Transfer:
    """A transfer over HTTP. Redirects may lead only where inputs may come from."""
    import httpx  # most workers fetch nothing

    @contextmanager
    def transfer(known: str, begun: str, offset: int) -> Iterator[Stream | None]:
        headers = {"Accept-Encoding": "identity"}
        if begun:
            headers |= {"Range": f"bytes={offset}-", "If-Range": begun}
        elif known:
            headers["If-Modified-Since" if known.endswith("GMT") else "If-None-Match"] = known
        try:
            with httpx.Client(timeout=_SECONDS, follow_redirects=False, verify=tls_context()) as client:
                answer = _answer(client, url, headers, roots)
                try:
                    yield _stream(url, answer, offset)
                finally:
                    answer.close()
        except httpx.HTTPError as error:
            raise BrokeOff(str(error) or type(error).__name__) from error

    return transfer


def _answer(client: httpx.Client, url: str, headers: dict[str, str], roots: InputRoots) -> httpx.Response:
    target = url
    for _ in range(_MOST_REDIRECTS + 1):
        if problem := roots.problem(target):
            raise StagingError(FailureReason.INPUT_REFUSED, f"{url} leads to {target}: {problem}")
        answer = client.send(client.build_request("GET", target, headers=headers), stream=True)
        if not answer.has_redirect_location:
            return answer
        answer.close()
        target = urljoin(target, answer.headers["location"])
    raise StagingError(FailureReason.INPUT_UNREADABLE, f"{url} is redirected more than {_MOST_REDIRECTS} times")


def _stream(url: str, answer: httpx.Response, offset: int) -> Stream | None:
    status = answer.status_code
    if status == 304:
        return None
    if status in (404, 410):
        raise StagingError(FailureReason.INPUT_MISSING, f"{url} does not exist ({status})")
    if status in (401, 403, 451):
        raise StagingError(FailureReason.INPUT_UNREADABLE, f"{url} may not be read ({status})")
    if status not in (200, 206):
        raise BrokeOff(f"the server answers with {status}")
    etag = answer.headers.get("etag", "")
    tag = etag if etag and not etag.startswith("W/") else answer.headers.get("last-modified", "")
    size = answer.headers.get("content-length", "")
    if status == 206:
        place, _, size = answer.headers.get("content-range", "").partition("/")
        if not place.startswith(f"bytes {offset}-"):
            raise BrokeOff(f"the server sends {place or 'a part'} instead of the bytes from {offset} on")
    md5 = _hexadecimal(answer.headers.get("content-md5", "")) if status == 200 else ""
    version = Version(tag, int(size) if size.isdigit() else None, md5=md5)
    return Stream(version, offset if status == 206 else 0, answer.iter_raw())


def _hexadecimal(text: str) -> str:
    """The digits of a checksum in base64; empty if it is none."""
    try:
        return base64.b64decode(text, validate=True).hex()
    except ValueError:
        return ""


# --- S3 ---------------------------------------------------------------------------------------------------------------


def s3_transfer(url: str, endpoint: str) -> Transfer:
    """A transfer from an S3-compatible store, with the credentials that boto3 finds for the worker."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        message = f"{url} needs boto3: pip install 'ccat-workflow-manager[aws]'"
        raise StagingError(FailureReason.INPUT_FETCH, message) from error
    bucket, _, key = url.removeprefix("s3://").partition("/")

    @contextmanager
    def transfer(known: str, begun: str, offset: int) -> Iterator[Stream | None]:
        config = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"mode": "standard"})
        try:
            client: Any = boto3.client("s3", endpoint_url=endpoint or None, config=config)
            head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
            version = _version(head)
            if known and known == version.tag:
                yield None
                return
            start = offset if begun and begun == version.tag and offset < (version.size or 0) else 0
            part = {"Range": f"bytes={start}-"} if start else {}
            body = client.get_object(Bucket=bucket, Key=key, IfMatch=version.tag, **part)["Body"]
            try:
                yield Stream(version, start, body.iter_chunks(CHUNK))
            finally:
                body.close()
        except ClientError as error:
            raise _refused(url, error.response) from error
        except BotoCoreError as error:
            raise BrokeOff(str(error)) from error

    return transfer


def _version(head: dict[str, Any]) -> Version:
    """The version of an object. The ETag of an object that came in one piece, not encrypted, is its MD5."""
    tag = str(head.get("ETag", ""))
    plain = tag.strip('"')
    encrypted = head.get("ServerSideEncryption") == "aws:kms" or "SSECustomerAlgorithm" in head
    whole = head.get("ChecksumType") != "COMPOSITE"
    return Version(
        tag,
        head.get("ContentLength"),
        _hexadecimal(head.get("ChecksumSHA256", "")) if whole else "",
        plain if _MD5.fullmatch(plain) and not encrypted else "",
    )


def _refused(url: str, response: Any) -> StagingError | BrokeOff:
    code = str(response.get("Error", {}).get("Code", ""))
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in ("404", "NoSuchKey", "NoSuchBucket", "NotFound"):
        return StagingError(FailureReason.INPUT_MISSING, f"{url} does not exist ({code})")
    if status in (401, 403) or code in ("403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return StagingError(FailureReason.INPUT_UNREADABLE, f"{url} may not be read ({code})")
    return BrokeOff(f"the store answers with {code or status}")
