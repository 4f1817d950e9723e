"""The SQL that changes a status: one statement for the step runs and their records, one for the run's counters."""

from __future__ import annotations

from ccat_workflow_manager.db.schema import counter, quoted
from ccat_workflow_manager.lifecycle.states import ACTIVE, CANCELLABLE, RETRYABLE, RunStatus, Status

LOCK_STEP_RUNS = """
SELECT id, run_id, position, step, key, backend, status, attempt, max_attempts, claims, token, unmet, has_dependents,
  cancel_requested_at IS NOT NULL, withdrawn, circuit IN (SELECT b.circuit FROM breakers b)
FROM step_runs WHERE id = ANY(:ids) ORDER BY id FOR NO KEY UPDATE
"""

CLAIMABLE = """status = 'PENDING' AND unmet = 0 AND NOT held
  AND (not_before IS NULL OR not_before <= now()) AND cancel_requested_at IS NULL"""
"""Ready, but for a breaker that may hold it back."""

HELD_BACK = """(circuit IN (SELECT b.circuit FROM breakers b WHERE b.opened_at IS NOT NULL)
  AND id NOT IN (SELECT b.probe FROM breakers b WHERE b.probe IS NOT NULL))"""
"""By an open breaker. There are few breakers, mostly none: their table is read once for each statement."""

PROBE_DUE = """(b.opened_at IS NOT NULL AND b.probe_at <= now() AND NOT EXISTS (
  SELECT 1 FROM step_runs p
  WHERE p.id = b.probe AND p.finished_at IS NULL AND NOT (p.held AND p.status = 'PENDING')))"""
"""Whether another step run of an open breaker may be tried."""

LAUNCHABLE = f"""{CLAIMABLE} AND NOT (circuit IN (SELECT b.circuit FROM breakers b
    WHERE b.opened_at IS NOT NULL AND {PROBE_DUE} IS NOT TRUE)
  AND id NOT IN (SELECT b.probe FROM breakers b WHERE b.probe IS NOT NULL))"""
"""What a worker has to be called for: of a breaker whose next probe is due it will take one."""

LOCK_READY = f"""
SELECT id, run_id, position, step, key, backend, status, attempt, max_attempts, claims, token, unmet, has_dependents,
  cancel_requested_at IS NOT NULL, withdrawn, false
FROM step_runs
WHERE backend = :backend AND {CLAIMABLE} AND NOT {HELD_BACK}
ORDER BY priority DESC, id LIMIT :limit FOR NO KEY UPDATE SKIP LOCKED
"""

LOCK_PROBES = f"""
WITH due AS MATERIALIZED (
  SELECT b.circuit FROM breakers b WHERE {PROBE_DUE} ORDER BY b.circuit FOR NO KEY UPDATE SKIP LOCKED
)
SELECT s.* FROM due CROSS JOIN LATERAL (
  SELECT id, run_id, position, step, key, backend, status, attempt, max_attempts, claims, token, unmet, has_dependents,
    cancel_requested_at IS NOT NULL, withdrawn, true
  FROM step_runs WHERE backend = :backend AND {CLAIMABLE} AND circuit = due.circuit
  ORDER BY priority DESC, id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
) s
"""
"""One step run of each breaker that is due. Breakers are locked before runs, as everywhere, and never waited for."""

LOCK_CANCELLABLE_OF_RUNS = f"""
SELECT id, run_id, position, step, key, backend, status, attempt, max_attempts, claims, token, unmet, has_dependents,
  cancel_requested_at IS NOT NULL, withdrawn, false
FROM step_runs WHERE run_id = ANY(:run_ids) AND status IN ({", ".join(f"'{s}'" for s in sorted(CANCELLABLE))})
ORDER BY id FOR NO KEY UPDATE
"""

_KEPT = ("exit_code", "wall_time_seconds", "cpu_hours", "peak_memory_gb")
_KEPT_SQL = ",\n    ".join(
    f"{name} = CASE WHEN m.reset THEN NULL ELSE COALESCE(m.{name}, s.{name}) END" for name in _KEPT
)

