"""Tasks of GA4GH TES, through every process of a deployment."""

from __future__ import annotations

from typing import Any

from tests.support.fixtures_service import Service
from tests.support.waiting import wait_for

OVER = ("COMPLETE", "EXECUTOR_ERROR", "SYSTEM_ERROR", "CANCELED", "PREEMPTED")


def _url(service: Service, path: str, prefix: str = "/ga4gh/tes/v1") -> str:
    return f"http://127.0.0.1:{service.port}{prefix}{path}"


def _create(service: Service, **task: Any) -> str:
    answer = service.client.post(_url(service, "/tasks"), json=task)
    assert answer.status_code == 200, answer.text
    found: str = answer.json()["id"]
    return found


def _get(service: Service, task_id: str, view: str = "FULL") -> dict[str, Any]:
    found: dict[str, Any] = service.call("GET", _url(service, f"/tasks/{task_id}", "/v1"), params={"view": view})
    return found


def _finished(service: Service, task_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        task = _get(service, task_id)
        return task if task["state"] in OVER else None

    return wait_for(look, 60, lambda: f"the task {task_id}; the log: {service.log()}")


def _sh(text: str, **more: Any) -> dict[str, Any]:
    return {"image": "ubuntu:24.04", "command": ["/bin/sh", "-c", text], **more}


def test_a_task_runs_its_executors_one_after_the_other(service: Service, tmp_path: Any) -> None:
    (tmp_path / "scan.txt").write_text("raw")
    task_id = _create(
        service,
        name="three executors",
        inputs=[
            {"url": f"file://{tmp_path}/scan.txt", "path": "/workflow/input/night/scan.txt"},
            {"content": "price: ${amount}", "path": "/workflow/code/notes.txt"},
        ],
        outputs=[{"path": "/workflow/output/*.txt", "path_prefix": "/workflow/output", "url": "products:"}],
        executors=[
            _sh('echo "$WORD ${HOME:+home}"; cat >"$WORKFLOW_OUTPUT_DIR/copy.txt"', env={"WORD": "${item}"},
                stdin="/workflow/input/night/scan.txt"),
            _sh("exit 4", ignore_error=True),
            {"image": "ubuntu", "stdout": "/workflow/output/made/all.txt",
             "command": ["cat", "/workflow/code/notes.txt", "/workflow/upstream/executor-1/main/copy.txt"]},
        ],
        tags={"night": "2026-01-31"},
    )  # fmt: skip
    task = _finished(service, task_id)
    assert task["state"] == "COMPLETE", (task, service.log())
    [log] = task["logs"]
    assert [each["exit_code"] for each in log["logs"]] == [0, 4, 0]
    assert log["logs"][0]["stdout"] == "${item} home\n"
    assert {each["path"]: each["size_bytes"] for each in log["outputs"]} == {
        "/workflow/output/copy.txt": "3", "/workflow/output/made/all.txt": "19",
    }  # fmt: skip
    all_url = next(each["url"] for each in log["outputs"] if each["path"].endswith("all.txt"))
    assert service.client.get(all_url).text == "price: ${amount}raw"
    assert task["inputs"][1]["content"] == "price: ${amount}"
    basic = _get(service, task_id, "BASIC")
    assert "content" not in basic["inputs"][1]
    assert "stdout" not in basic["logs"][0]["logs"][0]
    assert _get(service, task_id, "MINIMAL") == {"id": task_id, "state": "COMPLETE"}


def test_states_of_tasks_that_end_otherwise(service: Service) -> None:
    failed = _create(service, executors=[_sh("echo oh >&2; exit 3"), _sh("true")])
    forgiven = _create(service, executors=[_sh("exit 3", ignore_error=True), _sh("true")])
    no_input = _create(service, inputs=[{"url": "/no/such/file", "path": "/workflow/input/x"}], executors=[_sh("true")])
    endless = _create(service, executors=[_sh("exec sleep 1000")])
    task = _finished(service, failed)
    assert task["state"] == "EXECUTOR_ERROR"
    assert [(each["exit_code"], each["stderr"]) for each in task["logs"][0]["logs"]] == [(3, "oh\n")]
    assert "program_failed" in task["logs"][0]["system_logs"][0]
    task = _finished(service, forgiven)
    assert (task["state"], [each["exit_code"] for each in task["logs"][0]["logs"]]) == ("COMPLETE", [3, 0])
    assert _finished(service, no_input)["state"] == "SYSTEM_ERROR"
    wait_for(lambda: _get(service, endless)["state"] == "RUNNING" or None, 60, "the endless task to run")
    assert service.call("POST", _url(service, f"/tasks/{endless}:cancel")) == {}
    assert _get(service, endless)["state"] in ("CANCELING", "CANCELED")
    assert _finished(service, endless)["state"] == "CANCELED"
