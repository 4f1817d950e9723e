"""Webhooks and their deliveries.

A webhook is a place in the feed of events. What it wants behind that place becomes deliveries in the transaction that
moves the place, so each event becomes one delivery. The events themselves are written with the transitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from ccat_workflow_manager.db.queries import Row, one, project_list, rows, times, visible
from ccat_workflow_manager.db.queries.feed import Place
from ccat_workflow_manager.db.session import UnitOfWork, json_list
from ccat_workflow_manager.errors import Conflict
from ccat_workflow_manager.identity import Projects

MOST_PENDING = 1000
"""A webhook with more pending deliveries stays at its place. The events wait in the feed."""

_SHOWN = f"""w.id, w.url, w.types, w.project,
  json_build_object('pipeline', w.pipeline, 'run', w.run_id) AS filter, w.created_by,
  {times("w", "created_at", "disabled_at")}, w.disabled_reason"""
_PAGE = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT {_SHOWN} FROM webhooks w
  WHERE (CAST(:after AS uuid) IS NULL OR w.id > :after) AND {visible("w.project")} ORDER BY w.id LIMIT :limit
) x
"""
_DETAIL = f"SELECT row_to_json(x)::text FROM (SELECT {_SHOWN} FROM webhooks w WHERE w.id = :id) x"
_SHOWN_DELIVERY = f"""d.id, d.webhook_id, d.event, d.type, d.status, d.attempts, d.http_status, d.problem,
  {times("d", "created_at", "next_at", "finished_at")}"""
_DELIVERIES = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT {_SHOWN_DELIVERY} FROM webhook_deliveries d
  WHERE d.webhook_id = :webhook_id AND (CAST(:after AS uuid) IS NULL OR d.id < :after)
    AND (CAST(:status AS text) IS NULL OR d.status = :status)
  ORDER BY d.id DESC LIMIT :limit
) x
"""
_DELIVERY = f"""
SELECT row_to_json(x)::text FROM (SELECT {_SHOWN_DELIVERY} FROM webhook_deliveries d WHERE d.id = :id) x
"""

_INSERT = """
INSERT INTO webhooks (id, url, secret, types, project, pipeline, run_id, created_by, position, event_id)
VALUES (:id, :url, :secret, :types, :project, :pipeline, :run_id, :created_by, :position, :event_id)
"""
_READY = f"""
SELECT w.id, w.types, w.project, w.pipeline, w.run_id, w.position, w.event_id FROM webhooks w
WHERE w.disabled_at IS NULL AND (SELECT count(*) FROM (
  SELECT 1 FROM webhook_deliveries d WHERE d.webhook_id = w.id AND d.status = 'PENDING' LIMIT {MOST_PENDING + 1}
) d) <= {MOST_PENDING}
ORDER BY w.position, w.event_id
"""
_LOCK_BEFORE = """
SELECT id, types, project, pipeline, run_id, position, event_id FROM webhooks
WHERE id = ANY(:ids) AND disabled_at IS NULL AND (position, event_id) < (:position, :event_id)
ORDER BY id FOR NO KEY UPDATE
"""
_MOVE = "UPDATE webhooks SET position = :position, event_id = :event_id WHERE id = ANY(:ids)"
_ADD_DELIVERIES = """
INSERT INTO webhook_deliveries (id, webhook_id, event, type, body, give_up_at)
SELECT id, webhook_id, event, type, body, now() + :hours * interval '1 hour'
FROM json_to_recordset(CAST(:deliveries AS json)) AS d(id uuid, webhook_id uuid, event text, type text, body text)
"""
_DUE = """d.webhook_id = w.id AND d.status = 'PENDING' AND d.next_at <= now()"""
_HAS_ROOM = """(
    SELECT count(*) FROM webhook_deliveries f
    WHERE f.webhook_id = w.id AND f.status = 'PENDING' AND f.in_flight_until > now()) < :in_flight"""
_WEBHOOKS_DUE = f"""
SELECT w.id FROM webhooks w
WHERE w.disabled_at IS NULL AND EXISTS (SELECT 1 FROM webhook_deliveries d WHERE {_DUE}) AND {_HAS_ROOM}
"""
_LOCK_WEBHOOKS_DUE = f"{_WEBHOOKS_DUE} ORDER BY random() LIMIT 1 FOR NO KEY UPDATE OF w SKIP LOCKED"
_CLAIM = f"""
WITH due AS (
  SELECT d.id FROM webhooks w, webhook_deliveries d
  WHERE w.id = :webhook_id AND {_DUE} AND {_HAS_ROOM}
  ORDER BY d.next_at, d.id LIMIT 1 FOR NO KEY UPDATE OF d
)
UPDATE webhook_deliveries d SET attempts = attempts + 1, next_at = now() + :lease * interval '1 second',
  in_flight_until = now() + :lease * interval '1 second'
