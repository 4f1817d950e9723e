"""The demo pipeline as a definition that can be applied."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from ccat_workflow_manager.demo.image import INTERPRETER_IN_IMAGE, PROGRAM, PROGRAM_IN_IMAGE

PIPELINE_FILE = Path(__file__).parent / "pipeline.yaml"


def demo_pipeline(image: str | None) -> dict[str, Any]:
    """The definition in `pipeline.yaml` with this image, or without containers if `image` is None."""
    definition: dict[str, Any] = yaml.safe_load(PIPELINE_FILE.read_text(encoding="utf-8"))
    for step in definition["steps"]:
        step["image"] = image
        if image is None:
            host = {INTERPRETER_IN_IMAGE: sys.executable, PROGRAM_IN_IMAGE: str(PROGRAM)}
            step["command"] = [host.get(word, word) for word in step["command"]]
    return definition
