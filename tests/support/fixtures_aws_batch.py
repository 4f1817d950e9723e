"""A stand-in for AWS Batch that really runs the jobs, and what a backend needs to talk to it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stand_ins.aws_batch.server import Faults, StandIn
from tests.stand_ins.aws_batch.site import MARK
from tests.support.fixtures_service import variables
from tests.support.reaper import Reaper

REGION = "eu-central-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}
NO_CONFIGURATION = {"AWS_CONFIG_FILE": "/nonexistent/config", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials"}


@pytest.fixture(scope="session")
def aws_batch_stand_in(reaper: Reaper) -> Iterator[StandIn]:
    """One for all tests; what a minute is for the service is three seconds here."""
    directory = Path(tempfile.mkdtemp(prefix="ccat-wm-aws-batch-"))
    reaper.remove(directory)
    reaper.kill_marked(f"{MARK}={directory}")
    stand_in = StandIn(directory, scale=0.05).start()
    yield stand_in
    stand_in.close()


@pytest.fixture
def aws_batch(aws_batch_stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """The stand-in without faults, and credentials in the environment; its logs and buckets too."""
    for name, value in {**CREDENTIALS, **NO_CONFIGURATION, "AWS_ENDPOINT_URL": aws_batch_stand_in.url}.items():
        monkeypatch.setenv(name, value)
    yield aws_batch_stand_in
    mend(aws_batch_stand_in)


def mend(stand_in: StandIn) -> None:
    """As it was at first."""
    stand_in.faults = Faults()
    stand_in.operations.lag_ms = 0
    stand_in.site.held = False
    stand_in.site.hidden = None
    stand_in.site.missing_images.clear()


def aws_batch_environment(stand_in: StandIn) -> dict[str, str]:
    """The environment of a deployment at the stand-in."""
    settings = variables(
        AWS_BATCH_JOB_QUEUE="main",
        AWS_BATCH_REGION=REGION,
        AWS_BATCH_IMAGE="launcher:1",
        AWS_BATCH_VOLUMES="/tmp",
        AWS_BATCH_CALLS_PER_MINUTE="5000",
    )
    return {**CREDENTIALS, **NO_CONFIGURATION, "AWS_ENDPOINT_URL": stand_in.url, **settings}


def aws_batch_config(stand_in: StandIn, workdir: Path) -> dict[str, Any]:
    """The keywords of a backend of its own at the stand-in."""
    return {
        "job_queue": "main",
        "region": REGION,
        "endpoint_url": stand_in.url,
        "image": "launcher:1",
        "volumes": str(workdir),
        "calls_per_minute": 100_000,
        "state_dir": str(workdir / "state"),
    }
