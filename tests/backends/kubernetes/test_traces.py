"""The recorded requests to a real API server, sent to the stand-in: its answers and events are the same."""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.backends.kubernetes import recorded
from tests.stand_ins.kubernetes import ApiServer, Image, Node
from tests.stand_ins.kubernetes.schemas import validator
from tests.support.waiting import PATIENCE, wait_until

NAMESPACE = "replayed"
SCALE = 2.0
"""The real one took 70 s."""

_ROUND_TRIP = 0.015
"""What happened less than this long before an answer may have been caused by the request."""
_SETTLING = 0.2
"""An object that was made or deleted less than this long ago may be a step further or less far."""

_PATHS = {"Job": "/apis/batch/v1", "Pod": "/api/v1", "Event": "/api/v1"}
_PLURALS = {"Job": "jobs", "Pod": "pods", "Event": "events"}


class Replay:
    """Sends the recorded requests, each when as many events have come as had come in the recording."""

    def __init__(self, server: ApiServer) -> None:
        headers = {"Authorization": f"Bearer {server.token_file.read_text()}"}
        self.client = httpx.Client(base_url=server.url, headers=headers, timeout=PATIENCE)
        self.seen: dict[str, list[dict[str, Any]]] = defaultdict(list)
        """Events by what they are about."""
        self.pods: dict[str, list[str]] = defaultdict(list)
        self.theirs: dict[str, list[str]] = defaultdict(list)
        self.answers: list[tuple[dict[str, Any], httpx.Response]] = []
        self.then: dict[str, list[dict[str, Any]]] = defaultdict(list)
        standing = threading.Barrier(len(_PLURALS) + 1)
        for kind in _PLURALS:
            threading.Thread(target=self._watch, args=(kind, standing), daemon=True).start()
        standing.wait(PATIENCE)  # a watch shows what was before it in one event

    def run(self) -> None:
        for line in recorded.lines():
            if line["src"] != "http":
                key = self.key(line["object"], self.theirs)
                self.then[key].append(line)
                continue
            for key, events in self.then.items():
                number = sum(event["t"] < line["t"] - _ROUND_TRIP for event in events)
                if not key.startswith("Event") and not key.startswith("Job/par"):
                    wait_until(
                        partial(self._has, key, number), 20, f"{number} events of {key} before `{line['label']}`"
                    )
            if line["label"] == "get par":
                wait_until(
                    lambda: "completionTime" in self.seen["Job/par"][-1]["object"]["status"], 20, "the end of par"
                )
            self.answers.append((line, self._ask(line)))
        wait_until(partial(self._has, "Job/ok", len(self.then["Job/ok"])), 10, "the last event")

    def _has(self, key: str, number: int) -> bool:
        return len(self.seen[key]) >= number

    def _ask(self, line: dict[str, Any]) -> httpx.Response:
        path = line["path"].replace(recorded.namespace(), NAMESPACE)
        for job, names in self.theirs.items():
            for theirs, ours in zip(names, self.pods[job], strict=False):
                path = path.replace(theirs, ours)
        kind = "application/strategic-merge-patch+json" if line["method"] == "PATCH" else "application/json"
        body = None if line["request"] is None else json.dumps(line["request"])
        return self.client.request(line["method"], path, content=body, headers={"Content-Type": kind})

    def _watch(self, kind: str, standing: threading.Barrier) -> None:
        path = f"{_PATHS[kind]}/namespaces/{NAMESPACE}/{_PLURALS[kind]}"
        with self.client.stream("GET", path, params={"watch": "1"}, timeout=PATIENCE) as answer:
            standing.wait()
            try:
                for line in answer.iter_lines():
                    event = json.loads(line)
                    self.seen[self.key(event["object"], self.pods)].append(event)
            except httpx.RemoteProtocolError:
                return  # the server has been stopped

    @staticmethod
    def key(item: dict[str, Any], pods: dict[str, list[str]]) -> str:
        job = recorded.job_of(item)
        if item["kind"] == "Event":
            return f"Event/{job}"
        if item["kind"] == "Job":
            return f"Job/{job}"
        name = item["metadata"]["name"]
        if name not in pods[job]:
            pods[job].append(name)
        return f"Pod/{job}/{pods[job].index(name)}"


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replay]:
    directory: Path = tmp_path_factory.mktemp("replay")
    node = Node("n1", cpu="2", memory="8Gi")
    with ApiServer(
        directory, images={"bb:1": Image()}, nodes=[node], namespaces=[NAMESPACE], clock_scale=SCALE, version="1.20"
    ) as server:
        replay = Replay(server)
        replay.run()
        yield replay


