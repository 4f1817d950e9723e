"""The tables.

The CHECK constraints are generated from `lifecycle.states`: the database refuses every status the state machine lacks.
"""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    event,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB

from ccat_workflow_manager.db.conditions import (
    IN_USE,
    LABELLED,
    OPEN,
    OTHER_PROJECT,
    READY,
    RUN_STATUS_SQL,
    counter,
    quoted,
)
from ccat_workflow_manager.db.fairness_tables import holds, lanes, projects, turns
from ccat_workflow_manager.db.feed_tables import deliveries, events, feed, webhooks
from ccat_workflow_manager.db.figure_tables import figures, figures_place, live_figures
from ccat_workflow_manager.db.identity_tables import audit, sessions, tokens
from ccat_workflow_manager.db.metadata import NOW, TIME, metadata, project_column
from ccat_workflow_manager.db.service_tables import backends, breaker_events, breakers, full_places, workers
from ccat_workflow_manager.lifecycle.models import What
from ccat_workflow_manager.lifecycle.states import ACTIVE, CANCELLABLE, FINISHED, LEASED, LIVE, Status

__all__ = [
    "audit",
    "backends",
    "breaker_events",
    "breakers",
    "deliveries",
    "events",
    "feed",
    "figures",
    "figures_place",
    "full_places",
    "holds",
    "lanes",
    "live_figures",
    "metadata",
    "projects",
    "sessions",
    "tokens",
    "turns",
    "webhooks",
    "workers",
]


