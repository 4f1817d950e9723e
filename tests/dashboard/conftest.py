"""Pages as a browser asks for them, without a browser."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from ccat_workflow_manager.context import Context
from tests.api.conftest import fresh_app
from tests.api.rest import BASE_URL, Hand, Rest, Secured
from tests.support.fixtures_store import ContextMaker


@pytest.fixture
def rest(context: Context) -> Iterator[Rest]:
    with TestClient(fresh_app(context), base_url=BASE_URL, follow_redirects=False) as client:
        client.headers["accept"] = "text/html,*/*"
        yield Rest(client)


@pytest.fixture
def hand(context: Context) -> Hand:
    return Hand(context)


@pytest.fixture
def secured(make_context: ContextMaker) -> Iterator[Secured]:
    """Pages that want tokens."""
    context = make_context("noop", AUTH_REQUIRED=True)
    with TestClient(fresh_app(context), base_url=BASE_URL, follow_redirects=False) as client:
        yield Secured(context, client)
