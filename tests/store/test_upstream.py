"""What step runs depend on is read in pages."""

from __future__ import annotations

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.products import UpstreamReader
from ccat_workflow_manager.db.runs import RunStore
from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.lifecycle.models import Facts, NewProduct, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from tests.support.step_runs import start

FAN = {
    "name": "fan",
    "steps": [
        {"name": "first", "foreach": [1, 2, 3, 4], "command": ["a"]},
        {"name": "second", "foreach": [1, 2, 3, 4], "depends_on": ["first"], "command": ["b"]},
    ],
}
ENDS = (Event.JOB_SUBMITTED, Event.JOB_SUCCEEDED, Event.RESULTS_COLLECTED)


@pytest.fixture
def items(context: Context) -> list[WorkItem]:
    """Step runs that depend on one step run each, with three products."""
    start(context, FAN)
    products = [NewProduct(name, "SCIENCE", name, 1, "0" * 64) for name in "abc"]
    with context.database.begin() as unit:
        store = RunStore(unit)
        first = store.claim("noop", "w", 10, 60)
        events = [TransitionEvent(event, "w") for event in ENDS]
        store.apply(
            [
                Transition(item.step_run_id, events, item.token, Facts(job_id=item.job_name), products=products)
                for item in first
            ]
        )
    with context.database.begin() as unit:
        return RunStore(unit).claim("noop", "w", 10, 60)


def test_pages_give_the_same_as_one_query(context: Context, items: list[WorkItem]) -> None:
    assert len(items) == 4
    at_once = UpstreamReader(context.database, items, 100)
    expected = [at_once.of(item) for item in items]
    assert [[len(source.products) for source in sources] for sources in expected] == [[3]] * 4
    assert [[source.key for source in sources] for sources in expected] == [[item.key] for item in items]
    for page in (1, 4, 7):
        paged = UpstreamReader(context.database, items, 100, page)
        assert [paged.of(item) for item in items] == expected


def test_too_many_products_upstream(context: Context, items: list[WorkItem]) -> None:
    reader = UpstreamReader(context.database, items, 2, page=1)
    with pytest.raises(StagingError, match="UPSTREAM_MAX_PRODUCTS"):
        reader.of(items[0])
