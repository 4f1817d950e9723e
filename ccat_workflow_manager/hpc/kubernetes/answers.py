"""The answers of the API server and the errors that they stand for. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ccat_workflow_manager.errors import (
    BackendConfused,
    BackendError,
    BackendRejected,
    BackendUnavailable,
    JobDeferred,
)

REPEATED = frozenset({429, 500, 502, 503, 504})
"""Repeating the request may help. Every request may be repeated, because Jobs have unique names."""
_NEVER = frozenset({400, 405, 413, 415, 422})
_DENIED = re.compile(r"denied (the )?request")
"""Admission webhooks and policies use these words: they refuse the object, not the user."""
_QUOTA = re.compile(r"exceeded quota")
_TAIL = 2000


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def reason(self) -> str:
        """The reason of an error (AlreadyExists, NotFound ...)."""
        return str(_status_object(self.body).get("reason") or "")

    @property
    def words(self) -> str:
        message = _status_object(self.body).get("message")
        text = message if isinstance(message, str) else self.body.decode("utf-8", "replace")
        return " ".join(text.split())[:_TAIL] or f"HTTP {self.status}"


class Expired(BackendUnavailable):
    """The API server no longer has the history since this version: the objects have to be listed again."""


def _status_object(body: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and found.get("kind") == "Status" else {}


def content(answer: Answer, kind: str) -> dict[str, Any]:
    """The object in a successful answer. Raises BackendConfused if it is of another kind."""
    try:
        found = json.loads(answer.body)
    except (ValueError, RecursionError) as error:
        raise confused(f"it is no JSON: {error}", answer.body) from error
    if not isinstance(found, dict) or found.get("kind") != kind:
        raise confused(f"it is no {kind}", answer.body)
    return found


def confused(why: str, body: bytes) -> BackendConfused:
    tail = body[-_TAIL:].decode("utf-8", "replace")
    return BackendConfused(
        f"an answer of the Kubernetes API server cannot be read: {why}", backend="kubernetes", output_tail=tail
    )


def refusal(answer: Answer, what: str) -> BackendError:
    """The error of a request that the server has refused."""
    words = f"{what}: {answer.words}"
    if answer.status in _NEVER:
        return BackendRejected(f"Kubernetes cannot take this job: {words}", backend="kubernetes")
    if answer.status == 410:
        return Expired(words, backend="kubernetes")
    if answer.status == 401:
        return BackendUnavailable(f"the API server does not accept our credentials: {words}", backend="kubernetes")
    if answer.status == 429:
        return BackendUnavailable(f"the API server has too many requests now: {words}", backend="kubernetes")
    return BackendUnavailable(f"the API server refuses (HTTP {answer.status}): {words}", backend="kubernetes")


def refused_job(answer: Answer, what: str) -> BackendError:
    """The error of a Job that the server has refused: other Jobs may still be accepted."""
    words = f"{what}: {answer.words}"
    if answer.status == 403 and _DENIED.search(answer.words):
        return BackendRejected(f"the cluster does not admit this job: {words}", backend="kubernetes")
    if answer.status == 403 and _QUOTA.search(answer.words):
        return JobDeferred(f"the namespace has no room for this job: {words}", backend="kubernetes")
    if answer.status == 409 and answer.reason == "Conflict":
        return JobDeferred(f"the cluster was too busy with others to take this job: {words}", backend="kubernetes")
    return refusal(answer, what)
