"""Traces: the W3C trace context of a request, which its runs keep, and spans as OTLP over HTTP.

    with tracing.request(headers.get("traceparent"), tracing.Span()): ...   # the manager
    with tracing.span("launch", run.trace, {"step": item.step}): ...      # a worker, hours later

Without an endpoint nothing is recorded: there are only the ids, in log lines and in the TRACEPARENT of programs. OTLP
is a POST of JSON, so no library is needed.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote

log = logging.getLogger(__name__)

Attributes = Mapping[str, str | int]

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1
_MOST_SPANS = 10_000
"""While the collector is away, so many spans wait; later ones are dropped."""
_BATCH = 500
_PAUSE_SECONDS = 1.0
_POST_SECONDS = 10.0
_SERVER, _INTERNAL = 2, 1


@dataclass(frozen=True, slots=True)
class Trace:
    """A place in a trace: what is done there has `span_id` as its parent."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        """As the header `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"

    def of_attempt(self, job_name: str) -> Trace:
        """The place of the program of an attempt: every process that works on the attempt finds the same."""
        return Trace(self.trace_id, blake2b(job_name.encode(), digest_size=8).hexdigest(), self.sampled)


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def parsed(traceparent: str | None) -> Trace | None:
    """The trace that a header or a run names. Returns None for anything that is not one."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    if match is None or match[0].startswith("ff") or not int(match[1], 16) or not int(match[2], 16):
        return None
    return Trace(match[1], match[2], bool(int(match[3], 16) & _SAMPLED))


def current() -> Trace | None:
    """The trace of what this thread or task works on."""
    return _current.get()


class Span:
    """What is known about a span while it is open."""

    def __init__(self) -> None:
        self.name = ""
        self.attributes: dict[str, str | int] = {}
        self.failed = False


@contextmanager
def request(traceparent: str | None, open_span: Span) -> Iterator[None]:
    """The span of a request. It continues the trace of its client, or begins one."""
    parent, began = parsed(traceparent), time.time_ns()
    trace_id = parent.trace_id if parent is not None else secrets.token_hex(16)
    own = Trace(trace_id, secrets.token_hex(8), parent.sampled if parent is not None else _exporter is not None)
    token = _current.set(own)
    try:
        yield
    finally:
        _current.reset(token)
        _record(own, parent, open_span, began, time.time_ns(), _SERVER)


@contextmanager
def span(name: str, stored: str | None, attributes: Attributes) -> Iterator[Span]:
    """Work for a run, whose trace is `stored`. Log lines meanwhile have its id."""
    parent, began, open_span = parsed(stored), time.time_ns(), Span()
    open_span.name, open_span.attributes = name, dict(attributes)
    if parent is None:
        yield open_span
        return
    own = Trace(parent.trace_id, secrets.token_hex(8), parent.sampled)
    token = _current.set(own)
    try:
        yield open_span
    except BaseException:
        open_span.failed = True
        raise
    finally:
        _current.reset(token)
        _record(own, parent, open_span, began, time.time_ns(), _INTERNAL)


def past(name: str, stored: str | None, began: float, ended: float, attributes: Attributes, attempt: str = "") -> None:
    """A span whose times are known by now, in seconds since the epoch: a wait, or the job of an `attempt`."""
    parent, closed = parsed(stored), Span()
    closed.name, closed.attributes = name, dict(attributes)
    if parent is not None:
        own = parent.of_attempt(attempt) if attempt else Trace(parent.trace_id, secrets.token_hex(8), parent.sampled)
        _record(own, parent, closed, int(began * 1e9), int(ended * 1e9), _INTERNAL)


def _record(own: Trace, parent: Trace | None, closed: Span, began: int, ended: int, kind: int) -> None:
    if _exporter is None or not own.sampled:
        return
    _exporter.add(
        {
            "traceId": own.trace_id,
            "spanId": own.span_id,
            **({} if parent is None else {"parentSpanId": parent.span_id}),
            "name": closed.name,
            "kind": kind,
            "startTimeUnixNano": str(began),
            "endTimeUnixNano": str(max(began, ended)),
            "attributes": _attributes(closed.attributes),
            "status": {"code": 2} if closed.failed else {},
        }
    )


def _attributes(values: Attributes) -> list[dict[str, Any]]:
    return [
        {"key": key, "value": {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}}
        for key, value in values.items()
    ]


# --- sending ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Exporter:
    """Sends spans from a thread. A collector that is away costs spans, and never time."""

    url: str
    headers: Mapping[str, str]
    resource: Mapping[str, str]
    waiting: deque[dict[str, Any]] = field(default_factory=deque)
    wake: threading.Event = field(default_factory=threading.Event)
    sending: threading.Lock = field(default_factory=threading.Lock)
    pid: int = 0
    """The process that has the thread: a process that was forked since needs one of its own."""
    is_away: bool = False

    def add(self, span: dict[str, Any]) -> None:
        if len(self.waiting) < _MOST_SPANS:
            self.waiting.append(span)
        if self.pid != os.getpid():
            self.pid, self.sending = os.getpid(), threading.Lock()
            threading.Thread(target=self._run, name="traces", daemon=True).start()

    def flush(self) -> None:
        """Send what waits; what cannot be sent now goes on waiting."""
        with self.sending:
            while self.waiting:
                batch = [self.waiting.popleft() for _ in range(min(_BATCH, len(self.waiting)))]
                if not self._posted(batch):
                    self.waiting.extendleft(reversed(batch))
                    return

    def _run(self) -> None:
        while not self.wake.wait(_PAUSE_SECONDS):
            self.flush()

    def _posted(self, batch: list[dict[str, Any]]) -> bool:
        scope = {"scope": {"name": "ccat-workflow-manager"}, "spans": batch}
        body = {"resourceSpans": [{"resource": {"attributes": _attributes(self.resource)}, "scopeSpans": [scope]}]}
        headers = {"Content-Type": "application/json", **self.headers}
        asked = urllib.request.Request(self.url, json.dumps(body).encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(asked, timeout=_POST_SECONDS):
                pass
        except (OSError, ValueError) as error:
            if not self.is_away:
                log.warning("traces cannot be sent to %s: %s", self.url, error)
            self.is_away = True
            # A collector that does not take these spans will not take them later.
            return isinstance(error, HTTPError) and error.code < 500 and error.code != 429
        self.is_away = False
        return True


_exporter: _Exporter | None = None


def configure(endpoint: str, headers: str, resource: Mapping[str, str]) -> None:
    """Send spans to this collector from now on; an empty `endpoint`: to none. `headers` are `name=value,...`."""
    global _exporter  # noqa: PLW0603  one collector for the process; spans begin in every layer
    pairs = (each.partition("=") for each in headers.split(",") if "=" in each)
    given = {name.strip(): unquote(value.strip()) for name, _, value in pairs}
    _exporter = _Exporter(f"{endpoint.rstrip('/')}/v1/traces", given, resource) if endpoint else None


def flush() -> None:
    """Send what waits, before a process ends."""
    if _exporter is not None:
        _exporter.flush()
