"""Looking for what is left over beside others who come and go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

from tests.support import invariants


@contextmanager
def others_come_and_go(root: Path) -> Iterator[None]:
    """Directories that are made and removed all the time, as the control groups of other processes are."""
    over = Event()

    def churn() -> None:
        while not over.is_set():
            nest = [root / "other", root / "other" / "inner"]
            for each in nest:
                each.mkdir()
            for each in reversed(nest):
                each.rmdir()

    thread = Thread(target=churn)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_groups_that_go_meanwhile_disturb_nobody_who_looks_for_his_own(tmp_path: Path) -> None:
    local = tmp_path / "data" / "backends" / "local"
    local.mkdir(parents=True)
    root = tmp_path / "cgroup"
    own = root / "container" / f"ccat-wm-{local.stat().st_ino}"
    (own / "job").mkdir(parents=True)
    with others_come_and_go(root):
        for _ in range(1000):
            assert invariants.control_groups(tmp_path / "data", str(root)) == [own]
