"""Webhooks: which events become deliveries, and how deliveries are sent until they arrive."""

from __future__ import annotations

import json
import logging
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.queries.feed import EVERYTHING, FeedEvent, Selection, head
from ccat_workflow_manager.db.session import Database, new_id, new_ids
from ccat_workflow_manager.db.webhooks import Delivery, NewWebhook, Outcome, Webhook, WebhookStore
from ccat_workflow_manager.errors import Fault, Invalid, NotFound, WorkflowError
from ccat_workflow_manager.lifecycle.event_types import PREFIX, TYPES, events_of
from ccat_workflow_manager.lifecycle.waiting import utc_text
from ccat_workflow_manager.services.feed import Feed
from ccat_workflow_manager.services.webhook_target import Sender, new_secret, url_problem

log = logging.getLogger(__name__)

_BATCH = 1000
_MOST_BATCHES = 20
_AT_ONCE = 16
_LEASE_SECONDS = 120
"""Longer than a call may take, so that only a delivery whose sender has died is sent a second time."""
_FIRST_RETRY_SECONDS = 5.0
_LONGEST_RETRY_SECONDS = 3600.0
_KEEP_DAYS = 7
TEST = f"{PREFIX}webhook.test"
"""The type of a message that a person asks for, to see whether the target answers."""


@dataclass(frozen=True, slots=True)
class WebhookPolicy:
    """`in_flight` is how many deliveries of one webhook are under way at a time."""

    in_flight: int = 4
    retry_hours: float = 24
    private_targets: bool = False


