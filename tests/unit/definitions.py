"""Pipeline definitions for tests: sound ones, to which a test adds what it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ccat_workflow_manager.errors import Fault, Invalid

CONTRACT_EXAMPLE = """
name: chai-map
description: Calibrate, baseline and grid one source
parameters:
  type: object
  required: [line]
  properties: {line: {type: string, default: CO43}, scans: {type: array, items: {type: string}}}
defaults: {backend: null, resources: {cpu: 1, memory_gb: 2, time_hours: 1}, retry: {max_attempts: 2}}
steps:
  - name: calibrate
    image: chai-calibration.sif
    command: [calibrate, --scan, "${item}", --line, "${parameters.line}"]
    foreach: "${parameters.scans}"
    environment: {OMP_NUM_THREADS: "4"}
    resources: {cpu: 4, memory_gb: 16, time_hours: 2, gpu: 0, partition: null, account: null, extra: {}}
    retry: {max_attempts: 3, backoff_seconds: 10, on: [node_failure, preempted, lost, out_of_memory, time_limit],
            memory_factor: 2, memory_cap_gb: 64, time_factor: 2}
  - name: baseline
    depends_on: [calibrate]
    foreach: "${parameters.scans}"
    image: chai-baseline.sif
    command: [baseline, --scan, "${item}"]
  - name: grid
    depends_on: [baseline]
    image: chai-gridding.sif
    command: [grid]
"""

SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "items": {"type": "array"},
        "part": {"type": "object", "properties": {"size": {"type": "number"}, "list": {"type": "array"}}},
        "anything": {},
    },
}


def pipeline(*steps: Any, **fields: Any) -> dict[str, Any]:
    """A definition with these steps (one plain step if none is given)."""
    return {"name": "p", "parameters": SCHEMA, "steps": list(steps) or [step()], **fields}


def step(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, "command": ["true"], **fields}


def with_schema(**properties: Any) -> dict[str, Any]:
    """A definition with these parameters."""
    return pipeline(parameters={"type": "object", "properties": properties})


def nested(depth: int, keyword: str = "items") -> dict[str, Any]:
    """A schema that is so deep."""
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {keyword: schema}
    return schema


def faults_of(call: Callable[..., object], *arguments: Any) -> dict[str, str]:
    """The faults that a call complains about: message by path."""
    with pytest.raises(Invalid) as caught:
        call(*arguments)
    faults: tuple[Fault, ...] = caught.value.faults
    assert faults, "Invalid without a fault"
    assert all(fault.message and "\n" not in fault.message for fault in faults)
    paths = [fault.path for fault in faults]
    assert len(set(paths)) == len(paths), f"a place is named twice: {paths}"
    return {fault.path: fault.message for fault in faults}
