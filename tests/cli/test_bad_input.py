"""Wrong input and unavailable services: exit code 2 or 3, one sentence, no traceback."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.cli.commands import invoke, refused, variables
from tests.cli.conftest import PIPELINE, Deployment
from tests.cli.fake_api import fake_api

SUBMIT = ("run", "submit", "greet")
UNKNOWN = "00000000-0000-7000-8000-000000000000"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "submit"), "PIPELINE"),
        ((*SUBMIT, "--spec", "x.yaml"), "--spec FILE"),
        (("run", "submit", "--spec", "x.yaml", "--version", "2"), "--version"),
        ((*SUBMIT, "-p", "line"), "-p 'line'"),
        ((*SUBMIT, "-p", "=3"), "-p '=3'"),
        ((*SUBMIT, "-p", "a=1", "-p", "a=2"), "-p gives 'a' twice"),
        ((*SUBMIT, "--label", "night"), "--label 'night'"),
        ((*SUBMIT, "--params", "absent.yaml"), "absent.yaml cannot be read: No such file or directory"),
        ((*SUBMIT, "--params", "/"), "/ cannot be read: Is a directory"),
        ((*SUBMIT, "--idempotency-key", "kä"), "--idempotency-key may hold printable ASCII"),
        (("pipeline", "apply", "absent.yaml"), "absent.yaml cannot be read: No such file or directory"),
        (("pipeline", "plan", "no\0name"), "'no\\x00name'"),
        (("run", "logs", "latest", "hello", "--stream", "stdin"), "'stdin'"),
        (("manager", "--no-api", "--no-loops"), "--no-api and --no-loops"),
        (("worker", "--backend", "nope"), "'nope'"),
        (("demo", "--backend", "nope"), "unknown backend 'nope'"),
        (("backend", "check", "nope"), "unknown backend 'nope'"),
        (("backend", "check", "noop", "--clause", "nope"), "there is no clause 'nope'"),
    ],
)
def test_wrong_usage_is_refused_without_a_service(arguments: tuple[str, ...], expected: str, tmp_path: Path) -> None:
    env = variables(DATA_DIR=tmp_path, CONTAINER_RUNTIME="none") | {"CCAT_WM_URL": f"http://127.0.0.1:{free_port()}"}
    text = refused(*arguments, env=env)
    assert expected in text
    assert text.startswith("error: ")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"name: [unclosed", "line 1"),
        (b"a: 1\na: 2", 'line 2, column 1: the key "a" is given twice'),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"", "the text is empty"),
        (b"- 1\n- 2\n", "must be a mapping"),
        (b"steps: []", "name"),
        (b'{"name": "a/b", "steps": []}', "name"),
    ],
)
def test_a_file_without_a_pipeline(content: bytes, expected: str, tmp_path: Path, deployment: Deployment) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    for command in ("apply", "plan"):
        text = refused("pipeline", command, str(file), env=deployment.env)
        assert str(file) in text
        assert expected in text


def test_every_fault_of_a_definition_is_printed_with_its_path(tmp_path: Path, deployment: Deployment) -> None:
    file = tmp_path / "faults.yaml"
    file.write_text(PIPELINE.replace("depends_on: [hello]", "depends_on: [hallo]").replace("greet", "Greet"))
    lines = refused("pipeline", "apply", str(file), env=deployment.env).splitlines()
    assert lines[0] == "error: 2 faults:"
    assert any("steps[1].depends_on[0]" in line for line in lines[1:])
    assert any("name: " in line for line in lines[1:])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "submit", "absent"), "there is no pipeline absent"),
        (("run", "submit", "greet", "--version", "99"), "version"),
        (("run", "submit", "greet", "-p", "names=3"), "parameters.names"),
        (("run", "submit", "greet", "-p", "other=3"), "other"),
        (("run", "submit", "greet", "--backend", "nope"), "there is no backend 'nope'"),
        (("run", "submit", "greet", "--priority", "100000"), "priority"),
        (("run", "show", "12"), "'12'"),
        (("run", "show", UNKNOWN), "there is no run"),
        (("run", "watch", UNKNOWN), "there is no run"),
        (("run", "cancel", UNKNOWN, "../pipelines"), "2 faults"),
        (("run", "list", "--status", "DONE"), "PENDING, RUNNING"),
        (("run", "list", "--label", "night"), "name:value"),
        (("run", "list", "--created-after", "yesterday"), "yesterday"),
        (("run", "logs", UNKNOWN, "hello"), "there is no run"),
        (("pipeline", "show", "absent"), "there is no pipeline absent"),
        (("pipeline", "show", "greet", "--version", "99"), "the pipeline greet has no version 99"),
        (("pipeline", "disable", "absent"), "absent"),
    ],
)
@pytest.mark.usefixtures("greet")
def test_refused_by_the_service(arguments: tuple[str, ...], expected: str, deployment: Deployment) -> None:
    assert expected in refused(*arguments, env=deployment.env)


@pytest.mark.usefixtures("greet")
def test_an_unknown_step(deployment: Deployment) -> None:
    made = invoke("run", "submit", "greet", "--watch", env=deployment.env)
    assert made.exit_code == 0, made.output
    for command in (("run", "submit"), ("pipeline", "show"), ("pipeline", "disable")):
        assert "did you mean greet" in refused(*command, "gret", env=deployment.env)
    assert "latest:greet" in refused("run", "show", "latest:gret", env=deployment.env)
    text = refused("run", "logs", "latest", "hallo", env=deployment.env)
    assert "'hallo'" in text
    assert "hello, sum" in text
    assert "--key: ada, bob" in refused("run", "logs", "latest", "hello", env=deployment.env)
    assert "ada, bob" in refused("run", "logs", "latest", "hello/cyd", env=deployment.env)


# --- services that cannot be used ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [("run", "list"), ("run", "submit", "greet"), ("run", "watch", "latest"), ("pipeline", "show", "greet")],
)
def test_no_service(arguments: tuple[str, ...]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    text = refused(*arguments, env={"CCAT_WM_URL": url}, code=3)
    assert f"no service answers at {url}" in text
    assert "ccat-wm up" in text


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://[::1", "not a url"])
def test_an_invalid_url(url: str) -> None:
    assert f"CCAT_WM_URL={url!r} is not a URL" in refused("run", "list", env={"CCAT_WM_URL": url})


@pytest.mark.parametrize("port", ["http", "-1", "65536", "8000/x", "²"])
def test_an_invalid_port(port: str) -> None:
    assert f"API_PORT={port!r}" in refused("run", "list", env={"CCAT_WM_URL": "", **variables(API_PORT=port)})


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"<html>", 200, "is not this service"),
        (b"<html>", 404, "is not this service"),
        ({"hello": 1}, 200, "is not this service"),
        ({"hello": 1}, 500, "is not this service"),
        ({"code": "internal_error", "detail": "Something went wrong"}, 500, ": Something went wrong"),
        ({"code": "unauthorized", "detail": "no token"}, 401, "CCAT_WM_TOKEN"),
    ],
)
def test_responses_of_another_server(body: object, status: int, expected: str) -> None:
    with fake_api(body, status=status) as url:
        assert expected in refused("run", "list", env={"CCAT_WM_URL": url}, code=3)


def test_the_token_is_sent_and_must_be_ascii() -> None:
    received: list[dict[str, str]] = []
    with fake_api({"items": [], "next_cursor": None}, received=received) as url:
        assert invoke("run", "list", env={"CCAT_WM_URL": url, "CCAT_WM_TOKEN": "secret"}).exit_code == 0
        assert received[0]["Authorization"] == "Bearer secret"
        assert "CCAT_WM_TOKEN" in refused("run", "list", env={"CCAT_WM_URL": url, "CCAT_WM_TOKEN": "sé\ncret"})


@pytest.mark.parametrize("command", [("manager",), ("worker",), ("db", "check"), ("db", "upgrade")])
def test_no_embedded_server_to_use(command: tuple[str, ...], tmp_path: Path) -> None:
    text = refused(*command, env=variables(DATA_DIR=tmp_path, HPC_BACKEND="noop"), code=3)
    assert "no embedded postgres is running" in text
    assert "ccat-wm up" in text


@pytest.mark.parametrize("command", [("up",), ("manager",), ("worker",), ("db", "check"), ("demo",)])
def test_all_faults_of_the_settings_are_printed(command: tuple[str, ...]) -> None:
    text = refused(*command, env=variables(WORKERS="none", API_PORT="x"))
    assert "CCAT_WORKFLOW_MANAGER_WORKERS" in text
    assert "CCAT_WORKFLOW_MANAGER_API_PORT" in text


@pytest.mark.parametrize("command", [("up",), ("manager",), ("worker",), ("worker", "--backend", "noop")])
@pytest.mark.parametrize(("name", "hint"), [("slrum", "did you mean slurm?"), ("nosuch", "installed here?")])
def test_a_backend_that_does_not_exist(command: tuple[str, ...], name: str, hint: str, tmp_path: Path) -> None:
    text = refused(*command, env=variables(DATA_DIR=tmp_path, HPC_BACKEND=name, API_PORT="x"))
    assert "CCAT_WORKFLOW_MANAGER_API_PORT" in text
    assert f"CCAT_WORKFLOW_MANAGER_HPC_BACKEND: '{name}' is not allowed; allowed: aws_batch, concurrent" in text
    assert hint in text
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        text = refused("up", "--port", port, "--data-dir", str(tmp_path), env=variables(HPC_BACKEND="noop"), code=3)
    assert "--port" in text
