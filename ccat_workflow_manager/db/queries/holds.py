"""Holds as readers see them."""

from __future__ import annotations

from collections.abc import Collection

from ccat_workflow_manager.db.conditions import READY
from ccat_workflow_manager.db.holds import SUBJECT, active_holds, widest
from ccat_workflow_manager.db.queries import project_list, visible
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.holds import Hold, Kind

_OTHERS = "SELECT name FROM pipelines WHERE name = ANY(:names) AND project <> ALL(:projects)"

MOST_COUNTED = 10_000

# What one lane has ready at one backend is a part of the index of ready step runs.
_HELD_UP = f"""
SELECT h.subject, LEAST(sum(n.waiting), {MOST_COUNTED})::bigint AS waiting
FROM unnest(CAST(:backends AS text[])) AS b(name) CROSS JOIN lanes l
CROSS JOIN LATERAL (SELECT {SUBJECT} AS subject FROM holds h {widest("b.name")}) h
CROSS JOIN LATERAL (SELECT count(*) AS waiting FROM (
  SELECT 1 FROM step_runs s WHERE s.backend = b.name AND s.lane = l.id AND {READY} AND s.cancel_requested_at IS NULL
  LIMIT {MOST_COUNTED}) x) n
WHERE {visible("l.project")} GROUP BY 1
"""


def held_up(unit: UnitOfWork, backends: Collection[str], projects: Projects = None) -> dict[str, int]:
    """How many step runs of these projects each active hold keeps back, by its subject. Each counts for the widest."""
    values = {"backends": sorted(backends), "projects": project_list(projects)}
    return dict(unit.execute(_HELD_UP, values).tuples)


def visible_holds(unit: UnitOfWork, projects: Projects = None) -> list[Hold]:
    """The active holds, the widest first: those that concern these projects."""
    found = active_holds(unit)
    if projects is None:
        return found
    names = [each.name for each in found if each.kind is Kind.PIPELINE]
    others = unit.execute(_OTHERS, {"names": names, "projects": sorted(projects)}).tuples if names else []
    hidden = {name for (name,) in others}
    return [
        each
        for each in found
        if not (each.kind is Kind.PROJECT and each.name not in projects)
        and not (each.kind is Kind.PIPELINE and each.name in hidden)
    ]
