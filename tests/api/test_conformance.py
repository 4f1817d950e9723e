"""What OpenAPI says about the API is true, whatever is sent. `make fuzz ARGS=api` sends much more."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from schemathesis.core.failures import FailureGroup

from tests.api.conformance import Conformance
from tests.api.rest import Hand, Secured
from tests.api.test_rights import Belongings

pytestmark = pytest.mark.whole

EXAMPLES = int(os.environ.get("API_EXAMPLES", "4"))
SEED = int(os.environ.get("API_SEED", "1"))


def conformance(secured: Secured) -> Conformance:
    admin, hand = secured.caller(), Hand(secured.context)
    night = Belongings("night", admin, hand)
    run = Path(secured.context.settings.pipeline_base_dir) / night.word / night.ids["run_id"]
    output = run / night.word / "main" / "attempt-1" / "output"
    output.mkdir(parents=True)
    (output / "a").write_text("x")
    token = json.loads(secured.token("viewer").json)["id"]
    return Conformance(admin.client, {**night.ids, "token_id": token}, SEED)


def test_every_answer_is_as_documented(secured: Secured) -> None:
    api = conformance(secured)
    wrong = []
    for operation in api.operations:
        try:
            api.try_one(operation, EXAMPLES)
        except (AssertionError, FailureGroup) as error:
            wrong.append(f"{operation.label}: {error}")
    assert wrong == []
    assert len(api.statuses) == len(api.operations)
    assert sum(200 in each or 201 in each or 202 in each for each in api.statuses.values()) > 30, api.statuses


def test_every_answer_in_a_sequence_is_as_documented(secured: Secured) -> None:
    conformance(secured).try_sequences(EXAMPLES, 10)
