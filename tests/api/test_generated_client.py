"""A client that openapi-python-client makes from our OpenAPI document has every call, and talks to the service."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.api.rest import ONE, Rest
from tests.client.test_client import URL, Through
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.whole


def test_every_call_is_generated(rest: Rest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = rest.client.get("/openapi.json").text
    (tmp_path / "openapi.json").write_text(document)
    (tmp_path / "config.yaml").write_text("post_hooks: []\n")
    program = str(Path(sys.executable).with_name("openapi-python-client"))
    done = subprocess.run(
        [program, "generate", "--path", "openapi.json", "--config", "config.yaml", "--meta", "none",
         "--output-path", "generated_ccat", "--fail-on-warning"],
        cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    modules = {path.stem for path in (tmp_path / "generated_ccat" / "api").glob("*/*.py")} - {"__init__"}
    calls = [call for path in json.loads(document)["paths"].values() for call in path.values()]
    assert modules == {call["operationId"] for call in calls}
    monkeypatch.syspath_prepend(str(tmp_path))
    client = importlib.import_module("generated_ccat").Client(URL, httpx_args={"transport": Through(rest.client)})

    def generated(name: str) -> Any:
        return importlib.import_module(f"generated_ccat.api.{name}")

    request = importlib.import_module("generated_ccat.models").RunRequest.from_dict({"spec": ONE})
    made = generated("runs.create_run").sync(client=client, body=request)
    assert (made.pipeline, made.step_runs[0].step) == ("one", "only")
    listed = generated("runs.list_runs").sync(client=client, limit=5)
    assert [each.id for each in listed.items] == [made.id]
    waiting = generated("explain.explain_one").sync(client=client, step_run_id=made.step_runs[0].id)
    assert waiting.to_dict()
