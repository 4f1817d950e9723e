"""The first schema. 0001 and 0002 are revisions of development databases, which it cannot adopt.

Revision: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE backends (
        name TEXT NOT NULL,
        problem TEXT,
        problem_since TIMESTAMP WITH TIME ZONE,
        retry_at TIMESTAMP WITH TIME ZONE,
        polled_at TIMESTAMP WITH TIME ZONE,
        poll_lease_until TIMESTAMP WITH TIME ZONE,
        answered_at TIMESTAMP WITH TIME ZONE,
        reaped_at TIMESTAMP WITH TIME ZONE,
        unknown_jobs INTEGER DEFAULT 0 NOT NULL,
        stray_jobs INTEGER DEFAULT 0 NOT NULL,
        strays_stopped BIGINT DEFAULT 0 NOT NULL,
        reap_problem TEXT,
        strays JSONB DEFAULT '[]' NOT NULL,
        CONSTRAINT pk_backends PRIMARY KEY (name),
        CONSTRAINT ck_backends_jobs CHECK (unknown_jobs >= 0 AND stray_jobs >= 0 AND strays_stopped >= 0)
    )
    """,
    """
    CREATE TABLE breaker_events (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        breaker_key UUID NOT NULL,
        project TEXT DEFAULT 'default' NOT NULL,
        pipeline TEXT NOT NULL,
        step TEXT NOT NULL,
        image TEXT,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        event TEXT NOT NULL,
        actor TEXT NOT NULL,
        text TEXT NOT NULL,
        CONSTRAINT pk_breaker_events PRIMARY KEY (id),
        CONSTRAINT ck_breaker_events_event CHECK (event IN ('opened', 'probed', 'closed', 'released'))
    )
    """,
    """
    CREATE INDEX ix_breaker_events_breaker_key_id ON breaker_events (breaker_key, id)
    """,
    """
    CREATE TABLE breakers (
        breaker_key UUID NOT NULL,
        project TEXT DEFAULT 'default' NOT NULL,
        pipeline TEXT NOT NULL,
        step TEXT NOT NULL,
        image TEXT,
        failures JSONB DEFAULT '[]' NOT NULL,
        opened_at TIMESTAMP WITH TIME ZONE,
        failure_signature TEXT,
        reason_text TEXT,
        probe UUID,
        probe_at TIMESTAMP WITH TIME ZONE,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_breakers PRIMARY KEY (breaker_key),
        CONSTRAINT ck_breakers_open_says_why CHECK ((opened_at IS NOT NULL) = (failure_signature IS NOT NULL) AND (opened_at IS NOT NULL) = (reason_text IS NOT NULL)),
        CONSTRAINT ck_breakers_probe_of_open CHECK (opened_at IS NOT NULL OR (probe IS NULL AND probe_at IS NULL)),
        CONSTRAINT ck_breakers_failures CHECK (jsonb_typeof(failures) = 'array')
    )
    """,
    """
    CREATE TABLE projects (
        name TEXT NOT NULL,
        weight DOUBLE PRECISION DEFAULT 1 NOT NULL,
        max_live INTEGER,
        max_cpus DOUBLE PRECISION,
        max_queued INTEGER,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_projects PRIMARY KEY (name),
        CONSTRAINT ck_projects_weight CHECK (weight > 0),
        CONSTRAINT ck_projects_limits CHECK (max_live >= 0 AND max_cpus >= 0 AND max_queued >= 0)
    )
    """,
    """
    CREATE TABLE lanes (
        id INTEGER GENERATED ALWAYS AS IDENTITY,
        project TEXT NOT NULL,
        pipeline TEXT NOT NULL,
        registered BOOLEAN NOT NULL,
        CONSTRAINT pk_lanes PRIMARY KEY (id),
        CONSTRAINT uq_lanes_project_pipeline_registered UNIQUE (project, pipeline, registered)
    )
    """,
    """
    CREATE TABLE turns (
        backend TEXT NOT NULL,
        project TEXT NOT NULL,
        lane INTEGER NOT NULL,
        pass DOUBLE PRECISION NOT NULL,
        cost DOUBLE PRECISION NOT NULL,
        floor DOUBLE PRECISION NOT NULL,
        CONSTRAINT pk_turns PRIMARY KEY (backend, project, lane)
    )
    """,
    """
    CREATE TABLE holds (
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        mode TEXT NOT NULL,
        why TEXT NOT NULL,
        actor TEXT NOT NULL,
        since TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        until TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_holds PRIMARY KEY (kind, name),
        CONSTRAINT ck_holds_kind CHECK (kind IN ('pipeline', 'project', 'backend', 'service')),
        CONSTRAINT ck_holds_mode CHECK (mode IN ('pause', 'drain')),
        CONSTRAINT ck_holds_name CHECK ((kind = 'service') = (name = ''))
    )
    """,
    """
    CREATE TABLE overrides (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        field TEXT NOT NULL,
        project TEXT NOT NULL,
        title TEXT NOT NULL,
        before JSONB,
        value JSONB,
        why TEXT,
        actor TEXT NOT NULL,
        since TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        until TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT pk_overrides PRIMARY KEY (id),
        CONSTRAINT uq_overrides_kind_name_field UNIQUE (kind, name, field),
        CONSTRAINT ck_overrides_kind CHECK (kind IN ('project', 'pipeline', 'breaker', 'run', 'step run'))
    )
    """,
    """
    CREATE INDEX ix_overrides_until ON overrides (until)
    """,
    """
    CREATE TABLE files (
        sha256 TEXT NOT NULL,
        content BYTEA NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_files PRIMARY KEY (sha256)
    )
    """,
    """
    CREATE TABLE figures (
        seconds INTEGER NOT NULL,
        begin TIMESTAMP WITH TIME ZONE NOT NULL,
        step TEXT NOT NULL,
        pipeline TEXT NOT NULL,
        project TEXT NOT NULL,
        backend TEXT NOT NULL,
        outcome TEXT NOT NULL,
        reason TEXT NOT NULL,
        bucket SMALLINT NOT NULL,
        number BIGINT NOT NULL,
        CONSTRAINT pk_figures
            PRIMARY KEY (seconds, begin, step, pipeline, project, backend, outcome, reason, bucket)
    )
    """,
    """
    CREATE INDEX ix_figures_pipeline_seconds_begin ON figures (pipeline, seconds, begin)
    """,
    """
    CREATE TABLE live_figures (
        project TEXT NOT NULL,
        status TEXT NOT NULL,
        number BIGINT NOT NULL,
        CONSTRAINT pk_live_figures PRIMARY KEY (project, status)
    )
    """,
    """
    CREATE TABLE figures_place (
        one BOOLEAN DEFAULT true NOT NULL,
        position BIGINT NOT NULL,
        CONSTRAINT pk_figures_place PRIMARY KEY (one),
        CONSTRAINT ck_figures_place_one CHECK (one)
    )
    """,
    "ALTER TABLE figures SET (fillfactor = 70)",
    "ALTER TABLE live_figures SET (fillfactor = 70)",
    """
    CREATE TABLE full_places (
        backend TEXT NOT NULL,
        resources JSONB NOT NULL,
        text TEXT NOT NULL,
        since TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        retry_at TIMESTAMP WITH TIME ZONE NOT NULL,
        refusals SMALLINT DEFAULT 1 NOT NULL,
        allowed INTEGER DEFAULT 1 NOT NULL,
        CONSTRAINT pk_full_places PRIMARY KEY (backend, resources)
    )
    """,
    """
    CREATE TABLE pipelines (
        id UUID NOT NULL,
        name TEXT NOT NULL,
        project TEXT DEFAULT 'default' NOT NULL,
        enabled BOOLEAN DEFAULT true NOT NULL,
        priority INTEGER DEFAULT 0 NOT NULL,
        current_version INTEGER NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_pipelines PRIMARY KEY (id),
        CONSTRAINT uq_pipelines_name UNIQUE (name)
    )
    """,
    """
    CREATE TABLE workers (
        id TEXT NOT NULL,
        host TEXT NOT NULL,
        pid INTEGER NOT NULL,
        backends TEXT[] NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        last_completed_at TIMESTAMP WITH TIME ZONE,
        completed BIGINT DEFAULT 0 NOT NULL,
        ended_by_minute INTEGER[] DEFAULT '{}' NOT NULL,
        drained JSONB,
        CONSTRAINT pk_workers PRIMARY KEY (id)
    )
    """,
    """
    CREATE TABLE specs (
        id UUID NOT NULL,
        pipeline_id UUID,
        name TEXT NOT NULL,
        version INTEGER,
        content JSON NOT NULL,
        content_hash TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_specs PRIMARY KEY (id),
        CONSTRAINT ck_specs_version_of_a_pipeline CHECK ((pipeline_id IS NULL) = (version IS NULL)),
        CONSTRAINT uq_specs_pipeline_id_version UNIQUE (pipeline_id, version),
        CONSTRAINT fk_specs_pipeline_id FOREIGN KEY(pipeline_id) REFERENCES pipelines (id)
    )
    """,
    """
    CREATE UNIQUE INDEX uq_specs_inline_content_hash ON specs (content_hash) WHERE pipeline_id IS NULL
    """,
    """
    CREATE TABLE runs (
        id UUID NOT NULL,
        spec_id UUID NOT NULL,
        pipeline TEXT NOT NULL,
        pipeline_version INTEGER,
        project TEXT DEFAULT 'default' NOT NULL,
        parameters JSONB NOT NULL,
        labels JSONB NOT NULL,
        priority INTEGER NOT NULL,
        backend TEXT,
        paused BOOLEAN DEFAULT false NOT NULL,
        paused_by TEXT,
        paused_why TEXT,
        paused_until TIMESTAMP WITH TIME ZONE,
        cancel_requested_at TIMESTAMP WITH TIME ZONE,
        status_reason TEXT,
        created_by TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE,
        finished_at TIMESTAMP WITH TIME ZONE,
        n_pending INTEGER DEFAULT 0 NOT NULL,
        n_staging_data INTEGER DEFAULT 0 NOT NULL,
        n_submitted INTEGER DEFAULT 0 NOT NULL,
        n_running INTEGER DEFAULT 0 NOT NULL,
        n_collecting_results INTEGER DEFAULT 0 NOT NULL,
        n_completed INTEGER DEFAULT 0 NOT NULL,
        n_failed INTEGER DEFAULT 0 NOT NULL,
        n_cancelled INTEGER DEFAULT 0 NOT NULL,
        n_skipped INTEGER DEFAULT 0 NOT NULL,
        tolerated BOOLEAN DEFAULT false NOT NULL,
        status TEXT GENERATED ALWAYS AS (CASE WHEN n_pending + n_staging_data + n_submitted + n_running + n_collecting_results = 0 THEN CASE WHEN tolerated THEN 'COMPLETED' WHEN n_failed > 0 THEN 'FAILED' WHEN n_cancelled > 0 THEN 'CANCELLED' ELSE 'COMPLETED' END WHEN n_pending = n_pending + n_staging_data + n_submitted + n_running + n_collecting_results + n_completed + n_failed + n_cancelled + n_skipped THEN 'PENDING' ELSE 'RUNNING' END) STORED NOT NULL,
        n_caveats INTEGER DEFAULT 0 NOT NULL,
        caveats JSONB,
        idempotency_key TEXT,
        request_hash TEXT,
        replay_of UUID,
        reuse UUID,
        trace TEXT,
        CONSTRAINT pk_runs PRIMARY KEY (id),
        CONSTRAINT ck_runs_counters CHECK (n_pending >= 0 AND n_staging_data >= 0 AND n_submitted >= 0 AND n_running >= 0 AND n_collecting_results >= 0 AND n_completed >= 0 AND n_failed >= 0 AND n_cancelled >= 0 AND n_skipped >= 0),
        CONSTRAINT ck_runs_finished_at CHECK ((finished_at IS NOT NULL) = (n_pending + n_staging_data + n_submitted + n_running + n_collecting_results = 0)),
        CONSTRAINT ck_runs_paused_until CHECK (paused OR paused_until IS NULL),
        CONSTRAINT ck_runs_idempotency CHECK ((idempotency_key IS NULL) = (request_hash IS NULL)),
        CONSTRAINT fk_runs_spec_id FOREIGN KEY(spec_id) REFERENCES specs (id)
    )
    """,
    """
    CREATE INDEX ix_runs_caveats ON runs (id DESC) WHERE n_caveats > 0
    """,
    """
    CREATE INDEX ix_runs_created_at_status ON runs (created_at, status)
    """,
    """
    CREATE INDEX ix_runs_labels ON runs USING gin (labels jsonb_path_ops) WHERE labels <> '{}'
    """,
    """
    CREATE INDEX ix_runs_pipeline_id ON runs (pipeline, id DESC)
    """,
    """
    CREATE INDEX ix_runs_project_id ON runs (project, id DESC) WHERE project <> 'default'
    """,
    """
    CREATE INDEX ix_runs_paused_until ON runs (paused_until) WHERE paused_until IS NOT NULL
    """,
    """
    CREATE INDEX ix_runs_project ON runs (project) WHERE finished_at IS NULL
    """,
    """
    CREATE INDEX ix_runs_status_id ON runs (status, id DESC)
    """,
    """
    CREATE UNIQUE INDEX uq_runs_idempotency_key ON runs (created_by, idempotency_key) WHERE idempotency_key IS NOT NULL
    """,
    """
    CREATE TABLE run_steps (
        run_id UUID NOT NULL,
        position SMALLINT NOT NULL,
        name TEXT NOT NULL,
        total INTEGER NOT NULL,
        remaining INTEGER NOT NULL,
        downstream_key SMALLINT[] NOT NULL,
        downstream_all SMALLINT[] NOT NULL,
        upstream SMALLINT[] NOT NULL,
        image TEXT,
        lost INTEGER DEFAULT 0 NOT NULL,
        soft SMALLINT[] DEFAULT '{}' NOT NULL,
        soft_allowed INTEGER[] DEFAULT '{}' NOT NULL,
        fail_fast SMALLINT[] DEFAULT '{}' NOT NULL,
        CONSTRAINT pk_run_steps PRIMARY KEY (run_id, position),
        CONSTRAINT ck_run_steps_remaining CHECK (remaining BETWEEN 0 AND total),
        CONSTRAINT ck_run_steps_lost CHECK (lost BETWEEN 0 AND remaining),
        CONSTRAINT ck_run_steps_soft CHECK (cardinality(soft) = cardinality(soft_allowed)),
        CONSTRAINT fk_run_steps_run_id FOREIGN KEY(run_id) REFERENCES runs (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE step_runs (
        id UUID NOT NULL,
        run_id UUID NOT NULL,
        position SMALLINT NOT NULL,
        step TEXT NOT NULL,
        key TEXT NOT NULL,
        item JSONB,
        backend TEXT NOT NULL,
        lane INTEGER NOT NULL,
        priority INTEGER NOT NULL,
        status TEXT NOT NULL,
        attempt SMALLINT DEFAULT 0 NOT NULL,
        max_attempts SMALLINT NOT NULL,
        claims INTEGER DEFAULT 0 NOT NULL,
        unmet SMALLINT NOT NULL,
        awaits SMALLINT[],
        has_dependents BOOLEAN NOT NULL,
        held BOOLEAN DEFAULT false NOT NULL,
        not_before TIMESTAMP WITH TIME ZONE,
        waiting_for TEXT,
        reason TEXT,
        reason_text TEXT,
        resources JSONB NOT NULL,
        cancel_requested_at TIMESTAMP WITH TIME ZONE,
        cancel_requested_by TEXT,
        lease_owner TEXT,
        lease_until TIMESTAMP WITH TIME ZONE,
        token BIGINT DEFAULT 0 NOT NULL,
        deaths SMALLINT DEFAULT 0 NOT NULL,
        job_id TEXT,
        unknown_since TIMESTAMP WITH TIME ZONE,
        exit_code INTEGER,
        wall_time_seconds DOUBLE PRECISION,
        cpu_hours DOUBLE PRECISION,
        peak_memory_gb DOUBLE PRECISION,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        submitted_at TIMESTAMP WITH TIME ZONE,
        started_at TIMESTAMP WITH TIME ZONE,
        finished_at TIMESTAMP WITH TIME ZONE,
        breaker_key UUID NOT NULL,
        requeued_by_breaker BOOLEAN DEFAULT false NOT NULL,
        caveats JSONB,
        replay_of UUID,
        reuse BOOLEAN DEFAULT false NOT NULL,
        CONSTRAINT pk_step_runs PRIMARY KEY (id),
        CONSTRAINT uq_step_runs_run_id_position_key UNIQUE (run_id, position, key),
        CONSTRAINT ck_step_runs_status CHECK (status IN ('PENDING', 'STAGING_DATA', 'SUBMITTED', 'RUNNING', 'COLLECTING_RESULTS', 'COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')),
        CONSTRAINT ck_step_runs_staging_is_leased CHECK (status <> 'STAGING_DATA' OR lease_owner IS NOT NULL),
        CONSTRAINT ck_step_runs_lease_only_in_hand CHECK (status IN ('STAGING_DATA', 'COLLECTING_RESULTS') OR lease_owner IS NULL),
        CONSTRAINT ck_step_runs_lease CHECK ((lease_owner IS NULL) = (lease_until IS NULL)),
        CONSTRAINT ck_step_runs_job_id CHECK ((status IN ('SUBMITTED', 'RUNNING', 'COLLECTING_RESULTS')) <= (job_id IS NOT NULL)),
        CONSTRAINT ck_step_runs_reason CHECK (status NOT IN ('FAILED', 'SKIPPED') OR reason IS NOT NULL),
        CONSTRAINT ck_step_runs_finished_at CHECK ((status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED')) = (finished_at IS NOT NULL)),
        CONSTRAINT ck_step_runs_unmet_waits CHECK (status NOT IN ('STAGING_DATA', 'SUBMITTED', 'RUNNING', 'COLLECTING_RESULTS', 'COMPLETED') OR unmet = 0),
        CONSTRAINT ck_step_runs_unmet CHECK (unmet >= 0),
        CONSTRAINT ck_step_runs_attempt CHECK (attempt BETWEEN 0 AND max_attempts),
        CONSTRAINT ck_step_runs_requeued_by_breaker CHECK (NOT requeued_by_breaker OR cancel_requested_at IS NOT NULL),
        CONSTRAINT fk_step_runs_run_id FOREIGN KEY(run_id) REFERENCES runs (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_step_runs_cancel ON step_runs (backend, id) WHERE cancel_requested_at IS NOT NULL AND status IN ('PENDING', 'STAGING_DATA', 'SUBMITTED', 'RUNNING', 'COLLECTING_RESULTS')
    """,
    """
    CREATE INDEX ix_step_runs_disk_full ON step_runs (id) WHERE reason = 'disk_full'
    """,
    """
    CREATE INDEX ix_step_runs_in_hand ON step_runs (lease_until) WHERE status IN ('STAGING_DATA', 'COLLECTING_RESULTS')
    """,
    """
    CREATE INDEX ix_step_runs_live ON step_runs (backend, id) WHERE status IN ('SUBMITTED', 'RUNNING')
    """,
    """
    CREATE INDEX ix_step_runs_lane ON step_runs (lane) WHERE status IN ('STAGING_DATA', 'SUBMITTED', 'RUNNING')
    """,
    """
    CREATE INDEX ix_step_runs_ready ON step_runs (backend, lane, priority DESC, id) WHERE status = 'PENDING' AND unmet = 0 AND NOT held
    """,
    """
    CREATE TABLE attempts (
        step_run_id UUID NOT NULL,
        number SMALLINT NOT NULL,
        backend TEXT NOT NULL,
        job_name TEXT NOT NULL,
        job_id TEXT,
        job_state TEXT,
        worker TEXT NOT NULL,
        node TEXT,
        resources JSONB NOT NULL,
        claimed_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        submitted_at TIMESTAMP WITH TIME ZONE,
        started_at TIMESTAMP WITH TIME ZONE,
        finished_at TIMESTAMP WITH TIME ZONE,
        exit_code INTEGER,
        signal INTEGER,
        wall_time_seconds DOUBLE PRECISION,
        cpu_hours DOUBLE PRECISION,
        peak_memory_gb DOUBLE PRECISION,
        cpu_hours_allocated DOUBLE PRECISION,
        reason TEXT,
        reason_text TEXT,
        warnings JSONB,
        provenance JSONB,
        CONSTRAINT pk_attempts PRIMARY KEY (step_run_id, number),
        CONSTRAINT fk_attempts_step_run_id FOREIGN KEY(step_run_id) REFERENCES step_runs (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE UNIQUE INDEX uq_attempts_backend_job_id ON attempts (backend, job_id) WHERE job_id IS NOT NULL
    """,
    """
    CREATE TABLE events (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        position BIGINT DEFAULT CAST(CAST(pg_current_xact_id() AS text) AS bigint) + 0 NOT NULL,
        step_run_id UUID,
        run_id UUID,
        project TEXT DEFAULT 'default' NOT NULL,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        event TEXT NOT NULL,
        from_status TEXT,
        to_status TEXT NOT NULL,
        attempt SMALLINT NOT NULL,
        actor TEXT NOT NULL,
        reason TEXT,
        text TEXT,
        backend TEXT,
        CONSTRAINT pk_events PRIMARY KEY (position, id, at)
    ) PARTITION BY RANGE (at)
    """,
    """
    CREATE INDEX ix_events_step_run_id_id ON events (step_run_id, id)
    """,
    """
    CREATE INDEX ix_events_run_id_id ON events (run_id, id) WHERE step_run_id IS NULL
    """,
    """
    CREATE INDEX ix_events_at_backend ON events (at, backend) WHERE backend IS NOT NULL
    """,
    """
    CREATE TABLE feed (
        one BOOLEAN DEFAULT true NOT NULL,
        key BYTEA NOT NULL,
        epoch INTEGER NOT NULL,
        server TEXT NOT NULL,
        CONSTRAINT pk_feed PRIMARY KEY (one),
        CONSTRAINT ck_feed_one CHECK (one)
    )
    """,
    """
    CREATE TABLE events_rest PARTITION OF events DEFAULT
    """,
    """
    CREATE TABLE products (
        id UUID NOT NULL,
        step_run_id UUID NOT NULL,
        attempt SMALLINT NOT NULL,
        run_id UUID NOT NULL,
        name TEXT NOT NULL,
        type TEXT NOT NULL,
        path TEXT NOT NULL,
        size BIGINT NOT NULL,
        sha256 TEXT NOT NULL,
        is_directory BOOLEAN NOT NULL,
        file_count INTEGER NOT NULL,
        metadata JSONB NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_products PRIMARY KEY (id),
        CONSTRAINT fk_products_step_run_id_attempt FOREIGN KEY(step_run_id, attempt) REFERENCES attempts (step_run_id, number) ON DELETE CASCADE,
        CONSTRAINT uq_products_step_run_id_name UNIQUE (step_run_id, name)
    )
    """,
    """
    CREATE INDEX ix_products_run_id_id ON products (run_id, id)
    """,
    """
    CREATE TABLE product_parents (
        product_id UUID NOT NULL,
        parent_id UUID NOT NULL,
        CONSTRAINT pk_product_parents PRIMARY KEY (product_id, parent_id),
        CONSTRAINT fk_product_parents_product_id FOREIGN KEY(product_id) REFERENCES products (id) ON DELETE CASCADE,
        CONSTRAINT fk_product_parents_parent_id FOREIGN KEY(parent_id) REFERENCES products (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_product_parents_parent_id ON product_parents (parent_id)
    """,
    """
    CREATE TABLE step_run_inputs (
        step_run_id UUID NOT NULL,
        inputs JSONB NOT NULL,
        source_runs UUID[] NOT NULL,
        CONSTRAINT pk_step_run_inputs PRIMARY KEY (step_run_id),
        CONSTRAINT fk_step_run_inputs_step_run_id FOREIGN KEY(step_run_id) REFERENCES step_runs (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_step_run_inputs_source_runs ON step_run_inputs USING gin (source_runs)
    """,
    """
    CREATE TABLE webhooks (
        id UUID NOT NULL,
        url TEXT NOT NULL,
        secret TEXT NOT NULL,
        types TEXT[] NOT NULL,
        project TEXT,
        pipeline TEXT,
        run_id UUID,
        created_by TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        position BIGINT NOT NULL,
        event_id BIGINT NOT NULL,
        disabled_at TIMESTAMP WITH TIME ZONE,
        disabled_reason TEXT,
        CONSTRAINT pk_webhooks PRIMARY KEY (id),
        CONSTRAINT ck_webhooks_disabled CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL))
    )
    """,
    """
    CREATE TABLE webhook_deliveries (
        id UUID NOT NULL,
        webhook_id UUID NOT NULL,
        event TEXT NOT NULL,
        type TEXT NOT NULL,
        body TEXT NOT NULL,
        status TEXT DEFAULT 'PENDING' NOT NULL,
        attempts INTEGER DEFAULT 0 NOT NULL,
        next_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        give_up_at TIMESTAMP WITH TIME ZONE NOT NULL,
        in_flight_until TIMESTAMP WITH TIME ZONE,
        http_status INTEGER,
        problem TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_webhook_deliveries PRIMARY KEY (id),
        CONSTRAINT ck_webhook_deliveries_status CHECK (status IN ('PENDING', 'DELIVERED', 'DEAD')),
        CONSTRAINT ck_webhook_deliveries_finished_at CHECK ((status = 'PENDING') = (finished_at IS NULL)),
        CONSTRAINT fk_webhook_deliveries_webhook_id FOREIGN KEY(webhook_id) REFERENCES webhooks (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_webhook_deliveries_webhook_id_id ON webhook_deliveries (webhook_id, id DESC)
    """,
    """
    CREATE INDEX ix_webhook_deliveries_pending ON webhook_deliveries (webhook_id, next_at) WHERE status = 'PENDING'
    """,
    """
    CREATE INDEX ix_webhook_deliveries_finished_at ON webhook_deliveries (finished_at) WHERE status <> 'PENDING'
    """,
    "ALTER TABLE runs SET (fillfactor = 80)",
    "ALTER TABLE run_steps SET (fillfactor = 80)",
    "ALTER TABLE step_runs SET (fillfactor = 70)",
    "ALTER TABLE attempts SET (fillfactor = 70)",
    """
    CREATE TABLE deletions (
        run_id UUID NOT NULL,
        what TEXT NOT NULL,
        actor TEXT NOT NULL,
        requested_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        run_finished_at TIMESTAMP WITH TIME ZONE NOT NULL,
        backends TEXT[] NOT NULL,
        lease_until TIMESTAMP WITH TIME ZONE,
        problem TEXT,
        done_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_deletions PRIMARY KEY (run_id, what),
        CONSTRAINT ck_deletions_what CHECK (what IN ('run', 'workspaces', 'failed_output')),
        CONSTRAINT fk_deletions_run_id FOREIGN KEY(run_id) REFERENCES runs (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_deletions_requested_at ON deletions (requested_at) WHERE done_at IS NULL
    """,
)


def upgrade() -> None:
    for statement in TABLES:
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    for table in (
        "deletions",
        "step_run_inputs",
        "webhook_deliveries",
        "webhooks",
        "product_parents",
        "products",
        "feed",
        "figures",
        "figures_place",
        "live_figures",
        "events",
        "attempts",
        "step_runs",
        "run_steps",
        "runs",
        "specs",
        "files",
        "workers",
        "pipelines",
        "full_places",
        "breakers",
        "breaker_events",
        "backends",
        "overrides",
        "holds",
        "turns",
        "lanes",
        "projects",
    ):
        op.drop_table(table)
