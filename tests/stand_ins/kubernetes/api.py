"""From a path and a method to what is to be done."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.stand_ins.kubernetes import answers, discovery, lists, tables
from tests.stand_ins.kubernetes.access import Access
from tests.stand_ins.kubernetes.answers import RESOURCES, Resource
from tests.stand_ins.kubernetes.exchange import Answer, Request
from tests.stand_ins.kubernetes.fault_desk import FaultInjector
from tests.stand_ins.kubernetes.metrics import Metrics
from tests.stand_ins.kubernetes.models import Object
from tests.stand_ins.kubernetes.pod_parts import PodParts
from tests.stand_ins.kubernetes.store import Store
from tests.stand_ins.kubernetes.writes import Writes

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1(?:/namespaces/(?P<namespace>[^/]+))?"
    r"/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<below>[a-z]+))?"
)
_ONE_NAMESPACE = re.compile(r"/api/v1/namespaces(?:/(?P<name>[^/]+))?")
_REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_BELOW = {"pods": ("log", "status", "eviction"), "jobs": ("status",)}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names."""

    resource: Resource
    namespace: str
    name: str
    below: str

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name


class Api:
    """Used by the threads of all requests at once."""

    def __init__(
        self,
        store: Store,
        writes: Writes,
        parts: PodParts,
        access: Access,
        desk: FaultInjector,
        version: str,
        scale: float,
        metrics: Metrics | None,
    ) -> None:
        self.store = store
        self.writes = writes
        self.parts = parts
        self.access = access
        self.desk = desk
        self.version = version
        self.scale = scale
        self.metrics = metrics

    def answer(self, request: Request) -> Answer:
        """Raises ApiError."""
        self.access.user_of(request.headers.get("authorization", ""))
        if request.path in ("/healthz", "/livez", "/readyz"):
            return Answer(200, b"ok", "text/plain")
        if request.path == _REVIEW and request.method == "POST":
            return Answer(201, self._review(request.json))
        if self.metrics is not None and (answer := self.metrics.answer(request)) is not None:
            return answer
        target = _target(request.path.rstrip("/"))
        if target is None:
            if request.method != "GET":
                raise answers.no_such_path()
            return Answer(200, discovery.describe(request.path.rstrip("/"), self.version))
        verb = _verb(request, target)
        self.access.check(verb, target.resource, target.below, target.namespace, target.name)
        if request.method == "GET":
            return self._read(target, verb, request)
        return self._write(target, request)

    def _read(self, target: Target, verb: str, request: Request) -> Answer:
        resource = target.resource
        if target.below == "log":
            return self.parts.log(target.key, request)
        if target.name and verb == "get":
            item = self.store.get(resource, target.key)
            if request.wants_table:
                item = tables.table(resource, [item], {"resourceVersion": item["metadata"]["resourceVersion"]})
            return Answer(200, item)
        if verb == "watch":
            expire = self.desk.on_watch(request)

            def shape(item: Object) -> Object:
                return tables.table(resource, [item], {}) if request.wants_table else item

            stream = lists.watch(self.store, resource, target.namespace, request, expire, shape, self.scale)
            return Answer(200, stream=stream)
        found = lists.list_objects(self.store, resource, target.namespace, request)
        if request.wants_table:
            items = [{"kind": resource.kind, **item} for item in found["items"]]
            found = tables.table(resource, items, found["metadata"])
        return Answer(200, found)

    def _write(self, target: Target, request: Request) -> Answer:
        resource, namespace = target.resource, target.namespace
        if target.below == "eviction" and request.method == "POST":
            return self.parts.evict(target.key)
        if request.method == "POST" and not target.name:
            return self.writes.create(resource, namespace, request)
        if request.method == "DELETE" and not target.below:
            if target.name:
                return self.writes.delete(resource, target.key, request)
            return self.writes.delete_all(resource, namespace, request)
        if target.name and request.method == "PUT":
            return self.writes.replace(resource, target.key, target.below, request)
        if target.name and request.method == "PATCH":
            return self.writes.patch(resource, target.key, target.below, request)
        raise answers.method_not_allowed()

    def _review(self, review: Object) -> Object:
        wanted = (review.get("spec") or {}).get("resourceAttributes") or {}
        plural, below = wanted.get("resource", ""), wanted.get("subresource", "")
        name = f"{plural}/{below}" if below else plural
        allowed = self.access.allows(wanted.get("verb", ""), wanted.get("group", ""), name)
        return {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "metadata": {},
                "spec": review.get("spec", {}), "status": {"allowed": allowed}}  # fmt: skip


def _target(path: str) -> Target | None:
    if match := _ONE_NAMESPACE.fullmatch(path):
        return Target(answers.NAMESPACES, "", match["name"] or "", "")
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    for resource in RESOURCES:
        if (resource.plural, resource.group) == (match["plural"], match["group"] or ""):
            below = match["below"] or ""
            if below and below not in _BELOW.get(resource.plural, ()):
                raise answers.no_such_path()
            return Target(resource, match["namespace"] or "", match["name"] or "", below)
    raise answers.no_such_path()


def _verb(request: Request, target: Target) -> str:
    if request.method == "GET":
        if target.name and not request.flag("watch"):
            return "get"
        return "watch" if request.flag("watch") else "list"
    if request.method == "DELETE" and not target.name:
        return "deletecollection"
    if request.method not in _VERBS:
        raise answers.method_not_allowed()
    return _VERBS[request.method]