_VOID = f"(s.withdrawn AND m.status IN ('{Status.COLLECTING_RESULTS}', '{Status.COMPLETED}'))"
"""A job that was to be withdrawn has succeeded before that."""


def _among(time: str, created_at: str) -> str:
    """What the clock of a node says, as far as it can be: not before there was anything to run, and not to come."""
    return f"CASE WHEN {time} IS NOT NULL THEN LEAST(GREATEST({time}, {created_at}), now()) END"


def _started(row: str, created_at: str) -> str:
    told = _among("m.job_started_at", created_at)
    return f"COALESCE({told}, {row}.started_at, CASE WHEN m.started THEN now() END)"


def _submitted(row: str, created_at: str) -> str:
    """Noted when `submit` has returned; by then the job may have started."""
    noted = f"CASE WHEN m.submitted THEN now() ELSE {row}.submitted_at END"
    return f"LEAST({noted}, {_started(row, created_at)})"


WRITE = f"""
WITH m AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS m(
    id uuid, number smallint, status text, attempt smallint, max_attempts smallint, claims integer, token bigint,
    new_attempt text, worker text, worked_on boolean, reset boolean, submitted boolean, started boolean,
    finished boolean, lease_owner text, lease_seconds double precision, delay_seconds double precision,
    waiting_for text, reason text, reason_text text, resources jsonb, job_id text, job_state text, exit_code integer,
    signal integer,
    wall_time_seconds double precision, cpu_hours double precision, peak_memory_gb double precision,
    cpu_hours_allocated double precision,
    job_started_at timestamptz, job_finished_at timestamptz, node text, warnings jsonb)
), changed AS (
  UPDATE step_runs s SET
    status = m.status, attempt = m.attempt, max_attempts = m.max_attempts, claims = m.claims, token = m.token,
    lease_owner = m.lease_owner, lease_until = now() + m.lease_seconds * interval '1 second',
    not_before = now() + m.delay_seconds * interval '1 second',
    waiting_for = m.waiting_for, reason = m.reason, reason_text = m.reason_text, unknown_since = NULL,
    resources = COALESCE(m.resources, s.resources),
    cancel_requested_at = CASE WHEN m.reset OR {_VOID} THEN NULL ELSE s.cancel_requested_at END,
    cancel_requested_by = CASE WHEN m.reset OR {_VOID} THEN NULL ELSE s.cancel_requested_by END,
    withdrawn = s.withdrawn AND NOT COALESCE(m.reset, false) AND NOT {_VOID},
    job_id = CASE WHEN m.reset THEN NULL ELSE COALESCE(m.job_id, s.job_id) END,
    {_KEPT_SQL},
    submitted_at = CASE WHEN NOT COALESCE(m.reset, false) THEN {_submitted("s", "s.created_at")} END,
    started_at = CASE WHEN NOT COALESCE(m.reset, false) THEN {_started("s", "s.created_at")} END,
    finished_at = CASE WHEN m.finished THEN now() END
  FROM m WHERE s.id = m.id
  RETURNING s.id, s.attempt, s.backend, s.resources, s.created_at
), opened AS (
  INSERT INTO attempts (step_run_id, number, backend, job_name, worker, resources)
  SELECT c.id, c.attempt, c.backend, m.new_attempt, m.worker, c.resources
  FROM changed c JOIN m ON m.id = c.id WHERE m.new_attempt IS NOT NULL
), noted AS (
  UPDATE attempts a SET
    worker = COALESCE(m.worker, a.worker), job_id = COALESCE(m.job_id, a.job_id),
    job_state = COALESCE(m.job_state, a.job_state), node = COALESCE(m.node, a.node),
    submitted_at = {_submitted("a", "c.created_at")},
    started_at = {_started("a", "c.created_at")},
    finished_at = COALESCE(a.finished_at,
      CASE WHEN m.job_finished_at IS NOT NULL THEN
        GREATEST({_among("m.job_finished_at", "c.created_at")}, {_started("a", "c.created_at")}) END,
      CASE WHEN m.finished OR m.reset THEN now() END),
    exit_code = COALESCE(m.exit_code, a.exit_code), signal = COALESCE(m.signal, a.signal),
    wall_time_seconds = COALESCE(m.wall_time_seconds, a.wall_time_seconds),
    cpu_hours = COALESCE(m.cpu_hours, a.cpu_hours), peak_memory_gb = COALESCE(m.peak_memory_gb, a.peak_memory_gb),
    cpu_hours_allocated = COALESCE(m.cpu_hours_allocated, a.cpu_hours_allocated),
    reason = COALESCE(a.reason, m.reason), reason_text = COALESCE(a.reason_text, m.reason_text),
    warnings = COALESCE(m.warnings, a.warnings)
  FROM m JOIN changed c ON c.id = m.id
  WHERE a.step_run_id = m.id AND a.number = m.number AND m.worked_on AND m.new_attempt IS NULL
)
INSERT INTO events (step_run_id, run_id, event, from_status, to_status, attempt, actor, reason, text, at)
SELECT step_run_id, run_id, event, from_status, to_status, attempt, actor, reason, text, clock_timestamp()
FROM json_to_recordset(CAST(:events AS json)) AS e(step_run_id uuid, run_id uuid, event text, from_status text,
  to_status text, attempt smallint, actor text, reason text, text text)
"""
"""Events bear the time at which they are written, with the rows locked: the transaction may be older than that."""

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

