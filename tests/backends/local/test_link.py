"""The client's side: bulk calls, news, Redis, awkward places."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import redis

from ccat_workflow_manager.errors import BackendConfused
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.local import LocalBackend
from ccat_workflow_manager.hpc.supervisor.index import INDEX_NAME
from ccat_workflow_manager.hpc.supervisor.wire import Unpacker, pack
from ccat_workflow_manager.lifecycle.job_info import JobStatus
from tests.backends.local.site import Site
from tests.support.waiting import wait_until


def test_news_of_many_jobs(site: Site) -> None:
    reported: list[str] = []
    stop = site.backend.listen(reported.extend)
    ids = site.submit(*(site.request("true") for _ in range(50)))
    wait_until(lambda: set(ids) <= set(reported), what="news of fifty jobs")
    assert len(reported) == 50
    assert all(info.finished for info in site.backend.get_statuses(ids).values())
    stop()


def test_news_go_on_after_the_supervisor_was_killed(site: Site) -> None:
    reported: list[str] = []
    calls: list[Sequence[str]] = []

    def on_change(job_ids: Sequence[str]) -> None:
        calls.append(job_ids)
        reported.extend(job_ids)

    stop = site.backend.listen(on_change)
    gate = site.root / "go"
    job_id = site.sh('until [ -e "$1" ]; do sleep 0.02; done', str(gate))
    site.until(job_id, JobStatus.RUNNING)
    pid = site.pid
    site.kill_supervisor()
    wait_until(lambda: site.pid != pid, what="the listener to start another supervisor")
    wait_until(lambda: site.backend.get_status(job_id).status is JobStatus.RUNNING, what="the job to be taken over")
    gate.touch()
    site.ended(job_id)
    # What ends before the listener is there again is found by asking, not by listening.
    others: list[str] = []

    def news() -> bool:
        others.append(site.run("true"))
        return not set(reported).isdisjoint(others)

    wait_until(news, what="news from the second supervisor", timeout=40)
    stop()


def test_many_threads_share_one_backend(site: Site) -> None:
    results: list[JobStatus] = []

    def work() -> None:
        for _ in range(5):
            [job_id] = site.backend.submit_many([site.request("true")])
            results.append(site.ended(str(job_id)).status)

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [JobStatus.COMPLETED] * 40


def test_more_jobs_than_one_request_holds(site: Site) -> None:
    ids = site.submit(*(site.request("true", cpu=0.01, memory_gb=0.01) for _ in range(1100)))
    assert len(set(ids)) == 1100
    assert {info.status for info in site.all_ended(ids, 60)} == {JobStatus.COMPLETED}


def test_fifty_ids_are_one_request(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = site.submit(*(site.request("true") for _ in range(50)))
    site.all_ended(ids)
    asked: list[object] = []
    real = site.backend._link.ask

    def counted(request: Mapping[str, Any]) -> Any:
        asked.append(request)
        return real(request)

    monkeypatch.setattr(site.backend._link, "ask", counted)
    infos = site.backend.get_statuses([*ids, ids[0], "strange", "00000000-0000-4000-8000-000000000000"])
    assert len(asked) == 1
    assert len(infos) == 52
    assert infos["strange"].status is infos["00000000-0000-4000-8000-000000000000"].status is JobStatus.UNKNOWN


def test_ids_are_tracked_in_redis(make_site: Callable[..., Site], redis_url: str) -> None:
    site = make_site(redis_url=redis_url)
    request = site.request("/bin/sh", "-c", "echo hello; exit 4")
    [job_id] = site.submit(request)
    site.ended(job_id)
    with redis.Redis.from_url(redis_url) as client:
        [key] = client.keys("ccat:local:*:jobs")
        assert json.loads(client.hget(key, job_id) or "") == [request.workspace_dir, request.job_name]
        # What the supervisor knows is lost: by Redis the record is still found.
        site.kill_supervisor()
        (site.state_dir / INDEX_NAME).unlink()
        info = site.backend.get_status(job_id)
        assert (info.status, info.exit_code) == (JobStatus.FAILED, 4)
        assert site.backend.get_logs(job_id) == "hello\n"
        site.backend.cleanup(job_id)
        assert not client.exists(key)
    assert site.backend.get_status(job_id).status is JobStatus.UNKNOWN


def test_redis_may_be_empty_or_away(make_site: Callable[..., Site], redis_url: str, tmp_path: Path) -> None:
    site = make_site(redis_url=redis_url)
    first = site.run("false")
    site.ended(first)
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
    site.kill_supervisor()
    assert site.backend.get_status(first).status is JobStatus.FAILED
    away = make_site(redis_url=f"unix://{tmp_path}/nobody.sock")
    job_id = away.run("true")
    assert away.ended(job_id).status is JobStatus.COMPLETED
    assert away.backend.get_status("00000000-0000-4000-8000-000000000000").status is JobStatus.UNKNOWN
    away.backend.cleanup(job_id)


def test_arguments_environment_and_places_arrive(make_site: Callable[..., Site], tmp_path: Path) -> None:
    directory = 'it\'s:a,"strange" $(place) \u00e9\n*'
    site = make_site()
    awkward = [
        "",
        " ",
        "'",
        '"',
        "$HOME $(id) `id`",
        "a\nb\n",
        "\\",
        "*",
        "\u4e16\u0081\u0088",
        "\udc81\udc88\udcff",
        "-n",
    ]
    environment = {f"V{number}": value for number, value in enumerate(awkward)}
    special = {"IFS": "x", "PPID": "1", "UID": "2", "PATH": "/usr/bin:/bin:/x", "with.dot": "d", "PS4": "$(touch bad)"}
    words = "[*map(os.fsencode, sys.argv[1:]), *map(b'='.join, os.environb.items())]"
    program = f"import os, sys; os.write(1, b'\\0'.join({words}))"
    request = site.request(
        sys.executable, "-I", "-S", "-c", program, *awkward, environment={**environment, **special}, directory=directory
    )
    [job_id] = site.submit(request)
    assert site.ended(job_id).exit_code == 0, site.backend.get_logs(job_id)
    seen = Path(site.files(request).stdout).read_bytes().split(b"\0")
    assert seen[: len(awkward)] == [os.fsencode(text) for text in awkward]
    for name, value in {**environment, **special}.items():
        assert f"{name}=".encode() + os.fsencode(value) in seen[len(awkward) :], name
    assert not (Path(request.workspace_dir) / "bad").exists()


def test_state_directory_with_a_long_path(tmp_path: Path, make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.state_dir = tmp_path / ("x" * 120) / ("y" * 120) / "state"
    site.backend = site.another()
    assert site.ended(site.run("true")).status is JobStatus.COMPLETED


def test_default_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    backend = registry.create("local")
    assert isinstance(backend, LocalBackend)
    try:
        assert backend.find("nothing") is None
        assert backend._link.state_dir == f"{tmp_path}/ccat-wm-{os.geteuid()}/local"
        assert oct(os.stat(backend._link.state_dir).st_mode)[-3:] == "700"
    finally:
        backend._link.ask({"do": "leave"})
        backend.close()


def test_frames() -> None:
    values = [{"a": "\udcff\u00e9"}, [1, None], "x" * 100_000]
    data = b"".join(map(pack, values))
    unpacker = Unpacker()
    assert [value for start in range(0, len(data), 7) for value in unpacker.feed(data[start : start + 7])] == values
    with pytest.raises(BackendConfused):
        list(Unpacker().feed(b"\xff\xff\xff\xff"))
    with pytest.raises(BackendConfused):
        list(Unpacker().feed(b"\0\0\0\x02{{"))
