"""A served application with data, and one browser for all tests. What a page logs or asks elsewhere fails the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.settings import load_settings
from tests.browser.site import Site
from tests.support.fixtures_servers import Databases
from tests.support.fixtures_store import migrate
from tests.support.waiting import wait_until

CHROMIUM = "/usr/bin/chromium"


expect.set_options(timeout=45_000)  # milliseconds; on a busy machine 5 s are not enough


@pytest.fixture(scope="session")
def site(databases: Databases, redis_server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    url = databases.create()
    migrate(url)
    directory: Path = tmp_path_factory.mktemp("site")
    settings = {"DATABASE_URL": url, "REDIS_URL": redis_server_url, "DATA_DIR": str(directory), "HPC_BACKEND": "noop"}
    context = Context(load_settings(settings), backends=("noop",))
    with served(context) as address:
        found = Site(address, context)
        found.fill()
        yield found
    databases.drop(url)


@contextmanager
def served(context: Context) -> Iterator[str]:
    """Serve an application. Yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(create_app(context), port=port, log_config=None, timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, 30, "the server to start")
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Its event loop runs in this thread while it lives, so that no test beside it could run one of its own.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(site: Site, browser: Browser) -> Iterator[Callable[..., Page]]:
    """Pages in contexts of their own. At the end, none may have logged an error or asked another host."""
    wrong: list[str] = []

    def open_(path: str, **options: Any) -> Page:
        context = stack.enter_context(browser.new_context(base_url=site.url, **options))
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(site.url) else wrong.append(request.url))
        page.goto(path)
        return page

    with ExitStack() as stack:
        yield open_
    assert wrong == []
