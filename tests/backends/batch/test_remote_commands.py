"""Commands on another machine: what its shell is given, and what the end of `ssh` means."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc.batch.remote import CommandLost, SubmitNode, control_directory, render_remote
from tests.support.waiting import PATIENCE

NODE = SubmitNode("node")
ARGV = ["sbatch", "--parsable"]


def done(returncode: int, stderr: str = "", stdout: str = "") -> shell.Completed:
    return shell.Completed(("ssh", "node"), returncode, stdout, stderr)


@pytest.mark.parametrize(
    "word", ["", "a b", "'", '"', "$HOME", "`id`", "\\", "a\nb", "*", "-x", "é", "!x", "a;b|c&d #"]
)
def test_every_word_arrives(word: str) -> None:
    line = render_remote(["/usr/bin/printf", "%s|", word, "$X"], {"X": word or "x"}, 60)
    ran = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert ran.stdout == f"{word}|$X|"


@pytest.mark.parametrize(("code", "seen"), [(0, 0), (3, 3), (254, 254), (255, 254)])
def test_only_ssh_ends_with_255(code: int, seen: int) -> None:
    line = render_remote(["/bin/sh", "-c", f"exit {code}"], {}, 60)
    assert subprocess.run(["/bin/sh", "-c", line], timeout=PATIENCE, check=False).returncode == seen


def test_a_command_ends_there_when_its_caller_is_gone() -> None:
    line = render_remote(["/bin/sh", "-c", "exec sleep 1000"], {}, 0.1)
    assert subprocess.run(["/bin/sh", "-c", line], timeout=PATIENCE, check=False).returncode == 137


@pytest.mark.parametrize(
    "words",
    [
        "ssh: connect to host node port 22: Connection refused",
        "ssh: Could not resolve hostname node: Name or service not known",
        "me@node: Permission denied (publickey).",
        "Host key verification failed.",
        "a banner of the site\nkex_exchange_identification: Connection closed by remote host",
    ],
)
def test_what_was_never_started(words: str) -> None:
    with pytest.raises(BackendUnavailable, match="ssh to node failed"):
        NODE.completed(done(255, words), ARGV, "slurm")


@pytest.mark.parametrize(
    "words",
    [
        "",
        "Connection to node closed by remote host.",
        "client_loop: send disconnect: Broken pipe",
        "sbatch: error: Connection refused\nConnection to node closed by remote host.",
        "sbatch: error: Permission denied (account)\n",
    ],
)
def test_what_was_perhaps_carried_out(words: str) -> None:
    with pytest.raises(CommandLost, match="ssh to node failed"):
        NODE.completed(done(255, words), ARGV, "slurm")


def test_what_ended_over_there() -> None:
    assert NODE.completed(done(1, "sbatch: error: no"), ARGV, "slurm").argv == tuple(ARGV)
    with pytest.raises(BackendUnavailable, match="no program 'sbatch' on node"):
        NODE.completed(done(127), ARGV, "slurm")


def test_the_sockets_are_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    directory = control_directory()
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    with pytest.raises(BackendUnavailable, match="belongs to another user"):
        control_directory()
