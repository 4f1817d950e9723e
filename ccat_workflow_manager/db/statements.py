"""The SQL of the one writer, `RunStore`.

Records arrive as JSON and are joined like a table, so a batch of any size is one statement with one text. Statements
that return locked step runs are in `locked_rows`; those about breakers are in `breakers`.
"""

from __future__ import annotations

from ccat_workflow_manager.db.conditions import counter, quoted
from ccat_workflow_manager.db.edge_statements import EXCEEDED
from ccat_workflow_manager.db.locked_rows import BLOCKS_OTHERS
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.event_types import RunEvent
from ccat_workflow_manager.lifecycle.states import ACTIVE, CANCELLABLE, LIVE, RETRYABLE, RunStatus, Status

# --- WRITE_TRANSITIONS, part by part ---------------------------------------------------------------------------------
# `m` is the record of one step run, `s` its row, `c` what `changed` returns of the new row, `a` the row of its attempt.

_RECORDS = """
m AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS m(
    id uuid, number smallint, status text, attempt smallint, max_attempts smallint, claims integer, token bigint,
    new_attempt text, worker text, worked_on boolean, reset boolean, submitted boolean, started boolean,
    finished boolean, lease_owner text, lease_seconds double precision, delay_seconds double precision,
    waiting_for text, reason text, reason_text text, backend text, resources jsonb, job_id text, job_state text,
    exit_code integer, signal integer, wall_time_seconds double precision, cpu_hours double precision,
    cpu_hours_allocated double precision, peak_memory_gb double precision, job_started_at timestamptz,
    job_finished_at timestamptz, node text, warnings jsonb, caveats jsonb, provenance jsonb)
)"""
"""The records of `transitions.Batch`. A fact that is null is not known and keeps what is stored.

`number` is the attempt that the facts belong to, `new_attempt` the job name of an attempt that begins with this claim.
`reset` marks a retry: the columns of the last attempt are emptied.
"""


def _within_lifetime(time: str, begun_at: str) -> str:
    """A time by the clock of a node, moved into the time from the begin of the step run or attempt until now."""
    return f"CASE WHEN {time} IS NOT NULL THEN LEAST(GREATEST({time}, {begun_at}), now()) END"


def _started_at(row: str, begun_at: str) -> str:
    """The start that the backend reports; else the stored one; else now, if the job has just been seen running."""
    reported = _within_lifetime("m.job_started_at", begun_at)
    return f"COALESCE({reported}, {row}.started_at, CASE WHEN m.started THEN now() END)"


def _submitted_at(row: str, begun_at: str) -> str:
    """When `submit` returned, but not after the start: the job may have started before that."""
    returned = f"CASE WHEN m.submitted THEN now() ELSE {row}.submitted_at END"
    return f"LEAST({returned}, {_started_at(row, begun_at)})"


def _unless_reset(value: str) -> str:
    return f"CASE WHEN m.reset THEN NULL ELSE {value} END"


_FACTS_OF_STEP_RUN = ",\n    ".join(
    f"{name} = {_unless_reset(f'COALESCE(m.{name}, s.{name})')}"
    for name in ("job_id", "exit_code", "wall_time_seconds", "cpu_hours", "peak_memory_gb")
)
_CANCEL_IS_OVER = f"""(COALESCE(m.reset, false)
      OR s.requeued_by_breaker AND m.status IN ('{Status.COLLECTING_RESULTS}', '{Status.COMPLETED}'))"""
"""A retry ends a cancel request; so does a success, if a breaker made the request: the job was quicker."""

_UPDATE_STEP_RUNS = f"""
changed AS (
  UPDATE step_runs s SET
    status = m.status, attempt = m.attempt, max_attempts = m.max_attempts, claims = m.claims, token = m.token,
    lease_owner = m.lease_owner, lease_until = now() + m.lease_seconds * interval '1 second',
    not_before = now() + m.delay_seconds * interval '1 second', unknown_since = NULL,
    waiting_for = m.waiting_for, reason = m.reason, reason_text = m.reason_text,
    backend = COALESCE(m.backend, s.backend), resources = COALESCE(m.resources, s.resources),
    deaths = CASE WHEN m.new_attempt IS NOT NULL OR m.submitted THEN 0 ELSE s.deaths END,
    cancel_requested_at = CASE WHEN NOT {_CANCEL_IS_OVER} THEN s.cancel_requested_at END,
    cancel_requested_by = CASE WHEN NOT {_CANCEL_IS_OVER} THEN s.cancel_requested_by END,
    requeued_by_breaker = s.requeued_by_breaker AND NOT {_CANCEL_IS_OVER},
    {_FACTS_OF_STEP_RUN},
    caveats = CASE WHEN m.caveats IS NULL THEN s.caveats ELSE COALESCE(s.caveats, '[]') || m.caveats END,
    submitted_at = {_unless_reset(_submitted_at("s", "s.created_at"))},
    started_at = {_unless_reset(_started_at("s", "s.created_at"))},
    finished_at = CASE WHEN m.finished THEN now() END
  FROM m WHERE s.id = m.id
  RETURNING s.id, s.attempt, s.backend, s.resources, s.created_at
)"""
"""The step runs. `deaths` counts the workers that died with the attempt, before its job and again after it.

Lease, back-off, wait and reason belong to one status: each transition sets them anew.
"""

