"""API tokens and browser sessions in the database."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.queries import Row, one, rows, times
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.errors import Conflict
from ccat_workflow_manager.identity import Identity, Projects, Role

TOKEN = f"""
t.id, t.prefix, t.name, t.role, t.projects, t.created_by,
{times("t", "created_at", "expires_at", "revoked_at", "last_used_at")}
"""
_VISIBLE = "(CAST(:projects AS text[]) IS NULL OR t.projects <@ CAST(:projects AS text[]))"
_PAGE = f"""
SELECT x.id, row_to_json(x)::text FROM (
  SELECT {TOKEN} FROM tokens t WHERE {_VISIBLE} AND (CAST(:after AS uuid) IS NULL OR t.id < :after)
  ORDER BY t.id DESC LIMIT :limit
) x
"""
_INSERT = f"""
WITH t AS (
  INSERT INTO tokens (id, prefix, secret_sha256, name, role, projects, created_by, expires_at)
  VALUES (:id, :prefix, :secret_sha256, :name, :role, :projects, :created_by, :expires_at)
  ON CONFLICT (name) WHERE revoked_at IS NULL DO NOTHING RETURNING *
)
SELECT row_to_json(x)::text FROM (SELECT {TOKEN} FROM t) x
"""
_REVOKE = f"""
WITH t AS (
  UPDATE tokens t SET revoked_at = COALESCE(revoked_at, now()) WHERE id = :id AND {_VISIBLE} RETURNING *
)
SELECT row_to_json(x)::text FROM (SELECT {TOKEN} FROM t) x
"""
_VALID = "t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > now())"
_BY_PREFIX = f"""
SELECT t.id, t.secret_sha256, t.name, t.role, t.projects, {_VALID} AS valid,
  COALESCE(t.last_used_at < now() - interval '1 minute', true) AS unrecorded
FROM tokens t WHERE t.prefix = :prefix
"""
_USED = """
UPDATE tokens SET last_used_at = now()
WHERE id = :id AND COALESCE(last_used_at < now() - interval '1 minute', true)
"""
_BEGIN_SESSION = """
INSERT INTO sessions (id, subject, identity, role, projects, token_id, expires_at)
VALUES (:id, :subject, :identity, :role, :projects, :token_id, now() + :lifetime)
"""
_SESSION = f"""
SELECT s.id, s.subject, s.identity AS key, s.role, s.projects, s.token_id,
  s.ended_at IS NULL AND s.expires_at > now() AND (s.token_id IS NULL OR {_VALID}) AS valid
FROM sessions s LEFT JOIN tokens t ON t.id = s.token_id WHERE s.id = :id
"""
_END = "UPDATE sessions SET ended_at = now() WHERE {0} = :value AND ended_at IS NULL"


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token to be stored. Its secret is not."""

    id: UUID
    prefix: str
    secret_sha256: bytes
    name: str
    role: Role
    projects: Projects
    created_by: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token as it is checked."""

    id: UUID
    secret_sha256: bytes
    name: str
    role: str
    projects: list[str] | None
    valid: bool
    unrecorded: bool
    """Its last use was recorded more than a minute ago."""

    @property
    def identity(self) -> Identity:
        return Identity(f"token {self.name}", f"token:{self.id}", Role(self.role), _set(self.projects))


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as it is checked."""

    id: UUID
    subject: str
    key: str
    role: str
    projects: list[str] | None
    token_id: UUID | None
    valid: bool

    @property
    def identity(self) -> Identity:
        return Identity(self.subject, self.key, Role(self.role), _set(self.projects))


class TokenStore:
    """Reads and writes tokens and sessions inside the caller's transaction."""

    def __init__(self, unit: UnitOfWork) -> None:
        self.unit = unit

    def add(self, new: NewToken) -> str:
        """Store a token. Returns it as JSON. Raises Conflict if a token in force has its name."""
        text = one(self.unit, _INSERT, asdict(new) | {"projects": _list(new.projects)})
        if text is None:
            raise Conflict(f"a token named {new.name!r} is in force; revoke it, or choose another name")
        return text

    def page(self, after: UUID | None, limit: int, projects: Projects) -> list[Row]:
        """Tokens, the newest first."""
        return rows(self.unit, _PAGE, {"after": after, "limit": limit, "projects": _list(projects)})

    def revoke(self, token_id: UUID, projects: Projects) -> str | None:
        """Revoke a token. Returns it as JSON, None if there is no such token."""
        return one(self.unit, _REVOKE, {"id": token_id, "projects": _list(projects)})

    def with_prefix(self, prefix: str) -> StoredToken | None:
        return self.unit.row(StoredToken, _BY_PREFIX, {"prefix": prefix})

    def record_use(self, token_id: UUID) -> None:
        self.unit.execute(_USED, {"id": token_id})

    # --- sessions ----------------------------------------------------------------------------------------------------

    def begin_session(self, session_id: UUID, identity: Identity, token_id: UUID | None, lifetime: Any) -> None:
        self.unit.execute(
            _BEGIN_SESSION,
            {
                "id": session_id,
                "subject": identity.name,
                "identity": identity.key,
                "role": identity.role,
                "projects": _list(identity.projects),
                "token_id": token_id,
                "lifetime": lifetime,
            },
        )

    def session(self, session_id: UUID) -> StoredSession | None:
        return self.unit.row(StoredSession, _SESSION, {"id": session_id})

    def end_session(self, session_id: UUID) -> None:
        self.unit.execute(_END.format("id"), {"value": session_id})

    def end_sessions(self, identity_key: str) -> None:
        """End all sessions of a person."""
        self.unit.execute(_END.format("identity"), {"value": identity_key})


def _list(projects: Projects) -> list[str] | None:
    return None if projects is None else sorted(projects)


def _set(projects: list[str] | None) -> Projects:
    return None if projects is None else frozenset(projects)
