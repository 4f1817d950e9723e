"""`config/manifest.json`: the description of an attempt for its program."""

from __future__ import annotations

import json
import os
from typing import Any

from ccat_workflow_manager.execution.launch_spec import LostUpstream, ResolvedImage, StepLaunch, UpstreamProducts
from ccat_workflow_manager.execution.layout import ProgramPaths
from ccat_workflow_manager.json_values import JSON

MANIFEST_VERSION = 1


def manifest(step: StepLaunch, paths: ProgramPaths, image: ResolvedImage | None) -> dict[str, JSON]:
    """The content. All paths are those that the program sees. The environment is left out: it may hold secrets."""
    resources = step.resources
    return {
        "manifest_version": MANIFEST_VERSION,
        "pipeline": step.pipeline,
        "run_id": step.run_id,
        "step": step.step,
        "key": step.key,
        "item": step.item,
        "attempt": step.attempt,
        "command": list(step.command),
        "image": None if image is None else {"reference": image.reference, "digest": image.digest},
        "parameters": dict(step.parameters),
        "resources": {
            "cpu": resources.cpu,
            "memory_gb": resources.memory_gb,
            "time_hours": resources.time_hours,
            "gpu": resources.gpu,
        },
        "paths": {
            "input": paths.input,
            "upstream": paths.upstream,
            "workspace": paths.workspace,
            "output": paths.output,
            "logs": paths.logs,
            **({"code": paths.code} if step.files else {}),
        },
        "files": dict(step.files),
        "inputs": [
            {
                "name": each.name,
                "path": f"{paths.input}/{each.name}",
                "source": each.source,
                "size": each.size,
                "sha256": each.sha256,
                "is_directory": each.is_directory,
            }
            for each in step.inputs
        ],
        "upstream": [
            *(_upstream(source, paths) for source in step.upstream),
            *(_lost_upstream(source) for source in step.lost),
        ],
    }


def _upstream(source: UpstreamProducts, paths: ProgramPaths) -> dict[str, Any]:
    return {
        "step": source.step,
        "key": source.key,
        "outcome": "present",
        "directory": f"{paths.upstream}/{source.step}/{source.key}",
        "products": [
            {
                "id": str(product.id),
                "name": product.name,
                "type": product.type,
                "path": product.path,
                "size": product.size,
                "sha256": product.sha256,
                "is_directory": product.is_directory,
            }
            for product in source.products
        ],
    }


def _lost_upstream(source: LostUpstream) -> dict[str, Any]:
    return {
        "step": source.step,
        "key": source.key,
        "outcome": source.outcome,
        "reason": source.reason,
        "text": source.text,
        "directory": None,
        "products": [],
    }


def write_atomically(path: str, content: dict[str, JSON]) -> None:
    """Write a temporary file and rename it: an adopted job may read the file while it is staged again."""
    partial = f"{path}.part"
    data = json.dumps(content).encode()
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)
    os.rename(partial, path)
