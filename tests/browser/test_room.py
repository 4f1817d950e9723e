"""Nothing takes the room of what a page is for: long keys and many columns leave names and reasons readable."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page

from ccat_workflow_manager.lifecycle.models import NewProduct
from tests.api.rest import CHAIN
from tests.browser.site import Site

pytestmark = pytest.mark.needs("chromium")

KEY = "k" * 100
OVERLAPPING = """[...document.querySelectorAll(".ticks i")]
  .filter((each) => getComputedStyle(each).visibility == "visible")
  .map((each) => { const range = document.createRange(); range.selectNodeContents(each);
    return range.getBoundingClientRect(); })
  .some((each, place, all) => place && each.left < all[place - 1].right)"""
"""Whether the times above the bars run into each other."""
OUTSIDE = """[...document.querySelectorAll(".events li > div")].map((each) => each.getBoundingClientRect().right
  - each.closest(".panel").getBoundingClientRect().right).filter((over) => over > 0)"""
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def run(site: Site) -> str:
    """A run with a long key, labels and a product. Its first step run is over."""
    spec = {**CHAIN, "name": "room"}
    labels = {"source": "Orion KL", "night": "2026-01-31"}
    body = {"spec": spec, "parameters": {"scans": [KEY, "b"]}, "labels": labels, "priority": 1000}
    run_id: str = site.call("POST", "/runs", body)["id"]
    item = next(each for each in site.hand.claim(50) if str(each.run.run_id) == run_id and each.key != "b")
    site.hand.complete(item, NewProduct("map of the source", "PLOT", "map.txt", 3, "0" * 64))
    return run_id


@pytest.mark.parametrize("width", [900, 1024, 1190, 1280, 1440])
def test_the_list_of_runs_has_room_for_the_reason(run: str, walker: Page, width: int) -> None:
    walker.set_viewport_size({"width": width, "height": 800})
    walker.goto("/runs?pipeline=room")
    assert walker.evaluate("document.querySelector('.c-why').clientWidth") >= 120
    assert walker.evaluate("document.documentElement.scrollWidth") <= width


def test_a_long_key_leaves_room_for_the_product(run: str, walker: Page) -> None:
    walker.goto("/products")
    assert walker.evaluate("document.querySelector('[data-list] tbody td').clientWidth") >= 150


def test_step_runs_have_one_line_each(run: str, walker: Page) -> None:
    walker.goto(f"/runs/{run}/steps/first")
    assert walker.evaluate("Math.max(...[...document.querySelectorAll('tbody tr')].map((e) => e.offsetHeight))") < 34
    assert walker.evaluate("document.querySelector('td.fill').clientWidth") >= 250
    assert (
        walker.evaluate("(({scrollWidth, clientWidth}) => scrollWidth - clientWidth)(document.querySelector('.listp'))")
        == 0
    )


@pytest.mark.parametrize("width", [390, 1000, 1280, 1440])
def test_times_and_events_keep_to_their_places(run: str, walker: Page, width: int) -> None:
    walker.set_viewport_size({"width": width, "height": 800})
    walker.goto(f"/runs/{run}")
    assert not walker.evaluate(OVERLAPPING)
    assert walker.evaluate("getComputedStyle(document.querySelector('.ticks .now')).visibility") == "visible"
    assert walker.evaluate(OUTSIDE) == []
