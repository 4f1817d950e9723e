"""Drawings: long edges cross no node, bars show what is rare, names are escaped."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccat_workflow_manager.dashboard.drawing.bars import bar, parts, usage
from ccat_workflow_manager.dashboard.drawing.charts import Series, columns, histogram, lines, nice_top, spark
from ccat_workflow_manager.dashboard.drawing.graph import Node, graph
from ccat_workflow_manager.dashboard.drawing.layout import LANE, layered
from ccat_workflow_manager.dashboard.drawing.shapes import cell
from ccat_workflow_manager.dashboard.drawing.uptime import SHOWN, away_seconds, away_spans, uptime
from tests.api.rest import ONE, Hand, Rest


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    names = [f"n{i}" for i in range(draw(st.integers(1, 14)))]
    return {
        name: draw(st.lists(st.sampled_from(names[:i]), unique=True, max_size=3)) if i else []
        for i, name in enumerate(names)
    }


def test_the_label_of_a_usage_has_no_exponent() -> None:
    drawn = usage(96.5, 120, 1500.25, 2048, short=False)
    assert 'aria-label="median 96.5, 95 % 120, most 1,500.2 of 2,048 GB"' in drawn


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_nodes_never_overlap_and_long_edges_have_lanes_of_their_own(upstream: dict[str, list[str]]) -> None:
    layout = layered(upstream, 138, 54)
    boxes: dict[float, list[tuple[float, float]]] = {}
    for name, (x, y) in layout.place.items():
        boxes.setdefault(x, []).append((y, y + (LANE if name in layout.lanes else 54)))
    for column in boxes.values():
        column.sort()
        assert all(above[1] <= below[0] + 0.01 for above, below in itertools.pairwise(column))
    for (before, node), chain in layout.routes.items():
        assert chain[0] == before
        assert chain[-1] == node
        assert set(chain[1:-1]) <= layout.lanes
        levels = [layout.place[each][0] for each in chain]
        assert levels == sorted(set(levels))


def test_one_failure_in_ten_thousand_is_seen() -> None:
    assert {group: width for group, _, width in parts({"done": 9999, "fail": 1}, 200)}["fail"] >= 3
    assert 'aria-label="9,999 completed, 1 failed"' in bar({"done": 9999, "fail": 1})
    assert "nothing" in bar({})


def test_no_two_kinds_of_step_runs_look_alike_among_the_keys() -> None:
    """STAGING_DATA and SUBMITTED, RUNNING and COLLECTING_RESULTS are one kind each."""
    kinds = ("PENDING", "SUBMITTED", "RUNNING", "COMPLETED", "FAILED", "CANCELLED", "SKIPPED")
    assert len({cell(status, 1) for status in kinds}) == len(kinds)


def test_names_in_a_graph_are_escaped() -> None:
    drawn = graph({"a": []}, {"a": Node("FAILED", {"fail": 1}, "<script>", '/x"><script>', title="<b>")}, frozenset())
    assert "<script>" not in drawn
    assert "<b>" not in drawn


def test_lines_behind_what_is_completed_are_darker() -> None:
    nodes = {name: Node("RUNNING", {"done": done, "run": 1}, "", "/") for name, done in (("a", 1), ("b", 0), ("c", 0))}
    drawn = graph({"a": [], "b": ["a"], "c": ["b"]}, nodes, frozenset())
    assert (drawn.count('class="edge on"'), drawn.count('class="edge"')) == (1, 1)


def test_charts_of_nothing_are_charts() -> None:
    empty = Series("done", [0, 0, 0], "x")
    for drawn in (columns("c", [empty], ["a", "b"]), lines("c", [empty], ["a"]), histogram("c", [empty], ["a"])):
        assert drawn.startswith("<svg")
        assert drawn.endswith("</svg>")
    assert spark([]) == ""


def test_a_line_begins_at_its_first_value() -> None:
    assert 'd="M199.0 ' in lines("c", [Series("done", [None, 1.0, 2.0])], ["a", "b"])
    assert "<circle" in lines("c", [Series("done", [None, None, 1.0])], ["a", "b"])
    assert "l-site" not in lines("c", [Series("fail", [1.0, 2.0]), Series("site", [0.0, 0.0], "site")], ["a"])


def test_charts_of_figures_tell_their_sums(rest: Rest, hand: Hand) -> None:
    rest.post("/pipelines", ONE, 201)
    for page in ("/", "/pipelines/one"):
        assert rest.client.get(page).status_code == 200
    rest.post("/runs/bulk", {"runs": [{"pipeline": "one"}] * 3})
    hand.complete(hand.claim()[0])
    hand.fail(hand.claim()[0])
    hand.count()
    overview, pipeline = rest.client.get("/").text, rest.client.get("/pipelines/one").text
    assert "Step runs that ended: 1 completed, 1 failed" in overview
    assert "Attempts that failed, by whose doing it was: 1 of 2" in overview
    assert "Success rate: 50.0 %" in pipeline
    assert "3 runs, 50.0 % completed" in pipeline
    assert nice_top(0) == 1
    assert nice_top(131) == 200


@pytest.mark.parametrize("unit", ["", "%", " min"])
def test_the_figures_of_an_axis_have_room(unit: str) -> None:
    svg = lines("Durations", [Series("run", [0.4, 0.3])], ["31 Oct", "now"], unit)
    figures = re.findall(r'x="(\d+)" y="[\d.]+" text-anchor="end">([^<]*)', svg)[:3]
    assert [text for _, text in figures] == [f"0{unit}", f"0.2{unit}", f"0.4{unit}"]
    assert all(float(right) >= 6 * len(text) for right, text in figures)  # characters are 6 wide at most


NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def before_noon(minutes: float) -> datetime:
    return NOON - timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("changes", "is_away", "minutes"),
    [
        ([], False, 0),
        ([], True, SHOWN.total_seconds() / 60),
        ([(60, True), (40, False)], False, 20),
        ([(40, False)], False, 24 * 60 - 40),
        ([(90, True), (60, False), (5, True)], True, 35),
        ([(90, True), (80, True), (60, False)], False, 30),
    ],
)
def test_how_long_a_backend_was_away_follows_from_its_changes(
    changes: list[tuple[float, bool]], is_away: bool, minutes: float
) -> None:
    spans = away_spans([(before_noon(ago), goes) for ago, goes in changes], is_away, NOON)
    assert away_seconds(spans) == 60 * minutes
    assert all(begin <= end for begin, end in spans)


def test_a_quarter_of_an_hour_is_away_as_a_whole_in_part_or_not_at_all() -> None:
    drawn = uptime([(before_noon(40), before_noon(10))], NOON)
    marks = {found[1]: found[2].count("M") for found in re.finditer(r'class="(f-\w+)" d="([^"]+)"', drawn)}
    assert marks == {"f-done": 93, "f-warn": 2, "f-fail": 1}
