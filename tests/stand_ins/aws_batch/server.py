"""The HTTP side: REST with JSON on `/v1/...`, as AWS Batch has it, one call of CloudWatch Logs, and objects of S3."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.stand_ins.aws_batch.buckets import CREDENTIALS_PATH, Buckets
from tests.stand_ins.aws_batch.model import (
    Refused,
    by_path,
    check_answer,
    check_request,
    service,
)
from tests.stand_ins.aws_batch.operations import Operations
from tests.stand_ins.aws_batch.site import Site

_LOGS_TARGET = "Logs_20140328.GetLogEvents"


@dataclass
class Faults:
    """What goes wrong, for so many of the next calls."""

    throttle: int = 0
    """429, and nothing is done."""
    fail: int = 0
    """500, and nothing is done."""
    fail_after: int = 0
    """500, though it was done."""
    hang_up: int = 0
    """It is done, but the connection closes without an answer."""
    garbage: bool = False
    down: bool = False
    denied: bool = False
    only: str = ""
    """Only for this operation."""

    def take(self, name: str, operation: str) -> bool:
        left = int(getattr(self, name))
        if not left or (self.only and operation != self.only):
            return False
        setattr(self, name, left - 1)
        return True


@dataclass
class StandIn:
    """A stand-in for AWS Batch on loopback."""

    directory: Path
    scale: float = 1.0
    faults: Faults = field(default_factory=Faults)
    calls: Counter[str] = field(default_factory=Counter)
    buckets: Buckets = field(default_factory=Buckets)

    def start(self) -> StandIn:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.site = Site(self.directory, self.scale)
        self.site.start()
        self.operations = Operations(self.site)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stand_in = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        self.site.role_url = self.url + CREDENTIALS_PATH
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.site.close()

    def answer(self, service_name: str, operation: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Do what was asked for, within the model."""
        model = service(service_name).operation_model(operation)
        check_request(model, body)
        if operation not in self.operations.by_name:
            raise Refused(f"the stand-in has no {operation}", "ServerException", 501)
        answer = self.operations.by_name[operation](body)
        check_answer(model, answer)
        return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    stand_in: StandIn


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self._object(b"")

    def do_PUT(self) -> None:
        self._object(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _object(self, body: bytes) -> None:
        self.server.stand_in.calls[f"{self.command} object"] += 1
        only_new = self.headers.get("If-None-Match") == "*"
        answer = self.server.stand_in.buckets.answer(self.command, self.path, body, only_new=only_new)
        self._write(*answer, {"Content-Type": "application/xml"})

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "?delete" in self.path:
            self._object(text)
            return
        stand_in = self.server.stand_in
        target = self.headers.get("X-Amz-Target", "")
        known = by_path("batch").get(f"POST {self.path}")
        service_name, operation = ("batch", known.name) if known is not None else ("logs", "GetLogEvents")
        if known is None and target != _LOGS_TARGET:
            self._send(404, {"message": f"the stand-in has no {self.path} {target}"}, "UnknownOperationException")
            return
        stand_in.calls[operation] += 1
        faults = stand_in.faults
        if faults.down:
            self.close_connection = True
            return
        if self._refused_at_once(faults, operation):
            return
        try:
            answer = stand_in.answer(service_name, operation, json.loads(text or b"{}"))
        except Refused as error:
            self._send(error.status, {"message": error.message}, error.code)
            return
        if faults.take("hang_up", operation):
            self.close_connection = True
        elif faults.take("fail_after", operation):
            self._send(500, {"message": "An internal error occurred"}, "ServerException")
        elif faults.garbage:
            self._write(200, b"<html>out to lunch</html>", {})
        else:
            self._send(200, answer)

    def _refused_at_once(self, faults: Faults, operation: str) -> bool:
        if faults.denied:
            self._send(
                403, {"message": f"User is not authorized to perform: batch:{operation}"}, "AccessDeniedException"
            )
        elif faults.take("throttle", operation):
            self._send(429, {"message": "Too Many Requests"}, "TooManyRequestsException")
        elif faults.take("fail", operation):
            self._send(500, {"message": "An internal error occurred"}, "ServerException")
        else:
            return False
        return True

    def _send(self, status: int, answer: Mapping[str, Any], error: str = "") -> None:
        body = {"__type": error, **answer} if error else answer
        self._write(status, json.dumps(body).encode(), {"x-amzn-ErrorType": error} if error else {})

    def _write(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """No line for each request."""
