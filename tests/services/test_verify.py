"""Healthy runs give no finding; each damage that is done behind the back of the service is found and named."""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.verify import Finding
from ccat_workflow_manager.execution.layout import create
from ccat_workflow_manager.execution.output_limits import Budget, OutputLimits
from ccat_workflow_manager.execution.published import checksum_of_published
from ccat_workflow_manager.execution.scan import Scanner
from ccat_workflow_manager.lifecycle.models import NewProduct
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.services.verify import Progress, Verification
from ccat_workflow_manager.services.verify_notes import Notes
from tests.api.rest import CHAIN, ONE, Hand

CONTENT = b"12345"


@dataclass
class Healthy:
    """Three runs of a chain: one completed, one that has failed, one that works."""

    context: Context
    hand: Hand
    runs: list[UUID]
    product: Path

    def findings(self, *, checksums: bool = False) -> list[Finding]:
        base_dir = str(self.context.settings.pipeline_base_dir)
        verification = Verification(self.context.database, base_dir, checksums=checksums, rest=lambda seconds: None)
        return list(verification.findings(Progress()))


@pytest.fixture
def healthy(context: Context) -> Healthy:
    hand = Hand(context)
    runs, products = [], []
    for number in range(3):
        run_id, *_ = context.submitter.submit(RunRequest(spec=CHAIN, parameters={"scans": [1, 2]}), actor="test")
        runs.append(run_id)
        while number < 2 and (items := hand.claim()):
            [item] = items
            if number == 1 and item.step == "second":
                hand.fail(item)
                continue
            dirs = context.worker_context.host.dirs(item)
            create(dirs, contained=True)
            os.rename(dirs.output_partial, dirs.output)
            products.append(Path(dirs.output, "map.fits"))
            products[-1].write_bytes(CONTENT)
            digest = sha256(CONTENT).hexdigest()
            hand.complete(item, NewProduct("map.fits", "SCIENCE", "map.fits", len(CONTENT), digest))
        if number == 2:
            hand.submit(hand.claim()[0])
    hand.count()
    return Healthy(context, hand, runs, products[0])


def test_healthy_runs_give_no_finding(healthy: Healthy) -> None:
    assert healthy.findings(checksums=True) == []


