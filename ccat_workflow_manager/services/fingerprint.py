"""What decides the products of a step run, part by part. Equal parts mean equal products.

A program that reads a parameter from its manifest must name it in its command or environment, too: only the parameters
that the definition uses are parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ccat_workflow_manager.db.products import Upstream
from ccat_workflow_manager.definition.compiled import CompiledPipeline
from ccat_workflow_manager.definition.substitution import NoValue, look_up, substitute_step
from ccat_workflow_manager.json_values import JSON, canonical_json
from ccat_workflow_manager.lifecycle.models import WorkItem

IMAGE = "image"
_LONGEST = 500
_MEANINGS = {
    IMAGE: "the image",
    "programs": "a program on the host",
    "command": "the command",
    "environment": "the environment",
    "files": "the files of the definition",
    "parameters": "the parameters that it uses",
    "item": "its item",
    "inputs": "the inputs",
    "upstream": "the products of the steps before it",
}
_SEVERAL = frozenset({"files", "parameters", "inputs", "upstream"})


@dataclass(frozen=True, slots=True)
class Difference:
    """A part of two fingerprints that is not the same."""

    part: str
    now: str
    before: str

    @property
    def text(self) -> str:
        return f"{_MEANINGS[self.part]} {'are' if self.part in _SEVERAL else 'is'} different"


def own_parts(item: WorkItem, compiled: CompiledPipeline) -> dict[str, JSON]:
    """The parts of a step run that do not depend on other step runs. The image is its name here."""
    run = item.run
    return planned_parts(compiled, item.step, run.parameters, item.item, str(run.run_id))


def planned_parts(
    compiled: CompiledPipeline, name: str, parameters: Mapping[str, JSON], item: JSON, run_id: str
) -> dict[str, JSON]:
    """The parts that are known when the run is created. The image is its name here."""
    step = compiled.step(name)
    texts = substitute_step(step.spec, parameters, item, run_id, name)
    used: dict[str, JSON] = {}
    for use in step.uses:
        with suppress(NoValue):
            used[".".join(use.names)] = look_up(parameters, use.names)
    return {
        IMAGE: texts.image,
        "command": texts.command,
        "environment": {**texts.environment, **{name: {"secret": it} for name, it in texts.secrets.items()}},
        "files": dict(step.files),
        "parameters": used,
        "item": item,
    }


def parts_of(
    item: WorkItem,
    compiled: CompiledPipeline,
    upstream: Sequence[Upstream],
    inputs: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> dict[str, JSON]:
    """All parts, with what the attempt really ran in place of the name of the image.

    `inputs` are the checksums of its inputs by name.
    """
    products: list[JSON] = [
        [each.step, each.key, p.name, p.type, p.path, p.size, p.sha256] for each in upstream for p in each.products
    ]
    return {
        **own_parts(item, compiled),
        IMAGE: provenance.get(IMAGE),
        "programs": provenance.get("programs", {}),
        "inputs": dict(inputs),
        "upstream": [[each.step, each.key, each.status] for each in upstream] + products,
    }


def differences(now: Mapping[str, JSON], before: Mapping[str, JSON]) -> list[Difference]:
    return [
        Difference(part, _shown(now[part]), _shown(before.get(part)))
        for part in now
        if canonical_json(now[part]) != canonical_json(before.get(part))
    ]


def _shown(value: JSON) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
