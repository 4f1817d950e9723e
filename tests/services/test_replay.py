"""Replays: the preview is exact, and the products are those of a fresh run."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.definition.messages import validated
from ccat_workflow_manager.errors import Conflict, Invalid, NotFound, RequestError
from ccat_workflow_manager.services.replay_request import ReplayOptions, merged
from ccat_workflow_manager.services.run_request import RunRequest
from tests.api.rest import Hand
from tests.services.test_reuse import Lab, sh, spec
from tests.support.inline import Inline, work
from tests.support.step_runs import one_step, start

READ = "cat $WORKFLOW_UPSTREAM_DIR/*/*/science/* > $WORKFLOW_OUTPUT_DIR/science/x 2>/dev/null; "
ADD = "echo $WORKFLOW_STEP $WORKFLOW_KEY >> $WORKFLOW_OUTPUT_DIR/science/x"


@pytest.fixture
def lab(context: Context) -> Lab:
    backend = Inline()
    context.use_backend("noop", backend)
    return Lab(context, backend)


def replay(lab: Lab, *run_ids: UUID, key: Any = None, **options: Any) -> list[dict[str, Any]]:
    wanted = ReplayOptions.model_validate(options)
    return lab.context.replays.replay(list(run_ids), wanted, actor="test", projects=None, key=key)


def names(item: dict[str, Any], kind: str) -> set[str]:
    return {f"{step['step']}/{key}" for step in item["steps"] for key in step[f"{kind}_keys"]}


def random_dag(randomness: random.Random) -> dict[str, Any]:
    """A pipeline whose programs add a line to what the steps before them have made."""
    steps: list[dict[str, Any]] = []
    for index in range(randomness.randint(3, 5)):
        before = [step["name"] for step in steps]
        step: dict[str, Any] = {
            "name": f"s{index}",
            **sh(READ + ADD),
            "depends_on": randomness.sample(before, randomness.randint(0, min(2, len(before)))),
        }
        if randomness.random() < 0.6:
            step["foreach"] = ["a", "b"]
        steps.append(step)
    return {"name": "two", "steps": steps}


@pytest.mark.parametrize("seed", range(3))
def test_a_replay_starts_what_its_preview_said_and_makes_what_a_fresh_run_makes(lab: Lab, seed: int) -> None:
    randomness = random.Random(seed)
    definition = random_dag(randomness)
    run_id = lab.context.submitter.submit(RunRequest(spec=definition), actor="test").run_id
    work(lab.context)
    fresh = lab.products(run_id)
    for step in randomness.sample(definition["steps"], 2):
        (preview,) = replay(lab, run_id, **{"from": step["name"], "dry_run": True})
        assert preview["outcome"] == "would_be_replayed"
        (done,) = replay(lab, run_id, **{"from": step["name"]})
        assert done["steps"] == preview["steps"]
        new = UUID(done["new_run_id"])
        work(lab.context)
        assert lab.started(new) == names(preview, "again")
        assert lab.reused(new) == names(preview, "reused")
        assert any(name.startswith(f"{step['name']}/") for name in lab.started(new))
        assert lab.products(new) == fresh
        assert lab.shown(new)["replay_of"] == str(run_id)
        lab.check()


def test_what_failed_is_replayed_with_the_latest_version(lab: Lab) -> None:
    lab.context.catalogue.apply(spec(clean=f"{READ} test $WORKFLOW_KEY = a"))
    request = RunRequest(pipeline="two", parameters={"keys": ["a", "b"]})
    run_id = lab.context.submitter.submit(request, actor="test").run_id
    work(lab.context)
    assert lab.shown(run_id)["status"] == "FAILED"
    (same,) = replay(lab, run_id, dry_run=True)
    assert names(same, "again") == {"clean/b", "map/main"}
    lab.context.catalogue.apply(spec(clean=READ))
    (done,) = replay(lab, run_id, version="latest")
    assert (done["pipeline_version"], done["supersedes"]["step_runs"]) == (2, 1)
    assert names(done, "again") == {"clean/a", "clean/b", "map/main"}
    work(lab.context)
    new = UUID(done["new_run_id"])
    assert lab.shown(new)["status"] == "COMPLETED"
    assert lab.started(new) == names(done, "again")
    assert done["cost"]["without_history"] == 1
    assert done["cost"]["wall_time_seconds"] == 2


def test_keys_parameters_and_everything(lab: Lab) -> None:
    run_id = lab.run(spec())
    (some,) = replay(lab, run_id, **{"from": {"keys": ["a"]}, "dry_run": True})
    assert names(some, "again") == {"reduce/a", "clean/a", "map/main"}
    (other,) = replay(lab, run_id, parameters={"line": "CII"}, dry_run=True)
    assert names(other, "again") == {"map/main"}
    (more,) = replay(lab, run_id, parameters={"keys": ["a", "b", "c"]}, dry_run=True)
    assert names(more, "again") == {"reduce/c", "clean/c", "map/main"}
    (everything,) = replay(lab, run_id, reuse="no")
    assert (everything["again"], everything["reused"]) == (5, 0)
    work(lab.context)
    new = UUID(everything["new_run_id"])
    assert len(lab.started(new)) == 5
    assert lab.products(new) == lab.products(run_id)
    assert lab.why(new, "reduce/a")["differs"] == []


def test_a_lost_answer_and_a_double_click_make_one_replay(lab: Lab) -> None:
    run_id = lab.run(spec())
    (first,) = replay(lab, run_id, key="click", **{"from": "map"})
    with ThreadPoolExecutor(2) as threads:
        again = [threads.submit(replay, lab, run_id, key="click", **{"from": "map"}) for _ in range(2)]
        assert {each.result()[0]["new_run_id"] for each in again} == {first["new_run_id"]}
    with pytest.raises(Conflict, match="'click'"):
        replay(lab, run_id, key="click", **{"from": "reduce"})
    (another,) = replay(lab, run_id, key="another", **{"from": "map"})
    assert another["new_run_id"] != first["new_run_id"]


def test_many_are_replayed_although_some_cannot_be(context: Context) -> None:
    hand = Hand(context)
    ids = start(context, one_step(), 50)
    running = start(context, one_step(), 1)
    for _ in ids:
        (item,) = hand.claim()
        hand.complete(item)
    options = ReplayOptions.model_validate({"from": "only"})
    wanted = [*ids, *running, uuid4()]
    answers = context.replays.replay(wanted, options, actor="test", projects=None, key=None)
    assert [UUID(answer["run_id"]) for answer in answers] == wanted
    assert [answer["outcome"] for answer in answers] == ["replayed"] * 50 + ["refused"] * 2
    assert "PENDING" in answers[50]["reason"]
    with context.database.read() as unit:
        assert unit.execute("SELECT count(*) FROM runs WHERE replay_of IS NOT NULL").scalar() == 50


def test_the_cost_is_that_of_the_runs_of_its_own_project(context: Context) -> None:
    hand = Hand(context)
    start(context, {**one_step(), "project": "theirs"}, 1)
    hand.complete(hand.claim()[0])
    mine = start(context, {**one_step(), "project": "mine"}, 1)
    hand.fail(hand.claim()[0])
    options = ReplayOptions.model_validate({"dry_run": True})
    costs = []
    for _ in range(2):
        (answer,) = context.replays.replay(mine, options, actor="test", projects=None, key=None)
        costs.append(answer["cost"])
        start(context, {**one_step(), "project": "mine"}, 1)
        hand.complete(hand.claim()[0])
    assert [(each["wall_time_seconds"], each["without_history"]) for each in costs] == [(0, 1), (1.5, 0)]


@pytest.mark.parametrize(
    ("options", "error", "path"),
    [
        ({"from": "nothing"}, Invalid, "ids[0]: from"),
        ({"from": {"keys": ["z"]}}, Invalid, "ids[0]: from.keys"),
        ({"version": "latest"}, Invalid, "ids[0]: version"),
        ({"parameters": {"keys": 7}}, Invalid, "ids[0]: parameters.keys"),
    ],
)
def test_a_replay_that_cannot_be_is_refused(
    lab: Lab, options: dict[str, Any], error: type[RequestError], path: str
) -> None:
    run_id = lab.run(spec())
    with pytest.raises(error) as caught:
        replay(lab, run_id, **options)
    assert [fault.path for fault in caught.value.faults] == [path]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"version": "3"}, "number"),
        ({"version": 0}, "number"),
        ({"from": 5}, "name of a step"),
        ({"from": ["a"]}, "keys"),
    ],
)
def test_a_replay_says_all_that_its_options_may_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        validated(ReplayOptions, options)
    assert [words in fault.message for fault in caught.value.faults] == [True]


def test_what_runs_or_does_not_exist_is_refused(lab: Lab) -> None:
    running = lab.submit(spec())
    with pytest.raises(Conflict, match="cancel"):
        replay(lab, running)
    with pytest.raises(NotFound):
        replay(lab, uuid4())
    assert replay(lab) == []


def test_a_merge_patch() -> None:
    assert merged({"a": 1, "b": {"c": 2, "d": 3}}, {"a": None, "b": {"c": 4}, "e": [5]}) == {
        "b": {"c": 4, "d": 3}, "e": [5],
    }  # fmt: skip
