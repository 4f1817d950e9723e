"""The pages in a browser: clean, accessible, light, readable on a phone, alive, usable by keys and without scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.api.rest import ONE
from tests.browser.site import HOSTILE, Site

pytestmark = pytest.mark.needs("chromium")

PAGES = (
    "/", "/runs", "/runs?status=FAILED&created=24h", "/runs/{run}", "/runs/{wide}", "/runs/{run}/steps/first",
    "/runs/{run}/compare?with={wide}", "/runs/{run}?tab=parameters", "/runs/{run}?tab=why", "/step-runs/{failed}",
    "/step-runs/{failed}?part=why", "/step-runs/{running}",
    "/pipelines", "/pipelines/chain", "/products", "/products/{product}", "/products?run={run}", "/backends",
    "/projects", "/projects/default", "/projects/default/limits", "/backends/noop/hold",
    "/workers", "/events?type=step_run.*&pipeline=chain", "/audit", "/tokens",
    "/act/cancel?id={run}", "/act/label?id={run}",
)  # fmt: skip
FIRST_LOAD, LATER_LOAD = 150_000, 20_000
"""Bytes on the wire."""
WEIGHT = """["navigation", "resource"].flatMap((kind) => performance.getEntriesByType(kind))
  .reduce((sum, each) => sum + each.transferSize, 0)"""
SPILLED = """[...document.querySelectorAll(".cell, .note, .att li > div, .panel > header")]
  .filter((each) => each.offsetParent && each.scrollWidth > each.clientWidth + 1).map((each) => each.innerText)"""
"""Parts whose content is wider than they are."""
CONTRAST = {"runOnly": ["color-contrast"]}
Open = Callable[..., Page]


def serious(found: dict[str, Any]) -> list[str]:
    """What axe found, but for minor things."""
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_clean_accessible_in_both_themes_and_fits_a_phone(site: Site, walker: Page, path: str) -> None:
    walker.goto(path.format(**site.ids))
    assert "owned" not in walker.title()
    assert walker.locator("img[src=x]").count() == 0
    assert serious(Axe().run(walker).response) == []
    walker.emulate_media(color_scheme="dark")
    assert serious(walker.evaluate("options => axe.run(document, options)", CONTRAST)) == []
    walker.set_viewport_size({"width": 390, "height": 844})
    assert walker.evaluate("document.documentElement.scrollWidth") <= 390
    assert walker.evaluate(SPILLED) == []


def test_hostile_text_is_shown_as_text(walker: Page) -> None:
    for number, text in enumerate(HOSTILE[:2]):
        walker.goto(f"/runs?{urlencode({'label': f'note{number}:{text[:100]}'})}")
        expect(walker.get_by_text(text[:40]).first).to_be_attached()


def test_pages_are_light_on_the_wire(open_page: Open) -> None:
    page = open_page("/")  # nothing is in its cache
    weights = []
    for path in ("/", "/runs"):
        if path != "/":
            page.goto(path)
        page.evaluate("document.fonts.ready.then(() => true)")
        weights.append(page.evaluate(WEIGHT))
    assert 20_000 < weights[0] < FIRST_LOAD
    assert 0 < weights[1] < LATER_LOAD


def test_chosen_runs_are_cancelled_after_a_preview(site: Site, open_page: Open) -> None:
    ids = [site.call("POST", "/runs", {"pipeline": "chain", "parameters": {"scans": [n]}})["id"] for n in range(3)]
    page = open_page("/runs?pipeline=chain")
    for run_id in ids[:2]:
        page.locator(f"tr[data-id='{run_id}'] input").check()
    page.locator("#bulk [data-verb=cancel]").click()
    page.get_by_role("button", name="Cancel 2 runs").click()
    expect(page.locator("#sheet")).to_contain_text("2 runs are being cancelled")
    page.locator("#sheet [data-close]").first.click()
    expect(page.locator(f"tr[data-id='{ids[0]}']")).to_contain_text("Cancelled")
    assert [site.call("GET", f"/runs/{each}")["status"] for each in ids] == ["CANCELLED", "CANCELLED", "PENDING"]
    expect(page.locator("#bulk")).to_be_hidden()


def test_a_change_is_seen_without_a_reload_and_typed_text_stays(site: Site, open_page: Open) -> None:
    run_id = site.call("POST", "/runs", {"pipeline": "chain", "parameters": {"scans": ["x"]}})["id"]
    page = open_page("/runs")
    page.locator("input[name=add]").fill("half typed")
    expect(page.locator("#live span")).to_have_text("Live")
    site.call("POST", f"/runs/{run_id}/cancel")
    expect(page.locator(f"tr[data-id='{run_id}']")).to_contain_text("Cancelled")
    assert page.locator("input[name=add]").input_value() == "half typed"


def test_a_log_is_followed_searched_and_linked(site: Site, open_page: Open) -> None:
    page = open_page(f"/step-runs/{site.ids['running']}")
    expect(page.locator(".log li").last).to_contain_text("line 499")
    expect(page.locator("[data-follow]")).to_have_attribute("aria-pressed", "true")  # the program runs
    site.append("the needle <b>in</b> it\n")
    expect(page.locator(".log")).to_contain_text("the needle <b>in</b> it")
    assert page.locator(".log b").count() == 0
    assert page.locator(".log .a-g").count() > 100
    page.locator("[data-find]").fill("needle")
    expect(page.locator("[data-found]")).to_have_text("1 of 1")
    expect(page.locator(".log mark")).to_have_text("needle")
    page.goto(f"/step-runs/{site.ids['running']}#L7")
    page.reload()
    expect(page.locator(".log li.at")).to_contain_text("line 7")


def test_the_keyboard_stays_at_its_row_when_the_list_changes(site: Site, open_page: Open) -> None:
    run_id = site.call("POST", "/runs", {"pipeline": "chain", "parameters": {"scans": ["row"]}})["id"]
    page = open_page("/runs")
    page.keyboard.press("j")
    site.call("POST", f"/runs/{run_id}/cancel")
    expect(page.locator("[data-list] tbody tr").first).to_contain_text("Cancelled")
    page.keyboard.press("x")
    expect(page.locator("#bulk")).to_contain_text("1 selected")
    newest = site.call("POST", "/runs", {"pipeline": "chain", "parameters": {"scans": ["above"]}})["id"]
    page.locator(".pill").click()  # it is held back while rows are chosen
    expect(page.locator(f"#r-{newest}")).to_be_visible()
    page.keyboard.press("x")
    expect(page.locator("#bulk")).to_be_hidden()


def test_the_keyboard_leads_everywhere(open_page: Open) -> None:
    page = open_page("/")
    page.keyboard.press("g")
    page.keyboard.press("r")
    page.wait_for_url("**/runs")
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(page.locator("#bulk")).to_contain_text("1 selected")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("chain")
    page.keyboard.press("Enter")
    page.wait_for_url("**/pipelines/chain")


def test_everything_works_without_scripts(site: Site, open_page: Open) -> None:
    run_id = site.call("POST", "/runs", {"pipeline": "chain", "parameters": {"scans": ["quiet"]}})["id"]
    page = open_page("/runs?pipeline=chain", java_script_enabled=False)
    page.locator(f"input[value='{run_id}']").check()
    page.locator("noscript button[value=cancel], button[value=cancel]").first.click()
    page.get_by_role("button", name="Cancel 1 run").click()
    expect(page.locator("main")).to_contain_text("1 run is being cancelled")
    assert site.call("GET", f"/runs/{run_id}")["status"] == "CANCELLED"
    page.goto(f"/step-runs/{site.ids['running']}")
    expect(page.locator(".log")).to_contain_text("line 499")
    page.goto("/pipelines/chain")
    page.locator("textarea[name='p.scans']").fill("[1, 2]")
    page.get_by_role("button", name="Start the run").click()
    expect(page.locator("h1")).to_contain_text("chain")


def test_a_print_is_light_and_has_only_what_the_page_says(site: Site, open_page: Open) -> None:
    page = open_page(f"/runs/{site.ids['run']}", color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    expect(page.locator("h1")).to_be_visible()
    for part in (".rail", ".top", "main .btns"):
        expect(page.locator(part).first).to_be_hidden()


def test_long_names_fit_a_phone_and_leave_room_for_values(site: Site, open_page: Open) -> None:
    name, field = "n" * 63, {"type": "string", "default": "q" * 500, "description": "z" * 300}
    schema = {"type": "object", "properties": {"p" * 100: field}}
    site.call("PUT", f"/pipelines/{name}", {**ONE, "name": name, "description": "d" * 300, "parameters": schema})
    run = site.call("POST", "/runs", {"pipeline": name})["id"]
    page = open_page("/", viewport={"width": 390, "height": 844})
    for path in (f"/pipelines/{name}", f"/runs/{run}?tab=parameters"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.querySelector('dl.kv dd').clientWidth") > 150


def test_a_field_of_keys_answers_to_pointer_and_keys(site: Site, open_page: Open) -> None:
    page = open_page(f"/runs/{site.ids['wide']}?keys=field")
    page.locator("canvas.field").first.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".fieldtip.at b")).to_have_text("0")
    site.call("POST", f"/runs/{site.ids['wide']}/priority", {"priority": 5})
    expect(page.locator("main a[data-sheet]:has-text('Priority')")).to_contain_text("Priority 5")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".fieldtip.at b")).to_have_text("1")
    form = open_page("/pipelines/chain")
    form.locator("textarea[name='p.scans']").fill("{")
    expect(form.locator("[data-field=scans] .err")).to_be_visible()