_INSERT_ATTEMPTS = """
begun AS (
  INSERT INTO attempts (step_run_id, number, backend, job_name, worker, resources)
  SELECT c.id, c.attempt, c.backend, m.new_attempt, m.worker, c.resources
  FROM changed c JOIN m ON m.id = c.id WHERE m.new_attempt IS NOT NULL
)"""

_FACTS_OF_ATTEMPT = ",\n    ".join(
    f"{name} = COALESCE(m.{name}, a.{name})"
    for name in (
        "worker", "job_id", "job_state", "node", "exit_code", "signal", "wall_time_seconds", "cpu_hours",
        "cpu_hours_allocated", "peak_memory_gb", "warnings", "provenance",
    )
)  # fmt: skip

_UPDATE_ATTEMPTS = f"""
worked_on AS (
  UPDATE attempts a SET
    {_FACTS_OF_ATTEMPT},
    reason = COALESCE(a.reason, m.reason), reason_text = COALESCE(a.reason_text, m.reason_text),
    submitted_at = {_submitted_at("a", "a.claimed_at")},
    started_at = {_started_at("a", "a.claimed_at")},
    finished_at = COALESCE(a.finished_at,
      CASE WHEN m.job_finished_at IS NOT NULL THEN
        GREATEST({_within_lifetime("m.job_finished_at", "a.claimed_at")}, {_started_at("a", "a.claimed_at")}) END,
      CASE WHEN m.finished OR m.reset THEN now() END)
  FROM m JOIN changed c ON c.id = m.id
  WHERE a.step_run_id = m.id AND a.number = m.number AND m.worked_on AND m.new_attempt IS NULL
)"""
"""The attempts that were begun earlier. Their first reason and their first end stay."""

_INSERT_EVENTS = """
INSERT INTO events (step_run_id, run_id, project, event, from_status, to_status, attempt, actor, reason, text, at)
SELECT step_run_id, run_id, (SELECT r.project FROM runs r WHERE r.id = e.run_id), event, from_status, to_status,
  attempt, actor, reason, text, clock_timestamp()
FROM json_to_recordset(CAST(:events AS json)) AS e(step_run_id uuid, run_id uuid, event text, from_status text,
  to_status text, attempt smallint, actor text, reason text, text text)
"""
"""A join would change the order of the events.

`clock_timestamp()`, because the transaction may have begun long before it locked the rows (`now()`).
"""

_UPDATES = f"{_RECORDS}, {_UPDATE_STEP_RUNS}, {_INSERT_ATTEMPTS}, {_UPDATE_ATTEMPTS}"
WRITE_TRANSITIONS = f"WITH {_UPDATES} {_INSERT_EVENTS}"
"""Step runs, attempts and events of a batch of transitions, in one round trip."""

INSERT_PRODUCTS = """
INSERT INTO products (id, step_run_id, attempt, run_id, name, type, path, size, sha256, is_directory, file_count,
  metadata)
SELECT id, step_run_id, attempt, run_id, name, type, path, size, sha256, is_directory, file_count, metadata
FROM json_to_recordset(CAST(:products AS json)) AS p(id uuid, step_run_id uuid, attempt smallint, run_id uuid,
  name text, type text, path text, size bigint, sha256 text, is_directory boolean, file_count integer, metadata jsonb)
"""

INSERT_PARENTS = """
INSERT INTO product_parents (product_id, parent_id)
SELECT DISTINCT x.product_id, x.parent_id
FROM json_to_recordset(CAST(:parents AS json)) AS x(product_id uuid, parent_id uuid)
JOIN products p ON p.id = x.parent_id
"""
"""Declared parents that exist; a program may name products that it does not have."""

# --- dependents ------------------------------------------------------------------------------------------------------

