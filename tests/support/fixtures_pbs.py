"""Programs of a fake PBS, first on the search path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.pbs.fake_pbs import FakePbs
from tests.support.reaper import Reaper


@pytest.fixture
def fake_pbs(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, reaper: Reaper
) -> Iterator[FakePbs]:
    pbs = FakePbs(tmp_path_factory.mktemp("pbs") / "server")
    reaper.kill_marked(pbs.mark)
    monkeypatch.setenv("PATH", str(pbs.bin), prepend=":")
    yield pbs
    pbs.delete_all()
