"""Creating, patching and deleting Jobs, and deleting pods."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tests.stand_ins.kubernetes import admission, errors, schemas
from tests.stand_ins.kubernetes.deletion import Deletion
from tests.stand_ins.kubernetes.errors import Cause, bad_request
from tests.stand_ins.kubernetes.fault_injector import FaultInjector
from tests.stand_ins.kubernetes.http_server import Answer, Request
from tests.stand_ins.kubernetes.objects import JOBS, NAMESPACES, PODS, Key, Object, Resource
from tests.stand_ins.kubernetes.store import Store

_POLICIES = ("Background", "Foreground", "Orphan")
_STRATEGIC = "application/strategic-merge-patch+json"


class Writes:
    """Used by the threads of all requests at once."""

    def __init__(
        self, store: Store, deletion: Deletion, faults: FaultInjector, namespaces: Collection[str], *, old: bool
    ) -> None:
        self.store = store
        self.deletion = deletion
        self.faults = faults
        self.namespaces = namespaces
        self.old = old

    def create(self, namespace: str, request: Request) -> Answer:
        job = schemas.read(JOBS, request.json, old=self.old)
        metadata = job.setdefault("metadata", {})
        if metadata.get("namespace") not in (None, "", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if namespace not in self.namespaces:
            raise errors.not_found(NAMESPACES, namespace)
        self._check_conflict(request, JOBS, metadata.get("name", ""))
        # A Job is checked with its labels in it, so that a name too long for a label is refused.
        job = admission.new_job(admission.new_metadata(job, namespace), old=self.old)
        admission.check_new(job)
        return Answer(201, self.store.create(JOBS, job))

    def patch(self, key: Key, request: Request) -> Answer:
        """Strategic merge patch of a Job."""
        if request.headers.get("content-type", "") != _STRATEGIC:
            raise errors.ApiError(415, "UnsupportedMediaType", f"the stand-in takes only {_STRATEGIC}", {})
        with self.store.lock:
            before = self.store.get(JOBS, key)
            after = schemas.read(JOBS, _merged(before, request.json), old=self.old)
            self._check_conflict(request, JOBS, key[1])
            admission.check_change(before, after)
            return Answer(200, self.store.change(JOBS, key, lambda _: after) or after)

    def delete(self, resource: Resource, key: Key, request: Request) -> Answer:
        options = _delete_options(request)
        with self.store.lock:
            before = self.store.get(resource, key)
            self._check_conflict(request, resource, key[1])
            wanted, uid = (options.get("preconditions") or {}).get("uid"), before["metadata"]["uid"]
            if wanted not in (None, uid):
                why = (
                    f"the UID in the precondition ({wanted}) does not match the UID in record ({uid}). "
                    "The object might have been deleted and then recreated"
                )
                raise errors.conflict(resource, key[1], why, kind=True)
            if resource is PODS:
                return Answer(200, self.deletion.delete_pod(key, options.get("gracePeriodSeconds")) or before)
            # A Job that is deleted without a policy leaves its pods running.
            policy = options.get("propagationPolicy") or "Orphan"
            job = self.deletion.delete_job(key, policy)
            return Answer(200, job if policy != "Background" and job is not None else _success(resource, before))

    def _check_conflict(self, request: Request, resource: Resource, name: str) -> None:
        if self.faults.conflicts(request):
            raise errors.stale(resource, name)


def _delete_options(request: Request) -> Object:
    """DeleteOptions, from the body and from the query. Raises Invalid, BadRequest."""
    body: Any = request.json if request.body.strip() else {}
    if not isinstance(body, dict):
        raise bad_request("DeleteOptions must be an object")
    options: Object = {**body}
    if "propagationPolicy" in request.query:
        options["propagationPolicy"] = request.query["propagationPolicy"]
    if (grace := request.number("gracePeriodSeconds")) is not None:
        options["gracePeriodSeconds"] = grace
    policy = options.get("propagationPolicy")
    if policy is not None and policy not in _POLICIES:
        message = f'Unsupported value: "{policy}": supported values: "Background", "Foreground", "Orphan", "nil"'
        resource = Resource("", "DeleteOptions", "meta.k8s.io")
        raise errors.invalid(resource, "", [Cause("FieldValueNotSupported", message, "propagationPolicy")])
    return options


def _success(resource: Resource, item: Object) -> Object:
    """The answer to a deletion in the background."""
    metadata = item["metadata"]
    details = {**resource.details(metadata["name"]), "uid": metadata["uid"]}
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _merged(value: Any, patch: Any) -> Any:
    """Lists of named objects are merged by name, other lists are replaced."""
    if isinstance(value, dict) and isinstance(patch, dict):
        merged = {**value, **{key: _merged(value.get(key), part) for key, part in patch.items()}}
        return {key: part for key, part in merged.items() if part is not None}
    if isinstance(value, list) and isinstance(patch, list) and all("name" in one for one in (*value, *patch)):
        named = {one["name"]: one for one in value}
        named |= {one["name"]: _merged(named.get(one["name"]), one) for one in patch}
        return list(named.values())
    return patch
