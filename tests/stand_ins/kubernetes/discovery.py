"""What there is: versions, groups, resources."""

from __future__ import annotations

from typing import Any

from tests.stand_ins.kubernetes.answers import (
    EVENTS,
    JOBS,
    NAMESPACES,
    NODES,
    PODS,
    Resource,
    no_such_path,
)  # fmt: skip
from tests.stand_ins.kubernetes.models import Object

_ALL = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_READ = ["get", "list", "watch"]
_DOCUMENTED = {"api/v1": (NAMESPACES, PODS), "apis/batch/v1": (JOBS,)}
_GROUPS = {"batch": "v1", "authorization.k8s.io": "v1"}


def describe(path: str, version: str) -> Object:
    """Raises NotFound for what is no such path."""
    if path == "/version":
        return _version(version)
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in _GROUPS]}
    if path == "/api/v1":
        return _resources("v1", [*_rows(NAMESPACES, _ALL), *_rows(NODES, _READ), *_rows(EVENTS, _READ),
                                 *_rows(PODS, _ALL, status=True),
                                 _row(PODS, ["get"], "log"), _row(PODS, ["create"], "eviction")])  # fmt: skip
    if path == "/apis/batch/v1":
        return _resources("batch/v1", _rows(JOBS, _ALL, status=True))
    if path == "/apis/authorization.k8s.io/v1":
        review = {"name": "selfsubjectaccessreviews", "singularName": "", "namespaced": False,
                  "kind": "SelfSubjectAccessReview", "verbs": ["create"]}  # fmt: skip
        return _resources("authorization.k8s.io/v1", [review])
    if path == "/openapi/v3":
        return {"paths": {name: {"serverRelativeURL": f"/openapi/v3/{name}?hash={version}"} for name in _DOCUMENTED}}
    if (name := path.removeprefix("/openapi/v3/")) in _DOCUMENTED:
        return _document(name, version)
    name = path.removeprefix("/apis/")
    if name in _GROUPS:
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(name)}
    raise no_such_path()


def _document(name: str, version: str) -> Object:
    """As much as kubectl reads: whether the server can check fields and do dry runs itself."""
    parameters = [{"name": one, "in": "query", "schema": {"type": "string"}} for one in ("dryRun", "fieldValidation")]
    paths = {}
    for resource in _DOCUMENTED[name]:
        below = "namespaces/{namespace}/" if resource.namespaced else ""
        kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
        patch = {"parameters": parameters, "responses": {"200": {"description": "OK"}},
                 "x-kubernetes-action": "patch", "x-kubernetes-group-version-kind": kind}  # fmt: skip
        paths[f"/{name}/{below}{resource.plural}/{{name}}"] = {"patch": patch}
    return {"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": f"v{version}"}, "paths": paths}


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


def _group(name: str) -> Object:
    version = {"groupVersion": f"{name}/{_GROUPS[name]}", "version": _GROUPS[name]}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(group_version: str, rows: list[Object]) -> Object:
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": rows}


def _rows(resource: Resource, verbs: list[str], *, status: bool = False) -> list[Object]:
    return [_row(resource, verbs)] + ([_row(resource, ["get", "patch", "update"], "status")] if status else [])


def _row(resource: Resource, verbs: list[str], below: str = "") -> Object:
    row: dict[str, Any] = {
        "name": f"{resource.plural}/{below}" if below else resource.plural,
        "singularName": resource.kind.lower(),
        "namespaced": resource.namespaced,
        "kind": "Eviction" if below == "eviction" else resource.kind,
        "verbs": verbs,
    }
    if resource.short_names and not below:
        row["shortNames"] = list(resource.short_names)
    if resource in (JOBS, PODS) and not below:
        row["categories"] = ["all"]
    return row