_OF_COMPLETED = "(SELECT id FROM step_runs WHERE run_id = :completed AND step = 'first' ORDER BY key LIMIT 1)"
_OF_WORKING = "(SELECT id FROM step_runs WHERE run_id = :working AND step = 'last')"
DAMAGES = {
    "a counter of a run": ("UPDATE runs SET n_completed = n_completed - 1 WHERE id = :completed", "counter"),
    "two counters of a run": (
        "UPDATE runs SET n_failed = 0, n_skipped = n_skipped + n_failed WHERE id = :failed", "counter"),
    "what a step has left": (
        "UPDATE run_steps SET remaining = 1 WHERE run_id = :completed AND name = 'first'", "counter"),
    "what a step run waits for": (f"UPDATE step_runs SET unmet = 0 WHERE id = {_OF_WORKING}", "dependency"),
    "waiting for too much": (f"UPDATE step_runs SET unmet = 2 WHERE id = {_OF_WORKING}", "dependency"),
    "an event is gone": (
        f"DELETE FROM events WHERE step_run_id = {_OF_COMPLETED} AND event = 'job_submitted'", "move"),
    "the last event is gone": (
        f"DELETE FROM events WHERE step_run_id = {_OF_COMPLETED} AND to_status = 'COMPLETED'", "status"),
    "an illegal move": (
        f"UPDATE events SET to_status = 'RUNNING' WHERE step_run_id = {_OF_COMPLETED}"
        " AND to_status = 'COMPLETED'", "move"),
    "another order": (
        "UPDATE events SET from_status = 'RUNNING' WHERE from_status = 'STAGING_DATA' AND run_id = :completed", "move"),
    "an attempt without end": (
        f"UPDATE attempts SET finished_at = NULL WHERE step_run_id = {_OF_COMPLETED}", "attempt"),
    "an attempt too many": (
        "INSERT INTO attempts (step_run_id, number, backend, job_name, worker, resources, finished_at)"
        " SELECT step_run_id, 5, backend, job_name, worker, resources, now() FROM attempts"
        f" WHERE step_run_id = {_OF_COMPLETED}", "attempt"),
    "another status": (f"UPDATE step_runs SET status = 'FAILED', reason = 'lost' WHERE id = {_OF_COMPLETED}", "status"),
    "failed in place of cancelled": (
        "UPDATE step_runs SET cancel_requested_at = now(), cancel_requested_by = 'x'"
        " WHERE run_id = :failed AND status = 'FAILED'", "cancel"),
    "a stray job": ("UPDATE backends SET stray_jobs = 1 WHERE name = 'noop'", "job"),
    "a figure of a day": (
        "UPDATE figures SET number = number + 1 WHERE seconds = 86400 AND outcome = 'FAILED'", "figure"),
    "a figure that is gone": ("DELETE FROM figures WHERE seconds = 86400 AND outcome = 'STARTED'", "figure"),
    "a figure of a minute": ("UPDATE figures SET number = number + 1 WHERE seconds = 60 AND step = ''", "figure"),
    "events that were not counted": (
        "DELETE FROM figures", "figure"),
    "a live figure": ("UPDATE live_figures SET number = number - 1 WHERE status = 'PENDING'", "figure"),
    "a step run is gone": ("DELETE FROM step_runs WHERE run_id = :working AND step = 'last'", "counter"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_rows_is_found_and_named(healthy: Healthy, damage: str) -> None:
    statement, kind = DAMAGES[damage]
    healthy.hand.execute("INSERT INTO backends (name) VALUES ('noop') ON CONFLICT DO NOTHING")
    names = dict(zip(("completed", "failed", "working"), healthy.runs, strict=True))
    healthy.hand.execute(statement, **{name: value for name, value in names.items() if f":{name}" in statement})
    assert kind in {finding.kind for finding in healthy.findings()}
    assert all(finding.repair for finding in healthy.findings())


def _remove(path: Path) -> None:
    path.unlink()


def _shorten(path: Path) -> None:
    path.write_bytes(CONTENT[1:])


def _change(path: Path) -> None:
    path.write_bytes(CONTENT[::-1])


def _link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _change_in_secret(path: Path) -> None:
    about = path.stat()
    _change(path)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


DAMAGES_OF_FILES = [_remove, _shorten, _change, _change_in_secret, _link, _pipe, _make_directory]


@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.parametrize("damage", DAMAGES_OF_FILES)
def test_damage_to_products_is_found_and_named(healthy: Healthy, damage: object, *, checksums: bool) -> None:
    assert callable(damage)
    damage(healthy.product)
    [finding] = healthy.findings(checksums=checksums)
    assert finding.kind == "product"
    assert str(healthy.product) in finding.text


def _remove_one(tree: Path) -> None:
    (tree / "below" / "b").unlink()


def _add_one(tree: Path) -> None:
    (tree / "below" / "c").write_bytes(b"")


def _rename_one(tree: Path) -> None:
    (tree / "a").rename(tree / "z")


def _change_one(tree: Path) -> None:
    _change_in_secret(tree / "below" / "b")


def _make_file(tree: Path) -> None:
    tree.rename(tree.with_name("elsewhere"))
    tree.write_bytes(CONTENT)


@pytest.fixture
def tree(context: Context) -> Path:
    """A directory that is one product."""
    hand = Hand(context)
    context.submitter.submit(RunRequest(spec=ONE), actor="test")
    (item,) = hand.claim()
    dirs = context.worker_context.host.dirs(item)
    create(dirs, contained=True)
    made = Path(dirs.output_partial, "cube.zarr")
    (made / "below").mkdir(parents=True)
    (made / "a").write_bytes(CONTENT)
    (made / "below" / "b").write_bytes(CONTENT[::2])
    (made / "link").symlink_to("a")
    root = os.open(dirs.output_partial, os.O_RDONLY)
    (found,) = Scanner(lambda path: path == "cube.zarr", Budget(OutputLimits(), lambda: None)).scan(root)
    os.close(root)
    os.rename(dirs.output_partial, dirs.output)
    product = NewProduct(
        "cube", "SCIENCE", found.path, found.size, found.sha256, is_directory=True, file_count=found.file_count
    )
    hand.complete(item, product)
    hand.count()
    return Path(dirs.output, "cube.zarr")


def test_a_whole_directory_gives_no_finding(context: Context, tree: Path) -> None:
    assert Healthy(context, Hand(context), [], tree).findings(checksums=True) == []


@pytest.mark.parametrize("damage", [_remove_one, _add_one, _rename_one, _change_one, _make_file])
def test_damage_inside_a_directory_is_found(context: Context, tree: Path, damage: object) -> None:
    assert callable(damage)
    damage(tree)
    [finding] = Healthy(context, Hand(context), [], tree).findings()
    assert (finding.kind, str(tree) in finding.text) == ("product", True)


def test_a_deployment_is_verified_in_slices(healthy: Healthy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccat_workflow_manager.services.verify._SLICE", 1)
    rested: list[float] = []
    base_dir = str(healthy.context.settings.pipeline_base_dir)
    verification = Verification(healthy.context.database, base_dir, share=0.5, rest=rested.append)
    progress = Progress()
    assert list(verification.findings(progress)) == []
    assert (progress.runs, len(rested)) == (3, 4)
    # It goes on behind the last run that was looked at.
    healthy.hand.execute("UPDATE runs SET n_completed = 0 WHERE id = :id", id=healthy.runs[0])
    assert list(verification.findings(progress)) == []


def test_a_verification_goes_on_after_an_interruption(
    healthy: Healthy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ccat_workflow_manager.services.verify._SLICE", 1)
    assert Notes.interrupted(tmp_path) is None
    healthy.product.unlink()
    base_dir = str(healthy.context.settings.pipeline_base_dir)

    def verify(notes: Notes, interrupt_after: int) -> None:
        def keep() -> None:
            notes.write()
            if notes.progress.runs == interrupt_after:
                raise KeyboardInterrupt

        verification = Verification(healthy.context.database, base_dir, rest=lambda seconds: None, keep=keep)
        for finding in verification.findings(notes.progress):
            notes.findings.append(finding)

    first = Notes.new(tmp_path, None, checksums=False)
    with pytest.raises(KeyboardInterrupt):
        verify(first, interrupt_after=1)
    second = Notes.interrupted(tmp_path)
    assert second == first
    verify(second, interrupt_after=-1)
    assert (second.progress.runs, [each.kind for each in second.findings]) == (3, ["product"])
    second.remove()
    assert Notes.interrupted(tmp_path) is None
    Path(tmp_path, "verify.json").write_text("[")
    assert Notes.interrupted(tmp_path) is None


def test_repairs_of_counters_repair_them(healthy: Healthy) -> None:
    for statement in (
        "UPDATE runs SET n_completed = 0 WHERE id = :id",
        "UPDATE run_steps SET remaining = 1 WHERE run_id = :id AND name = 'first'",
    ):
        healthy.hand.execute(statement, id=healthy.runs[0])
        for finding in healthy.findings():
            healthy.hand.execute(finding.repair)
        assert healthy.findings() == []


class Enough(Exception):
    pass


def test_a_product_is_read_no_further_than_its_reader_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ccat_workflow_manager.execution.published._BLOCK", 1)
    (tmp_path / "map.fits").write_bytes(CONTENT)
    read = 0

    def go_on() -> None:
        nonlocal read
        read += 1
        if read == 8:
            raise Enough

    assert checksum_of_published(str(tmp_path / "map.fits"), False, go_on) == sha256(CONTENT).hexdigest()
    with pytest.raises(Enough):
        checksum_of_published(str(tmp_path), True, go_on)
    assert read == 8
