"""The strict schemas of kubernetes-validate, which refuse fields that there are not; read once, not for each object."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource


def strictly_valid(item: dict[str, Any]) -> None:
    """Raises ValidationError."""
    _validator(item["kind"], item["apiVersion"]).validate(item)


@cache
def _validator(kind: str, api_version: str) -> Draft202012Validator:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / "v1.37.0-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text())
    schema = json.loads((folder / f"{kind.lower()}-{api_version.replace('/', '-')}.json").read_text())
    registry: Registry[Any] = Resource.from_contents(definitions) @ Registry()
    return Draft202012Validator(schema, registry=registry)