FROM due, webhooks w WHERE d.id = due.id AND w.id = d.webhook_id
RETURNING d.id, d.webhook_id, w.url, w.secret, d.body, d.attempts
"""
_RECORD = """
UPDATE webhook_deliveries d SET http_status = :http_status, problem = o.problem, in_flight_until = NULL,
  status = CASE WHEN o.problem IS NULL THEN 'DELIVERED' WHEN o.is_last THEN 'DEAD' ELSE 'PENDING' END,
  finished_at = CASE WHEN o.problem IS NULL OR o.is_last THEN now() END,
  next_at = now() + :seconds * interval '1 second'
FROM (
  SELECT id, CAST(:problem AS text) AS problem, CAST(:final AS boolean) OR give_up_at <= now() AS is_last
  FROM webhook_deliveries WHERE id = :id
) o
WHERE d.id = o.id AND d.status = 'PENDING' AND d.attempts = :attempts
"""
_DISABLE = """
WITH off AS (
  UPDATE webhooks SET disabled_at = now(), disabled_reason = :reason WHERE id = :id AND disabled_at IS NULL RETURNING id
)
UPDATE webhook_deliveries SET status = 'DEAD', finished_at = now(), in_flight_until = NULL
WHERE webhook_id IN (SELECT id FROM off) AND status = 'PENDING'
"""
_LOCK = "SELECT disabled_at IS NOT NULL, disabled_reason FROM webhooks WHERE id = :id FOR NO KEY UPDATE"
"""Before its deliveries: one that is switched off gets no pending ones."""
_REDELIVER = """
UPDATE webhook_deliveries SET status = 'PENDING', next_at = now(), finished_at = NULL, in_flight_until = NULL,
  give_up_at = now() + :hours * interval '1 hour'