COUNT_DOWN = """
WITH done AS (
  SELECT * FROM json_to_recordset(CAST(:done AS json)) AS d(run_id uuid, position smallint, n integer)
), locked AS (
  SELECT r.run_id, r.position FROM run_steps r JOIN done d ON d.run_id = r.run_id AND d.position = r.position
  ORDER BY r.run_id, r.position FOR NO KEY UPDATE OF r
)
UPDATE run_steps r SET remaining = r.remaining - d.n
FROM locked l JOIN done d ON d.run_id = l.run_id AND d.position = l.position
WHERE r.run_id = l.run_id AND r.position = l.position
RETURNING r.run_id, r.position, r.remaining, r.downstream_key, r.downstream_all
"""

RELEASE_SAME_KEY = """
WITH met AS (
  SELECT * FROM json_to_recordset(CAST(:met AS json)) AS d(run_id uuid, position smallint, key text)
), locked AS (
  SELECT s.id FROM step_runs s JOIN met ON met.run_id = s.run_id AND met.position = s.position AND met.key = s.key
  ORDER BY s.id FOR NO KEY UPDATE OF s
), times AS (
  SELECT s.id, count(*)::smallint AS n
  FROM step_runs s JOIN met ON met.run_id = s.run_id AND met.position = s.position AND met.key = s.key GROUP BY s.id
)
UPDATE step_runs s SET unmet = s.unmet - t.n FROM times t JOIN locked l ON l.id = t.id WHERE s.id = t.id
RETURNING s.id, s.backend, s.unmet, s.status, s.held
"""

RELEASE_WHOLE_STEP = """
WITH met AS (
  SELECT run_id, position, count(*)::smallint AS n
  FROM json_to_recordset(CAST(:met AS json)) AS d(run_id uuid, position smallint) GROUP BY 1, 2
), locked AS (
  SELECT s.id, met.n FROM step_runs s JOIN met ON met.run_id = s.run_id AND met.position = s.position
  ORDER BY s.id FOR NO KEY UPDATE OF s
)
UPDATE step_runs s SET unmet = s.unmet - l.n FROM locked l WHERE s.id = l.id
RETURNING s.id, s.backend, s.unmet, s.status, s.held
"""

