"""What needs a person, grouped by its cause: each cause is found by an index and counted up to a limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ccat_workflow_manager.db.breakers import probing
from ccat_workflow_manager.db.conditions import CLAIMABLE, READY, quoted
from ccat_workflow_manager.db.queries import project_list, times, utc, visible
from ccat_workflow_manager.db.queries.attention import DISK_FULL, WANTED
from ccat_workflow_manager.db.queries.service import BackendState, backend_states
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.causes import CAUSES, Cause
from ccat_workflow_manager.lifecycle.states import CANCELLABLE, LIVE
from ccat_workflow_manager.lifecycle.waiting import ACTION_REQUIRED

MOST_COUNTED = 10_000
CANCEL_MINUTES = 10

_OWN = f"s.run_id IN (SELECT r.id FROM runs r WHERE r.id = s.run_id AND {visible('r.project')})"
"""In place of %own%: `step_runs s` is of a project that the reader sees. It is left out for those who see all."""

# Step runs and runs that an open breaker holds back. One with a probe heals itself, but it is a failure for all.
_BREAKERS = f"""
SELECT 'breaker' AS kind, b.breaker_key::text AS id, b.pipeline, b.step, b.image, b.reason_text AS text,
  {probing("b")} AS probing, {times("b", "probe_at")}, {utc("b.opened_at")} AS since,
  n.step_runs, n.runs, n.example::text AS example, f.failed::text AS failure
FROM breakers b
CROSS JOIN LATERAL (SELECT count(*) AS step_runs, count(DISTINCT x.run_id) AS runs, min(x.id::text) AS example FROM (
  SELECT s.run_id, s.id FROM step_runs s WHERE {CLAIMABLE}
    AND s.breaker_key = b.breaker_key LIMIT {MOST_COUNTED}) x) n
LEFT JOIN LATERAL (SELECT b.failures -> -1 ->> 0 AS failed) f ON true
WHERE b.opened_at IS NOT NULL AND {visible("b.project")} ORDER BY n.step_runs DESC LIMIT 50
"""

_BACKENDS = f"""
SELECT 'backend' AS kind, b.name AS id, b.name AS backend, b.problem AS text, {utc("b.problem_since")} AS since,
  {utc("b.retry_at")} AS retry_at, {utc("b.answered_at")} AS answered_at,
  (SELECT count(*) FROM (SELECT 1 FROM step_runs s WHERE {READY}
    AND s.backend = b.name AND %own% LIMIT {MOST_COUNTED}) x) AS ready,
  (SELECT count(*) FROM (SELECT 1 FROM step_runs s WHERE s.status IN ({quoted(LIVE)})
    AND s.backend = b.name AND %own% LIMIT {MOST_COUNTED}) x) AS live
FROM backends b WHERE b.problem IS NOT NULL ORDER BY b.name LIMIT 50
"""

_HELD = f"""
SELECT 'action' AS kind, md5(x.text || x.backend) AS id, x.backend, x.text, count(*) AS step_runs,
  count(DISTINCT x.run_id) AS runs, {utc("min(x.submitted_at)")} AS since, min(x.id::text) AS example,
  (array_agg(x.job_id ORDER BY x.id))[1:5] AS jobs
FROM (
  SELECT s.id, s.run_id, s.backend, s.job_id, s.submitted_at,
    substr(s.waiting_for, {len(ACTION_REQUIRED) + 1}) AS text
  FROM step_runs s WHERE s.status IN ({quoted(LIVE)}) AND starts_with(s.waiting_for, :mark)
    AND %own% LIMIT {MOST_COUNTED}
) x GROUP BY x.backend, x.text ORDER BY count(*) DESC LIMIT 50
"""

_CANCELS = f"""
SELECT 'cancel' AS kind, x.backend AS id, x.backend, max(x.waiting_for) AS text, count(*) AS step_runs,
  count(DISTINCT x.run_id) AS runs, {utc("min(x.cancel_requested_at)")} AS since, min(x.id::text) AS example
FROM (
  SELECT s.id, s.run_id, s.backend, s.waiting_for, s.cancel_requested_at FROM step_runs s
  WHERE s.cancel_requested_at < now() - interval '{CANCEL_MINUTES} minutes' AND s.status IN ({quoted(CANCELLABLE)})
    AND %own% LIMIT {MOST_COUNTED}
) x GROUP BY x.backend ORDER BY count(*) DESC LIMIT 50
"""

_STRAYS = f"""
SELECT 'stray' AS kind, b.name AS id, b.name AS backend, b.reap_problem AS text, b.stray_jobs AS jobs_count,
  {utc("b.reaped_at")} AS since, b.strays -> 0 ->> 'id' AS example
FROM backends b WHERE b.stray_jobs > 0 AND (b.reap_problem IS NOT NULL OR EXISTS (
  SELECT 1 FROM jsonb_to_recordset(b.strays) AS n(looks integer) WHERE n.looks > 1)) ORDER BY b.name LIMIT 50
