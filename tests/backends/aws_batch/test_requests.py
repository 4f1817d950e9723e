"""The requests to AWS Batch, checked with the model of the service that botocore ships."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ccat_workflow_manager.hpc.aws_batch.definition import (
    Mount,
    mounts_of,
    parse_mounts,
    render_definition,
)
from ccat_workflow_manager.hpc.aws_batch.request import (
    aws_name,
    parse_option,
    render_ask,
    render_submit,
)
from ccat_workflow_manager.hpc.aws_batch.settings import AwsBatchSettings
from ccat_workflow_manager.lifecycle.models import Resources
from ccat_workflow_manager.settings import settings_of
from tests.stand_ins.aws_batch.model import check_request, service


def settings(**more: Any) -> AwsBatchSettings:
    return settings_of(AwsBatchSettings, "aws_batch", {"job_queue": "main", **more})


SITE = settings()
ORDINARY = Resources(cpu=1, memory_gb=2, time_hours=1)
FARGATE = settings(
    platform="FARGATE",
    user="1000:1000",
    job_role="arn:aws:iam::1:role/job",
    execution_role="arn:aws:iam::1:role/start",
    log_group="own",
    assign_public_ip=True,
)
EFS = (Mount("/data", file_system="fs-1", access_point="fsap-2"),)


def in_model(operation: str, request: Mapping[str, Any]) -> None:
    check_request(service("batch").operation_model(operation), request)


def submitted(resources: Resources = ORDINARY, site: AwsBatchSettings = SITE, *, priority: int = 0) -> dict[str, Any]:
    ask = parse_option(render_ask(resources, priority, site).as_option())
    request = render_submit(ask, name="ccat-1-1", definition="d:1", command=["/bin/sh", "/x"], size=None)
    in_model("SubmitJob", request)
    return request


def sizes(request: Mapping[str, Any]) -> dict[str, str]:
    return {each["type"]: each["value"] for each in request["containerOverrides"]["resourceRequirements"]}


def test_an_ordinary_job() -> None:
    assert submitted() == {
        "jobName": "ccat-1-1",
        "jobQueue": "main",
        "jobDefinition": "d:1",
        "containerOverrides": {
            "command": ["/bin/sh", "/x"],
            "resourceRequirements": [{"type": "VCPU", "value": "1"}, {"type": "MEMORY", "value": "2048"}],
        },
        "timeout": {"attemptDurationSeconds": 3600},
        "retryStrategy": {"attempts": 1},
        "tags": {"ccat-job-name": "ccat-1-1"},
        "propagateTags": True,
    }


@pytest.mark.parametrize(
    ("resources", "platform", "wanted"),
    [
        (replace(ORDINARY, cpu=0.1), "EC2", {"VCPU": "1", "MEMORY": "2048"}),
        (replace(ORDINARY, cpu=2.5, memory_gb=0.001), "EC2", {"VCPU": "3", "MEMORY": "4"}),
        (replace(ORDINARY, gpu=2), "EC2", {"VCPU": "1", "MEMORY": "2048", "GPU": "2"}),
        (replace(ORDINARY, cpu=0.1, memory_gb=0.5), "FARGATE", {"VCPU": "0.25", "MEMORY": "512"}),
        (replace(ORDINARY, cpu=1, memory_gb=0.5), "FARGATE", {"VCPU": "1", "MEMORY": "2048"}),
        (replace(ORDINARY, cpu=1, memory_gb=20), "FARGATE", {"VCPU": "4", "MEMORY": "20480"}),
        (replace(ORDINARY, cpu=16, memory_gb=100), "FARGATE", {"VCPU": "16", "MEMORY": "106496"}),
    ],
)
def test_sizes(resources: Resources, platform: str, wanted: dict[str, str]) -> None:
    assert sizes(submitted(resources, settings(platform=platform))) == wanted


def test_no_time_limit_below_a_minute() -> None:
    assert submitted(replace(ORDINARY, time_hours=1 / 3600))["timeout"] == {"attemptDurationSeconds": 60}


def test_shares() -> None:
    request = submitted(replace(ORDINARY, account="radio"), priority=7)
    assert (request["shareIdentifier"], request["schedulingPriorityOverride"]) == ("radio", 7)
    chosen = replace(ORDINARY, extra={"scheduling_priority": 9})
    request = submitted(chosen, settings(share_identifier="all"), priority=-3)
    assert (request["shareIdentifier"], request["schedulingPriorityOverride"]) == ("all", 9)
    assert submitted(replace(ORDINARY, account="radio"), priority=-3)["schedulingPriorityOverride"] == 0


@pytest.mark.parametrize(
    ("resources", "platform", "words"),
    [
        (replace(ORDINARY, extra={"privileged": True}), "EC2", "extra.privileged"),
        (replace(ORDINARY, extra={"scheduling_priority": "high"}), "EC2", "number from 0"),
        (replace(ORDINARY, extra={"scheduling_priority": 1}), "EC2", "name an account"),
        (replace(ORDINARY, partition="a b"), "EC2", "job queue"),
        (replace(ORDINARY, account="a/b"), "EC2", "share identifier"),
        (replace(ORDINARY, gpu=1), "FARGATE", "no GPUs"),
        (replace(ORDINARY, cpu=64), "FARGATE", "64 cores"),
    ],
)
def test_resources_that_cannot_be_given(resources: Resources, platform: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        render_ask(resources, 0, settings(platform=platform))


def test_commands_that_do_not_fit() -> None:
    ask = render_ask(ORDINARY, 0, SITE)
    for command, words in (["x" * 9000], "longer than"), (["/bad\udcff"], "no UTF-8"):
        with pytest.raises(ValueError, match=words):
            render_submit(ask, name="n", definition="d", command=command, size=None)


def test_an_array() -> None:
    request = render_submit(render_ask(ORDINARY, 0, SITE), name="n", definition="d", command=["x"], size=10_000)
    assert request["arrayProperties"] == {"size": 10_000}
    in_model("SubmitJob", request)


def test_names() -> None:
    name = "ccat-0123456789abcdef0123456789abcdef-12"
    assert aws_name(name) == name
    assert aws_name("with.dot") != aws_name("with_dot")
    assert aws_name("x" * 200) == aws_name("x" * 200) != aws_name("x" * 201)


def test_a_definition_is_registered_once_per_image_and_shape() -> None:
    first = render_definition("image:1", FARGATE, EFS)
    in_model("RegisterJobDefinition", first)
    assert first == render_definition("image:1", FARGATE, EFS)
    others = [
        render_definition("image:2", FARGATE, EFS),
        render_definition("image:1", settings(**FARGATE.model_dump() | {"user": ""}), EFS),
    ]
    others.append(render_definition("image:1", settings(privileged=True), (Mount("/data", host_path="/mnt"),)))
    for other in others:
        in_model("RegisterJobDefinition", other)
    assert len({each["jobDefinitionName"] for each in [first, *others]}) == 4


def test_volumes() -> None:
    text = "/data=/mnt/data, /cache=efs:fs-1:/cache,/home=efs:fs-2@fsap-3,/same"
    assert parse_mounts(text) == (
        Mount("/data", host_path="/mnt/data"),
        Mount("/cache", file_system="fs-1", root="/cache"),
        Mount("/home", file_system="fs-2", access_point="fsap-3"),
        Mount("/same", host_path="/same"),
    )
    data, *_ = parse_mounts(text)
    assert data.holds("/data/run/1")
    assert data.holds("/data")
    assert not data.holds("/database")


@pytest.mark.parametrize("text", ["data=/x", "/data=efs:", "/data=nfs:x", "/home=efs:fs-2@fsap-3:/x"])
def test_volumes_that_cannot_be(text: str) -> None:
    with pytest.raises(ValueError, match=text.partition("=")[0]):
        parse_mounts(text)


def test_shapes_that_fargate_has_not() -> None:
    assert mounts_of(settings(platform="FARGATE", volumes="/a=efs:fs-1", execution_role="arn:x"))
    with pytest.raises(ValueError, match=r"privileged.*directories of a host.*execution role"):
        mounts_of(settings(platform="FARGATE", volumes="/a", privileged=True))
