"""Settings that are allowed each by itself, but not together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.json_values import similar
from ccat_workflow_manager.local_api import is_loopback
from ccat_workflow_manager.settings.backends import registered
from ccat_workflow_manager.settings.model import PREFIX
from ccat_workflow_manager.settings.service import Settings

_UNSET = Path()


def contradictions(settings: Settings, *, serves_api: bool = False, runs_jobs: bool = False) -> Iterator[Fault]:
    """What is wrong with these settings together. The files of log-ins are those of a process that serves the API.

    HPC_BACKEND must be installed for a process that has to do with jobs.
    """
    yield from _of_log_in(settings)
    if runs_jobs:
        yield from _of_backend(settings.hpc_backend)
    if serves_api:
        yield from _of_files(settings)
    environment = settings.environment
    if environment != "localdev":
        for name in ("DATABASE_URL", "REDIS_URL"):
            if not getattr(settings, name.lower()):
                yield Fault(PREFIX + name, f"'' is not allowed in {environment}: name the server to use")
        if settings.redis_url and not _is_protected(settings.redis_url):
            yield Fault(
                PREFIX + "REDIS_URL",
                f"without a password is not allowed in {environment}: who can write to Redis commands the workers; "
                "use redis://:PASSWORD@..., rediss:// or unix://",
            )
        for name in ("DATABASE_URL", "REDIS_URL"):
            if _is_weak(password := _password(getattr(settings, name.lower()))):
                yield Fault(PREFIX + name, f"its password is {_why(password)}: take {_FRESH}")
        if not settings.api_hosts:
            yield Fault(PREFIX + "API_HOSTS", f"'' is not allowed in {environment}: give the names of the API")
        if settings.container_runtime == "none":
            yield Fault(
                PREFIX + "CONTAINER_RUNTIME",
                f"'none' is not allowed in {environment}; allowed: auto, apptainer, singularity",
            )
    if not (settings.auth_required or is_loopback(settings.api_host) or settings.api_socket != _UNSET):
        yield Fault(
            PREFIX + "API_HOST",
            f"{settings.api_host!r} is not allowed without {PREFIX}AUTH_REQUIRED=true; allowed: a loopback address",
        )


def _is_protected(redis_url: str) -> bool:
    parts = urlsplit(redis_url)
    return parts.scheme in ("rediss", "unix") or bool(parts.password)


def _of_backend(name: str) -> Iterator[Fault]:
    known = sorted(registered())
    if name in known:
        return
    close = similar(name, known)
    hint = f"did you mean {close}?" if close is not None else "is its package installed here?"
    yield Fault(f"{PREFIX}HPC_BACKEND", f"{name!r} is not allowed; allowed: {', '.join(known)}; {hint}")


def _of_log_in(settings: Settings) -> Iterator[Fault]:
    if not settings.oidc_issuer:
        return
    parts = urlsplit(settings.oidc_issuer)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield Fault(PREFIX + "OIDC_ISSUER", f"{settings.oidc_issuer!r} is not allowed off loopback; use https://")
    for name in ("OIDC_CLIENT_ID", "OIDC_ROLES"):
        if not getattr(settings, name.lower()):
            yield Fault(PREFIX + name, "'' is not allowed with OIDC_ISSUER")
    if settings.session_key_file == _UNSET and settings.environment != "localdev":
        yield Fault(PREFIX + "SESSION_KEY_FILE", "'' is not allowed with OIDC_ISSUER: it signs the cookies of people")


def _of_files(settings: Settings) -> Iterator[Fault]:
    for name, file in (
        ("SESSION_KEY_FILE", settings.session_key_file),
        ("OIDC_CLIENT_SECRET_FILE", settings.oidc_client_secret_file),
    ):
        if file == _UNSET:
            continue
        try:
            secret = file.read_bytes().strip()
        except OSError as error:
            yield Fault(PREFIX + name, f"{file} cannot be read: {error.strerror}")
        else:
            if name == "SESSION_KEY_FILE" and (problem := key_problem(secret)):
                yield Fault(PREFIX + name, f"{file} {problem}")
            elif not secret:
                yield Fault(PREFIX + name, f"{file} is empty")


# --- weak secrets ---------------------------------------------------------------------------------------------------

KEY_BYTES = 32
_FEWEST_BYTES = 8
"""So many different bytes are in every key that is random."""
_SHORTEST_PASSWORD = 8
_FRESH = "a random one (`head -c 24 /dev/urandom | base64`)"
_KNOWN = re.compile(
    r"change.?(me|it)|password|passw0rd|secret|example|default|(postgres|redis|valkey|admin|ccat)\d*", re.IGNORECASE
)
"""Words that are no secrets, as a whole password."""


def key_problem(key: bytes) -> str | None:
    """What is wrong with a key that signs cookies."""
    if len(key) < KEY_BYTES:
        return f"must hold at least {KEY_BYTES} bytes; it has {len(key)}"
    if len(set(key)) < _FEWEST_BYTES:
        return "holds too few different bytes to be random"
    return None


def _password(url: str) -> str:
    """The password in the URL of a server; empty: it has none."""
    parts = urlsplit(url)
    return unquote(parts.password or "") or next(iter(parse_qs(parts.query).get("password", ())), "")


def _is_weak(password: str) -> bool:
    return bool(password) and (len(password) < _SHORTEST_PASSWORD or _KNOWN.fullmatch(password) is not None)


def _why(password: str) -> str:
    return f"shorter than {_SHORTEST_PASSWORD} characters" if len(password) < _SHORTEST_PASSWORD else "known to all"