WHERE webhook_id = :webhook_id AND (CASE WHEN CAST(:id AS uuid) IS NULL THEN status = 'DEAD' ELSE id = :id END)
"""
_FORGET = """
DELETE FROM webhook_deliveries WHERE status <> 'PENDING' AND finished_at < now() - :days * interval '1 day'
"""


@dataclass(frozen=True, slots=True)
class Webhook:
    """What a webhook wants, and its place in the feed."""

    id: UUID
    types: Sequence[str]
    project: str | None
    pipeline: str | None
    run_id: UUID | None
    position: int
    event_id: int

    @property
    def place(self) -> Place:
        return Place(self.position, self.event_id)


@dataclass(frozen=True, slots=True)
class NewWebhook:
    id: UUID
    url: str
    secret: str
    types: Sequence[str]
    project: str | None
    pipeline: str | None
    run_id: UUID | None
    created_by: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery that the caller may send now."""

    id: UUID
    webhook_id: UUID
    url: str
    secret: str
    body: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one attempt. Without a problem it was delivered; after a `final` one it is not repeated."""

    problem: str | None
    http_status: int | None = None
    final: bool = False
    gone: bool = False
    """The target asks for no more deliveries."""
    retry_after: float | None = None


class WebhookStore:
    """Reads and writes webhooks inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def add(self, new: NewWebhook, place: Place) -> None:
        self.unit.execute(
            _INSERT,
            {
                "id": new.id,
                "url": new.url,
                "secret": new.secret,
                "types": list(new.types),
                "project": new.project,
                "pipeline": new.pipeline,
                "run_id": new.run_id,
                "created_by": new.created_by,
                "position": place.position,
                "event_id": place.event_id,
            },
        )

    def delete(self, webhook_id: UUID) -> None:
        self.unit.execute("DELETE FROM webhooks WHERE id = :id", {"id": webhook_id})

    def ready(self) -> list[Webhook]:
        """The webhooks that take further deliveries, the one that is furthest behind first."""
        return self.unit.rows(Webhook, _READY)

    def lock_before(self, webhooks: Sequence[Webhook], place: Place) -> list[Webhook]:
        """Lock those of the webhooks whose place is before this one."""
        ids = [each.id for each in webhooks]
        return self.unit.rows(Webhook, _LOCK_BEFORE, {"ids": ids, **place._asdict()})

    def move(self, webhooks: Sequence[Webhook], place: Place) -> None:
        self.unit.execute(_MOVE, {"ids": [each.id for each in webhooks], **place._asdict()})

    def add_deliveries(self, deliveries: Sequence[dict[str, str]], retry_hours: float) -> None:
        self.unit.execute(_ADD_DELIVERIES, {"deliveries": json_list(deliveries), "hours": retry_hours})

    def is_due(self, in_flight: int) -> bool:
        """Whether `claim` would find a delivery."""
        return self.unit.execute(_WEBHOOKS_DUE, {"in_flight": in_flight}).first() is not None

    def claim(self, in_flight: int, lease_seconds: float) -> Delivery | None:
        """Take the oldest delivery that is due of one webhook that has fewer than `in_flight` under way.

        It is due again when the lease is over, in case that the caller ends without recording an outcome.
        """
        webhook_id = self.unit.execute(_LOCK_WEBHOOKS_DUE, {"in_flight": in_flight}).scalar()
        if webhook_id is None:
            return None
        parameters = {"webhook_id": webhook_id, "in_flight": in_flight, "lease": lease_seconds}
        return self.unit.row(Delivery, _CLAIM, parameters)

    def record(self, delivery: Delivery, outcome: Outcome, retry_seconds: float) -> None:
        """Record the outcome of an attempt, unless a later attempt has begun."""
        parameters = {
            "id": delivery.id,
            "attempts": delivery.attempts,
            "problem": outcome.problem,
            "http_status": outcome.http_status,
            "final": outcome.final or outcome.gone,
            "seconds": retry_seconds,
        }
        if outcome.gone:
            self.unit.execute(_LOCK, {"id": delivery.webhook_id})
        self.unit.execute(_RECORD, parameters)
        if outcome.gone:
            self.unit.execute(_DISABLE, {"id": delivery.webhook_id, "reason": outcome.problem})

    def lock_on(self, webhook_id: UUID) -> None:
        """Keep a webhook from being switched off. Raises Conflict if it is."""
        for is_off, reason in self.unit.execute(_LOCK, {"id": webhook_id}).tuples:
            if is_off:
                raise Conflict(f"the webhook {webhook_id} is switched off: {reason}; make a new one")

    def redeliver(self, webhook_id: UUID, delivery_id: UUID | None, retry_hours: float) -> int:
        """Send one delivery again; None: all dead ones. Returns how many. Raises Conflict if nothing is sent there."""
        self.lock_on(webhook_id)
        parameters = {"webhook_id": webhook_id, "id": delivery_id, "hours": retry_hours}
        return self.unit.execute(_REDELIVER, parameters).rowcount

    def forget(self, days: float) -> None:
        """Delete the deliveries that were finished so many days ago."""
        self.unit.execute(_FORGET, {"days": days})


def webhooks_page(unit: UnitOfWork, after: UUID | None, limit: int, projects: Projects = None) -> list[Row]:
    return rows(unit, _PAGE, {"after": after, "limit": limit, "projects": project_list(projects)})


def webhook_detail(unit: UnitOfWork, webhook_id: UUID) -> str | None:
    return one(unit, _DETAIL, {"id": webhook_id})


def deliveries_page(
    unit: UnitOfWork, webhook_id: UUID, status: str | None, after: UUID | None, limit: int
) -> list[Row]:
    """The deliveries of a webhook, the newest first."""
    return rows(unit, _DELIVERIES, {"webhook_id": webhook_id, "status": status, "after": after, "limit": limit})


def delivery_detail(unit: UnitOfWork, delivery_id: UUID) -> str | None:
    return one(unit, _DELIVERY, {"id": delivery_id})
