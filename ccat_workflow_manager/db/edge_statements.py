"""The SQL about the edges of runs: count the ends of step runs, release what is behind them, hold it back again."""

from __future__ import annotations

from ccat_workflow_manager.db.conditions import SET_ASIDE, quoted
from ccat_workflow_manager.lifecycle.states import RETRYABLE, Status

EDGES = """
SELECT run_id, position, downstream_key, downstream_all, soft FROM run_steps WHERE run_id = ANY(:run_ids)
"""

COUNT_DOWN = """
WITH done AS (
  SELECT * FROM json_to_recordset(CAST(:done AS json))
    AS d(run_id uuid, position smallint, completed integer, lost integer)
), locked AS (
  SELECT r.run_id, r.position, d.completed, d.lost
  FROM run_steps r JOIN done d ON d.run_id = r.run_id AND d.position = r.position
  ORDER BY r.run_id, r.position FOR NO KEY UPDATE OF r
)
UPDATE run_steps r SET remaining = r.remaining - l.completed, lost = r.lost + l.lost
FROM locked l WHERE r.run_id = l.run_id AND r.position = l.position
RETURNING r.run_id, r.position, r.downstream_key, r.downstream_all, r.soft, r.name, r.total, r.remaining, r.lost,
  r.soft_allowed, r.fail_fast
"""
"""Subtract the completed step runs from their steps, and add the lost ones. At `remaining` 0 a step is completed."""

LOST_KEYS = f"""
SELECT key FROM step_runs WHERE run_id = :run_id AND position = :position AND status IN ({quoted(RETRYABLE)})
  AND NOT {SET_ASIDE} ORDER BY key LIMIT :most
"""
"""The first step runs of a step that are lost."""

_READY_AFTERWARDS = "s.unmet = 0 AND s.status = 'PENDING' AND NOT s.held AS ready"

_SUBTRACT_MET = f"""
UPDATE step_runs s SET unmet = s.unmet - l.n FROM locked l WHERE s.id = l.id
RETURNING s.backend, {_READY_AFTERWARDS}
"""

RELEASE_SAME_KEY = f"""
WITH met AS (
  SELECT run_id, position, key, count(*)::smallint AS n
  FROM json_to_recordset(CAST(:met AS json)) AS d(run_id uuid, position smallint, key text) GROUP BY 1, 2, 3
), locked AS (
  SELECT s.id, met.n FROM step_runs s
  JOIN met ON met.run_id = s.run_id AND met.position = s.position AND met.key = s.key
  ORDER BY s.id FOR NO KEY UPDATE OF s
)
{_SUBTRACT_MET}
"""
"""Each step run that waits for a step run of its own key waits for one step less."""

RELEASE_WHOLE_STEP = f"""
WITH met AS (
  SELECT run_id, position, count(*)::smallint AS n
  FROM json_to_recordset(CAST(:met AS json)) AS d(run_id uuid, position smallint) GROUP BY 1, 2
), locked AS (
  SELECT s.id, met.n FROM step_runs s JOIN met ON met.run_id = s.run_id AND met.position = s.position
  ORDER BY s.id FOR NO KEY UPDATE OF s
)
{_SUBTRACT_MET}
"""
"""All step runs of a step that waits for a whole step wait for one step less."""


def _of_each(records: str, condition: str = "true") -> str:
    """CTEs: lock the step runs that `records` name, then collect the records of each (`hits`)."""
    named = "e.run_id = s.run_id AND e.position = s.position AND (e.key IS NULL OR e.key = s.key)"
    return f"""
WITH e AS MATERIALIZED (
  SELECT * FROM json_to_recordset(CAST(:{records} AS json))
    AS d(run_id uuid, position smallint, key text, upstream smallint, name text, caveat text)
), locked AS MATERIALIZED (
  SELECT s.id, s.run_id, s.position, s.key FROM step_runs s
  WHERE s.id IN (
    SELECT x.id FROM e JOIN step_runs x ON x.run_id = e.run_id AND x.position = e.position AND x.key = e.key
    UNION ALL
    SELECT x.id FROM e JOIN step_runs x ON x.run_id = e.run_id AND x.position = e.position WHERE e.key IS NULL)
    AND {condition}
  ORDER BY s.id FOR NO KEY UPDATE
), hits AS (
  SELECT s.id, array_agg(DISTINCT e.upstream) AS upstream, array_agg(DISTINCT e.name) AS names,
    jsonb_agg(jsonb_build_object('kind', 'tolerated_loss', 'text', e.caveat)) FILTER (WHERE e.caveat IS NOT NULL)
      AS caveats
  FROM locked s JOIN e ON {named} GROUP BY s.id
)"""


RELEASE_SOFT = f"""{_of_each("met")}
UPDATE step_runs s SET
  unmet = s.unmet - (SELECT count(*) FROM unnest(s.awaits) a WHERE a = ANY(h.upstream)),
  awaits = ARRAY(SELECT a FROM unnest(s.awaits) a WHERE a <> ALL(h.upstream)),
  caveats = CASE WHEN h.caveats IS NULL THEN s.caveats ELSE COALESCE(s.caveats, '[]') || h.caveats END
FROM hits h WHERE s.id = h.id AND s.awaits && h.upstream
RETURNING s.backend, {_READY_AFTERWARDS}
"""
"""A soft edge is met: its step runs wait for one step less, once. Tolerated losses are caveats of theirs."""

_NOT_BEGUN = f"(s.status = '{Status.PENDING}' AND s.claims = 0 OR s.status IN ({quoted(RETRYABLE)}))"

HOLD_SOFT = f"""{_of_each("held", _NOT_BEGUN)}
UPDATE step_runs s SET
  unmet = s.unmet + (SELECT count(*) FROM unnest(h.upstream) a WHERE a <> ALL(s.awaits)),
  awaits = s.awaits || ARRAY(SELECT a FROM unnest(h.upstream) a WHERE a <> ALL(s.awaits)),
  caveats = (SELECT jsonb_agg(c) FROM jsonb_array_elements(s.caveats) c
             WHERE c ->> 'kind' <> 'tolerated_loss' OR split_part(c ->> 'text', ':', 1) <> ALL(h.names))
FROM hits h WHERE s.id = h.id
RETURNING s.id, s.unmet
"""
"""A tolerated loss was reopened: step runs that have not begun wait again. Those that have begun keep their caveat."""

EXCEEDED = f"""
FROM run_steps t CROSS JOIN LATERAL unnest(t.soft, t.soft_allowed) AS d(downstream, allowed)
WHERE d.downstream = ANY(t.downstream_all) AND t.lost > d.allowed
  AND (t.lost = t.remaining OR d.downstream = ANY(t.fail_fast))
  AND EXISTS (SELECT 1 FROM step_runs s
    WHERE s.run_id = t.run_id AND s.position = d.downstream AND s.status = '{Status.PENDING}')"""
"""Soft edges with too many losses that pending step runs wait for."""

SELECT_EXCEEDED = f"""
SELECT t.run_id, t.name, t.lost, t.total, d.downstream, d.allowed {EXCEEDED} AND t.run_id = ANY(:run_ids)
ORDER BY t.run_id, t.position
"""
