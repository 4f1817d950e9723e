"""The API over a real PostgreSQL and a real Valkey, and a hand that plays the worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from ccat_workflow_manager.app import create_app
from ccat_workflow_manager.context import Context
from ccat_workflow_manager.services.answers import Answers
from tests.api.rest import BASE_URL, Hand, Rest, Secured
from tests.support.fixtures_store import ContextMaker


def fresh_app(context: Context) -> FastAPI:
    """An application that computes each answer anew."""
    app = create_app(context)
    app.state.answers = Answers(longest=0)
    return app


@pytest.fixture
def rest(context: Context) -> Iterator[Rest]:
    with TestClient(fresh_app(context), base_url=BASE_URL) as client:
        yield Rest(client)


@pytest.fixture
def secured(make_context: ContextMaker) -> Iterator[Secured]:
    """An API that wants tokens."""
    context = make_context("noop", AUTH_REQUIRED=True)
    with TestClient(fresh_app(context), base_url=BASE_URL) as client:
        yield Secured(context, client)


@pytest.fixture
def hand(context: Context) -> Hand:
    return Hand(context)


@pytest.fixture
def base_dir(context: Context) -> Path:
    return Path(context.settings.pipeline_base_dir)
