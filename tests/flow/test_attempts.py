"""Every attempt keeps what is its own: logs, metrics, resources asked for and used."""

from __future__ import annotations

from pathlib import Path

from tests.support.fixtures_service import Service

PROGRAM = """
echo x >> "$1"; n=$(($(wc -l < "$1")))
echo "out $n"; echo "err $n" >&2; echo "$n" > own; exit $((n < 3 ? 10 + n : 0))
"""


def test_an_attempt_overwrites_nothing_of_the_one_before(service: Service, tmp_path: Path) -> None:
    run_id = service.submit(
        {
            "name": "only",
            "command": ["sh", "-c", PROGRAM, "sh", str(tmp_path / "count")],
            "resources": {"cpu": 0.1, "memory_gb": 0.25, "time_hours": 0.5},
            "retry": {"max_attempts": 3, "backoff_seconds": 0, "on": ["program_failed"]},
        }
    )
    assert service.wait(run_id)["status"] == "COMPLETED"
    step = service.step(run_id, "only")
    found = service.call("GET", f"/step-runs/{step['id']}/attempts")["items"]
    assert [(each["number"], each["exit_code"]) for each in found] == [(1, 11), (2, 12), (3, 0)]
    assert len({each["job_id"] for each in found}) == len({each["job_name"] for each in found}) == 3
    assert [each["reason"] for each in found] == ["program_failed", "program_failed", None]
    for number, each in enumerate(found, 1):
        assert each["resources"]["memory_gb"] == 0.25
        assert each["resources"]["time_hours"] == 0.5
        assert each["wall_time_seconds"] >= 0
        assert each["cpu_hours"] >= 0
        assert each["claimed_at"] <= each["submitted_at"]
        assert each["started_at"] <= each["finished_at"]
        for stream, word in (("stdout", "out"), ("stderr", "err")):
            log = service.client.get(f"/step-runs/{step['id']}/log", params={"attempt": number, "stream": stream})
            assert log.text == f"{word} {number}\n"
        directory = service.attempt_dir(run_id, "only", attempt=number)
        assert (directory / "workspace" / "own").read_text() == f"{number}\n"
        assert (directory / f"{each['job_name']}.exit.json").exists()
