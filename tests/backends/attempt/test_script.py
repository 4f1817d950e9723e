"""The job script, run by a real shell, and the exit record that it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.record import ExitRecord, parse_exit_record, signal_in
from ccat_workflow_manager.hpc.attempt.script import CLEAN_PATH, render_job_script
from ccat_workflow_manager.lifecycle.models import job_name
from tests.support.waiting import PATIENCE, wait_until

SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]
KINDS = [False, True]


class Attempt:
    """The directories of one attempt, and a way to run its script."""

    def __init__(self, root: Path, shell: str = "/bin/sh") -> None:
        self.workspace = root / "workspace"
        self.workspace.mkdir(parents=True)
        (root / "job-1.logs").mkdir()
        self.files: AttemptFiles = AttemptFiles.of(str(self.workspace), "job-1")
        self._shell = {"busybox": ["busybox", "sh"], "bash": ["bash", "--posix"]}.get(shell, [shell])

    def start(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, *, supervised: bool = False
    ) -> subprocess.Popen[bytes]:
        script = render_job_script(
            command,
            environment=environment or {},
            cwd=str(self.workspace),
            files=self.files,
            supervised=supervised,
        )
        Path(self.files.script).write_text(script, encoding="utf-8", errors="surrogateescape")
        return subprocess.Popen([*self._shell, self.files.script], env={"PATH": CLEAN_PATH}, start_new_session=True)

    def run(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None, *, supervised: bool = False
    ) -> int:
        return self.start(command, environment, supervised=supervised).wait(PATIENCE)

    @property
    def record(self) -> ExitRecord:
        return parse_exit_record(Path(self.files.record).read_text())

    def out(self) -> str:
        return Path(self.files.stdout).read_text()


@pytest.fixture(params=SHELLS)
def make_attempt(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Attempt]:
    return lambda name: Attempt(tmp_path / name, request.param)


@pytest.mark.parametrize("supervised", KINDS)
@pytest.mark.parametrize(
    ("command", "code", "number"),
    [
        (["/bin/sh", "-c", "exit 0"], 0, None),
        (["sh", "-c", "exit 3"], 3, None),
        (["sh", "-c", "exit 255"], 255, None),
        (["sh", "-c", "kill -9 $$"], 137, 9),
        (["/bin/sh", "-c", "kill -TERM $$"], 143, 15),
        (["/no/such/program"], 127, None),
        (["no-such-program"], 127, None),
        (["exit", "5"], 127, None),
        (["/"], 126, None),
    ],
)
def test_exit_codes(
    make_attempt: Callable[[str], Attempt], command: list[str], code: int, number: int | None, supervised: bool
) -> None:
    attempt = make_attempt("attempt")
    assert attempt.run(command, supervised=supervised) == code
    if supervised:
        # Its parent, which is this test, is alive: it has the part, and the record is its own business.
        assert not Path(attempt.files.record).exists()
        part = json.loads(Path(attempt.files.record_part).read_text())
        assert (part["exit_code"], part["job_name"]) == (code, "job-1")
        return
    record = attempt.record
    assert (record.job_name, record.exit_code, record.signal) == ("job-1", code, number)
    assert record.wall_time_seconds is not None
    assert record.cpu_seconds is not None
    assert record.host == os.uname().nodename
    assert record.started_at is not None
    assert record.finished_at is not None
    assert abs((datetime.now(UTC) - record.finished_at).total_seconds()) < 60
    assert not Path(attempt.files.record_part).exists()


def test_a_missing_program_is_named_in_the_log(make_attempt: Callable[[str], Attempt]) -> None:
    attempt = make_attempt("attempt")
    attempt.run(["no-such-program"])
    assert "no-such-program" in Path(attempt.files.stderr).read_text()


@pytest.mark.parametrize("supervised", KINDS)
def test_a_missing_directory_is_no_success(make_attempt: Callable[[str], Attempt], supervised: bool) -> None:
    attempt = make_attempt("attempt")
    attempt.workspace.rmdir()
    assert attempt.run(["/bin/true"], supervised=supervised) == 126
    assert str(attempt.workspace) in Path(attempt.files.stderr).read_text()


def test_times(make_attempt: Callable[[str], Attempt]) -> None:
    attempt = make_attempt("attempt")
    attempt.run(["sh", "-c", "sleep 0.3; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"])
    record = attempt.record
    assert record.wall_time_seconds is not None
    assert record.cpu_seconds is not None
    assert 0.3 <= record.wall_time_seconds < 600
    assert 0.03 <= record.cpu_seconds < 200


@pytest.mark.parametrize("supervised", KINDS)
@pytest.mark.parametrize("special", [{}, {"IFS": "x", "PPID": "7", "UID": "8", "dotted.name": "9", "PS4": "$(id)"}])
def test_environment_and_arguments(
    make_attempt: Callable[[str], Attempt], special: dict[str, str], supervised: bool
) -> None:
    attempt = make_attempt('it\'s:a,"strange" $(place) \u00e9\n*')
    values = ["", " ", "'", '"', "$HOME $(id) `id`", "a\nb\n", "\\", "*", "\u4e16\u0081\u0088", "\udc81\udcff", "-n"]
    environment = {f"V{number}": value for number, value in enumerate(values)} | special | {"PATH": CLEAN_PATH + ":/x"}
    program = "/usr/bin/env" if supervised else "env"
    attempt.run([program, "printf", "%s\\0", *values], environment, supervised=supervised)
    seen = Path(attempt.files.stdout).read_bytes().split(b"\0")[:-1]
    assert seen == [os.fsencode(value) for value in values]
    attempt = make_attempt("another")
    attempt.run([program, "-0"], environment, supervised=supervised)
    got = Path(attempt.files.stdout).read_bytes().split(b"\0")
    for name, value in environment.items():
        assert f"{name}=".encode() + os.fsencode(value) in got, name


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=10))
def test_any_text_arrives(values: list[str]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        attempt = Attempt(Path(directory) / "attempt")
        attempt.run(["/usr/bin/printf", "%s\\0", *values], {"VALUE": values[0]})
        assert Path(attempt.files.stdout).read_bytes() == b"".join(os.fsencode(value) + b"\0" for value in values)


def test_starts_in_its_workspace_without_stdin(make_attempt: Callable[[str], Attempt]) -> None:
    attempt = make_attempt("attempt")
    attempt.run(["sh", "-c", "pwd; cat"])
    assert attempt.out() == f"{attempt.workspace}\n"


def test_alone_it_passes_signals_on(make_attempt: Callable[[str], Attempt]) -> None:
    attempt = make_attempt("attempt")
    script = attempt.start(["sh", "-c", "trap 'echo asked; exit 9' TERM; echo on; while :; do sleep 0.01; done"])
    wait_until(lambda: Path(attempt.files.stdout).exists() and attempt.out() == "on\n", what="the program to start")
    script.send_signal(signal.SIGTERM)
    assert script.wait(PATIENCE) == 9
    assert attempt.out() == "on\nasked\n"
    assert attempt.record.exit_code == 9


def test_supervised_it_outlives_signals(make_attempt: Callable[[str], Attempt]) -> None:
    attempt = make_attempt("attempt")
    script = attempt.start(["sh", "-c", "echo on; sleep 0.3; exit 4"], supervised=True)
    wait_until(lambda: Path(attempt.files.stdout).exists() and attempt.out() == "on\n", what="the program to start")
    script.send_signal(signal.SIGTERM)
    assert script.wait(PATIENCE) == 4


def test_supervised_it_runs_only_once(make_attempt: Callable[[str], Attempt]) -> None:
    attempt = make_attempt("attempt")
    command = ["sh", "-c", "echo x >> runs"]
    assert attempt.run(command, supervised=True) == 0
    before = Path(attempt.files.record_part).read_text()
    assert attempt.run(command, supervised=True) != 0
    assert (attempt.workspace / "runs").read_text() == "x\n"
    assert Path(attempt.files.record_part).read_text() == before


def test_supervised_it_publishes_when_its_parent_is_gone(make_attempt: Callable[[str], Attempt]) -> None:
    attempt = make_attempt("attempt")
    text = render_job_script(
        ["sh", "-c", "until [ -e go ]; do sleep 0.02; done; exit 6"],
        environment={},
        cwd=str(attempt.workspace),
        files=attempt.files,
        supervised=True,
    )
    Path(attempt.files.script).write_text(text)
    parent = subprocess.Popen(["sh", "-c", f"{' '.join(attempt._shell)} '{attempt.files.script}' & exec sleep 1000"])
    wait_until(Path(attempt.files.stdout).exists, what="the script to start")
    parent.kill()
    # Not waited for yet: a parent that is a zombie is gone all the same.
    (attempt.workspace / "go").touch()
    wait_until(Path(attempt.files.record).exists, what="the record")
    parent.wait()
    record = attempt.record
    assert (record.exit_code, record.finished_at) == (6, None)
    assert record.wall_time_seconds is not None
    assert record.cpu_seconds is not None
    assert not Path(attempt.files.record_part).exists()


@pytest.mark.parametrize(
    ("command", "environment"),
    [([], {}), ([""], {}), (["-x"], {}), (["a\0"], {}), (["a"], {"": "b"}), (["a"], {"b=": "c"}), (["a"], {"b": "\0"})],
)
def test_what_cannot_be_run(command: list[str], environment: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"command|environment|NUL"):
        render_job_script(command, environment=environment, cwd="/", files=AttemptFiles.of("/a/workspace", "x"))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "a\n", "-a", "a\0", "x" * 300])
def test_names_that_are_no_file_names(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a job"):
        AttemptFiles.of("/a/workspace", name)


def test_files() -> None:
    name = job_name(uuid4(), 123_456_789)
    files = AttemptFiles.of("/data/attempt-1/workspace/", name)
    base = f"/data/attempt-1/{name}"
    assert (files.directory, files.job_name, files.base) == ("/data/attempt-1", name, base)
    assert (files.script, files.record, files.record_part) == (f"{base}.sh", f"{base}.exit.json", f"{base}.exit.part")
    assert (files.claim, files.cancel) == (f"{base}.claim", f"{base}.cancel")
    assert (files.stdout, files.stderr) == ("/data/attempt-1/logs/stdout.log", "/data/attempt-1/logs/stderr.log")


@pytest.mark.parametrize(
    ("workspace", "name"),
    [("/data/ws1", f"ccat-{'0' * 32}-1"), ("/data/workspace", "mine"), ("/data/ws1/", "mine"), ("/ws1", "mine")],
)
def test_logs_are_those_of_one_job_where_its_directory_may_not_be(workspace: str, name: str) -> None:
    parent = "/data" if workspace.startswith("/data") else ""
    files = AttemptFiles.of(workspace, name)
    assert files.script == f"{parent}/{name}.sh"
    assert (files.stdout, files.stderr) == (f"{parent}/{name}.logs/stdout.log", f"{parent}/{name}.logs/stderr.log")


def test_record_there_and_back() -> None:
    record = ExitRecord(
        job_name="job",
        exit_code=137,
        signal=9,
        started_at=datetime(2025, 1, 2, 3, 4, 5, 678, UTC),
        finished_at=datetime(2025, 1, 2, 3, 4, 6, tzinfo=UTC),
        wall_time_seconds=0.999,
        cpu_seconds=0.5,
        peak_memory_bytes=1 << 40,
        oom_killed=True,
        stopped_by="memory_limit",
        stopped_text='too "much"\n\u00e9',
        memory_source="cgroup2",
        host="node-1",
    )
    assert parse_exit_record(record.to_json()) == record
    nothing = ExitRecord("job", None)
    assert parse_exit_record(nothing.to_json()) == nothing


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "\x00",
        '{"version":1,"job_name":"x","pid":1,"began":1.0',
        '{"version":1,"job_name":"x","pid":1,"began":1.0}',
        '{"version":2,"job_name":"x","exit_code":0}',
        '{"version":1,"exit_code":0}',
        '{"version":1,"job_name":"x","exit_code":"0"}',
        '{"version":1,"job_name":"x","exit_code":true}',
        '{"version":1,"job_name":"x","exit_code":0,"signal":"9"}',
        '{"version":1,"job_name":"x","exit_code":0,"stopped_by":"me"}',
        '{"version":1,"job_name":"x","exit_code":0,"oom_killed":1}',
        '{"version":1,"job_name":"x","exit_code":0,"finished_at":"yesterday"}',
        '{"version":1,"job_name":"x","exit_code":0,"finished_at":"2025-01-01T00:00:00"}',
        '{"version":1,"job_name":"x","exit_code":0,"cpu_seconds":"1"}',
    ],
)
def test_records_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_exit_record(text)


def test_signals_in_exit_codes() -> None:
    assert [signal_in(code) for code in (None, 0, 1, 128, 129, 137, 192, 193, 255)] == [
        None, None, None, None, 1, 9, 64, None, None,
    ]  # fmt: skip