LOCK_BLOCKED = """
WITH b AS (
  SELECT * FROM json_to_recordset(CAST(:blocked AS json)) AS d(run_id uuid, position smallint, key text, whole boolean)
)
SELECT s.id, s.run_id, s.position, s.step, s.key, s.backend, s.status, s.attempt, s.max_attempts, s.claims, s.token,
  s.unmet, s.has_dependents, s.cancel_requested_at IS NOT NULL, s.withdrawn, false
FROM step_runs s
WHERE s.status = 'PENDING'
  AND EXISTS (SELECT 1 FROM b WHERE b.run_id = s.run_id AND b.position = s.position AND (b.whole OR b.key = s.key))
ORDER BY s.id FOR NO KEY UPDATE
"""

LOCK_BLOCKED_NOW = f"{LOCK_BLOCKED} SKIP LOCKED"

_BEHIND = f"""
SELECT 1 FROM run_steps t JOIN step_runs s ON s.run_id = t.run_id AND s.status = '{Status.PENDING}'
  AND (s.position = ANY(t.downstream_all) OR (s.position = ANY(t.downstream_key) AND s.key = u.key))
WHERE t.run_id = u.run_id AND t.position = u.position"""

_ENDED_BEFORE_OTHERS = f"u.status IN ({quoted(RETRYABLE)}) AND u.has_dependents AND EXISTS ({_BEHIND})"

LEFT_BEHIND = f"""
SELECT u.reason, u.id, u.run_id, u.position, u.step, u.key, u.backend, u.status, u.attempt, u.max_attempts, u.claims,
  u.token, u.unmet, u.has_dependents, u.cancel_requested_at IS NOT NULL, u.withdrawn, false
FROM step_runs u WHERE u.run_id = ANY(:run_ids) AND {_ENDED_BEFORE_OTHERS} ORDER BY u.id
"""
"""What has ended without completing though there is something waiting for it."""

STUCK_RUNS = f"""
SELECT r.id FROM runs r
WHERE r.status = '{RunStatus.RUNNING}' AND {" + ".join(f"r.{counter(status)}" for status in sorted(ACTIVE))} = 0
  AND {" + ".join(f"r.{counter(status)}" for status in sorted(RETRYABLE))} > 0
  AND EXISTS (SELECT 1 FROM step_runs u WHERE u.run_id = r.id AND {_ENDED_BEFORE_OTHERS})
ORDER BY r.id LIMIT :limit
"""
"""Runs in which nothing goes on and something waits for what will not complete."""

EDGES = """
SELECT run_id, position, name, downstream_key, downstream_all FROM run_steps WHERE run_id = ANY(:run_ids)
"""

_COLUMNS = [counter(status) for status in Status]
_OPEN_AFTER = " + ".join(
    f"r.{counter(status)} + COALESCE(d.{counter(status)}, 0)" for status in Status if status in CANCELLABLE
)

COUNT_RUNS = f"""
WITH d AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(:deltas AS json)) AS d(id uuid, began boolean, reopened boolean,
    cancelled boolean, status_reason text,
    {", ".join(f"{column} integer" for column in _COLUMNS)})
), locked AS (
  SELECT r.id FROM runs r JOIN d ON d.id = r.id ORDER BY r.id FOR NO KEY UPDATE OF r
)
UPDATE runs r SET
  {", ".join(f"{column} = r.{column} + COALESCE(d.{column}, 0)" for column in _COLUMNS)},
  started_at = COALESCE(r.started_at, CASE WHEN d.began THEN now() END),
  cancel_requested_at = CASE WHEN d.cancelled THEN COALESCE(r.cancel_requested_at, now())
                             WHEN NOT d.reopened THEN r.cancel_requested_at END,
  finished_at = CASE WHEN {_OPEN_AFTER} = 0 THEN COALESCE(r.finished_at, now()) END,
  status_reason = COALESCE(CASE WHEN NOT d.reopened THEN r.status_reason END, d.status_reason)
FROM d JOIN locked l ON l.id = d.id
WHERE r.id = d.id
RETURNING r.id, r.status, r.finished_at IS NOT NULL AS finished
"""