STUCK_RUNS = f"""
SELECT r.id FROM runs r
WHERE r.status = '{RunStatus.RUNNING}' AND {" + ".join(f"r.{counter(status)}" for status in sorted(ACTIVE))} = 0
  AND {" + ".join(f"r.{counter(status)}" for status in sorted(RETRYABLE))} > 0
  AND (EXISTS (SELECT 1 FROM step_runs s WHERE s.run_id = r.id AND {BLOCKS_OTHERS})
    OR EXISTS (SELECT 1 {EXCEEDED} AND t.run_id = r.id))
ORDER BY r.id LIMIT :limit
"""
"""Runs without active step runs, in which pending ones depend on what will not complete."""

# --- runs ------------------------------------------------------------------------------------------------------------

SHOWN_CAVEATS = 50
"""How many caveats a run lists. `n_caveats` counts all."""
_COUNTERS = [counter(status) for status in Status]
_OPEN_AFTERWARDS = " + ".join(
    f"r.{counter(status)} + COALESCE(d.{counter(status)}, 0)" for status in Status if status in CANCELLABLE
)

_COUNTED_RUNS = f"""
d AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(:deltas AS json)) AS d(id uuid, began boolean, reopened boolean,
    cancelled boolean, status_reason text, caveats jsonb, {", ".join(f"{column} integer" for column in _COUNTERS)})
), locked AS (
  SELECT r.id, r.finished_at AS finished_before FROM runs r JOIN d ON d.id = r.id ORDER BY r.id FOR NO KEY UPDATE OF r
), counted AS (
UPDATE runs r SET
  {", ".join(f"{column} = r.{column} + COALESCE(d.{column}, 0)" for column in _COUNTERS)},
  started_at = COALESCE(r.started_at, CASE WHEN d.began THEN now() END),
  cancel_requested_at = CASE WHEN d.cancelled THEN COALESCE(r.cancel_requested_at, now())
                             WHEN NOT d.reopened THEN r.cancel_requested_at END,
  finished_at = CASE WHEN {_OPEN_AFTERWARDS} = 0 THEN COALESCE(r.finished_at, now()) END,
  status_reason = COALESCE(CASE WHEN NOT d.reopened THEN r.status_reason END, d.status_reason),
  tolerated = r.tolerated AND {_OPEN_AFTERWARDS} = 0,
  n_caveats = r.n_caveats + COALESCE(jsonb_array_length(d.caveats), 0),
  caveats = CASE WHEN d.caveats IS NULL OR r.n_caveats >= {SHOWN_CAVEATS} THEN r.caveats
    ELSE jsonb_path_query_array(COALESCE(r.caveats, '[]') || d.caveats, '$[0 to {SHOWN_CAVEATS - 1}]') END
FROM d JOIN locked l ON l.id = d.id
WHERE r.id = d.id
RETURNING r.id, r.project, r.finished_at IS NOT NULL AS finished, r.status, r.status_reason,
  r.finished_at IS NOT NULL AND (l.finished_before IS NULL OR d.reopened) AS has_ended,
  r.finished_at IS NOT NULL AND r.{counter(Status.FAILED)} + r.{counter(Status.CANCELLED)} > 0 AS has_losses,
  r.project IN (SELECT q.name FROM projects q WHERE COALESCE(q.max_live, q.max_cpus) IS NOT NULL) AS is_limited,
  r.pipeline, CASE WHEN d.began THEN r.parameters END AS parameters, r.spec_id, r.trace,
  d.began
)"""
_ENDED_RUNS = f"""
  INSERT INTO events (run_id, project, event, to_status, attempt, actor, text, at)
  SELECT id, project, '{RunEvent.FINISHED}', status, 0, 'service', status_reason, clock_timestamp()
  FROM counted WHERE has_ended AND NOT has_losses
"""
_RUNS_NOW = """
SELECT id, finished, has_ended, has_losses, is_limited,
  began, id AS run_id, project, pipeline, spec_id, parameters, trace
FROM counted
"""

COUNT_RUNS = f"WITH {_COUNTED_RUNS}, ended AS ({_ENDED_RUNS}) {_RUNS_NOW}"
"""Add the changes of their step runs to the counters of runs, from which PostgreSQL derives the status.

The end of a run is an event; END_WITH_LOSSES adds it where losses may be tolerated. What launching needs of a run is
returned if a step run of it was claimed.
"""

WRITE_AND_COUNT = f"""
WITH {_UPDATES}, written AS ({_INSERT_EVENTS} RETURNING 1), {_COUNTED_RUNS},
ended AS ({_ENDED_RUNS} AND (SELECT count(*) FROM written) > 0)
{_RUNS_NOW}
"""
"""Both in one round trip, for locked step runs whose ends concern no others. Step runs end before their runs."""