pipelines = Table(
    "pipelines",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    project_column(),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("priority", Integer, nullable=False, server_default=text("0")),
    Column("current_version", Integer, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("updated_at", TIME, nullable=False, server_default=NOW),
)

specs = Table(
    "specs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("pipeline_id", Uuid, ForeignKey("pipelines.id")),
    Column("name", Text, nullable=False),
    Column("version", Integer),
    Column("content", JSON, nullable=False),
    Column("content_hash", Text, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    CheckConstraint("(pipeline_id IS NULL) = (version IS NULL)", name="version_of_a_pipeline"),
    UniqueConstraint("pipeline_id", "version"),
    Index("uq_specs_inline_content_hash", "content_hash", unique=True, postgresql_where=text("pipeline_id IS NULL")),
)
"""Immutable definitions: the versions of registered pipelines, and inline ones (no pipeline, no version).

The content is `json`, not `jsonb`, because `json` keeps the order of the keys for people who read it.
"""

files = Table(
    "files",
    metadata,
    Column("sha256", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
)
"""The files that definitions name, stored once per content."""

runs = Table(
    "runs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("spec_id", Uuid, ForeignKey("specs.id"), nullable=False),
    Column("pipeline", Text, nullable=False),
    Column("pipeline_version", Integer),
    project_column(),
    Column("parameters", JSONB, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("backend", Text),
    Column("paused", Boolean, nullable=False, server_default=text("false")),
    Column("paused_by", Text),
    Column("paused_why", Text),
    Column("paused_until", TIME),
    Column("cancel_requested_at", TIME),
    Column("status_reason", Text),
    Column("created_by", Text, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("started_at", TIME),
    Column("finished_at", TIME),
    *(Column(counter(status), Integer, nullable=False, server_default=text("0")) for status in Status),
    Column("tolerated", Boolean, nullable=False, server_default=text("false")),
    Column("status", Text, Computed(RUN_STATUS_SQL, persisted=True), nullable=False),
    Column("n_caveats", Integer, nullable=False, server_default=text("0")),
    Column("caveats", JSONB),
    Column("idempotency_key", Text),
    Column("request_hash", Text),
    Column("replay_of", Uuid),
    Column("reuse", Uuid),
    Column("trace", Text),
    CheckConstraint(" AND ".join(f"{counter(status)} >= 0" for status in Status), name="counters"),
    CheckConstraint(f"(finished_at IS NOT NULL) = ({OPEN} = 0)", name="finished_at"),
    CheckConstraint("paused OR paused_until IS NULL", name="paused_until"),
    CheckConstraint("(idempotency_key IS NULL) = (request_hash IS NULL)", name="idempotency"),
    Index("ix_runs_status_id", "status", text("id DESC")),
    Index("ix_runs_pipeline_id", "pipeline", text("id DESC")),
    Index("ix_runs_project_id", "project", text("id DESC"), postgresql_where=text(OTHER_PROJECT)),
    Index("ix_runs_paused_until", "paused_until", postgresql_where=text("paused_until IS NOT NULL")),
    Index("ix_runs_caveats", text("id DESC"), postgresql_where=text("n_caveats > 0")),
    Index("ix_runs_project", "project", postgresql_where=text("finished_at IS NULL")),
    Index("ix_runs_created_at_status", "created_at", "status"),
    Index(
        "ix_runs_labels",
        "labels",
        postgresql_using="gin",
        postgresql_ops={"labels": "jsonb_path_ops"},
        postgresql_where=text(LABELLED),
    ),
    Index(
        "uq_runs_idempotency_key",
        "created_by",
        "idempotency_key",
        unique=True,
        postgresql_where=text("idempotency_key IS NOT NULL"),
    ),
)
"""`tolerated`: all step runs that ended without completing are losses that the steps behind them tolerate.

`caveats` holds the first of the `n_caveats` caveats of its completed step runs.
"""

run_steps = Table(
    "run_steps",
    metadata,
    Column("run_id", Uuid, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("position", SmallInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("total", Integer, nullable=False),
    Column("remaining", Integer, nullable=False),
    Column("downstream_key", ARRAY(SmallInteger), nullable=False),
    Column("downstream_all", ARRAY(SmallInteger), nullable=False),
    Column("upstream", ARRAY(SmallInteger), nullable=False),
    Column("image", Text),
    Column("lost", Integer, nullable=False, server_default=text("0")),
    Column("soft", ARRAY(SmallInteger), nullable=False, server_default=text("'{}'")),
    Column("soft_allowed", ARRAY(Integer), nullable=False, server_default=text("'{}'")),
    Column("fail_fast", ARRAY(SmallInteger), nullable=False, server_default=text("'{}'")),
    PrimaryKeyConstraint("run_id", "position"),
    CheckConstraint("remaining BETWEEN 0 AND total", name="remaining"),
    CheckConstraint("lost BETWEEN 0 AND remaining", name="lost"),
    CheckConstraint("cardinality(soft) = cardinality(soft_allowed)", name="soft"),
)
"""The edges of a run, one row per step instead of one per pair of step runs.

`remaining` counts the step runs that are not completed. At 0 it releases the steps in `downstream_all`.

`soft` are the steps among `downstream_key` and `downstream_all` that tolerate losses, at most `soft_allowed` each;
those in `fail_fast` are skipped as soon as there are more. Only for them, `lost` counts the step runs that ended
without completing.
"""

step_runs = Table(
    "step_runs",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("run_id", Uuid, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("position", SmallInteger, nullable=False),
    Column("step", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("item", JSONB),
    Column("backend", Text, nullable=False),
    Column("lane", Integer, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("attempt", SmallInteger, nullable=False, server_default=text("0")),
    Column("max_attempts", SmallInteger, nullable=False),
    Column("claims", Integer, nullable=False, server_default=text("0")),
    Column("unmet", SmallInteger, nullable=False),
    Column("awaits", ARRAY(SmallInteger)),
    Column("has_dependents", Boolean, nullable=False),
    Column("held", Boolean, nullable=False, server_default=text("false")),
    Column("not_before", TIME),
    Column("waiting_for", Text),
    Column("reason", Text),
    Column("reason_text", Text),
    Column("resources", JSONB, nullable=False),
    Column("cancel_requested_at", TIME),
    Column("cancel_requested_by", Text),
    Column("lease_owner", Text),
    Column("lease_until", TIME),
    Column("token", BigInteger, nullable=False, server_default=text("0")),
    Column("deaths", SmallInteger, nullable=False, server_default=text("0")),
    Column("job_id", Text),
    Column("unknown_since", TIME),
    Column("exit_code", Integer),
    Column("wall_time_seconds", Double),
    Column("cpu_hours", Double),
    Column("peak_memory_gb", Double),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    Column("submitted_at", TIME),
    Column("started_at", TIME),
    Column("finished_at", TIME),
    Column("breaker_key", Uuid, nullable=False),
    Column("requeued_by_breaker", Boolean, nullable=False, server_default=text("false")),
    Column("caveats", JSONB),
    Column("replay_of", Uuid),
    Column("reuse", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("run_id", "position", "key"),
    CheckConstraint(f"status IN ({quoted(Status)})", name="status"),
    CheckConstraint("status <> 'STAGING_DATA' OR lease_owner IS NOT NULL", name="staging_is_leased"),
    CheckConstraint(f"status IN ({quoted(LEASED)}) OR lease_owner IS NULL", name="lease_only_in_hand"),
    CheckConstraint("(lease_owner IS NULL) = (lease_until IS NULL)", name="lease"),
    CheckConstraint(
        f"(status IN ({quoted((LIVE | ACTIVE) - {Status.STAGING_DATA})})) <= (job_id IS NOT NULL)", name="job_id"
    ),
    CheckConstraint(f"status NOT IN ({quoted([Status.FAILED, Status.SKIPPED])}) OR reason IS NOT NULL", name="reason"),
    CheckConstraint(f"(status IN ({quoted(FINISHED)})) = (finished_at IS NOT NULL)", name="finished_at"),
    CheckConstraint(f"status NOT IN ({quoted(ACTIVE | {Status.COMPLETED})}) OR unmet = 0", name="unmet_waits"),
    CheckConstraint("unmet >= 0", name="unmet"),
    CheckConstraint("attempt BETWEEN 0 AND max_attempts", name="attempt"),
    CheckConstraint("NOT requeued_by_breaker OR cancel_requested_at IS NOT NULL", name="requeued_by_breaker"),
    Index(
        "ix_step_runs_ready",
        "backend",
        "lane",
        text("priority DESC"),
        "id",
        postgresql_where=text(READY),
    ),
    Index("ix_step_runs_lane", "lane", postgresql_where=text(IN_USE)),
    Index("ix_step_runs_live", "backend", "id", postgresql_where=text(f"status IN ({quoted(LIVE)})")),
    Index("ix_step_runs_in_hand", "lease_until", postgresql_where=text(f"status IN ({quoted(LEASED)})")),
    Index(
        "ix_step_runs_cancel",
        "backend",
        "id",
        postgresql_where=text(f"cancel_requested_at IS NOT NULL AND status IN ({quoted(CANCELLABLE)})"),
    ),
    Index("ix_step_runs_disk_full", "id", postgresql_where=text("reason = 'disk_full'")),
)
"""`unmet` counts the upstream steps that are not decided; `awaits` holds those among them whose losses are tolerated.

A retry of a person may reopen a loss that was tolerated, so these are counted up and down by name.
"""

attempts = Table(
    "attempts",
    metadata,
    Column("step_run_id", Uuid, ForeignKey("step_runs.id", ondelete="CASCADE"), nullable=False),
    Column("number", SmallInteger, nullable=False),
    Column("backend", Text, nullable=False),
    Column("job_name", Text, nullable=False),
    Column("job_id", Text),
    Column("job_state", Text),
    Column("worker", Text, nullable=False),
    Column("node", Text),
    Column("resources", JSONB, nullable=False),
    Column("claimed_at", TIME, nullable=False, server_default=NOW),
    Column("submitted_at", TIME),
    Column("started_at", TIME),
    Column("finished_at", TIME),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("wall_time_seconds", Double),
    Column("cpu_hours", Double),
    Column("peak_memory_gb", Double),
    Column("cpu_hours_allocated", Double),
    Column("reason", Text),
    Column("reason_text", Text),
    Column("warnings", JSONB),
    Column("provenance", JSONB),
    PrimaryKeyConstraint("step_run_id", "number"),
    Index("uq_attempts_backend_job_id", "backend", "job_id", unique=True, postgresql_where=text("job_id IS NOT NULL")),
)
"""The facts of each attempt. The partial unique index allows a job to belong to one attempt only."""

products = Table(
    "products",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("step_run_id", Uuid, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("run_id", Uuid, nullable=False),
    Column("name", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("sha256", Text, nullable=False),
    Column("is_directory", Boolean, nullable=False),
    Column("file_count", Integer, nullable=False),
    Column("metadata", JSONB, nullable=False),
    Column("created_at", TIME, nullable=False, server_default=NOW),
    ForeignKeyConstraint(["step_run_id", "attempt"], ["attempts.step_run_id", "attempts.number"], ondelete="CASCADE"),
    UniqueConstraint("step_run_id", "name"),
    Index("ix_products_run_id_id", "run_id", "id"),
)

product_parents = Table(
    "product_parents",
    metadata,
    Column("product_id", Uuid, ForeignKey("products.id", ondelete="CASCADE"), nullable=False),
    Column("parent_id", Uuid, ForeignKey("products.id", ondelete="CASCADE"), nullable=False),
    PrimaryKeyConstraint("product_id", "parent_id"),
    Index("ix_product_parents_parent_id", "parent_id"),
)

deletions = Table(
    "deletions",
    metadata,
    Column("run_id", Uuid, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("what", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("requested_at", TIME, nullable=False, server_default=NOW),
    Column("run_finished_at", TIME, nullable=False),
    Column("backends", ARRAY(Text), nullable=False),
    Column("lease_until", TIME),
    Column("problem", Text),
    Column("done_at", TIME),
    PrimaryKeyConstraint("run_id", "what"),
    CheckConstraint(f"what IN ({', '.join(repr(str(each)) for each in What)})", name="what"),
    Index("ix_deletions_requested_at", "requested_at", postgresql_where=text("done_at IS NULL")),
)
"""What is to be removed of finished runs, and what was. `backends`: those whose workers still have to remove files."""

step_run_inputs = Table(
    "step_run_inputs",
    metadata,
    Column("step_run_id", Uuid, ForeignKey("step_runs.id", ondelete="CASCADE"), primary_key=True),
    Column("inputs", JSONB, nullable=False),
    Column("source_runs", ARRAY(Uuid), nullable=False),
    Index("ix_step_run_inputs_source_runs", "source_runs", postgresql_using="gin"),
)
"""What the first attempt found as inputs; `source_runs` are the runs in whose directories they lie."""

for _table, _fill in ((runs, 80), (run_steps, 80), (step_runs, 70), (attempts, 70)):
    # Free space on each page, so that most updates write the new version of a row to the same page.
    event.listen(_table, "after_create", DDL(f"ALTER TABLE {_table.name} SET (fillfactor = {_fill})"))  # type: ignore[no-untyped-call]
