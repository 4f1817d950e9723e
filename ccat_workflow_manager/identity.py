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


@dataclass(frozen=True, slots=True)
class Identity:
    """A person or a program that makes requests."""

    name: str
    """As events and the audit show it."""
    key: str
    """What never changes about it, like the id of its token."""
    role: Role
    projects: frozenset[str] | None = None
    """None: all."""

    def sees(self, project: str) -> bool:
        return self.projects is None or project in self.projects
