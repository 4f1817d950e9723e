"""Holds as readers see them."""

from __future__ import annotations

from ccat_workflow_manager.db.holds import active_holds
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.holds import Hold, Kind

_OTHERS = "SELECT name FROM pipelines WHERE name = ANY(:names) AND project <> ALL(:projects)"


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
