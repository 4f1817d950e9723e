"""Who makes a request, and what they may do: roles and projects."""

from __future__ import annotations

import pwd
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple


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

    def within(self, project: str | None) -> Projects:
        """What it sees of a project; None: of all."""
        return within(self.projects, project)


def sees(projects: Projects, project: str) -> bool:
    return projects is None or project in projects


def within(projects: Projects, project: str | None) -> Projects:
    """What who is limited to these projects sees of one of them; None: of all."""
    if project is None:
        return projects
    return frozenset([project] if sees(projects, project) else ())


def no_project(name: str, projects: Projects) -> str:
    """What to tell who is limited to these projects and has named another one, whether it exists or not."""
    if not projects:
        return f"there is no project {name}"
    return f"there is no project {name} among yours ({', '.join(sorted(projects))}); write `project: {min(projects)}`"


@lru_cache(maxsize=256)
def user_of(uid: int) -> Identity:
    """A user of this machine who can reach the service, or its database, without a token: its owner, or root."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return Identity(f"user {name}", f"user:{uid}", Role.ADMIN)


ANONYMOUS = Identity("anonymous", "anonymous", Role.ADMIN)
"""The one user of an API without a port, as tests have it."""


# --- roles of groups ------------------------------------------------------------------------------------------------

_GRANT = re.compile(rf"(?P<group>[^,]+)=(?P<role>{'|'.join(Role)})(@(?P<projects>[a-z0-9+-]+))?")


class Grant(NamedTuple):
    """What the members of a group may do."""

    group: str
    role: Role
    projects: Projects = None


def grants_of(text: str) -> tuple[Grant, ...]:
    """The grants of a text like `staff=operator, night-crew=submitter@night+day`. Raises ValueError."""
    found = []
    for each in filter(None, map(str.strip, text.split(","))):
        parts = _GRANT.fullmatch(each)
        if parts is None:
            raise ValueError(each)
        projects = None if parts["projects"] is None else frozenset(parts["projects"].split("+"))
        found.append(Grant(parts["group"].strip(), Role(parts["role"]), projects))
    return tuple(found)


def granted(grants: Iterable[Grant], groups: Collection[str]) -> Grant | None:
    """The highest role that these groups have, in all projects in which one of them has it. None: they have none."""
    theirs = [grant for grant in grants if grant.group in groups]
    if not theirs:
        return None
    best = max((grant.role for grant in theirs), key=_RANK.__getitem__)
    projects = [grant.projects for grant in theirs if grant.role == best]
    limited = [each for each in projects if each is not None]
    everywhere = len(limited) < len(projects)
    return Grant("", best, None if everywhere else frozenset().union(*limited))
