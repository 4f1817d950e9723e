"""Sends requests and repeats them: blocking or asynchronous, with the same rules."""

from __future__ import annotations

import asyncio
import json
import random
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

import httpx

from ccat_workflow_manager.client.connection import (
    Address,
    header_value,
    json_of,
    not_this_service,
    refusal,
    unreachable,
)

P = ParamSpec("P")
T = TypeVar("T")

API = "/api/v1"
_TIMEOUT = httpx.Timeout(60, connect=10)
_PAGE = 500
_REPEATED = (429, 502, 503, 504)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_CHANGES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(slots=True)
class Request:
    """One request, repeated with the same idempotency key until it is answered."""

    method: str
    path: str
    query: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    timeout: float | None = None
    answers_lost: int = 0
    """How often the request may have been carried out without an answer."""

    def __post_init__(self) -> None:
        if self.method in _CHANGES:
            self.headers.setdefault("Idempotency-Key", uuid4().hex)

    def arguments(self) -> dict[str, Any]:
        """What httpx needs. As ASCII: a parameter may hold half of a surrogate pair, which the service refuses."""
        given = {name: value for name, value in self.query.items() if value is not None}
        content = None if self.body is None else json.dumps(self.body)
        headers = {**({"Content-Type": "application/json"} if content is not None else {}), **self.headers}
        arguments: dict[str, Any] = {"params": given, "content": content, "headers": headers}
        if self.timeout is not None:
            arguments["timeout"] = httpx.Timeout(self.timeout, connect=10)
        return arguments


class Transport(ABC):
    """What the two clients share. `patience` is how long a request is repeated while the service does not answer."""

    def __init__(self, address: Address, patience: float) -> None:
        self.address = address
        self.patience = patience

    @abstractmethod
    async def pause(self, seconds: float) -> None: ...

    @abstractmethod
    async def apart(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a function that takes long."""

    @abstractmethod
    async def once(self, request: Request) -> httpx.Response: ...

    @abstractmethod
    def streamed(self, request: Request) -> AbstractAsyncContextManager[tuple[httpx.Response, AsyncIterator[bytes]]]:
        """A response whose content is read in pieces. Raises the errors of httpx."""

    @abstractmethod
    async def aclose(self) -> None: ...

    # --- requests ----------------------------------------------------------------------------------------------------

    async def send(self, request: Request) -> httpx.Response:
        """The answer. Raises ApiRefused, and ServiceUnavailable when the patience is over."""
        deadline = time.monotonic() + self.patience
        pause = _FIRST_PAUSE
        while True:
            try:
                response = await self.once(request)
            except httpx.TransportError as error:
                request.answers_lost += not isinstance(error, httpx.ConnectError)
                wanted, failure = 0.0, unreachable(self.address.url, error)
            else:
                if response.is_success:
                    return response
                error_of_api = refusal(response, self.address.url)
                if response.status_code not in _REPEATED:
                    raise error_of_api
                wanted, failure = retry_after(response.headers.get("Retry-After")), error_of_api  # type: ignore[assignment]
            wait = max(wanted, pause * random.uniform(0.5, 1))
            if time.monotonic() + wait > deadline:
                raise failure
            await self.pause(wait)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def json(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The JSON of an answer."""
        return json_of(await self.send(Request(method, path, query, body)))

    async def change(self, path: str, body: Any = None, *, key: str | None = None, method: str = "POST") -> Any:
        """The JSON of the answer to a change, which has the idempotency key `key` or one of its own."""
        headers = {"Idempotency-Key": header_value(key, "the idempotency key")} if key else {}
        return json_of(await self.send(Request(method, path, body=body, headers=headers)))

    async def items(
        self, path: str, limit: int | None = None, name: str = "cursor", cursor: str | None = None, **query: Any
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Up to `limit` items of a list, page by page. `name` is what its query calls the cursor."""
        left = limit
        while left is None or left > 0:
            size = _PAGE if left is None else min(left, _PAGE)
            response = await self.send(Request("GET", path, {**query, "limit": size, name: cursor}))
            page = json_of(response)
            if not isinstance(page, dict) or not isinstance(page.get("items"), list):
                raise not_this_service(response)
            for item in page["items"]:
                yield item
            cursor = page.get("next_cursor")
            if cursor is None:
                return
            left = None if left is None else left - len(page["items"])

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[bytes]]]:
        """Content of any size. Raises ApiRefused and ServiceUnavailable, also for a connection that breaks."""
        try:
            async with self.streamed(request) as (response, chunks):
                if not response.is_success:
                    async for _ in chunks:
                        pass
                    raise refusal(response, self.address.url)
                yield response, chunks
        except httpx.TransportError as error:
            raise unreachable(self.address.url, error) from None


class BlockingTransport(Transport):
    """For Client: nothing here suspends."""

    def __init__(self, address: Address, patience: float, transport: httpx.BaseTransport | None = None) -> None:
        super().__init__(address, patience)
        given = transport or (httpx.HTTPTransport(verify=False, uds=address.socket) if address.socket else None)
        self._http = httpx.Client(timeout=_TIMEOUT, transport=given, **address.options())
        self._never = Event()

    async def pause(self, seconds: float) -> None:
        self._never.wait(seconds)

    async def apart(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)

    async def once(self, request: Request) -> httpx.Response:
        return self._http.request(request.method, _path(request), **request.arguments())

    @asynccontextmanager
    async def streamed(self, request: Request) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[bytes]]]:
        with self._http.stream(request.method, _path(request), **request.arguments()) as response:

            async def chunks() -> AsyncIterator[bytes]:
                if not response.is_success:
                    response.read()
                    return
                for chunk in response.iter_bytes():
                    yield chunk

            yield response, chunks()

    async def aclose(self) -> None:
        self._http.close()


class AsyncTransport(Transport):
    """For AsyncClient."""

    def __init__(self, address: Address, patience: float, transport: httpx.AsyncBaseTransport | None = None) -> None:
        super().__init__(address, patience)
        given = transport or (httpx.AsyncHTTPTransport(verify=False, uds=address.socket) if address.socket else None)
        self._http = httpx.AsyncClient(timeout=_TIMEOUT, transport=given, **address.options())

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def apart(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.to_thread(function, *args, **kwargs)

    async def once(self, request: Request) -> httpx.Response:
        return await self._http.request(request.method, _path(request), **request.arguments())

    @asynccontextmanager
    async def streamed(self, request: Request) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[bytes]]]:
        async with self._http.stream(request.method, _path(request), **request.arguments()) as response:

            async def chunks() -> AsyncIterator[bytes]:
                if not response.is_success:
                    await response.aread()
                    return
                async for chunk in response.aiter_bytes():
                    yield chunk

            yield response, chunks()

    async def aclose(self) -> None:
        await self._http.aclose()


def retry_after(header: str | None) -> float:
    """The seconds that the service asks to wait: a number, or the time until a date."""
    if not header:
        return 0.0
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _path(request: Request) -> str:
    return API + request.path
