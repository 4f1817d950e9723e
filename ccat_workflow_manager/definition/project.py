"""Projects: every pipeline and every run belongs to one."""

from __future__ import annotations

DEFAULT_PROJECT = "default"
PROJECT_NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"


def in_project(project: str, name: str) -> str:
    """A name that is unique among all projects."""
    # Without the project for the first one: it has none in the keys of databases that were made before others.
    return name if project == DEFAULT_PROJECT else f"{project}/{name}"
