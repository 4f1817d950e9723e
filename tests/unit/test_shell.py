"""shell: results, limits, and that no process is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from signal import SIGKILL

import pytest

from ccat_workflow_manager import shell
from tests.support.waiting import PATIENCE, wait_for, wait_until


def _alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_returns_exit_code_and_both_streams() -> None:
    completed = shell.run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=60)
    assert (completed.returncode, completed.stdout, completed.stderr) == (3, "out\n", "err\n")
    assert completed.output_tail == "err"
    assert not completed.truncated


def test_signal_is_a_negative_exit_code() -> None:
    assert shell.run(["sh", "-c", "kill -KILL $$"], timeout=60).returncode == -9


def test_input_larger_than_a_pipe_comes_back() -> None:
    text = "x" * 1_000_000 + "é"
    assert shell.run(["cat"], input=text, timeout=60).stdout == text


def test_unread_input_is_no_error() -> None:
    assert shell.run(["true"], input="x" * 1_000_000, timeout=60).returncode == 0


def test_invalid_utf8_is_replaced() -> None:
    assert shell.run(["printf", r"a\377b"], timeout=60).stdout == "a\ufffdb"


def test_environment_and_directory(tmp_path: Path) -> None:
    completed = shell.run(
        ["sh", "-c", "pwd; echo $A"], env={"A": "b", "PATH": os.environ["PATH"]}, cwd=tmp_path, timeout=60
    )
    assert completed.stdout == f"{tmp_path}\nb\n"


def test_missing_program_and_missing_directory_have_different_messages(tmp_path: Path) -> None:
    with pytest.raises(shell.CommandMissing, match="no-such-program") as missing:
        shell.run(["no-such-program", "-x"], timeout=1)
    assert missing.value.argv == ("no-such-program", "-x")
    with pytest.raises(shell.CommandMissing, match="gone"):
        shell.run(["true"], cwd=tmp_path / "gone", timeout=1)
    not_executable = tmp_path / "program"
    not_executable.write_text("")
    with pytest.raises(shell.CommandMissing, match="Permission denied"):
        shell.run([str(not_executable)], timeout=1)


def test_timeout_kills_the_group_and_keeps_the_output(tmp_path: Path) -> None:
    script = 'echo so far; sleep 1000 & echo $! > "$1"; wait'
    with pytest.raises(shell.CommandTimeout) as late:
        shell.run(["sh", "-c", script, "sh", str(tmp_path / "pid")], timeout=3)
    assert late.value.output_tail == "so far\n"
    assert "3 s" in late.value.message
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not _alive(pid), what="the end of the child")


def test_stop_when_kills_the_program() -> None:
    done = shell.run(
        ["/bin/sh", "-c", "echo once >&2; echo full, trying again >&2; exec sleep 1000"],
        timeout=60,
        stop_when=lambda words: "trying again" in words,
    )
    assert (done.returncode, done.stderr) == (-9, "once\nfull, trying again\n")


def test_a_child_that_keeps_the_pipes_open_is_not_waited_for() -> None:
    completed = shell.run(["sh", "-c", "sleep 1000 & echo $!"], timeout=60)
    os.kill(int(completed.stdout), 9)
    assert completed.returncode == 0


def test_what_is_printed_just_before_the_end_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(gate := tmp_path / "gate")

    def look_late(process: subprocess.Popen[bytes]) -> int:
        """The program prints and ends between the look at its pipes and the look at itself."""
        if process.returncode is None:
            gate.write_text("go on\n")
        return process.wait(PATIENCE)

    monkeypatch.setattr(subprocess.Popen, "poll", look_late)
    done = shell.run(["/bin/sh", "-c", 'read line <"$0"; echo last words', str(gate)], timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, "last words\n")


def test_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "OUTPUT_LIMIT", 1000)
    completed = shell.run(["sh", "-c", "yes | head -c 1000000; echo end >&2"], timeout=60)
    assert len(completed.stdout) == 1000
    assert completed.truncated
    assert completed.stderr == "end\n"


def test_spawn_starts_a_new_session(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as out:
        process = shell.spawn([sys.executable, "-c", "import os; print(os.getsid(0))"], stdout=out)
    assert process.wait() == 0
    assert int((tmp_path / "out").read_text()) == process.pid


def test_kill_group_ignores_a_group_that_has_ended() -> None:
    process = shell.spawn(["sleep", "1000"])
    shell.kill_group(process.pid, SIGKILL)
    assert wait_for(process.poll) == -9
    shell.kill_group(process.pid, SIGKILL)
