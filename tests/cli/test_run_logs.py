"""Following a log that grows while it is read."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest

from ccat_workflow_manager.commands.client import Client
from ccat_workflow_manager.commands.output import print_json
from ccat_workflow_manager.commands.run_logs import print_log

PIECE = 100
STEP_RUN = {"id": "i", "step": "s", "key": "k", "attempt": 1, "status": "RUNNING"}
Grow = Callable[["GrowingLog"], None]


class GrowingLog:
    """Stands in for the API. A call gives at most PIECE bytes of the log, or the last lines if `only_tail`."""

    def __init__(self, data: bytes, *later: Grow, only_tail: bool = False) -> None:
        self.data = data
        self.later = list(later)
        self.only_tail = only_tail
        self.attempt = 1
        self.asked: list[dict[str, Any]] = []

    def get(self, path: str) -> dict[str, Any]:
        return {"status": "RUNNING" if self.later else "COMPLETED", "attempt": self.attempt}

    def text(self, path: str, **query: Any) -> httpx.Response:
        self.asked.append(query)
        if self.only_tail:
            lines = self.data.splitlines(keepends=True)
            return httpx.Response(200, content=b"".join(lines[-query["tail"] :] if query.get("tail") else lines))
        start = len(self.data) - PIECE if query.get("tail") is not None else query["offset"]
        content = self.data[start : start + PIECE]
        headers = {"X-Log-Next-Offset": str(start + len(content)), "X-Log-Size": str(len(self.data))}
        if query.get("tail") is not None:
            headers["X-Log-Truncated"] = "true"
        return httpx.Response(200, content=content, headers=headers)

    def pause(self, seconds: float) -> None:
        self.later.pop(0)(self)


def printed(log: GrowingLog, capsys: pytest.CaptureFixture[str], **more: Any) -> tuple[str, str]:
    options = {"attempt": None, "stream": "stdout", "tail": None, "follow": True, "pause": log.pause, **more}
    shown = print_log(cast("Client", log), STEP_RUN, **options)
    if options.get("as_json"):
        print_json(shown)
    out, err = capsys.readouterr()
    return out, err


def added(data: bytes) -> Grow:
    def grow(log: GrowingLog) -> None:
        log.data += data

    return grow


def again(log: GrowingLog) -> None:
    log.attempt, log.data = 2, b"second\n"


@pytest.mark.parametrize("only_tail", [False, True])
def test_following_prints_the_whole_log(capsys: pytest.CaptureFixture[str], only_tail: bool) -> None:
    lines = [f"line {number}\n".encode() for number in range(200)]
    parts = [b"".join(lines[:90]), b"".join(lines[90:91]), b"", b"".join(lines[91:])]
    out, err = printed(GrowingLog(parts[0], *map(added, parts[1:]), only_tail=only_tail), capsys)
    assert (out, err) == (b"".join(lines).decode(), "")


def test_all_of_a_log_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    data = b"0123456789\n" * 100
    assert printed(GrowingLog(data), capsys, follow=False) == (data.decode(), "")


def test_a_tail_is_followed_from_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    log = GrowingLog(b"x" * 500, added(b"y" * 250))
    out, err = printed(log, capsys, tail=5)
    assert out == "x" * PIECE + "y" * 250
    assert "too long" in err
    assert [query.get("offset") for query in log.asked] == [None, 500, 600, 700]


def test_the_next_attempt_is_read_from_its_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    out, err = printed(GrowingLog(b"first\n" * 50, again), capsys)
    assert (out, err) == ("first\n" * 50 + "second\n", "(attempt 2)\n")


def test_half_a_character_at_the_end_stops_reading(capsys: pytest.CaptureFixture[str]) -> None:
    class Cut(GrowingLog):
        def text(self, path: str, **query: Any) -> httpx.Response:
            self.asked.append(query)
            content = b"ab"[query["offset"] :]
            return httpx.Response(200, content=content, headers={"X-Log-Next-Offset": "2", "X-Log-Size": "3"})

    assert printed(Cut(b""), capsys, follow=False)[0] == "ab"


@pytest.mark.parametrize("follow", [False, True])
def test_a_log_as_json(capsys: pytest.CaptureFixture[str], follow: bool) -> None:
    log = GrowingLog(b"first\n" * 50, *([again] if follow else []))
    out, _ = printed(log, capsys, follow=follow, as_json=True)
    assert json.loads(out) == {
        "step_run_id": "i", "step": "s", "key": "k", "attempt": 2 if follow else 1, "stream": "stdout",
        "text": "second\n" if follow else "first\n" * 50,
    }  # fmt: skip


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_log_cannot_steer_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], is_terminal: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    out, _ = printed(GrowingLog("\x1b]0;title\x07\x1b[2J\x9b1;1Hx\r\nline\n\ttab\n".encode()), capsys, follow=False)
    assert out.endswith("line\n\ttab\n")
    assert ("\x1b" in out, "\\x1b" in out) == (not is_terminal, is_terminal)
