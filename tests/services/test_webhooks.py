"""Webhooks: each wanted event arrives, signed, at least once and under one id."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.db.queries.feed import BEGIN, EVERYTHING
from ccat_workflow_manager.errors import Conflict, Invalid, NotFound
from ccat_workflow_manager.execution.transfers import tls_context
from ccat_workflow_manager.services.run_request import RunRequest
from ccat_workflow_manager.services.webhook_target import url_problem
from ccat_workflow_manager.services.webhooks import Webhooks
from tests.api.rest import ONE, Hand
from tests.support.certificates import loopback_certificate
from tests.support.fixtures_service import FINISHED, ServiceMaker, sh
from tests.support.fixtures_store import ContextMaker
from tests.support.hook_server import HookServer, hook_server
from tests.support.waiting import wait_until


@pytest.fixture
def target() -> Iterator[HookServer]:
    with hook_server() as hook:
        yield hook


@pytest.fixture
def context(make_context: ContextMaker) -> Context:
    return make_context(WEBHOOK_PRIVATE_TARGETS="true")


@pytest.fixture
def webhooks(context: Context) -> Iterator[Webhooks]:
    yield context.webhooks
    context.webhooks.stop()


def submit(context: Context) -> None:
    """A run of one step: one event."""
    context.submitter.submit(RunRequest(spec=ONE), actor="test")


def stored(context: Context) -> list[dict[str, Any]]:
    with context.database.read() as unit:
        return unit.records("SELECT * FROM webhook_deliveries ORDER BY id")


def make_due(context: Context) -> None:
    with context.database.begin("commit.test") as unit:
        unit.execute("UPDATE webhook_deliveries SET next_at = now(), in_flight_until = NULL WHERE status = 'PENDING'")


def finished(context: Context, *statuses: str) -> bool:
    return [row["status"] for row in stored(context)] == list(statuses)


def wait_for_problem(context: Context, words: str) -> None:
    """Wait until an attempt was recorded that failed with these words."""
    wait_until(lambda: words in str([row["problem"] for row in stored(context)]), 20, "an attempt")


def test_wanted_events_arrive_signed(context: Context, webhooks: Webhooks, target: HookServer) -> None:
    submit(context)
    _, secret = webhooks.create(target.url, ["ccat.wm.run.*"], pipeline="one", actor="test")
    webhooks.create(target.url, pipeline="another", actor="test")
    webhooks.create(target.url, project="another", actor="test")
    hand = Hand(context)
    hand.complete(hand.claim()[0])
    webhooks.tick()
    wait_until(lambda: finished(context, "DELIVERED"), 20, "the delivery")
    (call,) = target.calls
    event = json.loads(call.body)
    assert (event["type"], event["data"]["status"]) == ("ccat.wm.run.finished", "COMPLETED")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{call.delivery}.{call.headers['webhook-timestamp']}.{call.body}".encode()
    expected = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    assert call.headers["webhook-signature"] == f"v1,{expected}"
    assert call.headers["host"] == target.url.split("/")[2]
    assert call.headers["content-type"] == "application/cloudevents+json"
    webhooks.tick()
    assert len(stored(context)) == 1


def test_the_certificate_of_a_target_is_checked_by_the_authorities_of_the_site(
    context: Context, webhooks: Webhooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = loopback_certificate(tmp_path, "localhost")
    tls_context.cache_clear()
    with hook_server((certificate, key)) as target:
        webhooks.create(target.url, actor="test")
        submit(context)
        webhooks.tick()
        wait_for_problem(context, "CERTIFICATE_VERIFY_FAILED")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        tls_context.cache_clear()
        make_due(context)
        webhooks.tick()
        wait_until(lambda: finished(context, "DELIVERED"), 20, "the delivery")
        assert len(target.calls) == 1
    tls_context.cache_clear()


def test_a_failed_delivery_is_repeated_under_its_id_and_given_up_in_the_end(
    context: Context, webhooks: Webhooks, target: HookServer
) -> None:
    webhook_id, _ = webhooks.create(target.url, actor="test")
    target.statuses += [500, 302, 503]
    target.headers["location"] = target.url
    submit(context)
    for status in ("500", "302"):
        webhooks.tick()
        wait_for_problem(context, status)
        assert finished(context, "PENDING")
        make_due(context)
    with context.database.begin("commit.test") as unit:
        unit.execute("UPDATE webhook_deliveries SET give_up_at = now()")
    webhooks.tick()
    wait_until(lambda: finished(context, "DEAD"), 20, "the end of the attempts")
    assert "503" in stored(context)[0]["problem"]
    assert webhooks.redeliver(webhook_id) == 1
    webhooks.tick()
    wait_until(lambda: finished(context, "DELIVERED"), 20, "the delivery")
    assert len(target.calls) == 4
    assert len(set(target.deliveries)) == 1
    assert webhooks.redeliver(webhook_id, UUID(target.deliveries[0])) == 1
    with pytest.raises(NotFound):
        webhooks.redeliver(webhook_id, webhook_id)


def test_a_message_that_is_asked_for_is_sent_once(context: Context, webhooks: Webhooks, target: HookServer) -> None:
    webhook_id, _ = webhooks.create(target.url, ["ccat.wm.run.*"], project="another", actor="test")
    target.statuses += [200, 500, 410]
    statuses = []
    for ended in ("DELIVERED", "DEAD", "DEAD"):
        webhooks.send_test(webhook_id, actor="me")
        statuses.append(ended)
        webhooks.tick()
        wait_until(lambda: finished(context, *statuses), 20, "the delivery")
    first = json.loads(target.calls[0].body)
    assert (first["type"], first["subject"]) == ("ccat.wm.webhook.test", f"webhooks/{webhook_id}")
    assert first["data"] == {"actor": "me"}
    with pytest.raises(Conflict, match="switched off"):
        webhooks.send_test(webhook_id, actor="me")


def test_a_target_that_is_gone_gets_nothing_more(context: Context, webhooks: Webhooks, target: HookServer) -> None:
    webhook, _ = webhooks.create(target.url, actor="test")
    target.statuses += [500, 410]
    submit(context)
    webhooks.tick()
    wait_for_problem(context, "500")
    submit(context)
    webhooks.tick()
    wait_until(lambda: finished(context, "DEAD", "DEAD"), 20, "the end of both")
    submit(context)
    webhooks.tick()
    waited, _ = stored(context)
    for delivery_id in (None, waited["id"]):
        with pytest.raises(Conflict, match="switched off"):
            webhooks.redeliver(webhook, delivery_id)


def test_several_managers_make_one_delivery_of_each_event(make_context: ContextMaker, target: HookServer) -> None:
    contexts = [make_context(WEBHOOK_PRIVATE_TARGETS="true") for _ in range(3)]
    contexts[0].webhooks.create(target.url, actor="test")
    for _ in range(10):
        submit(contexts[0])
    for context in contexts:
        context.webhooks.tick()
    wait_until(lambda: finished(contexts[0], *["DELIVERED"] * 10), 60, "all deliveries")
    for context in contexts:
        context.webhooks.stop()
    assert len(target.calls) == len(set(target.deliveries)) == 10
    events = {row["event"] for row in stored(contexts[0])}
    feed = contexts[0].feed
    assert events == {feed.cursors.encode(event.place) for event in feed.page(BEGIN, EVERYTHING, 100).events}


def test_addresses_that_are_not_public_are_refused(make_context: ContextMaker, target: HookServer) -> None:
    context = make_context()
    private = ("127.0.0.1", "10.1.2.3", "169.254.169.254", "0.0.0.0", "[::1]", "[::ffff:10.0.0.1]", "[64:ff9b::a00:1]")
    for host in private:
        assert url_problem(f"http://{host}/hook", private_allowed=False), host
    for url in ("ftp://example.org/", "http://", "http://user:secret@example.org/", "http://example.org/#x", "nothing"):
        assert url_problem(url, private_allowed=True), url
    with pytest.raises(Invalid):
        context.webhooks.create(target.url, actor="test")
    # Another name is looked up when something is sent.
    make_context(WEBHOOK_PRIVATE_TARGETS="true").webhooks.create(target.url, actor="test")
    submit(context)
    context.webhooks.tick()
    wait_until(lambda: finished(context, "DEAD"), 20, "the refusal")
    context.webhooks.stop()
    assert "WEBHOOK_PRIVATE_TARGETS" in stored(context)[0]["problem"]
    assert target.calls == []


def test_a_manager_that_dies_after_sending_sends_again_under_the_same_id(
    make_service: ServiceMaker, target: HookServer, tmp_path: Any
) -> None:
    service = make_service(WEBHOOK_PRIVATE_TARGETS="true")
    service.inject("manager webhook.send after crash")
    doomed = service.start_another("manager", CCAT_WORKFLOW_MANAGER_API_PORT="0")
    service.inject("")
    body = {"url": target.url, "types": ["ccat.wm.run.finished"]}
    service.call("POST", "/webhooks", json=body)
    run_ids = []
    while doomed.poll() is None:
        run_ids.append(service.submit(sh("true"), backend="noop"))
        assert service.wait(run_ids[-1])["status"] in FINISHED
    sent = "UPDATE webhook_deliveries SET next_at = now(), in_flight_until = NULL WHERE status = 'PENDING' RETURNING 1"
    service.query(sent)
    wait_until(lambda: len(set(target.deliveries)) == len(run_ids), 60, "all deliveries")
    wait_until(lambda: len(target.calls) > len(run_ids), 60, "the one that was sent and not recorded, again")
    assert len(set(target.deliveries)) == len(run_ids)
