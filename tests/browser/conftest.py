"""A served application with data, and one browser for a file. What a page logs or asks elsewhere fails the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.settings import load_settings
from tests.browser.server import Server
from tests.browser.site import Site
from tests.support.fixtures_servers import Databases
from tests.support.fixtures_store import migrate
from tests.support.waiting import PATIENCE

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 1000 * PATIENCE
expect.set_options(timeout=PATIENCE_MS)


def new_context(browser: Browser, url: str, **options: Any) -> BrowserContext:
    """Whose pages are patient. Without a graphics card, things that move take half of a processor while one is open."""
    context = browser.new_context(base_url=url, reduced_motion="reduce", **options)
    context.set_default_timeout(PATIENCE_MS)
    return context


@pytest.fixture(scope="session")
def settings(
    databases: Databases, redis_server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    url = databases.create()
    migrate(url)
    directory: Path = tmp_path_factory.mktemp("site")
    yield {"DATABASE_URL": url, "REDIS_URL": redis_server_url, "DATA_DIR": str(directory), "HPC_BACKEND": "noop"}
    databases.drop(url)


def context_of(settings: dict[str, Any]) -> Context:
    return Context(load_settings(settings), backends=("noop",))


@pytest.fixture(scope="session")
def site(settings: dict[str, Any]) -> Iterator[Site]:
    server = Server(lambda: context_of(settings))
    found = Site(server.url, server.context)
    found.fill()
    yield found
    server.stop()


@pytest.fixture(scope="session")
def guarded(settings: dict[str, Any], site: Site) -> Iterator[Server]:
    """The same deployment, for people who log in."""
    server = Server(lambda: context_of({**settings, "AUTH_REQUIRED": True}))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Its event loop runs in this thread while it lives, so that no test beside it could run one of its own.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=PATIENCE_MS)
        yield browser
        browser.close()


class Watch:
    """What pages must not do: log an error, ask another host."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def over(self, page: Page, url: str, expected: tuple[str, ...] = ()) -> Page:
        """Watch a page of this service. `expected` are parts of errors that the test provokes."""

        def note(text: str) -> None:
            if not any(part in text for part in expected):
                self.wrong.append(text)

        page.on("console", lambda message: note(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: note(str(error)))
        page.on("request", lambda request: None if request.url.startswith(url) else self.wrong.append(request.url))
        return page


@pytest.fixture
def open_page(site: Site, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Pages in contexts of their own. At the end, none may have logged an error or asked another host."""
    watch = Watch()

    def open_(path: str, url: str = site.url, expected: tuple[str, ...] = (), **options: Any) -> Page:
        context = stack.enter_context(new_context(browser, url, **options))
        page = watch.over(context.new_page(), url, expected)
        page.goto(path)
        return page

    with ExitStack() as stack:
        yield open_
    assert watch.wrong == []


@pytest.fixture(scope="module")
def _walked(site: Site, browser: Browser) -> Iterator[tuple[Page, Watch]]:
    context = new_context(browser, site.url)
    watch = Watch()
    yield watch.over(context.new_page(), site.url), watch
    context.close()


@pytest.fixture
def walker(_walked: tuple[Page, Watch]) -> Iterator[Page]:
    """One page that walks through all addresses, light and wide at the beginning of each test."""
    page, watch = _walked
    watch.wrong.clear()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.emulate_media(color_scheme="light")
    yield page
    assert watch.wrong == []