END_WITH_LOSSES = f"""
INSERT INTO events (run_id, project, event, to_status, attempt, actor, text, at)
SELECT id, project, '{RunEvent.FINISHED}', status, 0, 'service', status_reason, clock_timestamp()
FROM runs WHERE id = ANY(:run_ids)
"""

SET_BY_HAND = f"SELECT 1 FROM step_runs WHERE id = :id AND reason = '{FailureReason.SET_BY_HAND}'"

FAILURE_TEXT = "concat(s.step, '/', s.key, CAST(:colon AS text), s.reason, CAST(:colon AS text) || s.reason_text)"
"""SQL for the reason of a run of which the step run `s` has failed."""

RESTATE_FAILURE = f"""
UPDATE runs r SET status_reason = (
  SELECT {FAILURE_TEXT}
  FROM step_runs s WHERE s.run_id = r.id AND s.status = '{Status.FAILED}' ORDER BY s.finished_at, s.id LIMIT 1)
WHERE r.id = :id AND r.status_reason IS NULL AND NOT r.tolerated AND r.{counter(Status.FAILED)} > 0
"""

# --- requests and waits ----------------------------------------------------------------------------------------------

REQUEST_CANCEL = f"""
UPDATE step_runs SET cancel_requested_at = now(), cancel_requested_by = :actor, requeued_by_breaker = false,
  waiting_for = CASE WHEN status NOT IN ({quoted(LIVE)}) THEN waiting_for END
WHERE id = ANY(:ids) AND (cancel_requested_at IS NULL OR requeued_by_breaker)
"""
"""Why a job waits at its backend matters no more; what becomes of the cancel is recorded in its place."""

LOCK_ALL_OF_RUNS = """
SELECT count(*) FROM (SELECT 1 FROM step_runs WHERE run_id = ANY(:run_ids) ORDER BY id FOR NO KEY UPDATE) AS locked
"""

PAUSABLE_RUNS = "SELECT id FROM runs WHERE id = ANY(:run_ids) AND (finished_at IS NULL OR NOT :paused)"

HOLD_STEP_RUNS = """
UPDATE step_runs SET held = :paused WHERE run_id = ANY(:run_ids) AND held <> :paused
RETURNING backend, unmet = 0 AND status = 'PENDING' AND NOT held AS ready
"""

PAUSE_RUNS = """
UPDATE runs SET paused = :paused, paused_by = :by, paused_why = :why, paused_until = :until
WHERE id IN (SELECT id FROM runs WHERE id = ANY(:run_ids) ORDER BY id FOR NO KEY UPDATE)
"""

ENDED_PAUSES = "SELECT id FROM runs WHERE paused_until <= now() ORDER BY id LIMIT 1000"

SET_PRIORITY = """
WITH chosen AS (
  SELECT id, priority FROM runs WHERE id = ANY(:run_ids) AND finished_at IS NULL ORDER BY id FOR NO KEY UPDATE)
UPDATE runs r SET priority = :priority FROM chosen c WHERE r.id = c.id RETURNING r.id, r.project, c.priority
"""

SET_LABELS = """
WITH chosen AS (
  SELECT id, (labels - CAST(:remove AS text[])) || CAST(:labels AS jsonb) AS labels FROM runs
  WHERE id = ANY(:run_ids) ORDER BY id FOR NO KEY UPDATE)
UPDATE runs r SET labels = c.labels FROM chosen c
WHERE r.id = c.id AND (SELECT count(*) FROM jsonb_object_keys(c.labels)) <= :most RETURNING r.id
"""

SET_PRIORITY_OF_STEP_RUNS = """
UPDATE step_runs SET priority = :priority WHERE run_id = ANY(:run_ids) AND finished_at IS NULL AND priority <> :priority
"""

RECORD_WAITS = """
UPDATE step_runs s SET waiting_for = n.reason,
  unknown_since = CASE WHEN n.unknown THEN COALESCE(s.unknown_since, now()) END
FROM (
  SELECT s.id, n.reason, n.unknown FROM step_runs s
  JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS bigint[]), CAST(:reasons AS text[]), CAST(:unknown AS boolean[]))
    AS n(id, token, reason, unknown) ON n.id = s.id AND n.token = s.token
  WHERE s.finished_at IS NULL ORDER BY s.id FOR NO KEY UPDATE OF s
) n WHERE s.id = n.id
"""
