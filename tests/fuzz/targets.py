"""The parsers that are fuzzed, and which errors each may raise."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from ccat_workflow_manager.api.dependencies import RawBody
from ccat_workflow_manager.api.paging import decode, number_key, text_key, uuid_key
from ccat_workflow_manager.definition.spec import PipelineSpec, canonical, parse_pipeline, parse_pipeline_text
from ccat_workflow_manager.errors import BackendConfused, OutputError, RequestError
from ccat_workflow_manager.execution.declarations import parse_products, parse_warnings
from ccat_workflow_manager.hpc.attempt.record import parse_exit_record
from ccat_workflow_manager.hpc.aws_batch.status import parse_job
from ccat_workflow_manager.hpc.pbs import listing as pbs
from ccat_workflow_manager.hpc.slurm import listing as slurm
from ccat_workflow_manager.services.feed_cursor import BadCursor

_HERE = Path(__file__).parent
CASES = _HERE / "cases"
"""Texts that have been found by fuzzing, a directory for each parser."""

_NASTY = (
    *'\0\ud800\ufeff\u2028\u00b2\u0663"|\n\t~/', "\x1b[2J", "9" * 400, "9" * 5000, "-1", "NaN", "1e999", "-0.0", "1_0",
    "{" * 2000, "[" * 2000, '{"":' * 50, " = ", ": ", "&a [*a]", "<<: *a", "*a", "!!python/object:x ", "null", "true",
    "${item}", "${", "..", "x" * 5000, "(?=a)", "Unknown", "N/A", "99999999999-23:59:59", "0x", "0o9",
)  # fmt: skip


def samples(name: str) -> list[str]:
    """The texts that this parser accepts. Fuzzing breaks them."""
    return [path.read_text(encoding="utf-8") for path in sorted((_HERE / "samples").glob(f"{name}-[0-9].txt"))]


@st.composite
def texts(draw: st.DrawFn, samples: Sequence[str]) -> str:
    """A sample with up to eight pieces of it cut out, doubled or replaced."""
    text = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(0, 8))):
        at, cut = draw(st.integers(0, len(text))), draw(st.integers(0, 40))
        start, length = draw(st.integers(0, len(text))), draw(st.integers(0, 60))
        doubled = st.just(text[start : start + length])
        piece = st.one_of(st.just(""), doubled, st.sampled_from(_NASTY), st.text(max_size=10))
        text = text[:at] + draw(piece) + text[at + cut :]
    return text


@dataclass(frozen=True, slots=True)
class Target:
    """One parser, which raises one of `refusals` or nothing."""

    parse: Callable[[str], Any]
    refusals: tuple[type[Exception], ...] = ()

    def check(self, text: str) -> None:
        with contextlib.suppress(*self.refusals):
            repr(self.parse(text))


def _stable(spec: PipelineSpec) -> PipelineSpec:
    assert parse_pipeline(canonical(spec)).content_hash == spec.content_hash
    return spec


def _cursor(text: str) -> None:
    for key_of in (uuid_key, number_key, text_key):
        with contextlib.suppress(BadCursor):
            decode("runs", text, key_of)  # type: ignore[type-var]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


TARGETS = {
    "json": Target(
        lambda text: _stable(parse_pipeline(RawBody(_bytes(text), "application/json").definition())), (RequestError,)
    ),
    "yaml": Target(lambda text: _stable(parse_pipeline_text(text)), (RequestError,)),
    "cursor": Target(_cursor),
    "exit-record": Target(parse_exit_record, (ValueError,)),
    "products": Target(lambda text: parse_products(_bytes(text), metadata_kb=100), (OutputError,)),
    "warnings": Target(lambda text: parse_warnings(_bytes(text)), (OutputError,)),
    "squeue": Target(slurm.parse_squeue, (ValueError,)),
    "squeue-all": Target(lambda text: slurm.parse_queued(text, {"14"}, {"us"}), (ValueError,)),
    "sacct": Target(slurm.parse_sacct, (ValueError,)),
    "sinfo": Target(lambda text: [each.limits for each in slurm.parse_sinfo(text)], (ValueError,)),
    "qstat": Target(pbs.parse_text, (ValueError,)),
    "qstat-json": Target(pbs.parse_json, (ValueError,)),
    "qstat-queues": Target(lambda text: [each.most_hours for each in pbs.parse_queues(text)], (ValueError,)),
    "describe-jobs": Target(lambda text: parse_job(json.loads(text)), (BackendConfused, ValueError, RecursionError)),
}
