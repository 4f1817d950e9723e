"""Calls of the AWS services: each with time limits and retries, all within a budget, every failure classified.

botocore repeats calls that change nothing, with back-off. A call that changes something is repeated only after an
answer which says that nothing was done.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from threading import Lock
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NotConnected
from botocore.parsers import ResponseParserError

from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable
from ccat_workflow_manager.hpc.batch.calls import CallBudget

logging.getLogger("botocore.credentials").setLevel(logging.WARNING)  # it names their source for each client

CONNECT_SECONDS = 5
READ_SECONDS = 30
LOG_BYTES = 4 * 1024 * 1024
LOOKING_TRIES = 4
SUBMITTING_TRIES = 5
_FIRST_PAUSE_SECONDS = 0.5
_THROTTLING = re.compile(r"Throttl|TooManyRequests|RequestLimitExceeded|SlowDown|^429$")
_NOT_ALLOWED = re.compile(
    r"AccessDenied|AuthFailure|ExpiredToken|IncompleteSignature|InvalidClientTokenId|InvalidSignature|OptInRequired|"
    r"MissingAuthenticationToken|RequestExpired|SignatureDoesNotMatch|UnauthorizedOperation|UnrecognizedClient"
)
"""Codes of errors about the caller, not about the request."""


class Done(Enum):
    """What became of a request that has failed."""

    NO = "no"
    """It certainly was not carried out."""
    REFUSED = "refused"
    """The service refuses this request."""
    PERHAPS = "perhaps"
    """It may have been carried out."""


class _Manner(Enum):
    """The part of the budget that a call is taken from, and how it is repeated."""

    LOOK = "look"
    URGENT = "urgent"
    ACT = "act"


class AwsError(BackendUnavailable):
    """A call that has failed."""

    def __init__(
        self, message: str, done: Done, *, backend: str, throttled: bool = False, aws_code: str = "", words: str = ""
    ) -> None:
        super().__init__(message, backend=backend, output_tail=words)
        self.done = done
        self.throttled = throttled
        self.aws_code = aws_code


class Aws:
    """The AWS services that a backend uses."""

    def __init__(
        self,
        backend: str,
        directory: Path,
        *,
        per_minute: int,
        region: str | None = None,
        profile: str | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        """`endpoint_url` is that of AWS Batch; AWS's own configuration has the endpoints of the other services."""
        self._backend = backend
        self.budget = CallBudget(directory, per_minute)
        throttled = directory / "throttled"
        self._throttled_directory = throttled
        self._throttled = CallBudget(throttled, 1_000_000)
        self._region = region or None
        self._endpoint_url = endpoint_url or None
        self._profile = profile or None
        self._session: boto3.Session | None = None
        self._clients: dict[tuple[str, _Manner], Any] = {}
        self._making = Lock()

    def look(self, service: str, operation: str, /, *, urgent: bool = False, **arguments: Any) -> dict[str, Any]:
        """Make a call that changes nothing. Raises AwsError and BackendConfused.

        `urgent`: from the part of the budget that is reserved for submitting and cancelling.
        """
        return self._call(service, operation, arguments, _Manner.URGENT if urgent else _Manner.LOOK)

    def pages(self, service: str, operation: str, key: str, /, **arguments: Any) -> Iterator[Mapping[str, Any]]:
        """The items of all pages of a listing with `nextToken`."""
        token: str | None = None
        while True:
            more: dict[str, Any] = {"nextToken": token} if token else {}
            answer = self.look(service, operation, **arguments, **more)
            yield from self.items(answer, key, operation)
            following = answer.get("nextToken")
            if not following or following == token:
                return
            token = following

    def items(self, answer: Mapping[str, Any], key: str, operation: str) -> list[Mapping[str, Any]]:
        """The list in an answer. Raises BackendConfused if it is missing."""
        items = answer.get(key)
        if not isinstance(items, list):
            text = f"the answer of {operation} has no {key}: {str(dict(answer))[:300]}"
            raise BackendConfused(text, backend=self._backend)
        return items

    def act(self, service: str, operation: str, /, **arguments: Any) -> dict[str, Any]:
        """Make a call that changes something. Repeats it only if nothing was done.

        Raises AwsError; and BackendConfused, after which the change may have been made.
        """
        pause = _FIRST_PAUSE_SECONDS
        for left in reversed(range(SUBMITTING_TRIES)):
            try:
                return self._call(service, operation, arguments, _Manner.ACT)
            except AwsError as error:
                if not error.throttled or not left:
                    raise
            time.sleep(pause)
            pause *= 2
        raise AssertionError("the last try has raised")

    def read(self, body: Any, size: int) -> bytes:
        """A part of the body of an answer. Raises AwsError."""
        try:
            data: bytes = body.read(size)
        except (BotoCoreError, OSError) as error:
            raise self._away("reading an answer", error, Done.NO) from error
        return data

    def address(self, service: str) -> str:
        """The endpoint of a service. Raises AwsError."""
        try:
            return str(self._client(service, _Manner.ACT).meta.endpoint_url)
        except BotoCoreError as error:
            raise self._away(f"the address of {service}", error, Done.NO) from error

    @property
    def throttled(self) -> int:
        """How many calls were throttled in the last minute."""
        return self._throttled.used()

    def log_tail(self, group: str, stream: str, limit: int = LOG_BYTES) -> str:
        """The last `limit` bytes of a stream of CloudWatch: both streams of a container, some seconds late.

        Empty if there is no such stream (yet). Raises AwsError and BackendConfused.
        """
        pages: list[str] = []
        token = ""
        while sum(map(len, pages)) < limit:
            more = {"nextToken": token} if token else {}
            try:
                answer = self.act("logs", "get_log_events", logGroupName=group, logStreamName=stream, **more)
            except AwsError as error:
                if error.aws_code == "ResourceNotFoundException":
                    return ""
                raise
            events = self.items(answer, "events", "get_log_events")
            pages.append("".join(f"{event.get('message', '')}\n" for event in events))
            following = str(answer.get("nextBackwardToken") or "")
            # An empty page need not be the last one; the token of the last page is its own.
            if not following or following == token:
                break
            token = following
        return "".join(reversed(pages))[-limit:]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    # --- one call ----------------------------------------------------------------------------------------------------

    def _call(self, service: str, operation: str, arguments: Mapping[str, Any], manner: _Manner) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._client(service, manner), operation)(**arguments)
        except ClientError as error:
            raise self._answered(operation, error) from error
        except NotConnected as error:
            # Before the others: some of its kinds are OSErrors as well.
            raise self._away(operation, error, Done.NO) from error
        except ResponseParserError as error:
            raise BackendConfused(
                f"the answer of {operation} cannot be read: {error}", backend=self._backend
            ) from error
        except (HTTPClientError, OSError) as error:
            raise self._away(operation, error, Done.PERHAPS) from error
        except BackendUnavailable as error:
            raise AwsError(error.message, Done.NO, backend=self._backend) from error
        except BotoCoreError as error:
            # No credentials, wrong arguments, a broken configuration file: nothing has left this machine.
            raise self._away(operation, error, Done.NO) from error
        return answer

    def _answered(self, operation: str, error: ClientError) -> AwsError:
        answer = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        message = str(answer.get("Error", {}).get("Message", ""))
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        text = f"{operation} failed with {code or status}: {message or 'no words'}"
        throttled = _THROTTLING.search(code) is not None or status == 429
        if throttled or _NOT_ALLOWED.search(code) or status in (401, 403):
            done = Done.NO
        else:
            done = Done.REFUSED if 400 <= status < 500 else Done.PERHAPS
        return AwsError(text, done, backend=self._backend, throttled=throttled, aws_code=code, words=message)

    def _away(self, operation: str, error: Exception, done: Done) -> AwsError:
        return AwsError(f"{operation} could not be called: {error}", done, backend=self._backend)

    # --- clients -----------------------------------------------------------------------------------------------------

    def _client(self, service: str, manner: _Manner) -> Any:
        with self._making:
            # Clients may be used by several threads at a time, sessions may not.
            known = self._clients.get((service, manner))
            if known is None:
                try:
                    known = self._clients[service, manner] = self._new_client(service, manner)
                except ValueError as error:
                    text = f"the configuration of AWS cannot be used for {service}: {error}"
                    raise BackendUnavailable(text, backend=self._backend) from error
            return known

    def _new_client(self, service: str, manner: _Manner) -> Any:
        if self._session is None:
            self._session = boto3.Session(profile_name=self._profile)
        client: Any = self._session.client(  # type: ignore[call-overload]
            service,
            region_name=self._region,
            endpoint_url=self._endpoint_url if service == "batch" else None,
            config=Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
                retries={"mode": "adaptive", "total_max_attempts": 1 if manner is _Manner.ACT else LOOKING_TRIES},
                user_agent_extra="ccat-workflow-manager",
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

        def about_to_send(**_: Any) -> None:
            # Each try counts, and each try waits its turn.
            self.budget.wait_for_one(service, looking=manner is _Manner.LOOK, backend=self._backend)

        def answered(response: Any = None, **_: Any) -> None:
            if response is not None and response[0].status_code == 429:
                os.makedirs(self._throttled_directory, exist_ok=True)
                self._throttled.take(looking=False)

        client.meta.events.register_first(f"before-send.{service}", about_to_send)
        client.meta.events.register_first(f"needs-retry.{service}", answered)
        return client
