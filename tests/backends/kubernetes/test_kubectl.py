"""An independent client agrees with the stand-in: kubectl (over TLS, because it sends no token without)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.backends.kubernetes.certificates import loopback_certificate
from tests.backends.kubernetes.stand_in_client import job
from tests.stand_ins.kubernetes import ApiServer, Image

Kubectl: TypeAlias = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.needs("kubectl")


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    directory = tmp_path_factory.mktemp("kubectl")
    tls = loopback_certificate(directory)
    program = Path(sys.executable).parent / "kubectl"
    with ApiServer(directory / "stand-in", images={"bb:1": Image()}, clock_scale=5, tls=tls) as server:

        def run(*words: str, given: object = None) -> subprocess.CompletedProcess[str]:
            argv = [
                str(program),
                "--kubeconfig",
                str(server.kubeconfig),
                "--cache-dir",
                str(directory / "cache"),
                *words,
            ]
            environment = {"HOME": str(directory), "PATH": os.environ["PATH"]}
            text = None if given is None else json.dumps(given)
            return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, env=environment)

        yield run


def done(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def refused(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode != 0, answer.stdout
    return answer.stderr


def test_what_there_is(kubectl: Kubectl) -> None:
    assert "Server Version: v1.37" in done(kubectl("version"))
    kinds = done(kubectl("api-resources"))
    assert "batch/v1" in kinds
    assert "Job" in kinds


def test_life_of_a_job(kubectl: Kubectl) -> None:
    body = job("hello", "echo hello; sleep 0.5; echo bye; echo last words > /dev/termination-log; exit 3")
    assert done(kubectl("create", "-f", "-", given=body)) == "job.batch/hello created\n"
    assert "AlreadyExists" in refused(kubectl("create", "-f", "-", given=body))
    assert "Running" in done(kubectl("get", "jobs"))
    assert done(kubectl("logs", "--follow", "--pod-running-timeout=20s", "job/hello")) == "hello\nbye\n"
    done(kubectl("wait", "--for=condition=Failed", "job/hello", "--timeout=20s"))
    rows = [line.split() for line in done(kubectl("get", "jobs")).splitlines()]
    assert rows[0] == ["NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE"]
    assert rows[1][:3] == ["hello", "Failed", "0/1"]
    path = "{.items[*].status.containerStatuses[0].state.terminated}"
    ended = json.loads(done(kubectl("get", "pods", "-l", "job-name=hello", "-o", f"jsonpath={path}")))
    assert (ended["exitCode"], ended["message"]) == (3, "last words\n")
    told = done(kubectl("describe", "job", "hello"))
    assert "0 Active (0 Ready) / 0 Succeeded / 1 Failed" in told
    assert "BackoffLimitExceeded" in told
    assert "Reason:   Error" in done(kubectl("describe", "pods"))
    assert "SuccessfulCreate" in done(kubectl("get", "events"))
    assert done(kubectl("delete", "job", "hello")).startswith('job.batch "hello" deleted')
    assert "No resources found" in kubectl("get", "jobs").stderr
    assert "NotFound" in refused(kubectl("delete", "job", "hello"))


def test_fields_are_checked_by_the_server(kubectl: Kubectl) -> None:
    body = job("odd", "true")
    body["spec"]["backofLimit"] = 1
    assert 'strict decoding error: unknown field "spec.backofLimit"' in refused(
        kubectl("create", "-f", "-", given=body)
    )
    warned = kubectl("create", "--validate=warn", "-f", "-", given=body)
    assert 'Warning: unknown field "spec.backofLimit"' in warned.stderr
    assert "created" in done(warned)


def test_changes(kubectl: Kubectl) -> None:
    body = job("changing", "sleep 1000", container={"resources": {"limits": {"cpu": "1"}}})
    assert "created" in done(kubectl("apply", "-f", "-", given=body))
    assert "unchanged" in done(kubectl("apply", "-f", "-", given=body))
    done(kubectl("label", "job", "changing", "a=b"))
    done(kubectl("annotate", "job", "changing", "c=d"))
    done(kubectl("patch", "job", "changing", "-p", '{"spec":{"activeDeadlineSeconds":600}}'))
    now = json.loads(done(kubectl("get", "job", "changing", "-o", "json")))
    assert now["metadata"]["labels"]["a"] == "b"
    assert now["metadata"]["annotations"]["c"] == "d"
    assert now["spec"]["activeDeadlineSeconds"] == 600
    template = {"spec": {"template": {"spec": {"containers": [{"name": "m", "image": "other"}]}}}}
    assert "field is immutable" in refused(kubectl("patch", "job", "changing", "-p", json.dumps(template)))
    done(kubectl("delete", "job", "changing", "--cascade=foreground", "--timeout=30s"))


def test_a_pod(kubectl: Kubectl) -> None:
    done(kubectl("run", "x", "--image=bb:1", "--restart=Never", "--command", "--", "sh", "-c", "echo hi"))
    done(kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/x", "--timeout=20s"))
    assert done(kubectl("logs", "x")) == "hi\n"
    done(kubectl("delete", "pod", "x", "--now"))
