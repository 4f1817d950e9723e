"""Every backend that runs programs, each with a site of its own. One that needs nothing started needs no line here.

A site says what its worker finds in its environment. What has to be started for it is started when it is first wanted,
on the ground that a test module provides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.backends import OURS
from tests.backends.pbs.fake_pbs import FakePbs
from tests.stand_ins.kubernetes import ApiServer, Image, Node
from tests.support.fixtures_aws_batch import aws_batch_environment
from tests.support.fixtures_radical import START_SECONDS
from tests.support.fixtures_service import variables
from tests.support.reaper import Reaper


@dataclass(frozen=True, slots=True)
class Ground:
    """What sites are made on."""

    fixture: Callable[[str], Any]
    """What a fixture of this name gives."""
    reaper: Reaper
    directory: Path
    stack: ExitStack
    """Closed when the last test is over."""


PATIENCE_SECONDS = 120.0
"""How long a run may take on most sites. A test of one that needs longer is slow."""
Environment = Mapping[str, str]


def _nothing(ground: Ground) -> Environment:
    return {}


def _slurm(ground: Ground) -> Environment:
    return variables(SLURM_CONF=str(ground.fixture("slurm_cluster").conf), SLURM_CALLS_PER_MINUTE="2000")


def _pbs(ground: Ground) -> Environment:
    pbs = FakePbs(ground.directory / "pbs")
    ground.reaper.kill_marked(pbs.mark)
    ground.stack.callback(pbs.delete_all)
    return {"PATH": f"{pbs.bin}:{os.environ['PATH']}", **variables(PBS_CALLS_PER_MINUTE="5000")}


def _dask(ground: Ground) -> Environment:
    return variables(DASK_SCHEDULER_ADDRESS=ground.fixture("standing_dask_cluster").address, DASK_RESOURCES="cpu")


def _kubernetes(ground: Ground) -> Environment:
    nodes = (Node("n1", cpu="16", memory="64Gi"),)
    server = ground.stack.enter_context(
        ApiServer(ground.directory / "kubernetes", images={"launcher:1": Image()}, nodes=nodes)
    )
    settings = variables(
        KUBERNETES_NAMESPACE="default", KUBERNETES_LAUNCHER_IMAGE="launcher:1", KUBERNETES_MARGIN_SECONDS="1"
    )
    return {"KUBECONFIG": str(server.kubeconfig), **settings}


def _aws_batch(ground: Ground) -> Environment:
    return aws_batch_environment(ground.fixture("aws_batch_stand_in"))


def _radical_pilot(ground: Ground) -> Environment:
    return variables(RADICAL_PILOT_CORES="8", RADICAL_PILOT_TRUSTED_NETWORK="true")


@dataclass(frozen=True, slots=True)
class Site:
    """Where jobs of one backend run in tests."""

    environment: Callable[[Ground], Environment] = _nothing
    needs: tuple[str, ...] = ()
    patience_seconds: float = PATIENCE_SECONDS


_SITES = {
    "slurm": Site(_slurm, needs=("slurm",)),
    "pbs": Site(_pbs),
    "kubernetes": Site(_kubernetes),
    "aws_batch": Site(_aws_batch),
    "dask": Site(_dask),
    "radical_pilot": Site(_radical_pilot, needs=("radical",), patience_seconds=2 * START_SECONDS),
}
SITES = {name: _SITES.get(name, Site()) for name in OURS if name != "noop"}
"""All backends that run programs; `noop` has tests of its own."""


def parameters() -> list[Any]:
    """One test for each site, with the marks that it needs."""
    return [pytest.param(name, marks=_marks(site)) for name, site in SITES.items()]


def _marks(site: Site) -> list[pytest.MarkDecorator]:
    slow = [pytest.mark.slow] if site.patience_seconds > PATIENCE_SECONDS else []
    return [pytest.mark.needs(*site.needs), *slow]
