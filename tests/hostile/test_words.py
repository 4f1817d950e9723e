"""Hostile words through every mouth: they come out as they went in, and mean nothing on the way."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.commands.log_format import JsonFormatter, TextFormatter
from ccat_workflow_manager.commands.output import console, print_json, table
from ccat_workflow_manager.commands.terminal_text import plain
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.definition.keys import item_keys
from ccat_workflow_manager.execution.declarations import parse_outcome, parse_warnings
from ccat_workflow_manager.execution.manifest import write_atomically
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.script import render_job_script
from ccat_workflow_manager.hpc.batch.script import render_batch_script
from ccat_workflow_manager.hpc.batch.store import ArrayTask
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import job_name
from ccat_workflow_manager.services.webhooks import WebhookPolicy, Webhooks
from ccat_workflow_manager.testing.fake_backend import FakeBackend
from tests.api.rest import BASE_URL, Rest
from tests.hostile.words import UNSTORABLE, WORDS
from tests.support.hook_server import hook_server
from tests.support.step_runs import launch, poll
from tests.support.waiting import PATIENCE, wait_until

TEXTS = list(WORDS.values())
_SEEN = re.compile(r"[\x20-\x7e\n]|[^\x00-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal shows as a character."""


@pytest.fixture
def rest(context: Context) -> Iterator[Rest]:
    with TestClient(create_app(context), base_url=BASE_URL) as client:
        yield Rest(client)


def spec(items: object) -> dict[str, object]:
    step = {"name": "s", "command": ["echo", "${item}"], "foreach": items, "environment": {"WORD": "${item}"}}
    declared = {"type": "object", "properties": {"words": {"type": "array"}}}
    return {"name": "words", "description": WORDS["script"], "parameters": declared, "steps": [step]}


# --- requests --------------------------------------------------------------------------------------------------------


def test_parameters_labels_and_items_come_back_as_they_were(rest: Rest) -> None:
    labels = {f"label-{number}": text for number, text in enumerate(TEXTS) if 0 < len(text) <= 200}
    run = rest.run(spec("${parameters.words}"), parameters={"words": TEXTS}, labels=labels)
    found = rest.get(f"/runs/{run['id']}")
    assert (found["parameters"]["words"], found["labels"]) == (TEXTS, labels)
    keys = [each["key"] for each in found["step_runs"]]
    assert len(set(keys)) == len(TEXTS)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", key) for key in keys)
    for name, text in labels.items():
        assert [each["id"] for each in rest.get("/runs", label=f"{name}:{text}")["items"]] == [run["id"]]
        rest.get("/runs", q=text)


@pytest.mark.parametrize("word", UNSTORABLE)
def test_what_cannot_be_stored_is_refused_with_its_path(rest: Rest, word: str) -> None:
    text = UNSTORABLE[word]
    for body, path in (
        ({"spec": spec(["a"]), "labels": {"name": text}}, "labels.name"),
        ({"spec": spec(["a"]), "parameters": {"x": [text]}}, "parameters.x[0]"),
        ({"spec": spec([text])}, "spec.steps[0].foreach[0]"),
    ):
        answer = rest.send("POST", "/runs", content=json.dumps(body), headers={"Content-Type": "application/json"})
        rest.refused(answer, 422, "invalid", path)


def test_pages_show_words_as_text(context: Context, backend: FakeBackend) -> None:
    with TestClient(create_app(context), base_url=BASE_URL) as client:
        rest = Rest(client)
        labels = {"a": WORDS["script"], "b": WORDS["html"]}
        run = rest.run(spec([WORDS["script"], WORDS["html"]]), labels=labels, parameters={"x": TEXTS})
        ended(context, backend, [WORDS["script"] + WORDS["html"]] * 2)
        for page in ("/runs", f"/runs/{run['id']}", f"/step-runs/{run['step_runs'][0]['id']}", "/events", "/"):
            answer = client.get(page, headers={"Accept": "text/html"})
            assert answer.status_code == 200
            assert "<script>alert" not in answer.text
            assert "<b onmouseover" not in answer.text


# --- what programs and backends say ----------------------------------------------------------------------------------


def ended(context: Context, backend: FakeBackend, messages: list[str]) -> None:
    """The jobs fail, each with one of these messages."""
    launch(context, 100)
    for job_id, message in zip(backend.jobs, messages, strict=True):
        backend.set_state(job_id, HPCJobInfo(JobStatus.FAILED, exit_code=3, message=message, node=message[:100]))
    poll(context)


def test_the_reasons_of_failures_are_stored_and_told(
    context: Context, backend: FakeBackend, rest: Rest, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TEXTS, *UNSTORABLE.values()]
    once = {"retry": {"max_attempts": 1}}
    step = {"name": "s", "command": ["a"], "foreach": list(range(len(words))), **once}
    run = rest.run({"name": "one", "steps": [step]})
    ended(context, backend, words)
    found = rest.get(f"/runs/{run['id']}")
    assert found["counts"]["FAILED"] == len(words)
    told = "\n".join(each["reason_text"] for each in found["step_runs"])
    events = "\n".join(each["data"]["text"] or "" for each in rest.items("/events", 1000))
    for word in words:
        expected = word.replace("\0", "\ufffd").replace("\ud800", "\ufffd")[:500]
        assert expected in told
        assert expected in events
    print_json(found)
    printed = capsys.readouterr().out
    assert json.loads(printed) == found
    assert _SEEN.sub("", printed) == ""


