"""From a request to its answer: who asks, whether that is allowed, and what is to be done."""

from __future__ import annotations

import re
import secrets
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.stand_ins.kubernetes import errors, reads
from tests.stand_ins.kubernetes.containers import log_of, shown_lines
from tests.stand_ins.kubernetes.errors import bad_request
from tests.stand_ins.kubernetes.fault_injector import FaultInjector
from tests.stand_ins.kubernetes.http_server import Answer, Request
from tests.stand_ins.kubernetes.objects import JOBS, PODS, STORED, Key, Object, Resource
from tests.stand_ins.kubernetes.store import Store
from tests.stand_ins.kubernetes.writes import Writes

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1/namespaces/(?P<namespace>[^/]+)"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?P<log>/log)?/?"
)
_VERBS = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}
_WRITES = {(JOBS, "create"), (JOBS, "patch"), (JOBS, "delete"), (PODS, "delete")}


class Access:
    """One user with one valid token, who may do everything or what the `rules` of a Role allow."""

    user = "system:serviceaccount:default:ccat-wm"

    def __init__(self, rules: Sequence[Mapping[str, Any]] | None) -> None:
        self.rules = rules
        self._lock = threading.Lock()
        self._token = _new_token()
        self._expired = False

    @property
    def token(self) -> str:
        return self._token

    def check_token(self, header: str) -> None:
        """By the Authorization header. Raises Unauthorized."""
        scheme, _, token = header.partition(" ")
        with self._lock:
            if self._expired or scheme.lower() != "bearer" or not secrets.compare_digest(token.strip(), self._token):
                raise errors.unauthorized()

    def expire(self, *, renew: bool) -> None:
        with self._lock:
            self._expired = not renew
            self._token = _new_token()

    def allows(self, verb: str, group: str, plural: str) -> bool:
        wanted = {"apiGroups": group, "resources": plural, "verbs": verb}
        return self.rules is None or any(
            all(word in rule.get(key, ()) or "*" in rule.get(key, ()) for key, word in wanted.items())
            for rule in self.rules
        )


def _new_token() -> str:
    return f"stand-in-{secrets.token_urlsafe(24)}"


class Api:
    """Used by the threads of all requests at once. `lost`: the nodes whose kubelets do not answer."""

    def __init__(
        self,
        store: Store,
        writes: Writes,
        access: Access,
        faults: FaultInjector,
        version: str,
        scale: float,
        directory: Path,
        lost: set[str],
    ) -> None:
        self.store = store
        self.writes = writes
        self.access = access
        self.faults = faults
        self.version = version
        self.scale = scale
        self.directory = directory
        self.lost = lost

    def answer(self, request: Request) -> Answer:
        """Raises Cut where a fault says so."""
        answer = self.faults.before(request)
        if answer is None:
            try:
                answer = self._answer(request)
            except errors.ApiError as error:
                answer = Answer(error.code, error.body)
            self.faults.after(request)
        return answer

    def _answer(self, request: Request) -> Answer:
        self.access.check_token(request.headers.get("authorization", ""))
        if request.path == "/version":
            return Answer(200, _version(self.version))
        match = _PATH.fullmatch(request.path)
        known = [] if match is None else [
            each for each in STORED if (each.plural, each.group) == (match["plural"], match["group"] or "")
        ]  # fmt: skip
        if match is None or not known or (match["log"] and not (known[0] is PODS and match["name"])):
            raise errors.no_such_path()
        resource, namespace, name = known[0], match["namespace"], match["name"] or ""
        verb = _verb(request, name)
        plural = f"{resource.plural}/log" if match["log"] else resource.plural
        if self.faults.forbids(verb, plural) or not self.access.allows(verb, resource.group, plural):
            raise errors.forbidden(resource, plural, verb, namespace, name, self.access.user)
        if match["log"]:
            return self._log((namespace, name), request)
        if request.method == "GET":
            return self._read(resource, verb, (namespace, name), request)
        return self._write(resource, verb, (namespace, name), request)

    def _read(self, resource: Resource, verb: str, key: Key, request: Request) -> Answer:
        if verb == "get":
            return Answer(200, self.store.get(resource, key))
        if verb == "list":
            return Answer(200, reads.list_objects(self.store, resource, key[0], request))
        expire = self.faults.on_watch(request)
        return Answer(200, stream=reads.watch(self.store, resource, key[0], request, expire, self.scale))

    def _write(self, resource: Resource, verb: str, key: Key, request: Request) -> Answer:
        if (resource, verb) not in _WRITES or bool(key[1]) != (verb != "create"):
            raise errors.method_not_allowed()
        if verb == "create":
            return self.writes.create(key[0], request)
        if verb == "patch":
            return self.writes.patch(key, request)
        return self.writes.delete(resource, key, request)

    def _log(self, key: Key, request: Request) -> Answer:
        pod = self.store.get(PODS, key)
        name, node = _only_container(pod, request), pod["spec"].get("nodeName")
        if node in self.lost:
            address = f"https://{node}:10250/containerLogs/{key[0]}/{key[1]}/{name}"
            raise errors.ApiError(500, "InternalError", f'Get "{address}": dial tcp {node}:10250: i/o timeout', {})
        path = log_of(self.directory, pod["metadata"]["uid"], name)
        if not path.exists():
            raise bad_request(f'container "{name}" in pod "{key[1]}" is waiting to start')
        tail = request.number("tailLines")
        with path.open("rb") as file:
            lines = list(file if tail is None else deque(file, tail))
        return Answer(200, b"".join(shown_lines(lines, timestamps=request.flag("timestamps"))), "text/plain")


def _only_container(pod: Object, request: Request) -> str:
    asked, names = request.query.get("container", ""), [one["name"] for one in pod["spec"]["containers"]]
    pod_name = pod["metadata"]["name"]
    if asked and asked not in names:
        raise bad_request(f"container {asked} is not valid for pod {pod_name}")
    if not asked and len(names) > 1:
        raise bad_request(f"a container name must be specified for pod {pod_name}, choose one of: [{' '.join(names)}]")
    return asked or str(names[0])


def _verb(request: Request, name: str) -> str:
    if request.method == "GET":
        return "watch" if request.flag("watch") else "get" if name else "list"
    if request.method not in _VERBS:
        raise errors.method_not_allowed()
    return _VERBS[request.method]


def _version(version: str) -> Object:
    major, minor = version.split(".")[:2]
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"v{major}.{minor}.2",
        "gitCommit": "0" * 40,
        "gitTreeState": "archive",
        "buildDate": "2026-01-01T00:00:00Z",
        "goVersion": "go1.0",
        "compiler": "gc",
        "platform": "linux/amd64",
    }
