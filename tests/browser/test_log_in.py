"""A person logs in with a provider, in a browser: the cookies survive the way over another site and back."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import new_context
from tests.browser.server import served
from tests.stand_ins.identity_provider import CLIENT_ID, CLIENT_SECRET, identity_provider
from tests.support.fixtures_store import ContextMaker

pytestmark = pytest.mark.needs("chromium")


def test_a_person_logs_in_with_a_provider(browser: Browser, make_context: ContextMaker, tmp_path: Path) -> None:
    secret = tmp_path / "client-secret"
    secret.write_text(CLIENT_SECRET)
    # `localhost` and 127.0.0.1 are two sites for a browser.
    with identity_provider("localhost") as provider:
        provider.users = {"ada": {"groups": ["staff"]}, "eve": {}}
        context = make_context(
            "noop",
            AUTH_REQUIRED=True,
            OIDC_ISSUER=provider.issuer,
            OIDC_CLIENT_ID=CLIENT_ID,
            OIDC_CLIENT_SECRET_FILE=str(secret),
            OIDC_ROLES="staff=operator",
        )
        with served(context) as address:
            page = new_context(browser, address).new_page()
            page.goto("/runs?status=FAILED")
            page.get_by_role("link", name="Log in with localhost").click()
            page.get_by_label("Name").fill("eve")
            page.get_by_role("button", name="Sign in").click()
            expect(page.get_by_role("alert")).to_contain_text("no group of yours has a role here")
            page.goto("/runs?status=FAILED")
            page.get_by_role("link", name="Log in with localhost").click()
            page.get_by_label("Name").fill("ada")
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url(f"{address}/runs?status=FAILED")
            expect(page.locator(".rail .who")).to_contain_text("person ada")
            page.get_by_role("button", name="Log out").click()
            page.wait_for_url(f"{address}/login")
            page.goto("/runs")
            expect(page).to_have_url(f"{address}/login?next=%2Fruns")
            page.context.close()