def _requests() -> list[str]:
    return [
        f"{index}: {line['label']}"
        for index, line in enumerate(one for one in recorded.lines() if one["src"] == "http")
    ]


_GO_MESSAGES = ("wrong type", "patch template")
"""Requests whose message quotes the Go decoder or a Go value."""


@pytest.mark.parametrize("request_name", _requests())
def test_answer(replay: Replay, request_name: str) -> None:
    index, _, label = request_name.partition(": ")
    line, answer = replay.answers[int(index)]
    assert (answer.status_code, answer.headers["content-type"]) == (line["status"], line["headers"]["Content-Type"])
    if isinstance(line["response"], str):
        assert _log(answer.text) == _log(line["response"])
        return
    theirs, ours = recorded.plain(line["response"], recorded.namespace()), recorded.plain(answer.json(), NAMESPACE)
    if label == "version":
        assert ours.keys() == theirs.keys()
        assert (ours["major"], ours["minor"]) == (theirs["major"], theirs["minor"])
    elif line["method"] == "GET" and line["status"] == 200 and _is_settling(line):
        assert ours["kind"] == theirs["kind"]
    elif label in _GO_MESSAGES:
        assert _without_message(ours) == _without_message(theirs)
    else:
        assert _in_order(ours) == _in_order(theirs)


def _in_order(answer: dict[str, Any]) -> dict[str, Any]:
    """A list has its objects by name, and the names of pods are made up."""
    items = sorted(answer.get("items", ()), key=lambda item: json.dumps(item, sort_keys=True))
    return answer | ({"items": items} if items else {})


def _log(text: str) -> list[str]:
    """Standard output and standard error are two pipes: their order is left to chance."""
    lines = text.splitlines()
    stamped = [re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (out|err)", line) for line in lines]
    return ["a time and a line"] if len(lines) == 1 and stamped[0] else sorted(lines)


def _without_message(status: dict[str, Any]) -> dict[str, Any]:
    kept = {key: part for key, part in status.items() if key not in ("message", "details")}
    return kept | {"fields": [cause["field"] for cause in status.get("details", {}).get("causes", ())]}


def _is_settling(line: dict[str, Any]) -> bool:
    changes = [one["t"] for one in recorded.lines() if one["src"] == "http" and one["method"] != "GET"]
    return any(0 <= line["t"] - time < _SETTLING for time in changes)


def _histories() -> list[str]:
    pods: dict[str, list[str]] = defaultdict(list)
    found = [Replay.key(line["object"], pods) for line in recorded.lines() if line["src"] != "http"]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("about", _histories())
def test_history(replay: Replay, about: str) -> None:
    theirs = [recorded.step(event, recorded.namespace()) for event in replay.then[about]]
    ours = [recorded.step(event, NAMESPACE) for event in replay.seen[about]]
    if about.startswith("Event/"):
        # They come from several parts of the cluster, so their order is by chance, as is how often some are repeated.
        assert _kinds(ours) == _kinds(theirs)
    elif about == "Job/par":
        # Two pods that end at the same time may be counted together.
        assert (ours[0], ours[1], ours[-1]) == (theirs[0], theirs[1], theirs[-1])
    else:
        if not any(_runs(event) for event in theirs):
            # A program that ends before the kubelet looks is not seen running; that depends on the machine.
            ours = [event for event in ours if not _runs(event)]
        assert ours[: len(theirs)] == theirs


def _runs(event: Any) -> bool:
    return bool(event["status"].get("phase") == "Running")


def _kinds(events: list[Any]) -> list[str]:
    return sorted({json.dumps(event, sort_keys=True) for event in events})


def test_all_events_are_valid(replay: Replay) -> None:
    """By the strict schemas of a current server, though the stand-in acts as an old one."""
    for events in replay.seen.values():
        for event in events:
            validator(event["object"]["kind"]).validate(event["object"])
