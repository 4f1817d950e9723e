"""The commands against a real deployment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import answer, invoke, refused, variables
from tests.cli.conftest import Deployment
from tests.cli.fake_api import fake_api

WORK_FAILED = 1


def output(*arguments: str, deployment: Deployment, code: int = 0) -> str:
    result = invoke(*arguments, env=deployment.env)
    assert result.exit_code == code, result.output
    return result.stdout


def submitted(deployment: Deployment, *options: str, code: int = 0) -> dict[str, Any]:
    """A run that is watched until it is finished."""
    found: dict[str, Any] = answer("run", "submit", "greet", "--watch", *options, env=deployment.env, code=code)
    return found


# --- the service -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", [None, "localhost", "0.0.0.0"])
def test_a_local_service_is_found_by_its_settings(host: str | None, deployment: Deployment) -> None:
    settings = variables(API_PORT=deployment.url.rpartition(":")[2], **({} if host is None else {"API_HOST": host}))
    assert invoke("run", "list", env=deployment.env | {"CCAT_WM_URL": ""} | settings).exit_code == 0
    elsewhere = settings | {"CCAT_WM_URL": "http://127.0.0.1:9"}
    assert "127.0.0.1:9" in refused("run", "list", env=deployment.env | elsewhere, code=3)


# --- pipelines -------------------------------------------------------------------------------------------------------


def test_warnings_of_an_apply_go_to_stderr(greet: Path) -> None:
    answer = {"name": "greet", "version": 1, "changed": False, "warnings": ["the step hello asks for 99 CPUs"]}
    with fake_api(answer) as url:
        for verb in ("apply", "plan"):
            result = invoke("pipeline", verb, str(greet), env={"CCAT_WM_URL": url})
            assert result.exit_code == 0
            assert "warning: the step hello asks for 99 CPUs\n" in result.stderr


def test_a_pipeline_as_a_file(greet: Path, deployment: Deployment) -> None:
    assert output("pipeline", "apply", str(greet), deployment=deployment) == "greet is unchanged at version 1\n"
    planned = invoke("pipeline", "plan", str(greet), env=deployment.env)
    assert (planned.exit_code, planned.stdout) == (0, "")
    assert "greet is the same as version 1" in planned.stderr

    renamed = greet.with_name("other.yaml")
    renamed.write_text(greet.read_text().replace("name: greet", "name: other").replace("Say", "Shout"))
    assert "+name: other" in output("pipeline", "plan", str(renamed), deployment=deployment)
    assert output("pipeline", "apply", str(renamed), deployment=deployment) == "other is now at version 1\n"
    renamed.write_text(renamed.read_text().replace("Shout", "Whisper"))
    difference = output("pipeline", "plan", str(renamed), deployment=deployment).splitlines()
    assert "-description: Shout something for each name" in difference
    assert "+description: Whisper something for each name" in difference
    assert answer("pipeline", "plan", str(renamed), env=deployment.env)["changed"] is True
    piped = invoke("pipeline", "apply", "-", env=deployment.env, stdin=renamed.read_text())
    assert piped.stdout == "other is now at version 2\n"

    shown = output("pipeline", "show", "other", "--version", "1", deployment=deployment)
    assert shown.startswith("# version 1 of ")
    old = greet.with_name("old.yaml")
    old.write_text(shown)
    assert output("pipeline", "apply", str(old), deployment=deployment) == "other is now at version 3\n"
    assert answer("pipeline", "show", "other", env=deployment.env)["version"] == 3
    assert {one["name"] for one in answer("pipeline", "list", env=deployment.env)} >= {"greet", "other"}
    assert "Say something for each name" in output("pipeline", "list", deployment=deployment)


def test_a_file_is_validated_without_a_service(greet: Path, tmp_path: Path) -> None:
    nowhere = {"CCAT_WM_URL": "http://127.0.0.1:9"}
    assert invoke("pipeline", "validate", str(greet), env=nowhere).stdout == "greet is valid: 2 steps\n"
    assert answer("pipeline", "validate", str(greet), env=nowhere)["name"] == "greet"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: wrong\nfiles: {a: ./missing}\nsteps: [{name: s, command: [a]}]\n")
    assert "files.a" in refused("pipeline", "validate", str(wrong), env=nowhere)
    wrong.write_text("name: wrong\nsteps: [{name: s, comand: [a]}]\n")
    assert "did you mean command" in refused("pipeline", "validate", str(wrong), env=nowhere)


def test_files_are_read_beside_the_definition(deployment: Deployment, tmp_path: Path) -> None:
    definition = tmp_path / "scripted.yaml"
    steps = "[{name: s, command: [python, /workflow/code/reduce.py]}]"
    definition.write_text(f"name: scripted\nfiles: {{reduce.py: ./reduce.py}}\nsteps: {steps}\n")
    missing = refused("pipeline", "apply", str(definition), env=deployment.env)
    assert 'files["reduce.py"]' in missing
    for content in (b"print(1)", b"print(2)", b"\xff"):
        (tmp_path / "reduce.py").write_bytes(content)
        output("pipeline", "apply", str(definition), deployment=deployment)
    shown = answer("pipeline", "show", "scripted", env=deployment.env)
    assert (shown["version"], shown["definition"]["files"]["reduce.py"]["size"]) == (3, 1)
    (tmp_path / "reduce.py").write_bytes(b"x" * (1024 * 1024 + 1))
    assert "1 MB" in refused("pipeline", "plan", str(definition), env=deployment.env)


def test_a_disabled_pipeline_takes_no_runs(greet: Path, deployment: Deployment) -> None:
    assert output("pipeline", "disable", "greet", deployment=deployment) == "greet is disabled\n"
    try:
        assert "is disabled" in refused("run", "submit", "greet", env=deployment.env)
        assert ", disabled" in output("pipeline", "show", "greet", deployment=deployment).splitlines()[0]
    finally:
        assert output("pipeline", "enable", "greet", deployment=deployment) == "greet is enabled\n"
    assert answer("run", "submit", "greet", env=deployment.env)["pipeline"] == "greet"


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("greet")
def test_a_run_and_its_step_run_are_explained(deployment: Deployment) -> None:
    run = submitted(deployment, "-p", 'names=["a"]')
    step_run = answer("run", "show", run["id"], env=deployment.env)["step_runs"][0]
    assert answer("explain", run["id"], env=deployment.env)["summary"]
    assert step_run["key"] in answer("explain", step_run["id"], env=deployment.env)["summary"]


@pytest.mark.usefixtures("greet")
def test_a_run_from_submit_to_show(deployment: Deployment, tmp_path: Path) -> None:
    params = tmp_path / "params.json"
    params.write_text(json.dumps({"names": ["x"], "code": 0}))
    run = submitted(
        deployment, "--params", str(params), "-p", 'names=["é a", "b"]', "--label", "night:12:30", "--priority", "5"
    )
    assert run["status"] == "COMPLETED"
    assert run["parameters"] == {"names": ["é a", "b"], "code": 0}
    assert (run["labels"], run["priority"]) == ({"night": "12:30"}, 5)

    assert answer("run", "show", "latest", env=deployment.env)["id"] == run["id"]
    shown = output("run", "show", run["id"], deployment=deployment)
    for word in (run["id"], "greet version 1", "COMPLETED", "night:12:30", "wall time", "CPU hours", "peak memory"):
        assert word in shown
    listed = answer("run", "list", "--label", "night:12:30", "--status", "completed", env=deployment.env)
    assert run["id"] in [one["id"] for one in listed]
    assert answer("run", "list", "--label", "night:never", env=deployment.env) == []
    watched = output("run", "watch", run["id"], deployment=deployment)
    assert f"run {run['id']} of greet: COMPLETED" in watched


@pytest.mark.usefixtures("greet")
def test_a_run_that_fails_is_exit_code_1(deployment: Deployment) -> None:
    options = ("--backend", "concurrent", "-p", "code=3", "-p", 'names=["ada"]')
    text = invoke("run", "submit", "greet", "--watch", *options, env=deployment.env)
    assert text.exit_code == WORK_FAILED
    assert "hello/ada failed: " in text.stdout
    assert "(exit code 3)" in text.stdout
    assert "1 skipped" in text.stdout
    assert "Last line of stderr: warned ada" in text.stdout
    assert "ccat-wm run logs" in text.stdout
    logs = invoke("run", "logs", "latest", "--failed", env=deployment.env)
    assert (logs.stdout, "==> hello/ada failed: " in logs.stderr) == ("hello ada\n", True)
    failed = answer("run", "watch", "latest", env=deployment.env, code=WORK_FAILED)
    assert failed["status"] == "FAILED"
    assert (
        output("run", "retry", failed["id"], deployment=deployment)
        == f"{failed['id']} is retried: 1 failed, 1 skipped\n"
    )
    assert answer("run", "watch", failed["id"], env=deployment.env, code=WORK_FAILED)["status"] == "FAILED"
    watched = invoke("run", "retry", failed["id"], "--watch", env=deployment.env)
    assert watched.exit_code == WORK_FAILED
    assert f"{failed['id']} is retried: 1 failed, 1 skipped\n" in watched.stdout
    assert f"run {failed['id']} of greet: FAILED" in watched.stdout
    ended = answer("run", "retry", "latest", "--step", "hello", "--watch", env=deployment.env, code=WORK_FAILED)
    assert (ended["id"], ended["status"]) == (failed["id"], "FAILED")
    assert "one run" in refused("run", "retry", "latest", failed["id"], "--watch", env=deployment.env)


@pytest.mark.usefixtures("greet")
def test_logs(deployment: Deployment) -> None:
    submitted(deployment, "--backend", "concurrent")
    assert output("run", "logs", "latest", "hello/ada", deployment=deployment) == "hello ada\n"
    assert output("run", "logs", "latest", "hello", "--key", "bob", deployment=deployment) == "hello bob\n"
    warned = output("run", "logs", "latest", "hello/ada", "--stream", "stderr", deployment=deployment)
    assert warned == "warned ada\n"
    assert output("run", "logs", "latest", "hello/ada", "--tail", "0", deployment=deployment) == ""
    assert output("run", "logs", "latest", "hello/ada", "--follow", deployment=deployment) == "hello ada\n"
    assert output("run", "logs", "latest", "sum", deployment=deployment) == ""
    found = answer("run", "logs", "latest", "hello/ada", "--stream", "stdout", env=deployment.env)
    assert (found["step"], found["key"], found["attempt"], found["stream"]) == ("hello", "ada", 1, "stdout")
    assert found["text"] == "hello ada\n"
    assert "attempt" in refused("run", "logs", "latest", "sum", "--attempt", "7", env=deployment.env)
    both = invoke("run", "logs", "latest", "hello/ada", env=deployment.env)
    assert (both.stdout, both.stderr) == ("hello ada\n", "warned ada\n")
    every = invoke("run", "logs", "latest", "hel*/*", env=deployment.env)
    assert every.stdout == "hello ada\nhello bob\n"
    assert every.stderr.splitlines()[0] == "==> hello/ada"
    assert [one["stderr"] for one in answer("run", "logs", "latest", "*/[ab]*", env=deployment.env)] == [
        "warned ada\n", "warned bob\n"
    ]  # fmt: skip
    assert "printed nothing" in invoke("run", "logs", "latest", "sum", env=deployment.env).stderr
    assert invoke("run", "logs", "latest", "--failed", env=deployment.env).stderr == "no step run has failed\n"
    assert "did you mean hello" in refused("run", "logs", "latest", "helo/ada", env=deployment.env)
    assert "'hello/*'" in refused("run", "logs", "latest", "hello", env=deployment.env)


def test_a_log_is_followed_to_its_end(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "slow.yaml"
    file.write_text(
        "name: slow\nsteps:\n  - name: count\n"
        "    command: [sh, -c, 'for n in 1 2 3 4; do echo $n; sleep 0.3; done; echo end']\n"
    )
    run = answer("run", "submit", "--spec", str(file), "--backend", "concurrent", env=deployment.env)
    text = output("run", "logs", run["id"], "count", "--follow", deployment=deployment)
    assert text == "1\n2\n3\n4\nend\n"


def test_a_number_for_a_text_parameter(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "texts.yaml"
    text = "name: texts\nparameters: {properties: {n: {type: TYPE}}}\nsteps: [{name: a, command: [a]}]\n"
    for kind, given in (("integer", 345), ("string", "345")):
        file.write_text(text.replace("TYPE", kind))
        invoke("pipeline", "apply", str(file), env=deployment.env)
        for target in (["texts"], ["--spec", str(file)]):
            assert answer("run", "submit", *target, "-p", "n=345", env=deployment.env)["parameters"] == {"n": given}
    old = answer("run", "submit", "texts", "--version", "1", "-p", "n=345", env=deployment.env)
    assert old["parameters"] == {"n": 345}
    assert "absent" in refused("run", "submit", "absent", "-p", "n=345", env=deployment.env)


def test_a_log_of_many_megabytes_is_printed_to_its_end(deployment: Deployment, tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("name: long\nsteps:\n  - name: count\n    command: [seq, '1', '1300000']\n")
    run = answer("run", "submit", "--spec", str(file), "--backend", "concurrent", env=deployment.env)
    wanted = "".join(f"{number}\n" for number in range(1, 1_300_001))
    for more in (["--follow"], []):
        assert output("run", "logs", run["id"], "count", *more, deployment=deployment) == wanted


@pytest.mark.usefixtures("greet")
def test_pause_resume_cancel(deployment: Deployment, tmp_path: Path, greet: Path) -> None:
    slow = tmp_path / "slow.yaml"
    slow.write_text(greet.read_text().replace("foreach: ", "resources: {extra: {delay_seconds: 600}}\n    foreach: "))
    run = answer("run", "submit", "--spec", str(slow), env=deployment.env)
    assert run["pipeline_version"] is None
    assert output("run", "pause", run["id"], deployment=deployment) == f"{run['id']} is paused\n"
    assert "PENDING, paused" in output("run", "show", run["id"], deployment=deployment).replace("RUNNING", "PENDING")
    assert output("run", "resume", run["id"], deployment=deployment) == f"{run['id']} is resumed\n"
    assert [one["id"] for one in answer("run", "cancel", run["id"], env=deployment.env)] == [run["id"]]
    ended = answer("run", "watch", run["id"], env=deployment.env, code=WORK_FAILED)
    assert ended["status"] == "CANCELLED"
    assert output("run", "cancel", run["id"], deployment=deployment) == f"{run['id']} is cancelled\n"


@pytest.mark.usefixtures("greet")
def test_a_finished_run_is_neither_cancelled_nor_retried(deployment: Deployment) -> None:
    run_id = answer("run", "submit", "greet", "--watch", env=deployment.env)["id"]
    assert output("run", "cancel", run_id, deployment=deployment).startswith(f"{run_id} is COMPLETED")
    assert f"{run_id}: nothing to retry" in refused("run", "retry", run_id, env=deployment.env)
    assert f"{run_id}: " in refused("run", "pause", run_id, env=deployment.env)


@pytest.mark.usefixtures("greet")
def test_the_same_key_is_the_same_run(deployment: Deployment) -> None:
    first = answer("run", "submit", "greet", "--idempotency-key", "once", env=deployment.env)
    again = answer("run", "submit", "greet", "--idempotency-key", "once", env=deployment.env)
    assert first["id"] == again["id"]
    other = refused("run", "submit", "greet", "-p", "code=1", "--idempotency-key", "once", env=deployment.env)
    assert "Idempotency-Key" in other


@pytest.mark.usefixtures("greet")
def test_lists_have_all_pages(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(5):
        answer("run", "submit", "greet", "--label", "page:yes", env=deployment.env)
    monkeypatch.setattr("ccat_workflow_manager.client.transport._PAGE", 2)
    everything = answer("run", "list", "--label", "page:yes", "--all", env=deployment.env)
    assert len(everything) == len({run["id"] for run in everything}) == 5
    assert [run["id"] for run in everything[:3]] == [
        run["id"] for run in answer("run", "list", "--label", "page:yes", "--limit", "3", env=deployment.env)
    ]


@pytest.mark.usefixtures("greet")
def test_a_run_is_named_by_a_part_of_its_id(deployment: Deployment) -> None:
    first, second = (answer("run", "submit", "greet", env=deployment.env)["id"] for _ in range(2))
    for part in (second[-12:], second[-6:].upper(), "latest:greet", second):
        assert answer("run", "show", part, env=deployment.env)["id"] == second
    assert answer("run", "cancel", first[-12:], env=deployment.env)[0]["id"] == first
    assert first in refused("run", "show", first[:5], env=deployment.env)
    assert "begins or ends" in refused("run", "show", "ffffffff", env=deployment.env)
    assert "ccat-wm run submit no-such" in refused("run", "show", "latest:no-such", env=deployment.env)


@pytest.mark.usefixtures("greet")
def test_runs_are_listed_in_other_forms(deployment: Deployment) -> None:
    run = answer("run", "submit", "greet", "--label", "form:yes", env=deployment.env)
    chosen = ("run", "list", "--label", "form:yes")
    assert output(*chosen, "--since", "1h", "-o", "id", deployment=deployment) == f"{run['id']}\n"
    assert output(*chosen, "--since", "0s", "-o", "id", deployment=deployment) == ""
    assert output(*chosen, "--until", "1h", "-o", "id", deployment=deployment) == ""
    assert output(*chosen, "--project", "elsewhere", "-o", "id", deployment=deployment) == ""
    assert answer("pipeline", "list", "--project", "elsewhere", env=deployment.env) == []
    assert output(*chosen, "--until", "0s", "--sort", "status", "-o", "id", deployment=deployment) == f"{run['id']}\n"
    assert json.loads(output(*chosen, "-o", "json", deployment=deployment))[0]["id"] == run["id"]
    assert output(*chosen, "--failed", "-o", "id", deployment=deployment) == ""
    assert "-o" in refused(*chosen, "-o", "xml", env=deployment.env)
    assert "before all time" in refused(*chosen, "--since", "999999999w", env=deployment.env)


# --- what needs no API -----------------------------------------------------------------------------------------------


def test_doctor_of_a_running_deployment(deployment: Deployment) -> None:
    report = answer("doctor", env=deployment.env)
    assert report["ok"] is True
    checks = {check["name"]: check for check in report["checks"]}
    needed = ("settings", "postgres", "redis", "migrations", "backend noop", "disk", "clock", "workers", "attention")
    for name in needed:
        assert checks[name]["ok"] is True, checks[name]
    assert "embedded" in checks["postgres"]["message"]
    text = output("doctor", deployment=deployment)
    assert len(text.splitlines()) == len(checks)


def test_db_of_a_running_deployment(deployment: Deployment) -> None:
    assert answer("db", "check", env=deployment.env)["is_current"] is True
    assert "the database is current" in output("db", "upgrade", deployment=deployment)
