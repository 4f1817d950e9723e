"""Who makes a request, and what they may do: roles and projects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Each role has all rights of those before it."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: Role) -> bool:
        return _RANK[self] >= _RANK[other]


_RANK = {role: rank for rank, role in enumerate(Role)}

Projects = frozenset[str] | None
"""The projects that an identity is limited to; None: all."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A person or a program that makes requests."""

    name: str
    """As events and the audit show it."""
    key: str
    """What never changes about it, like the id of its token."""
    role: Role
    projects: Projects = None

    def sees(self, project: str) -> bool:
        return sees(self.projects, project)


def sees(projects: Projects, project: str) -> bool:
    return projects is None or project in projects


ANONYMOUS = Identity("anonymous", "anonymous", Role.ADMIN)
"""The one user of an API without a port, as tests have it."""