def test_declarations_of_a_program() -> None:
    for text in TEXTS:
        assert parse_warnings(json.dumps([text]).encode())[0][:100] == text[:100]
        caveat = parse_outcome(json.dumps({"outcome": "partial", "text": text}).encode())
        assert caveat.text[:100] == text[:100]


# --- webhooks --------------------------------------------------------------------------------------------------------


def test_a_webhook_is_signed_over_what_it_says(context: Context, backend: FakeBackend, rest: Rest) -> None:
    words = [*TEXTS, *UNSTORABLE.values()]
    step = {"name": "s", "command": ["a"], "foreach": list(range(len(words))), "retry": {"max_attempts": 1}}
    policy = WebhookPolicy(in_flight=16, private_targets=True)
    webhooks = Webhooks(context.loop_database, context.feed, policy)
    with hook_server() as target:
        _, secret = webhooks.create(target.url, ["ccat.wm.step_run.failed"], actor="test")
        rest.run({"name": "one", "steps": [step]})
        ended(context, backend, words)
        webhooks.tick()
        wait_until(lambda: len(target.calls) == len(words), 30, "the deliveries")
        webhooks.stop()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    told = []
    for call in target.calls:
        signed = f"{call.delivery}.{call.headers['webhook-timestamp']}.{call.body}".encode()
        expected = base64.b64encode(hmac.digest(key, signed, "sha256")).decode()
        assert call.headers["webhook-signature"] == f"v1,{expected}"
        told.append(json.loads(call.body)["data"]["text"])
    for word in words:
        expected = word.replace("\0", "\ufffd").replace("\ud800", "\ufffd")[:500]
        assert any(expected in text for text in told)


# --- log lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [True, False])
def test_a_log_record_is_one_line_that_does_nothing_to_a_terminal(tmp_path: Path, as_json: bool) -> None:
    everything = [*TEXTS, *UNSTORABLE.values()]
    handler = logging.FileHandler(tmp_path / "log", encoding="utf-8")
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    log = logging.getLogger(f"{__name__}.{as_json}")
    log.propagate = False
    log.addHandler(handler)
    for text in everything:
        try:
            raise ValueError(text)
        except ValueError:
            log.exception("the program says %s", text)
    log.removeHandler(handler)
    handler.close()
    written = (tmp_path / "log").read_text(encoding="utf-8")
    assert re.sub("\t", "", _SEEN.sub("", written)) == ""
    lines = written.splitlines()
    if as_json:
        records = [json.loads(line) for line in lines]
        assert [each["message"] for each in records] == [f"the program says {text}" for text in everything]
        assert all(text in each["traceback"] for text, each in zip(everything, records, strict=True))
    else:
        assert len([line for line in lines if not line.startswith("    ")]) == len(everything)


# --- terminals, manifests, metrics -----------------------------------------------------------------------------------


def test_tables_and_json_do_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    everything = [*TEXTS, *UNSTORABLE.values()]
    console().print(table(("name", "word"), [("n", text) for text in everything]))
    print_json(everything)
    printed = capsys.readouterr().out
    assert _SEEN.sub("", printed) == ""
    assert json.loads(printed[printed.index("[\n") :]) == everything
    assert plain(WORDS["right to left"]).startswith("a\\u202e")


def test_a_manifest_holds_every_word(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_atomically(str(path), {"words": [*TEXTS], **{text: text for text in TEXTS}})
    assert json.loads(path.read_text(encoding="utf-8"))["words"] == TEXTS


def test_a_label_of_a_metric_is_one_label() -> None:
    registry = CollectorRegistry()
    gauge = Gauge("words", "Words.", ["word"], registry=registry)
    for text in TEXTS:
        gauge.labels(text).set(1)
    [family] = text_string_to_metric_families(generate_latest(registry).decode())
    assert {sample.labels["word"] for sample in family.samples} == set(TEXTS)


# --- job scripts -----------------------------------------------------------------------------------------------------

_TELL = (
    "import json, os, sys; print(json.dumps([sys.argv[1:], [os.environ[f'W{n}'] for n in range(len(sys.argv) - 1)]]))"
)


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_a_job_script_passes_words_to_the_program_alone(tmp_path: Path, shell: str) -> None:
    """The script of the batch backends, in a directory with such a name."""
    workspace = tmp_path / "it's $HOME `id` \u202e" / "workspace"
    (workspace.parent / "logs").mkdir(parents=True)
    workspace.mkdir()
    files = AttemptFiles.of(str(workspace), job_name(UUID(int=1), 1))
    words = {f"W{number}": text for number, text in enumerate(TEXTS)}
    command = ["/usr/bin/env", "python3", "-c", _TELL, *TEXTS]
    script = render_job_script(
        command, environment={**words, "PATH": os.environ["PATH"]}, cwd=str(workspace), files=files
    )
    Path(files.script).write_text(script, encoding="utf-8")
    member = ArrayTask(files.job_name, str(workspace))
    batch = render_batch_script([member], number='"$$"', index=None, home=str(tmp_path))
    done = subprocess.run(
        [shell, "-c", batch], capture_output=True, cwd=tmp_path, env={}, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(Path(files.stdout).read_text(encoding="utf-8")) == [TEXTS, TEXTS]


def test_keys_stay_in_their_directory() -> None:
    keys = item_keys(TEXTS)
    assert len(set(keys)) == len(TEXTS)
    for key in keys:
        assert os.path.normpath(f"/base/{key}") == f"/base/{key}"
        assert len(key.encode()) <= 255
