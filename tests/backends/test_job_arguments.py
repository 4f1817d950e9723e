"""What scripts pass to `submit`: taken for what is meant, or refused in a sentence."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.errors import BackendError, BackendRejected
from ccat_workflow_manager.hpc.base import HPCBackend, JobRequest
from ccat_workflow_manager.hpc.noop import NoopBackend
from ccat_workflow_manager.lifecycle.models import Resources

GIVEN: dict[str, Any] = {
    "execution_command": ["true"],
    "image_ref": None,
    "sif_path": None,
    "input_dir": "/a/input",
    "output_dir": "/a/output",
    "workspace_dir": "/a/workspace",
    "manifest_path": "/a/manifest.json",
    "resource_requirements": Resources(),
    "environment_variables": {},
    "job_name": "job",
}


def request(**different: Any) -> JobRequest:
    return JobRequest(**{**GIVEN, **different})


def test_what_is_exact_stays() -> None:
    exact = request(resource_requirements=(asked := Resources(cpu=3)), environment_variables=(own := {"A": "b"}))
    assert exact.resource_requirements is asked
    assert exact.environment_variables is own
    assert exact == request(resource_requirements=asked, environment_variables=own)


def test_paths() -> None:
    names = ("sif_path", "input_dir", "output_dir", "workspace_dir", "manifest_path")
    loose = request(**{name: Path("/b", name) for name in names})
    assert [getattr(loose, name) for name in names] == [f"/b/{name}" for name in names]
    assert request(workspace_dir="here").workspace_dir == os.path.abspath("here")
    assert request(execution_command=[Path("/bin/true"), "x"]).execution_command == ("/bin/true", "x")


def test_what_is_not_there() -> None:
    bare = request(sif_path=None, input_dir=None, output_dir=None, manifest_path=None, environment_variables=None)
    assert (bare.sif_path, bare.input_dir, bare.output_dir, bare.manifest_path) == (None, "", "", "")
    assert bare.environment_variables == {}
    assert request(resource_requirements=None).resource_requirements == Resources()


def test_resources_as_a_mapping() -> None:
    asked = {
        "cpu": 1,
        "memory_gb": 1,
        "time_hours": 0.5,
        "gpu": 0,
        "partition": None,
        "account": "me",
        "extra": {"a": 1},
    }
    got = request(resource_requirements=asked).resource_requirements
    assert got == Resources(cpu=1, memory_gb=1, time_hours=0.5, account="me", extra={"a": 1})
    assert request(resource_requirements={"cpu": None, "extra": None}).resource_requirements == Resources()


@pytest.mark.parametrize(
    ("different", "complaint"),
    [
        ({"resource_requirements": {"memory": 1, "cpus": 2}}, "no resources memory, cpus; known are cpu, memory_gb"),
        ({"resource_requirements": {"cpu": "2"}}, "cpu is a number, not '2'"),
        ({"resource_requirements": {"cpu": True}}, "cpu is a number, not True"),
        ({"resource_requirements": {"memory_gb": 0}}, "memory_gb cannot be 0"),
        ({"resource_requirements": {"time_hours": float("nan")}}, "time_hours is a number, not nan"),
        ({"resource_requirements": {"gpu": 0.5}}, "gpu is a whole number, not 0.5"),
        ({"resource_requirements": {"gpu": -1}}, "gpu cannot be -1"),
        ({"resource_requirements": {"partition": 1}}, "partition is a text"),
        ({"resource_requirements": {"extra": []}}, "extra is a mapping"),
        ({"resource_requirements": [("cpu", 1)]}, "resource_requirements is a mapping or Resources"),
        ({"execution_command": "echo hello"}, "execution_command is a list of arguments"),
        ({"execution_command": ["echo", 1]}, "an argument of the command is a text or a path, not 1"),
        ({"workspace_dir": 7}, "workspace_dir is a text or a path, not 7"),
        ({"environment_variables": {"N": 4}}, "the environment variable 'N' is to be a text, not 4"),
        ({"environment_variables": ["N=4"]}, "environment_variables is a mapping"),
        ({"job_name": None}, "job_name is a text"),
    ],
)
def test_what_means_nothing_is_refused(different: dict[str, Any], complaint: str) -> None:
    with pytest.raises(BackendRejected) as refused:
        request(**different)
    assert isinstance(refused.value, BackendError)
    assert complaint in refused.value.message


def test_submit_takes_exactly_the_arguments_of_the_interface() -> None:
    backend = NoopBackend()
    assert inspect.signature(NoopBackend.submit) == inspect.signature(HPCBackend.submit)
    for wrong in ({"cpus": 4}, {"priority": 1}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            backend.submit(**GIVEN, **wrong)
    with pytest.raises(TypeError, match="job_name"):
        backend.submit(**{name: value for name, value in GIVEN.items() if name != "job_name"})