"""

# A reader of some projects sees no word of the sweep: it may name jobs of others.
_OWN_STRAYS = f"""
SELECT 'stray' AS kind, b.name AS id, b.name AS backend, NULL AS text, count(*) AS jobs_count,
  {utc("b.reaped_at")} AS since, min(s.id::text) AS example
FROM backends b CROSS JOIN LATERAL jsonb_to_recordset(b.strays) AS n(id uuid, looks integer)
JOIN step_runs s ON s.id = n.id
WHERE b.stray_jobs > 0 AND (b.reap_problem IS NOT NULL OR n.looks > 1) AND %own%
GROUP BY b.name, b.reaped_at ORDER BY b.name LIMIT 50
"""

_DISK = f"""
SELECT 'disk' AS kind, x.backend AS id, x.backend, max(x.reason_text) AS text, count(*) AS step_runs,
  count(DISTINCT x.run_id) AS runs, {utc("min(x.finished_at)")} AS since, min(x.id::text) AS example
FROM (
  SELECT s.id, s.run_id, s.backend, s.reason_text, COALESCE(s.finished_at,
    (SELECT max(a.finished_at) FROM attempts a WHERE a.step_run_id = s.id)) AS finished_at
  FROM step_runs s WHERE {DISK_FULL} AND %own% LIMIT {MOST_COUNTED}
) x GROUP BY x.backend ORDER BY count(*) DESC LIMIT 50
"""

# What a breaker holds back counts here also if a probe is planned, and what is ready for a backend that takes nothing.
_BY_RUN = f"""
SELECT r.id::text, r.project, r.pipeline, r.pipeline_version, r.labels, count(*) AS step_runs,
  mode() WITHIN GROUP (ORDER BY w.text) AS text, count(DISTINCT w.text) AS texts,
  {utc("min(COALESCE(s.submitted_at, s.created_at))")} AS since
FROM (SELECT DISTINCT ON (u.id) u.id, u.text FROM (SELECT * FROM ({WANTED} LIMIT {MOST_COUNTED}) a UNION ALL
  SELECT h.id, 6, NULL, 'held back: ' || b.reason_text FROM breakers b CROSS JOIN LATERAL (
    SELECT s.id FROM step_runs s WHERE {CLAIMABLE} AND s.breaker_key = b.breaker_key LIMIT {MOST_COUNTED}) h
  WHERE b.opened_at IS NOT NULL UNION ALL
  SELECT h.id, 7, NULL, b.text FROM unnest(CAST(:backends AS text[]), CAST(:texts AS text[])) AS b(name, text)
  CROSS JOIN LATERAL (SELECT s.id FROM step_runs s WHERE {READY} AND s.backend = b.name LIMIT {MOST_COUNTED}) h
) u ORDER BY u.id, u.rank) w
JOIN step_runs s ON s.id = w.id JOIN runs r ON r.id = s.run_id
WHERE {visible("r.project")} GROUP BY r.id ORDER BY count(*) DESC, r.id LIMIT 50
"""


def causes(unit: UnitOfWork, projects: Projects = None) -> list[dict[str, Any]]:
    """Every cause with what it holds up. Each has `kind`, `id`, `text` and `since`."""
    values = {"mark": ACTION_REQUIRED, "projects": project_list(projects)}
    found: list[dict[str, Any]] = []
    for statement in (_BREAKERS, _BACKENDS, _HELD, _CANCELS, _STRAYS if projects is None else _OWN_STRAYS, _DISK):
        of_reader = statement.replace("%own%", "true" if projects is None else _OWN)
        names = [name for name in values if f":{name}" in of_reader]
        found += unit.records(of_reader, {name: values[name] for name in names})
    found += _unserved(unit, projects)
    return sorted(found, key=lambda cause: -held_by(cause))


def _unserved(unit: UnitOfWork, projects: Projects) -> list[dict[str, Any]]:
    """The backends whose work waits because no worker serves them."""
    return [
        {
            "kind": "worker",
            "id": name,
            "backend": name,
            "text": CAUSES[Cause.NO_WORKER].text.format(name),
            "since": None,
            "step_runs": state.ready,
        }
        for name, state in backend_states(unit, projects).items()
        if state.is_unserved
    ]


def runs_held_up(
    unit: UnitOfWork, states: Mapping[str, BackendState], projects: Projects = None
) -> list[dict[str, Any]]:
    """The runs that need a person, those with the most such step runs first. `states` are those of all backends."""
    waits = {
        name: CAUSES[Cause.BACKEND_AWAY if state.problem else Cause.NO_WORKER].text.format(name)
        for name, state in states.items()
        if state.is_unserved or (state.ready and state.problem)
    }
    values = {"mark": ACTION_REQUIRED, "backends": list(waits), "texts": list(waits.values())}
    return unit.records(_BY_RUN, {**values, "projects": project_list(projects)})


def held_by(cause: dict[str, Any]) -> int:
    """How many step runs or jobs the cause holds up."""
    if cause["kind"] == "backend":
        return int(cause["ready"] + cause["live"])
    return int(cause.get("step_runs") or cause.get("jobs_count") or 0)
