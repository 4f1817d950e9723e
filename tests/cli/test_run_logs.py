"""What `ccat-wm run logs` makes of the pieces of a log."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from ccat_workflow_manager.client.connection import Address
from ccat_workflow_manager.client.transport import BlockingTransport
from ccat_workflow_manager.commands.client import Client
from ccat_workflow_manager.commands.output import print_json
from ccat_workflow_manager.commands.run_logs import print_log

STEP_RUN = {"id": "i", "step": "s", "key": "k", "attempt": 1, "status": "RUNNING"}
AGAIN = (
    "event: attempt\ndata: 1", "event: stderr\ndata: oh\ndata: ", "event: stdout\ndata: first\ndata: ",
    "event: attempt\ndata: 2", "event: gap\ndata: ", "event: stdout\ndata: second\ndata: ", "event: end\ndata: {}",
)  # fmt: skip


def printed(answer: httpx.Response, capsys: pytest.CaptureFixture[str], **more: Any) -> tuple[str, str]:
    transport = BlockingTransport(Address.of("http://localhost", ""), 0, httpx.MockTransport(lambda _: answer))
    options = {"attempt": None, "stream": "stdout", "tail": None, "follow": False, **more}
    shown = print_log(cast("Client", SimpleNamespace(api=transport)), STEP_RUN, **options)
    if options.get("as_json"):
        print_json(shown)
    out, err = capsys.readouterr()
    return out, err


def stream(*events: str) -> httpx.Response:
    return httpx.Response(200, text="".join(f"{each}\n\n" for each in events))


def test_all_attempts_are_followed_each_stream_where_it_belongs(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(stream(*AGAIN), capsys, follow=True, stream="both")
    assert out == "first\nsecond\n"
    assert [line[:10] for line in err.splitlines()] == ["oh", "(attempt 2", "(a part of"]


def test_a_log_whose_beginning_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(httpx.Response(200, text="end\n", headers={"X-Log-Truncated": "true"}), capsys, tail=5)
    assert (out, "missing" in err) == ("end\n", True)


def test_the_json_of_a_followed_log_is_that_of_its_last_attempt(capsys: pytest.CaptureFixture[str]) -> None:
    about = {"step_run_id": "i", "step": "s", "key": "k"}
    out, _ = printed(stream(*AGAIN), capsys, follow=True, stream="both", as_json=True)
    assert json.loads(out) == about | {"attempt": 2, "stream": "both", "stdout": "second\n", "stderr": ""}
    out, _ = printed(httpx.Response(200, text="first\n"), capsys, as_json=True)
    assert json.loads(out) == about | {"attempt": 1, "stream": "stdout", "text": "first\n"}


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_log_cannot_steer_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    text = "\x1b]0;title\x07\x1b[2J\x9b1;1Hx\r\nline\n\ttab\n"
    out, _ = printed(httpx.Response(200, content=text.encode()), capsys)
    assert out.endswith("line\n\ttab\n")
    assert ("\x1b" in out, "\\x1b" in out) == (not is_terminal, is_terminal)
