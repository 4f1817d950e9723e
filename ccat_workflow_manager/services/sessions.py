"""Browser sessions of people: a signed cookie names a row of the database, which can end at any time."""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import time
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from itsdangerous import BadSignature, Signer

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.db.session import Database, new_id
from ccat_workflow_manager.db.tokens import StoredSession, TokenStore
from ccat_workflow_manager.errors import ConfigurationError
from ccat_workflow_manager.identity import Identity
from ccat_workflow_manager.services.tokens import FRESH_SECONDS
from ccat_workflow_manager.settings.contradictions import KEY_BYTES, key_problem

LIFETIME = timedelta(hours=12)
_KEY_FILE = "session-key"
_REMEMBERED = 10_000


class _Seen(NamedTuple):
    session: StoredSession | None
    at: float


class Sessions:
    """The sessions of one deployment, as one process sees them."""

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        self._cookies = Signer(key, salt="session", digest_method=sha256)
        self._proofs = Signer(key, salt="csrf", digest_method=sha256)
        self._seen: BoundedCache[UUID, _Seen] = BoundedCache(_REMEMBERED)

    def open(self, identity: Identity, token_id: UUID | None = None) -> tuple[UUID, str]:
        """Log a person in. Returns the id of the session and the value of its cookie."""
        session_id = new_id()
        with self._database.begin("commit.log-in") as unit:
            TokenStore(unit).begin_session(session_id, identity, token_id, LIFETIME)
        return session_id, self._cookies.sign(session_id.hex).decode()

    def end(self, session_id: UUID) -> None:
        with self._database.begin("commit.log-out") as unit:
            TokenStore(unit).end_session(session_id)
        self._seen.put(session_id, _Seen(None, time.monotonic()), 1)

    def end_all(self, identity: Identity) -> None:
        """Log a person out everywhere. Every manager knows it within a second."""
        with self._database.begin("commit.log-out-everywhere") as unit:
            TokenStore(unit).end_sessions(identity.key)
        self._seen = BoundedCache(_REMEMBERED)

    # --- checking ----------------------------------------------------------------------------------------------------

    def id_in(self, cookie: str) -> UUID | None:
        """The id in a cookie that this deployment has signed."""
        try:
            return UUID(self._cookies.unsign(cookie).decode())
        except (BadSignature, ValueError):
            return None

    def needs_database(self, session_id: UUID) -> bool:
        """Whether `check` asks the database now."""
        seen = self._seen.get(session_id)
        return seen is None or time.monotonic() - seen.at >= FRESH_SECONDS

    def check(self, session_id: UUID) -> StoredSession | None:
        """The session, if it goes on."""
        seen = self._seen.get(session_id)
        if seen is None or time.monotonic() - seen.at >= FRESH_SECONDS:
            now = time.monotonic()
            with self._database.read() as unit:
                seen = _Seen(TokenStore(unit).session(session_id), now)
            self._seen.put(session_id, seen, 1)
        return seen.session if seen.session is not None and seen.session.valid else None

    def proof(self, session_id: UUID) -> str:
        """What a page of this session sends as `X-CSRF-Token`."""
        return self._proofs.get_signature(session_id.hex).decode()

    def is_proof(self, session_id: UUID, given: str) -> bool:
        return hmac.compare_digest(self.proof(session_id).encode(), given.encode("utf-8", "replace"))


def session_key(file: Path, data_dir: Path, *, make: bool) -> bytes | None:
    """The key that signs cookies: the content of `file`, else with `make` one that is made in the data directory.

    None: there is none, so the service has no log-in for browsers. Raises ConfigurationError for a short key.
    """
    if file == Path():
        if not make:
            return None
        file = data_dir / _KEY_FILE
        data_dir.mkdir(parents=True, exist_ok=True)
        _make(file)
    try:
        key = file.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"SESSION_KEY_FILE {file} cannot be read: {error.strerror}") from None
    if problem := key_problem(key):
        raise ConfigurationError(f"SESSION_KEY_FILE {file} {problem}")
    return key


def _make(file: Path) -> None:
    made = file.with_name(f"{file.name}.{os.getpid()}")
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(secrets.token_urlsafe(KEY_BYTES))
    with contextlib.suppress(FileExistsError):  # another manager was faster, or it was there
        os.link(made, file)
    made.unlink()
