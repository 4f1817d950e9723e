"""POST, PUT, PATCH and DELETE of objects."""

from __future__ import annotations

from typing import Any

from tests.stand_ins.kubernetes import answers, defaults, patches, schemas, validation
from tests.stand_ins.kubernetes.answers import (
    JOBS,
    NAMESPACES,
    PODS,
    Cause,
    Resource,
    bad_request,
)
from tests.stand_ins.kubernetes.deletion import Deletion
from tests.stand_ins.kubernetes.exchange import Answer, Request
from tests.stand_ins.kubernetes.fault_desk import FaultInjector
from tests.stand_ins.kubernetes.models import Object
from tests.stand_ins.kubernetes.selectors import selector
from tests.stand_ins.kubernetes.store import Key, Store, key_of

_POLICIES = ("Background", "Foreground", "Orphan")


class Writes:
    """Used by the threads of all requests at once."""

    def __init__(self, store: Store, deletion: Deletion, desk: FaultInjector, *, old: bool) -> None:
        self.store = store
        self.deletion = deletion
        self.desk = desk
        self.old = old

    def create(self, resource: Resource, namespace: str, request: Request) -> Answer:
        item, warnings = self._read(resource, request, request.json)
        metadata = item.setdefault("metadata", {})
        if namespace and metadata.get("namespace") not in (None, "", namespace):
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if namespace and self.store.find(NAMESPACES, ("", namespace)) is None:
            raise answers.not_found(NAMESPACES, namespace)
        self.desk.on_write(request, resource, metadata.get("name", ""))
        item = defaults.new_metadata(item, namespace if resource.namespaced else "")
        if resource is JOBS:
            # A Job is checked with its labels in it, so that a name too long for a label is refused.
            restart = (item["spec"]["template"].get("spec") or {}).get("restartPolicy")
            item = defaults.new_job(item, old=self.old)
            if restart is None:
                del item["spec"]["template"]["spec"]["restartPolicy"]
        elif resource is PODS:
            item = defaults.new_pod(item)
        elif resource is NAMESPACES:
            item = {**item, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
        validation.check_new(resource, item)
        if request.query.get("dryRun"):
            return Answer(201, item, headers=warnings)
        return Answer(201, self.store.create(resource, item), headers=warnings)

    def replace(self, resource: Resource, key: Key, below: str, request: Request) -> Answer:
        item, warnings = self._read(resource, request, request.json)
        if item.get("metadata", {}).get("name") != key[1]:
            name = item.get("metadata", {}).get("name", "")
            raise bad_request(f"the name of the object ({name}) does not match the name on the URL ({key[1]})")
        return Answer(200, self._store(resource, key, below, item, request), headers=warnings)

    def patch(self, resource: Resource, key: Key, below: str, request: Request) -> Answer:
        patch = request.json
        with self.store.lock:
            before = self.store.get(resource, key)
            content_type = request.headers.get("content-type", "")
            item, warnings = self._read(resource, request, patches.patched(before, patch, content_type))
            return Answer(200, self._store(resource, key, below, item, request), headers=warnings)

    def _store(self, resource: Resource, key: Key, below: str, item: Object, request: Request) -> Object:
        with self.store.lock:
            before = self.store.get(resource, key)
            self.desk.on_write(request, resource, key[1])
            asked = item["metadata"].get("resourceVersion")
            if asked and asked != before["metadata"]["resourceVersion"]:
                raise answers.stale(resource, key[1])
            uid = item["metadata"].get("uid")
            if uid and uid != before["metadata"]["uid"]:
                why = (
                    f"Precondition failed: UID in precondition: {uid}, UID in object meta: {before['metadata']['uid']}"
                )
                raise answers.conflict(resource, key[1], why)
            if below == "status":
                after = {**before, "status": item.get("status", {})}
            else:
                fixed = ("namespace", "uid", "creationTimestamp", "resourceVersion", "generation",
                         "deletionTimestamp", "deletionGracePeriodSeconds")  # fmt: skip
                kept = {name: before["metadata"][name] for name in fixed if name in before["metadata"]}
                own = {
                    name: value for name, value in item["metadata"].items() if name not in fixed and value is not None
                }
                after = {**item, "metadata": {**own, **kept}}
                after |= {name: before[name] for name in ("status",) if name in before}
                after = defaults.completed(resource, after)
                validation.check_change(resource, before, after)
            if request.query.get("dryRun"):
                return after
            return self.store.change(resource, key, lambda _: after) or after

    def delete(self, resource: Resource, key: Key, request: Request) -> Answer:
        options = self._options(request)
        with self.store.lock:
            before = self.store.get(resource, key)
            self.desk.on_write(request, resource, key[1])
            self._check_preconditions(resource, before, options)
            if request.query.get("dryRun"):
                return Answer(200, before)
            return Answer(200, self._delete(resource, before, options))

    def delete_all(self, resource: Resource, namespace: str, request: Request) -> Answer:
        options = self._options(request)
        chosen = selector(resource, request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))
        with self.store.lock:
            items = [item for item in self.store.all(resource, namespace) if chosen(item)]
            for item in items:
                self._delete(resource, item, options)
            metadata = {"resourceVersion": str(self.store.version)}
        return Answer(200, {"kind": f"{resource.kind}List", "apiVersion": resource.api_version,
                            "metadata": metadata, "items": items})  # fmt: skip

    def _delete(self, resource: Resource, item: Object, options: Object) -> Object:
        key, metadata = key_of(item), item["metadata"]
        done = answers.success(resource, key[1], metadata["uid"])
        if resource is JOBS:
            # A Job that is deleted without a word of policy leaves its pods running.
            policy = options.get("propagationPolicy") or (
                "Background" if options.get("orphanDependents") is False else "Orphan"
            )
            job = self.deletion.delete_job(key, policy)
            return done if policy == "Background" or job is None else job
        if resource is PODS:
            grace = options.get("gracePeriodSeconds")
            pod = self.deletion.delete_pod(key, grace) or item
            if grace == 0 and self.store.find(PODS, key) is not None:
                self.store.remove(PODS, key)
            return pod
        if resource is NAMESPACES:
            for job in self.store.all(JOBS, key[1]):
                self.deletion.delete_job(key_of(job), "Background")
            for pod in self.store.all(PODS, key[1]):
                self.deletion.delete_pod(key_of(pod))
        self.store.remove(resource, key)
        return done

    def _options(self, request: Request) -> Object:
        """DeleteOptions, from the body and from the query. Raises Invalid, BadRequest."""
        body: Any = request.json if request.body.strip() else {}
        if not isinstance(body, dict):
            raise bad_request("DeleteOptions must be an object")
        options: Object = {**body}
        for name in ("propagationPolicy", "gracePeriodSeconds", "orphanDependents"):
            if name in request.query:
                options[name] = request.query[name]
        grace = options.get("gracePeriodSeconds")
        if grace is not None:
            options["gracePeriodSeconds"] = max(0, int(grace))
        if isinstance(options.get("orphanDependents"), str):
            options["orphanDependents"] = options["orphanDependents"] == "true"
        policy = options.get("propagationPolicy")
        if policy is not None and policy not in _POLICIES:
            message = f'Unsupported value: "{policy}": supported values: "Background", "Foreground", "Orphan", "nil"'
            told = Resource("", "DeleteOptions", "meta.k8s.io")
            raise answers.invalid(told, "", [Cause("FieldValueNotSupported", message, "propagationPolicy")])
        return options

    @staticmethod
    def _check_preconditions(resource: Resource, item: Object, options: Object) -> None:
        wanted = options.get("preconditions") or {}
        name, metadata = item["metadata"]["name"], item["metadata"]
        if wanted.get("uid") is not None and wanted["uid"] != metadata["uid"]:
            why = (
                f"the UID in the precondition ({wanted['uid']}) does not match the UID in record ({metadata['uid']}). "
                "The object might have been deleted and then recreated"
            )
            raise answers.conflict(resource, name, why, kind=True)
        if wanted.get("resourceVersion") not in (None, metadata["resourceVersion"]):
            why = (
                f"the ResourceVersion in the precondition ({wanted['resourceVersion']}) does not match the "
                f"ResourceVersion in record ({metadata['resourceVersion']}). The object might have been modified"
            )
            raise answers.conflict(resource, name, why, kind=True)

    def _read(self, resource: Resource, request: Request, item: Any) -> tuple[Object, dict[str, str]]:
        """The object of a request, without unknown fields, and the headers that tell of those."""
        if not isinstance(item, dict):
            raise bad_request("couldn't get version/kind; json parse error: json: cannot unmarshal into Go value")
        kind, version = item.get("kind") or resource.kind, item.get("apiVersion") or resource.api_version
        where = f'{kind} in version "{version.rpartition("/")[2]}" cannot be handled as a {resource.kind}'
        if (kind, version) != (resource.kind, resource.api_version):
            why = f'no kind "{kind}" is registered for version "{version}" in scheme'
            raise bad_request(f'{where}: {why} "k8s.io/kubernetes/pkg/api/legacyscheme/scheme.go:30"')
        item = {**item, "kind": kind, "apiVersion": version}
        for fault in schemas.type_faults(item):
            path = _path(fault.absolute_path)
            if fault.validator == "required":
                missing = fault.message.split("'")[1]
                place = f"{path}.{missing}" if path else missing
                name = (item.get("metadata") or {}).get("name", "")
                raise answers.invalid(resource, name, [Cause("FieldValueRequired", "Required value", place)])
            raise bad_request(f"{where}: json: cannot unmarshal into Go struct field {path}: {fault.message}")
        kept, unknown = schemas.prune(item, old=self.old)
        if resource is JOBS and not isinstance((kept.get("spec") or {}).get("template"), dict):
            name = (item.get("metadata") or {}).get("name", "")
            raise answers.invalid(resource, name, [Cause("FieldValueRequired", "Required value", "spec.template")])
        return kept, self._told(where, unknown, request)

    def _told(self, where: str, unknown: list[str], request: Request) -> dict[str, str]:
        """An old server drops unknown fields without a word."""
        how = request.query.get("fieldValidation", "Warn")
        if not unknown or self.old or how == "Ignore":
            return {}
        words = [f'unknown field "{path}"' for path in unknown]
        if how == "Strict":
            raise bad_request(f"{where}: strict decoding error: {', '.join(words)}")
        quoted = [word.replace('"', '\\"') for word in words]
        return {"Warning": ", ".join(f'299 - "{word}"' for word in quoted)}


def _path(parts: Any) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text
