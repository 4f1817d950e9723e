"""Whether AWS Batch can be used here: credentials, regions, profiles and the addresses of the services."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ccat_workflow_manager.errors import BackendUnavailable, ConfigurationError
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.aws_batch import credentials
from ccat_workflow_manager.hpc.aws_batch.backend import AwsBatchBackend
from ccat_workflow_manager.hpc.aws_batch.client import Aws
from ccat_workflow_manager.hpc.base import Availability
from tests.support.fixtures_aws_batch import CREDENTIALS, NO_CONFIGURATION


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without anything of AWS."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in NO_CONFIGURATION.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(credentials, "_MACHINE", Path("/nonexistent"))
    return monkeypatch


@pytest.fixture
def profiles(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Two profiles in AWS's own files."""
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n[profile south]\nregion = af-south-1\n")
    (tmp_path / "keys").write_text("[south]\naws_access_key_id = a\naws_secret_access_key = b\n")
    nowhere.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    nowhere.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
    return nowhere


def availability(**settings: Any) -> Availability:
    return registry.list_backends(lambda name: settings if name == "aws_batch" else {})["aws_batch"]


def aws(directory: Path, **settings: Any) -> Aws:
    return Aws("aws_batch", directory, per_minute=1000, **{"region": "eu-central-1", **settings})


def test_no_credentials(nowhere: pytest.MonkeyPatch) -> None:
    found = availability()
    assert not found.available
    assert "credentials" in found.reason
    assert "aws configure" in found.installation_hint


@pytest.mark.parametrize(
    "variables", [CREDENTIALS, {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/role"}], ids=["keys", "container"]
)
def test_credentials(nowhere: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        nowhere.setenv(name, value)
    assert availability().available


def test_a_machine_at_aws(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "vendor").write_text("Amazon EC2\n")
    nowhere.setattr(credentials, "_MACHINE", tmp_path / "vendor")
    assert availability().available


def test_a_broken_configuration(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").write_text("[profile")
    nowhere.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert "cannot be read" in availability().reason


def test_the_region(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert credentials.region() is None
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n")
    nowhere.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert credentials.region() == "eu-west-1"
    nowhere.setenv("AWS_REGION", "us-east-2")
    assert credentials.region() == "us-east-2"


def test_the_region_of_a_profile(profiles: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert credentials.region("south") == "af-south-1"
    address = aws(tmp_path, region=credentials.region("south"), profile="south").address("batch")
    assert address == "https://batch.af-south-1.amazonaws.com"
    profiles.setenv("AWS_PROFILE", "south")
    assert credentials.region() == "af-south-1"


def test_a_profile_that_is_not_there(profiles: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"AWS_BATCH_PROFILE.*north"):
        AwsBatchBackend(job_queue="main", image="x", profile="north", volumes="/tmp", state_dir=tmp_path / "state")
    assert not availability(profile="north").available
    assert "north" in availability(profile="north").reason
    assert availability(profile="south").available
    profiles.setenv("AWS_PROFILE", "east")
    assert "east" in availability().reason


def test_the_endpoint_is_that_of_batch_alone(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A VPC endpoint of AWS Batch does not serve logs and buckets, whose endpoints AWS's own variables name."""
    endpoint = "https://vpce-1.batch.eu-central-1.vpce.amazonaws.com"
    found = aws(tmp_path, endpoint_url=endpoint)
    assert [found.address(service) for service in ("batch", "logs", "s3")] == [
        endpoint,
        "https://logs.eu-central-1.amazonaws.com",
        "https://s3.eu-central-1.amazonaws.com",
    ]
    nowhere.setenv("AWS_ENDPOINT_URL_S3", "https://minio.example")
    nowhere.setenv("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", "https://logs.example")
    found = aws(tmp_path, endpoint_url=endpoint)
    assert [found.address(service) for service in ("batch", "logs", "s3")] == [
        endpoint,
        "https://logs.example",
        "https://minio.example",
    ]


def test_an_address_that_is_none(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere.setenv("AWS_ENDPOINT_URL_CLOUDWATCH_LOGS", "logs here")
    with pytest.raises(BackendUnavailable, match="logs here"):
        aws(tmp_path).look("logs", "get_log_events", logGroupName="g", logStreamName="s")


def test_without_boto3(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setattr(registry, "_installed", lambda package: package != "boto3")
    assert not availability().available
    assert "boto3" in availability().reason
    assert "[aws_batch]" in availability().installation_hint
