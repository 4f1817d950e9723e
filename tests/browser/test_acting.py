"""People act in a browser: each action once, many runs at once, forms, log-in, and a manager that is restarted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from ccat_workflow_manager.identity import ANONYMOUS, Role
from tests.browser.conftest import context_of
from tests.browser.server import Server
from tests.browser.site import Site

pytestmark = pytest.mark.needs("chromium")

Open = Callable[..., Page]


def new_run(site: Site, *scans: Any, **more: Any) -> str:
    body = {"pipeline": "chain", "parameters": {"scans": list(scans)}, **more}
    return str(site.call("POST", "/runs", body)["id"])


def act(page: Page, link: str, button: str) -> None:
    """Open a preview, read what it says on its button, press it, close the report."""
    page.locator(f"main a[data-sheet]:has-text('{link}')").first.click()
    press(page, button)


def press(page: Page, button: str) -> None:
    """Press a button of the open sheet, close the report."""
    page.locator("#sheet").get_by_role("button", name=button).click()
    expect(page.locator("#sheet [data-done]")).to_be_visible()
    page.locator("#sheet [data-close]").first.click()


def test_each_action_on_a_run_is_previewed_done_and_seen(site: Site, open_page: Open) -> None:
    run_id = new_run(site, "acting")
    page = open_page(f"/runs/{run_id}", expected=("422",))
    act(page, "Pause", "Pause 1 run")
    expect(page.locator("main")).to_contain_text("paused")
    act(page, "Resume", "Resume 1 run")
    page.locator("main a[data-sheet]:has-text('Priority')").click()
    page.locator("#sheet input[name=priority]").fill("70")
    press(page, "Set the priority of 1 run")
    expect(page.locator("main")).to_contain_text("Priority 70")
    page.locator("main a[data-sheet]:has-text('Labels')").click()
    page.locator("#sheet textarea").fill("no colon")
    page.locator("#sheet").get_by_role("button", name="Label 1 run").click()
    expect(page.locator("#sheet")).to_contain_text("must be written name: value")
    expect(page.locator("#sheet textarea")).to_have_value("no colon")
    page.locator("#sheet textarea").fill("night: 27")
    press(page, "Label 1 run")
    expect(page.locator("main .title .tag")).to_contain_text("27")
    act(page, "Cancel", "Cancel 1 run")
    expect(page.locator("main .title .st")).to_contain_text("Cancelled")
    act(page, "Retry", "Retry 1 run")
    run = site.call("GET", f"/runs/{run_id}")
    assert (run["status"], run["priority"], run["labels"]) == ("PENDING", 70, {"night": "27"})
    page.goto(f"/step-runs/{run['step_runs'][0]['id']}")
    act(page, "Cancel", "Cancel 1 step run")
    expect(page.locator("main .title .st")).to_contain_text("Cancelled")


def test_a_change_before_the_stream_stands_is_shown(site: Site, open_page: Open) -> None:
    run_id = new_run(site, "early")
    page = open_page("/healthz", expected=("404",))  # follows nothing, and has no icon

    def change(route: Route) -> None:
        site.call("POST", f"/runs/{run_id}/priority", {"priority": 70})
        route.continue_()

    page.route("**/ui/live?*", change)
    page.goto(f"/runs/{run_id}")
    expect(page.locator("main a[data-sheet]:has-text('Priority')")).to_contain_text("Priority 70")


def test_a_button_with_the_focus_says_what_it_does(site: Site, open_page: Open) -> None:
    run_id = new_run(site, "focus")
    page = open_page(f"/runs/{run_id}")
    expect(page.locator("#live span")).to_have_text("Live")
    page.locator("main a[data-sheet]:has-text('Priority')").focus()
    site.call("POST", f"/runs/{run_id}/priority", {"priority": 70})
    expect(page.locator("main a[data-sheet]:focus")).to_contain_text("Priority 70")


def test_a_click_is_for_what_it_was_pressed_on(site: Site, open_page: Open) -> None:
    run_id = new_run(site, "pressed")
    page, other = open_page("/healthz", expected=("404",)), open_page(f"/runs/{run_id}")
    held: list[Route] = []
    page.route("**/ui/live?*", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks what it is given
    page.goto(f"/runs/{run_id}")  # whose stream never opens, so that it asks for its parts only when it is told to
    page.locator("main a[data-sheet]:has-text('Priority')").hover()
    page.mouse.down()
    act(other, "Pause", "Pause 1 run")  # the link before it goes away
    with page.expect_response(lambda answer: answer.ok and f"/ui/runs/{run_id}" in answer.url) as answered:
        page.evaluate("document.dispatchEvent(new CustomEvent('refresh'))")
    assert "The run is paused" in answered.value.text()
    page.evaluate("fetch('/ui/rail').then((answer) => answer.text())")  # by now the page has read the answer
    expect(page.locator("main .held")).to_have_count(0)
    page.mouse.up()
    expect(page.locator("#sheet input[name=priority]")).to_be_visible()
    expect(page.locator("main .held")).to_contain_text("The run is paused")


def test_a_right_click_stops_no_change(site: Site, open_page: Open) -> None:
    run_id = new_run(site, "right")
    page = open_page(f"/runs/{run_id}")
    page.locator("main a[data-sheet]:has-text('Priority')").hover()
    page.mouse.down(button="right")  # a menu may keep the end of it
    site.call("POST", f"/runs/{run_id}/pause")
    expect(page.locator("main .held")).to_contain_text("The run is paused")


def test_a_tab_that_joins_the_stream_of_another_shows_what_changed_before(site: Site, open_page: Open) -> None:
    run_id = new_run(site, "joins")
    leads = open_page(f"/runs/{run_id}")
    joins = leads.context.new_page()
    held: list[Route] = []
    joins.route("**/stream.js*", lambda route: held.append(route))  # noqa: PLW0108 - Playwright marks what it is given
    with joins.expect_request("**/stream.js*"):
        joins.goto(f"/runs/{run_id}", wait_until="commit")
    joins.evaluate("""() => {
      window.heard = [];
      new BroadcastChannel("ccat-wm-live").onmessage = ({ data }) => heard.push(...(data.names ?? []));
    }""")
    site.call("POST", f"/runs/{run_id}/priority", {"priority": 70})
    expect(leads.locator("main a[data-sheet]:has-text('Priority')")).to_contain_text("Priority 70")
    joins.wait_for_function("name => heard.filter(each => each === name).length > 1", arg=f"run:{run_id}")
    expect(joins.locator("main a[data-sheet]:has-text('Priority')")).to_contain_text("Priority 0")
    held[0].continue_()
    expect(joins.locator("main a[data-sheet]:has-text('Priority')")).to_contain_text("Priority 70")


def test_the_stream_outlives_the_tabs_of_two_hundred_runs(site: Site, open_page: Open) -> None:
    page = open_page("/runs")
    other = page.context.new_page()
    other.goto("/runs")
    other.evaluate("""async () => {
      const channel = new BroadcastChannel("ccat-wm-live");
      for (let i = 0; i < 200; i++) channel.postMessage({ want: [`run:${crypto.randomUUID()}`] });
    }""")
    for scan in ("while the stream begins again", "later"):
        run_id = new_run(site, scan)
        for each in (page, other):
            expect(each.locator(f"#r-{run_id}")).to_be_visible()


def test_the_link_of_an_action_stays_that_of_the_action(site: Site, open_page: Open) -> None:
    run_id = new_run(site, "links")
    page = open_page(f"/runs/{run_id}")
    expect(page.locator("#live span")).to_have_text("Live")
    link = page.locator("main a[data-sheet]:has-text('Priority')").element_handle()
    site.call("POST", f"/runs/{run_id}/pause")
    expect(page.locator("main .held")).to_contain_text("The run is paused")
    assert "Priority" in link.inner_text()
    link.click()
    expect(page.locator("#sheet input[name=priority]")).to_be_visible()


def test_a_breaker_a_pipeline_and_a_token(site: Site, open_page: Open) -> None:
    site.hand.open_breaker()
    page = open_page("/")
    expect(page.locator(".att")).to_contain_text("fails for everybody")
    act(page, "Release", "Release it")
    expect(page.locator(".att")).not_to_contain_text("fails for everybody")
    page.goto("/pipelines/chain")
    page.get_by_role("button", name="Take no new runs").click()
    expect(page.get_by_role("button", name="Start the run")).to_be_disabled()
    page.get_by_role("button", name="Take runs again").click()
    expect(page.get_by_role("button", name="Start the run")).to_be_enabled()
    page.goto("/tokens")
    page.locator("#t-name").fill("of a browser")
    page.get_by_role("button", name="Make it").click()
    expect(page.locator("main")).to_contain_text("the only time that the token is shown")
    page.locator("tr:has-text('of a browser')").get_by_role("button", name="Revoke").click()
    expect(page.locator("tr:has-text('of a browser')")).to_contain_text("revoked")


def test_a_pipeline_is_paused_and_a_resume_from_elsewhere_is_seen(site: Site, open_page: Open) -> None:
    page = open_page("/pipelines/chain", expected=("422", "404"))
    page.locator("main a[data-sheet]:has-text('Pause or drain')").click()
    page.locator("#h-why").fill("a new <b>calibration</b>")
    page.locator("#h-until").fill("tomorrow")
    page.locator("#sheet").get_by_role("button", name="Stop launching").click()
    expect(page.locator("#sheet")).to_contain_text("must be a time")
    expect(page.locator("#h-why")).to_have_value("a new <b>calibration</b>")
    page.locator("#h-until").fill("")
    page.locator("#sheet").get_by_role("button", name="Stop launching").click()
    page.locator("#sheet [data-done] [data-close]").first.click()
    expect(page.locator("#head .held")).to_contain_text("is paused by anonymous")
    expect(page.locator("#head .held")).to_contain_text("a new <b>calibration</b>")
    site.call("POST", "/pipelines/chain/resume")
    expect(page.locator("#head .held")).to_have_count(0)
    site.call("POST", "/pipelines/chain/pause", {"why": "again"})
    act(page, "Resume", "Resume it")
    expect(page.locator("#head .held")).to_have_count(0)
    site.call("POST", "/pipelines/chain/pause", {"why": "for a moment"})
    page.locator("main a[data-sheet]:has-text('Resume')").first.click()
    expect(page.locator("#sheet").get_by_role("button", name="Resume it")).to_be_visible()
    site.call("POST", "/pipelines/chain/resume")
    page.locator("#sheet").get_by_role("button", name="Resume it").click()
    expect(page.locator("#sheet")).to_contain_text("is not paused")


def test_five_hundred_runs_are_cancelled_at_once(site: Site, open_page: Open) -> None:
    one = {"pipeline": "chain", "parameters": {"scans": ["x"]}, "labels": {"bulk": "yes"}}
    ids = site.call("POST", "/runs/bulk", {"runs": [one] * 500})["ids"]
    page = open_page("/runs?label=bulk:yes")
    page.locator("tr[data-id] input").first.check()
    page.locator("#bulk [data-all]").click()
    page.locator("#bulk [data-verb=cancel]").click()
    button = page.get_by_role("button", name="Cancel 500 runs")
    expect(button).to_be_visible()
    site.call("POST", f"/runs/{ids[0]}/cancel")  # it ends between the preview and the button
    button.click()
    expect(page.locator("#sheet")).to_contain_text("499 runs are being cancelled")
    expect(page.locator("#sheet")).to_contain_text("1 run had changed meanwhile")
    found = site.hand.execute(
        "SELECT count(*) FROM runs WHERE labels @> '{\"bulk\": \"yes\"}' AND status = 'CANCELLED'"
    )
    assert found[0][0] == 500


def test_a_form_with_faults_keeps_what_was_typed(site: Site, open_page: Open) -> None:
    page = open_page("/pipelines/chain", expected=("422",))
    page.locator("textarea[name='p.scans']").fill("[1, ")
    expect(page.locator("[data-field=scans] .err")).to_be_visible()  # while one types
    page.locator("textarea[name=labels]").fill("source: Orion \u202e<b>KL</b>")
    page.locator("input[name=priority]").fill("12")
    page.get_by_role("button", name="Start the run").click()
    expect(page.locator("textarea[name='p.scans']")).to_have_value("[1, ")
    expect(page.locator("textarea[name='p.scans']")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("textarea[name=labels]")).to_have_value("source: Orion \u202e<b>KL</b>")
    expect(page.locator("input[name=priority]")).to_have_value("12")
    page.locator("textarea[name='p.scans']").fill("[1, 2]")
    expect(page.locator("[data-says]")).to_contain_text("5 step runs")
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_url("**/runs/*")
    expect(page.locator("main .title")).to_contain_text("Orion")


def test_a_viewer_logs_in_looks_and_logs_out(site: Site, guarded: Server, open_page: Open) -> None:
    token = guarded.context.tokens.create("a viewer", Role.VIEWER, by=ANONYMOUS, projects=None).secret
    page = open_page("/runs", url=guarded.url, expected=("401", "403", "422"))
    page.wait_for_url("**/login*")
    page.locator("#token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#fault")).to_contain_text("no valid token")
    page.locator("#token").fill(token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url("**/runs")
    expect(page.locator("tr[data-id]").first).to_be_visible()
    assert page.locator("input[name=id], a.btn.main, #bulk").count() == 0
    page.goto(f"/runs/{site.ids['run']}")
    assert page.locator("main a[data-sheet]").count() == 0
    status = page.evaluate(
        "id => fetch(`/api/v1/runs/${id}/cancel`, {method: 'POST'}).then(r => r.status)", site.ids["run"]
    )
    assert status == 403
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login*")
    page.goto("/runs")
    page.wait_for_url("**/login*")


def test_a_page_finds_a_restarted_manager_again(site: Site, settings: dict[str, Any], open_page: Open) -> None:
    server = Server(lambda: context_of(settings))
    run_id = new_run(site, "restart")
    page = open_page(
        "/runs", url=server.url, expected=("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE", "ERR_CONNECTION_RESET")
    )
    expect(page.locator("#live span")).to_have_text("Live")
    page.locator("input[name=add]").fill("half typed")
    server.stop()
    expect(page.locator("#live")).to_contain_text("Not live since")
    site.call("POST", f"/runs/{run_id}/cancel")
    server.start()
    expect(page.locator("#live span")).to_have_text("Live")
    expect(page.locator(f"tr[data-id='{run_id}']")).to_contain_text("Cancelled")
    expect(page.locator("input[name=add]")).to_have_value("half typed")
    server.stop()


def test_the_chosen_theme_stays(open_page: Open) -> None:
    page = open_page("/events", color_scheme="light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
