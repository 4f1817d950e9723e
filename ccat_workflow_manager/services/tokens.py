"""API tokens: makes them, checks them, revokes them."""

from __future__ import annotations

import hmac
import secrets
import time
from datetime import datetime
from hashlib import sha256
from typing import NamedTuple
from uuid import UUID

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.db import audit
from ccat_workflow_manager.db.session import Database, new_id
from ccat_workflow_manager.db.tokens import NewToken, StoredToken, TokenStore
from ccat_workflow_manager.errors import Fault, Invalid, NotFound
from ccat_workflow_manager.identity import Identity, Projects, Role

SCHEME = "ccatwm"
FRESH_SECONDS = 0.5
"""What the database said about a token is believed for so long: a revoked one is refused everywhere within a second."""

REMEMBERED_SECONDS = 3600.0
"""For so long a token that was good may read the metrics while the database is away."""
_PREFIX_BYTES = 6
_SECRET_BYTES = 32
_REMEMBERED = 10_000
_NO_HASH = bytes(32)


class CreatedToken(NamedTuple):
    """A new token: as JSON, and its secret, which is shown once."""

    json: str
    secret: str


class _Seen(NamedTuple):
    token: StoredToken | None
    at: float


class Tokens:
    """The API tokens of one deployment, as one process sees them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: BoundedCache[str, _Seen] = BoundedCache(_REMEMBERED)

    def create(
        self,
        name: str,
        role: Role,
        *,
        by: Identity,
        projects: Projects = None,
        expires_at: datetime | None = None,
    ) -> CreatedToken:
        """A new token. Raises Invalid for rights that its creator does not have, Conflict for a name that is taken."""
        _check_within(by, role, projects)
        prefix, secret = secrets.token_hex(_PREFIX_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
        new = NewToken(new_id(), prefix, _hash(secret), name, role, projects, by.name, expires_at)
        shown = {"name": name, "role": role, "projects": None if projects is None else sorted(projects)}
        audit.describe(target=f"tokens/{new.id}", after={**shown, "expires_at": expires_at})
        with self._database.begin("commit.token") as unit:
            text = TokenStore(unit).add(new)
        return CreatedToken(text, f"{SCHEME}_{prefix}_{secret}")

    def revoke(self, token_id: UUID, *, by: Identity) -> str:
        """Revoke a token. Returns it as JSON. Raises NotFound."""
        audit.describe(target=f"tokens/{token_id}", after={"revoked": True})
        with self._database.begin("commit.token-revoked") as unit:
            text = TokenStore(unit).revoke(token_id, by.projects)
            if text is None:
                raise NotFound(f"there is no token {token_id}")
        return text

    # --- checking ----------------------------------------------------------------------------------------------------

    def needs_database(self, text: str) -> bool:
        """Whether `check` asks the database now."""
        seen = self._seen.get(_parts(text)[0])
        return seen is None or _is_old(seen)

    def check(self, text: str) -> StoredToken | None:
        """The token that this text is. None if there is none, or if it was revoked or has expired.

        The answer takes equally long in each case.
        """
        prefix, secret = _parts(text)
        seen = self._seen.get(prefix)
        if seen is None or _is_old(seen):
            seen = self._look_up(prefix, secret)
        return seen.token if _is_proved(seen.token, secret) else None

    def remembered(self, text: str) -> StoredToken | None:
        """What `check` last said about this token, unless that is long ago."""
        prefix, secret = _parts(text)
        seen = self._seen.get(prefix)
        if seen is None or time.monotonic() - seen.at > REMEMBERED_SECONDS:
            return None
        return seen.token if _is_proved(seen.token, secret) else None

    def _look_up(self, prefix: str, secret: str) -> _Seen:
        now = time.monotonic()
        with self._database.read() as unit:
            token = TokenStore(unit).with_prefix(prefix)
        if token is not None and token.unrecorded and _is_proved(token, secret):
            with self._database.begin("commit.token-used") as unit:
                TokenStore(unit).record_use(token.id)
        seen = _Seen(token, now)
        self._seen.put(prefix, seen, 1)
        return seen


def _check_within(by: Identity, role: Role, projects: Projects) -> None:
    faults = []
    if not by.role.includes(role):
        faults.append(Fault("role", f"must be at most that of its creator, {by.role}"))
    if by.projects is not None and (projects is None or not projects <= by.projects):
        faults.append(Fault("projects", f"must be some of those of its creator: {', '.join(sorted(by.projects))}"))
    if faults:
        raise Invalid(faults=faults)


def _parts(text: str) -> tuple[str, str]:
    """The prefix and the secret of a token. A text of another form has a prefix that no token has."""
    scheme, _, rest = text.partition("_")
    prefix, _, secret = rest.partition("_")
    known = scheme == SCHEME and prefix.isascii() and prefix.isalnum() and len(prefix) == 2 * _PREFIX_BYTES
    return (prefix if known else "", secret)


def _hash(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()


def _is_old(seen: _Seen) -> bool:
    return time.monotonic() - seen.at >= FRESH_SECONDS


def _is_proved(token: StoredToken | None, secret: str) -> bool:
    same = hmac.compare_digest(_hash(secret), _NO_HASH if token is None else token.secret_sha256)
    return same and token is not None and token.valid
