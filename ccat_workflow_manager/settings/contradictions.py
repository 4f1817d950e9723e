"""Settings that are allowed each by itself, but not together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.local_api import is_loopback
from ccat_workflow_manager.settings.model import PREFIX
from ccat_workflow_manager.settings.service import Settings

_UNSET = Path()


def contradictions(settings: Settings) -> Iterator[Fault]:
    """What is wrong with these settings together."""
    yield from _of_log_in(settings)
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
        if settings.container_runtime == "none":
            yield Fault(
                PREFIX + "CONTAINER_RUNTIME",
                f"'none' is not allowed in {environment}; allowed: auto, apptainer, singularity",
            )
    on_loopback = is_loopback(settings.api_host) or settings.api_socket != _UNSET
    if environment != "localdev" and not on_loopback and not settings.api_hosts:
        yield Fault(
            PREFIX + "API_HOSTS", f"'' is not allowed in {environment} off loopback: name what the API is called"
        )
    if not settings.auth_required and not on_loopback:
        yield Fault(
            PREFIX + "API_HOST",
            f"{settings.api_host!r} is not allowed without {PREFIX}AUTH_REQUIRED=true; allowed: a loopback address",
        )


def _is_protected(redis_url: str) -> bool:
    parts = urlsplit(redis_url)
    return parts.scheme in ("rediss", "unix") or bool(parts.password)


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
    secret = settings.oidc_client_secret_file
    if secret != _UNSET:
        try:
            empty = not secret.read_bytes().strip()
        except OSError as error:
            yield Fault(PREFIX + "OIDC_CLIENT_SECRET_FILE", f"{secret} cannot be read: {error.strerror}")
        else:
            if empty:
                yield Fault(PREFIX + "OIDC_CLIENT_SECRET_FILE", f"{secret} is empty")
