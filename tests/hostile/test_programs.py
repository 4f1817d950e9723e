"""What a program prints, and how it treats its exit record, harms its own step run at most."""

from __future__ import annotations

import pytest

from ccat_workflow_manager.hpc.attempt.record import parse_exit_record
from tests.support.fixtures_service import Service, sh

LAST_WORDS = {
    "NUL": r"FATAL:   \000 not found",
    "half of a surrogate pair": r"FATAL:   \355\240\200 not found",
    "not UTF-8": r"FATAL:   \377\376 not found",
    "escapes of JSON": r"FATAL:   \\u0000 \\ud800 not found",
}


@pytest.mark.parametrize("words", LAST_WORDS.values(), ids=LAST_WORDS)
def test_last_words_that_postgresql_cannot_hold(service: Service, words: str) -> None:
    bad = service.submit(sh(f"printf '{words}' >&2; exit 127"))
    good = service.submit(sh("true"))
    assert service.wait(good)["status"] == "COMPLETED"
    assert service.wait(bad)["status"] == "FAILED"
    assert "not found" in service.step(bad, "only")["reason_text"]


NUMBERS = {
    "400 digits": "9" * 400,
    "not a number": "NaN",
    "infinite": "Infinity",
    "wider than a column": str(10**18),
}


@pytest.mark.parametrize("key", ["exit_code", "signal", "cpu_seconds", "peak_memory_bytes", "began"])
@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_a_record_with_a_number_out_of_range_is_no_record(key: str, number: str) -> None:
    numbers = {"exit_code": "0", "began": "1.5", "ended": "2.5", key: number}
    fields = ",".join(f'"{name}":{value}' for name, value in numbers.items())
    with pytest.raises(ValueError, match=key):
        parse_exit_record(f'{{"version":1,"job_name":"x",{fields}}}')
