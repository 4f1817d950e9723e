"""Secrets of steps: they reach their program and nothing else, and each project has its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.canary import prove_that_it_stays_secret
from tests.support.fixtures_service import Service, sh

USES: dict[str, Any] = {"environment": {"TOKEN": {"secret": "archive"}}}


def _failure(service: Service, *steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    run_id = service.submit(*steps, **more)
    assert service.wait(run_id)["status"] == "FAILED"
    return service.step(run_id, "only")


def test_a_secret_stays_secret(service: Service) -> None:
    prove_that_it_stays_secret(service)


def test_another_project_has_other_secrets(service: Service) -> None:
    service.give_secret("archive", "of the survey", project="survey")
    step = _failure(service, sh("true", **USES))
    assert step["reason"] == "secret_missing"
    for part in ("only", "archive", "default", "CCAT_WM_SECRET_default__archive"):
        assert part in step["reason_text"]
    run_id = service.submit(sh('test "$TOKEN" = "of the survey"', **USES), project="survey")
    assert service.wait(run_id)["status"] == "COMPLETED"


def test_a_file_that_is_no_text_is_named(service: Service) -> None:
    service.give_secret("binary", "")
    (service.directory / "secrets" / "default" / "binary").write_bytes(b"\xff\xfecanary")
    step = _failure(service, sh("true", environment={"TOKEN": {"secret": "binary"}}))
    assert step["reason"] == "secret_missing"
    assert "binary" in step["reason_text"]
    assert "canary" not in step["reason_text"]


def test_the_secrets_of_a_cancelled_job_are_removed(service: Service) -> None:
    service.give_secret("long", "canary")
    run_id = service.submit(sh("exec sleep 1000", environment={"TOKEN": {"secret": "long"}}))
    service.wait_running(run_id)
    service.cancel(run_id)
    assert not list(service.attempt_dir(run_id, "only").glob("*.secrets"))


def test_secrets_are_no_inputs(service: Service, tmp_path: Path) -> None:
    service.give_secret("archive", "of the survey", project="survey")
    directory = service.directory / "secrets"
    for path in (directory, directory.parent, directory / "survey" / "archive"):
        answer = service.client.post("/runs", json={"spec": {"name": "x", "steps": [sh("true", inputs=[str(path)])]}})
        assert answer.status_code == 422, answer.text
        assert "holds secrets" in answer.text
    (tmp_path / "link").symlink_to(directory / "survey" / "archive")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "link").symlink_to(directory / "survey")
    for name in ("link", "tree"):
        step = _failure(service, sh("true", inputs=[str(tmp_path / name)]))
        assert step["reason"] == "input_refused", step


def test_a_backend_that_cannot_give_secrets_refuses_the_definition(service: Service) -> None:
    spec: dict[str, Any] = {"name": "cloud-secret", "steps": [{**sh("true", **USES), "image": "docker://x/y:1"}]}
    of_run = service.client.post("/runs", json={"spec": spec, "backend": "aws_batch"})
    spec["defaults"] = {"backend": "aws_batch"}
    of_pipeline = service.client.put("/pipelines/cloud-secret", json=spec)
    for answer, path in ((of_run, "spec.steps[0].environment.TOKEN"), (of_pipeline, "steps[0].environment.TOKEN")):
        assert answer.status_code == 422, answer.text
        [fault] = answer.json()["faults"]
        assert fault["path"] == path
        assert "aws_batch cannot give" in fault["message"]


def test_a_definition_names_its_secret(service: Service) -> None:
    for wrong in ({"secret": "../x"}, {"secret": "a--b"}, {"secret": 4}, {"name": "x"}, {}, ["x"], 4):
        spec = {"name": "wrong", "steps": [sh("true", environment={"TOKEN": wrong})]}
        answer = service.client.put("/pipelines/wrong", json=spec)
        assert answer.status_code == 422, (wrong, answer.text)
        assert answer.json()["faults"][0]["path"].startswith("steps[0].environment.TOKEN"), answer.text
