"""Who may do what: bearer tokens, and the rules of a Role."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from tests.stand_ins.kubernetes import answers
from tests.stand_ins.kubernetes.answers import Resource
from tests.stand_ins.kubernetes.fault_desk import FaultInjector

USER = "system:serviceaccount:default:ccat-wm"


class Access:
    """One user with one valid token, who may do everything or what `rules` say."""

    def __init__(self, desk: FaultInjector, rules: Sequence[Mapping[str, Any]] | None) -> None:
        self.desk = desk
        self.rules = rules
        self._lock = threading.Lock()
        self._token = _new_token()
        self._expired = False

    @property
    def token(self) -> str:
        return self._token

    def user_of(self, header: str) -> str:
        """By the Authorization header. Raises Unauthorized."""
        scheme, _, token = header.partition(" ")
        with self._lock:
            if self._expired or scheme.lower() != "bearer" or not secrets.compare_digest(token.strip(), self._token):
                raise answers.unauthorized()
        return USER

    def expire(self, *, renew: bool) -> None:
        with self._lock:
            self._expired = not renew
            self._token = _new_token()

    def check(self, verb: str, resource: Resource, subresource: str, namespace: str, name: str) -> None:
        """Raises Forbidden."""
        plural = f"{resource.plural}/{subresource}" if subresource else resource.plural
        if not self.allows(verb, resource.group, plural):
            raise answers.forbidden(resource, subresource, verb, namespace, name, USER)

    def allows(self, verb: str, group: str, plural: str) -> bool:
        if self.desk.forbids(verb, plural):
            return False
        if self.rules is None:
            return True
        return any(
            _in(group, rule.get("apiGroups", ()))
            and _in(plural, rule.get("resources", ()))
            and _in(verb, rule["verbs"])
            for rule in self.rules
        )


def _in(word: str, words: Sequence[str]) -> bool:
    return "*" in words or word in words


def _new_token() -> str:
    return f"stand-in-{secrets.token_urlsafe(24)}"
