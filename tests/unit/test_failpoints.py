"""Every side effect has a failpoint, and every failpoint has a line in docs/reliability.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.errors import BackendUnavailable, ConfigurationError, ServiceUnavailable
from tests.chaos.points import PACKAGE, called, calls, calls_named, modules, point_of, points
from tests.support.armed import Action, Injected, Injection, Plan, parse

PAGE = PACKAGE.parent / "docs" / "reliability.md"
_HANDLE = PACKAGE / "services" / "backend_handle.py"

_BACKEND_CALLS = {"submit_many", "get_statuses", "cancel_many", "cleanup_many", "find", "list_jobs"}
_FILE_CALLS = {"mkdir", "makedirs", "rename", "replace", "unlink", "symlink", "write", "rmtree"}
_REDIS_CALLS = {"enqueue", "_fill_up", "sadd", "spop", "set", "delete", "expire", "lpush", "publish"}
_SCHEDULER_CALLS = {"run", "act", "symlink", "link", "replace", "put"}
_CACHES = ("_numbered", "_limits")
_COVERED_BY_CALLER = {
    # Called only by `stage`, inside of the points there.
    "execution/layout.py:create",
    "execution/layout.py:_make_private",
    "execution/staging.py:_write_code",
    "execution/staging.py:_link_upstream",
    "execution/staging.py:mirror",
    "execution/staging.py:_remove",
    "execution/staging.py:_link",
    "execution/staging.py:_make_mount_points",
    "execution/manifest.py:write_atomically",
    "execution/input_links.py:link_inputs",
    "execution/input_links.py:_lay_out",
    "execution/input_links.py:_remove_others",
    # Inside of `files.transfer`.
    "execution/stager.py:_append",
    "execution/code_files.py:write_files",
    "execution/code_files.py:_write",
    # Inside of `files.publish` in services/collect.py.
    "execution/outputs.py:publish",
    # A probe in a directory that is removed again.
    "execution/runtime.py:supports_limits",
    # Notes about queues, which are hints only and have an end of their own: to lose or repeat them does no harm.
    "doorbell.py:queues_are_due",
    "doorbell.py:remember",
    # The message has been answered; if it stays, it is answered once more.
    "listener.py:execute_job",
    # Inside of `command.run` in `calls.py`; commands that only look change nothing.
    "hpc/batch/calls.py:_run",
    "hpc/batch/calls.py:ask",
    "hpc/batch/command_backend.py:_submitted",
    # Beside the points of the submission's file: a link without its file means nothing.
    "hpc/batch/store.py:add",
    # Inside of `files.reuse`.
    "execution/reuse.py:link",
    # Inside of `files.remove` in services/deletion.py.
    "execution/removal.py:remove",
    "execution/removal.py:_empty",
    "execution/removal.py:_flatten",
    "execution/removal.py:_move_up",
    "execution/removal.py:_unlinked",
    # The cache of images: a pull that broke off is begun anew under the same lock.
    "execution/image_cache.py:_write_entry",
}


def functions(path: Path, text: str) -> Iterator[tuple[str, ast.AST]]:
    """The functions of a module, the outer ones only."""
    tree = ast.parse(text)
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef))]
    for node in (node for body in bodies for node in body if isinstance(node, ast.FunctionDef)):
        yield f"{path.relative_to(PACKAGE).as_posix()}:{node.name}", node


def effects(path: Path, text: str) -> Iterator[tuple[str, ast.Call]]:
    """Calls in this module that change something outside of the process, or ask a backend."""
    folder = path.relative_to(PACKAGE).parts[0]
    wanted = {"execution": _FILE_CALLS, "doorbell.py": _REDIS_CALLS, "listener.py": _REDIS_CALLS}.get(folder, set())
    if path == _HANDLE:
        wanted = _BACKEND_CALLS
    if path.parent == PACKAGE / "hpc" / "batch":
        wanted = _SCHEDULER_CALLS
    if not wanted:
        return
    for where, function in functions(path, text):
        for call in calls(function):
            if isinstance(call.func, ast.Attribute) and call.func.attr in wanted and not _is_harmless(call):
                yield where, call


def _is_harmless(call: ast.Call) -> bool:
    """`text.replace` and `text.find` have the names of effects."""
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    if name in _CACHES:
        return True
    return name not in ("os", "shutil", "_backend", "redis", "queue", "file") and called(call) in (
        *_FILE_CALLS,
        "find",
    )


def bare(path: Path, text: str) -> set[str]:
    """The functions of a module with a side effect and without a point."""
    with_effects = {where for where, _ in effects(path, text)} - _COVERED_BY_CALLER
    if not with_effects:
        return set()
    return with_effects - {at for at, function in functions(path, text) if any(map(_passes_a_point, calls(function)))}


def _passes_a_point(call: ast.Call) -> bool:
    """A constant name, or in `BackendHandle` the argument `point`, for which every caller gives one."""
    by_caller = called(call) == "_call" and isinstance(call.args[0], ast.Name) and call.args[0].id == "point"
    return by_caller or point_of(call) is not None


def test_every_side_effect_has_a_point() -> None:
    found = {where for path in modules() for where in bare(path, path.read_text(encoding="utf-8"))}
    assert found == set(), "put it between points: see failpoints.py"


@pytest.mark.parametrize(
    "name",
    ["services/backend_handle.py", "execution/image_cache.py", "doorbell.py", "hpc/batch/store.py"],
)
def test_a_side_effect_without_its_point_is_noticed(name: str) -> None:
    path = PACKAGE / name
    text = path.read_text(encoding="utf-8")
    without = re.sub(r"\b(around|point|_call)\(", r"gone(", text)
    assert without != text
    assert bare(path, without) != set()


def test_services_call_backends_through_their_handle() -> None:
    named = [path for path in (PACKAGE / "services").glob("*.py") if "HPCBackend" in path.read_text(encoding="utf-8")]
    assert named == [_HANDLE]


def test_every_transaction_that_writes_has_a_name() -> None:
    unnamed = [
        f"{path.relative_to(PACKAGE).as_posix()}:{call.lineno}"
        for path in modules()
        if path.name != "session.py"
        for call in calls_named(("begin", "transact"), path)
        if called(call) in ("begin", "transact")
        and not (point_of(call) or "").startswith("commit.")
        and ast.unparse(call.args[0]) != "self._point"  # `BatchWriter`, for which every caller gives one
    ]
    assert unnamed == [], "give it a name: begin('commit.NAME')"


def test_every_point_is_in_the_table_of_the_documentation() -> None:
    rows = set(re.findall(r"^\| `([\w.-]+)` ", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert rows == set(points()), "run `make chaos`, which writes docs/reliability.md"


# --- what happens at a point -----------------------------------------------------------------------------------------


@pytest.fixture
def armed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def test_nothing_happens_where_nothing_is_armed() -> None:
    failpoints.point("files.publish")
    assert failpoints.around("backend.submit", lambda: 5) == 5


def test_a_plan_has_one_line_per_injection() -> None:
    assert parse("worker backend.submit after crash; * commit.claim before delay nth=2 seconds=0.5") == [
        Injection("worker", "backend.submit", "after", Action.CRASH),
        Injection("*", "commit.claim", "before", Action.DELAY, 2, 0.5),
    ]
    for wrong in (
        "worker backend.submit",
        "worker x sometimes crash",
        "worker x after burn",
        "worker x after crash n=1",
    ):
        with pytest.raises(ConfigurationError):
            parse(wrong)


@pytest.mark.usefixtures("armed")
def test_an_injection_happens_at_the_nth_passage_in_its_process() -> None:
    failpoints.arm(Plan("worker files.manifest before raise nth=2"))
    failpoints.point("files.manifest")
    failpoints.point("files.manifest")
    failpoints.enter("worker")
    failpoints.point("files.manifest")
    with pytest.raises(Injected):
        failpoints.point("files.manifest")
    failpoints.point("files.manifest")


@pytest.mark.usefixtures("armed")
def test_a_timeout_is_the_error_of_what_is_asked_and_comes_when_it_was_done() -> None:
    done: list[str] = []
    failpoints.arm(Plan("* backend.submit after timeout; * commit.claim after timeout; * backend.cancel before twice"))
    with pytest.raises(BackendUnavailable):
        failpoints.around("backend.submit", lambda: done.append("submitted"))
    with pytest.raises(ServiceUnavailable):
        failpoints.point("commit.claim", failpoints.AFTER)
    failpoints.around("backend.cancel", lambda: done.append("cancelled"))
    assert done == ["submitted", "cancelled", "cancelled"]


@pytest.mark.usefixtures("armed")
def test_a_plan_in_a_directory_happens_once_for_all_processes(tmp_path: Path) -> None:
    (tmp_path / "plan").write_text("* bell.ring before raise\nrecord")
    first, second = Plan(f"@{tmp_path}"), Plan(f"@{tmp_path}")
    with pytest.raises(Injected):
        first.at("bell.ring", "before")
    second.at("bell.ring", "before")
    assert len((tmp_path / "fired").read_text().splitlines()) == 1
    assert (tmp_path / "seen").read_text().splitlines() == [" bell.ring before"] * 2