class Webhooks:
    """The webhooks of a deployment. Any number of managers may run `tick` at the same time."""

    def __init__(self, database: Database, feed: Feed, policy: WebhookPolicy) -> None:
        self._database = database
        self._feed = feed
        self._policy = policy
        self._sender = Sender(policy.private_targets)
        self._threads = ThreadPoolExecutor(_AT_ONCE, "webhooks")
        self._running = threading.Semaphore(_AT_ONCE)
        self._stopped = threading.Event()

    # --- requests of users -------------------------------------------------------------------------------------------

    def create(
        self,
        url: str,
        types: Sequence[str] = (),
        *,
        project: str | None = None,
        pipeline: str | None = None,
        run_id: UUID | None = None,
        actor: str,
    ) -> tuple[UUID, str]:
        """A webhook for everything from now on. Returns its id and its secret. Raises Invalid."""
        if problem := url_problem(url, private_allowed=self._policy.private_targets):
            raise Invalid(faults=[Fault("url", problem)])
        new = NewWebhook(new_id(), url, new_secret(), types, project, pipeline, run_id, actor)
        with self._database.begin("commit.webhook-created") as unit:
            WebhookStore(unit).add(new, head(unit))
            # Not the URL: it may hold a secret, and the audit is never forgotten.
            shown = {"host": urlsplit(url).hostname, "types": list(types), "pipeline": pipeline, "run": run_id}
            audit.describe(target=f"webhooks/{new.id}", project=project, after=shown)
        return new.id, new.secret

    def delete(self, webhook_id: UUID) -> None:
        with self._database.begin("commit.webhook-deleted") as unit:
            WebhookStore(unit).delete(webhook_id)

    def send_test(self, webhook_id: UUID, *, actor: str) -> UUID:
        """Send the target a message that is no event, once. Returns the id of its delivery."""
        delivery_id = new_id()
        about: dict[str, Any] = {
            "id": str(delivery_id),
            "specversion": "1.0",
            "source": self._feed.source,
            "type": TEST,
            "subject": f"webhooks/{webhook_id}",
            "time": utc_text(datetime.now(UTC)),
            "datacontenttype": "application/json",
            "data": {"actor": actor},
        }
        record = {"id": about["id"], "webhook_id": str(webhook_id), "event": about["id"], "type": TEST}
        with self._database.begin("commit.webhook-tested") as unit:
            store = WebhookStore(unit)
            store.lock_on(webhook_id)
            store.add_deliveries([{**record, "body": json.dumps(about)}], retry_hours=0)
        return delivery_id

    def redeliver(self, webhook_id: UUID, delivery_id: UUID | None = None) -> int:
        """Send a delivery again; None: all that were given up. Returns how many."""
        with self._database.begin("commit.webhook-again") as unit:
            count = WebhookStore(unit).redeliver(webhook_id, delivery_id, self._policy.retry_hours)
            if delivery_id is not None and count == 0:
                raise NotFound(f"the webhook {webhook_id} has no delivery {delivery_id}")
        return count

    # --- the loop ----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Make deliveries of new events, and start to send what is due."""
        for _ in range(_MOST_BATCHES):
            if not self._expand():
                break
        with self._database.read() as unit:
            is_due = WebhookStore(unit).is_due(self._policy.in_flight)
        while is_due and not self._stopped.is_set() and self._running.acquire(blocking=False):
            self._threads.submit(self._drain)

    def forget(self) -> None:
        """Delete old deliveries."""
        with self._database.begin("commit.webhooks-forgotten") as unit:
            WebhookStore(unit).forget(_KEEP_DAYS)

    def stop(self) -> None:
        """Begin no further delivery, and wait for those under way."""
        self._stopped.set()
        self._threads.shutdown(cancel_futures=True)

    def _expand(self) -> bool:
        """Turn one page of events into deliveries. Returns False if there is no more to do."""
        with self._database.read() as unit:
            webhooks = WebhookStore(unit).ready()
        if not webhooks:
            return False
        page = self._feed.page(webhooks[0].place, EVERYTHING, _BATCH)
        if page.place == webhooks[0].place:
            return False
        with self._database.begin("commit.webhooks-expanded") as unit:
            store = WebhookStore(unit)
            # Another manager may have gone on meanwhile, and then the place that is locked is a later one.
            behind = store.lock_before(webhooks, page.place)
            wanted = [
                (webhook, event)
                for webhook in behind
                for event in page.events
                if event.place > webhook.place and _selection(webhook).includes(event)
            ]
            if wanted:
                store.add_deliveries(self._records(wanted), self._policy.retry_hours)
            if behind:
                store.move(behind, page.place)
        return page.more

    def _records(self, wanted: Sequence[tuple[Webhook, FeedEvent]]) -> list[dict[str, str]]:
        return [
            {
                "id": str(delivery_id),
                "webhook_id": str(webhook.id),
                "event": self._feed.cursors.encode(event.place),
                "type": TYPES[event.event],
                "body": self._feed.cloud_event(event),
            }
            for delivery_id, (webhook, event) in zip(new_ids(len(wanted)), wanted, strict=True)
        ]

    def _drain(self) -> None:
        """Send one delivery after the other until none is due."""
        try:
            while not self._stopped.is_set() and (delivery := self._claim()) is not None:
                outcome = failpoints.around("webhook.send", lambda: self._sender.send(delivery))
                self._record(delivery, outcome)
        except WorkflowError as error:
            log.warning("webhooks: %s", error.message)
        except Exception:  # the tick of a loop, in a thread of its own
            log.exception("a webhook could not be sent")
        finally:
            self._running.release()

    def _claim(self) -> Delivery | None:
        with self._database.begin("commit.webhook-claimed") as unit:
            return WebhookStore(unit).claim(self._policy.in_flight, _LEASE_SECONDS)

    def _record(self, delivery: Delivery, outcome: Outcome) -> None:
        with self._database.begin("commit.webhook-sent") as unit:
            WebhookStore(unit).record(delivery, outcome, _retry_seconds(delivery.attempts, outcome))


def _selection(webhook: Webhook) -> Selection:
    events, _ = events_of(webhook.types)
    return Selection(
        events=events if webhook.types else None,
        projects=frozenset([webhook.project]) if webhook.project is not None else None,
        pipeline=webhook.pipeline,
        run_id=webhook.run_id,
    )


def _retry_seconds(attempts: int, outcome: Outcome) -> float:
    """Twice as long after each attempt, and never the same for many that failed together."""
    waits = min(_FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 20), _LONGEST_RETRY_SECONDS)
    return max(waits * (0.5 + random.random()), outcome.retry_after or 0)
