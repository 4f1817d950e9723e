"""Log-in of people by OpenID Connect: authorization code with PKCE, state and nonce, and a verified identity token.

The provider is asked only when a person logs in, so the service starts and serves tokens without it.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from authlib.deprecate import AuthlibDeprecationWarning
from authlib.oidc.core import CodeIDToken
from itsdangerous import BadSignature, URLSafeTimedSerializer
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from ccat_workflow_manager.errors import Forbidden, RequestError, ServiceUnavailable
from ccat_workflow_manager.execution.transfers import tls_context
from ccat_workflow_manager.identity import Grant, Identity, granted

with warnings.catch_warnings():
    # Authlib prefers a successor of httpx that the rest of this service does not use.
    warnings.simplefilter("ignore", AuthlibDeprecationWarning)
    from authlib.integrations.httpx_client import OAuth2Client, OAuthError

log = logging.getLogger(__name__)

_ERROR = re.compile(r"[a-z_]{1,40}")
_ALGORITHMS = frozenset(
    ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA")
)
"""Those whose keys the provider alone has."""
_METADATA_SECONDS = 300
_CALL_SECONDS = 15
_CALLS_AT_ONCE = 4
"""A provider that hangs must not hold all threads of the API."""
_LEEWAY_SECONDS = 60
_LONGEST_NAME = 200
_ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")


class LogInFailed(RequestError):
    """This log-in could not be verified. Begin it again."""

    code = "log_in_failed"
    http_status = 401


class ProviderPolicy(NamedTuple):
    """The provider as the settings describe it."""

    issuer: str
    client_id: str
    secret_file: Path
    """Empty: a public client."""
    role_claim: str
    grants: tuple[Grant, ...]


class Attempt(NamedTuple):
    """A log-in that has begun. The browser of the person keeps it in a signed cookie."""

    state: str
    nonce: str
    verifier: str
    onward: str
    """The page to go to afterwards."""


class OpenIdConnect:
    """The provider with which the people of one deployment log in."""

    attempt_seconds = 600
    """A person may take so long at the provider."""

    def __init__(self, policy: ProviderPolicy, key: bytes) -> None:
        """`key` signs the cookies of attempts."""
        self._policy = policy
        self._cookies = URLSafeTimedSerializer(key, salt="log-in", signer_kwargs={"digest_method": sha256})
        self._calls = threading.BoundedSemaphore(_CALLS_AT_ONCE)
        self._known: tuple[float, dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        """The provider as people know it: its host."""
        return httpx.URL(self._policy.issuer).host

    def start(self, redirect_uri: str, onward: str) -> tuple[str, str]:
        """Begin a log-in. Returns the address to send the person to, and the value of the cookie of the attempt.

        Raises ServiceUnavailable if the provider cannot be asked.
        """
        attempt = Attempt(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48), onward)
        with self._calling() as client:
            metadata = self._metadata(client)
            with self._client(metadata, redirect_uri) as session:
                url, _ = session.create_authorization_url(
                    metadata["authorization_endpoint"],
                    state=attempt.state,
                    nonce=attempt.nonce,
                    code_verifier=attempt.verifier,
                )
        return str(url), str(self._cookies.dumps(attempt))

    def attempt_in(self, cookie: str, state: str) -> Attempt:
        """The attempt that this browser began with this state. Raises LogInFailed."""
        try:
            attempt = Attempt(*self._cookies.loads(cookie, max_age=self.attempt_seconds))
        except BadSignature:  # also raised for one that is too old
            raise LogInFailed from None
        if not secrets.compare_digest(attempt.state.encode(), state.encode("utf-8", "replace")):
            raise LogInFailed
        return attempt

    def finish(self, attempt: Attempt, code: str, error: str, redirect_uri: str) -> Identity:
        """Who has logged in with this code. `error` is what the provider gives in its place.

        Raises LogInFailed for a code or identity token that proves nothing, Forbidden for a person without a role,
        ServiceUnavailable if the provider cannot be asked.
        """
        if error or not code:
            raise LogInFailed(
                f"{self.name} has ended the log-in ({error if _ERROR.fullmatch(error) else 'no reason'})."
            )
        with self._calling() as client:
            metadata = self._metadata(client)
            keys = _json(client.get(metadata["jwks_uri"]))  # now, so that a new key is known and an old one forgotten
            with self._client(metadata, redirect_uri) as session:
                token = self._exchange(session, metadata, code, attempt)
            claims = self._verified(token, keys, metadata, attempt.nonce)
            claims = self._with_groups(claims, client, metadata, str(token.get("access_token", "")))
        return self._identity(claims)

    # --- the provider ------------------------------------------------------------------------------------------------

    @contextmanager
    def _calling(self) -> Iterator[httpx.Client]:
        """A client for calls of the provider, whose failures become ServiceUnavailable."""
        if not self._calls.acquire(blocking=False):
            raise ServiceUnavailable(f"{self.name} answers other log-ins now; try again in a moment")
        try:
            with httpx.Client(timeout=_CALL_SECONDS, verify=tls_context()) as client:
                yield client
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            log.warning("log-in by %s failed: %s: %s", self._policy.issuer, type(error).__name__, error)
            raise ServiceUnavailable(f"{self.name} cannot be asked now; log in with a token, or try again") from error
        finally:
            self._calls.release()

    def _metadata(self, client: httpx.Client) -> dict[str, Any]:
        """What the provider says about itself, believed for some minutes."""
        known = self._known
        if known is not None and time.monotonic() - known[0] < _METADATA_SECONDS:
            return known[1]
        issuer = self._policy.issuer.rstrip("/")
        found = _json(client.get(f"{issuer}/.well-known/openid-configuration"))
        if str(found.get("issuer", "")).rstrip("/") != issuer:
            raise ValueError(f"it names itself {found.get('issuer')!r}")
        for name in _ENDPOINTS:
            if not isinstance(found.get(name), str):
                raise ValueError(f"it names no {name}")
            if issuer.startswith("https:") and not found[name].startswith("https:"):
                raise ValueError(f"its {name} is not https")
        self._known = (time.monotonic(), found)
        return found

    def _client(self, metadata: Mapping[str, Any], redirect_uri: str) -> Any:
        policy = self._policy
        secret = None if policy.secret_file == Path() else policy.secret_file.read_text(encoding="utf-8").strip()
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        basic = "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"
        scopes = ["openid", "profile", "email"]
        if "groups" in (metadata.get("scopes_supported") or ()):
            scopes.append("groups")
        return OAuth2Client(
            client_id=policy.client_id,
            client_secret=secret,
            token_endpoint_auth_method="none" if secret is None else basic,
            scope=" ".join(scopes),
            redirect_uri=redirect_uri,
            code_challenge_method="S256",
            timeout=_CALL_SECONDS,
            verify=tls_context(),
        )

    def _exchange(self, session: Any, metadata: Mapping[str, Any], code: str, attempt: Attempt) -> Mapping[str, Any]:
        try:
            token: Mapping[str, Any] = session.fetch_token(
                metadata["token_endpoint"],
                grant_type="authorization_code",
                code=code,
                redirect_uri=session.redirect_uri,
                code_verifier=attempt.verifier,
            )
        except OAuthError as error:
            log.warning("%s refused the code of a log-in: %s", self._policy.issuer, error)
            raise LogInFailed from error
        return token

    def _verified(
        self, token: Mapping[str, Any], keys: dict[str, Any], metadata: Mapping[str, Any], nonce: str
    ) -> dict[str, Any]:
        """The claims of the identity token."""
        promised = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
        allowed = sorted(_ALGORITHMS.intersection(promised)) or ["RS256"]
        try:
            decoded = jwt.decode(
                str(token.get("id_token", "")),
                KeySet.import_key_set(keys),  # type: ignore[arg-type]
                registry=JWSRegistry(algorithms=allowed, strict_check_header=False),
            )
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                {
                    "iss": {"essential": True, "value": metadata["issuer"]},
                    "aud": {"essential": True, "value": self._policy.client_id},
                    "sub": {"essential": True},
                },
                {"nonce": nonce, "client_id": self._policy.client_id, "access_token": token.get("access_token")},
            )
            claims.validate(leeway=_LEEWAY_SECONDS)
        except (JoseError, KeyError, TypeError, ValueError) as error:
            log.warning("%s gave an identity token that proves nothing: %r", self._policy.issuer, error)
            raise LogInFailed from error
        return dict(claims)

    def _with_groups(
        self, claims: dict[str, Any], client: httpx.Client, metadata: Mapping[str, Any], access: str
    ) -> dict[str, Any]:
        """The claims, with those of the user's information if the identity token has no groups."""
        endpoint = metadata.get("userinfo_endpoint")
        if _in(claims, self._policy.role_claim) is not None or not isinstance(endpoint, str):
            return claims
        more = _json(client.get(endpoint, headers={"Authorization": f"Bearer {access}"}))
        return {**more, **claims} if more.get("sub") == claims["sub"] else claims

    # --- the person --------------------------------------------------------------------------------------------------

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        name = next(filter(None, (_printable(claims.get(each)) for each in ("preferred_username", "email", "sub"))), "")
        groups = _in(claims, self._policy.role_claim)
        listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        grant = granted(self._policy.grants, [each for each in listed if isinstance(each, str)])
        if grant is None:
            log.warning("%s of %s has no role: their groups are %s", name, self._policy.issuer, listed)
            raise Forbidden(
                f"{self.name} knows you as {name}, but no group of yours has a role here. Ask an administrator of this "
                f"service to add one to OIDC_ROLES; your groups are read from {self._policy.role_claim!r}."
            )
        return Identity(f"person {name}", f"person:{_printable(claims['sub'])}", grant.role, grant.projects)


def _json(response: httpx.Response) -> dict[str, Any]:
    response.raise_for_status()
    found = response.json()
    if not isinstance(found, dict):
        raise ValueError(f"{response.url} is no object")
    return found


def _in(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of this name, or the one inside others that the parts of the path name."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _printable(value: object) -> str:
    return "".join(filter(str.isprintable, value))[:_LONGEST_NAME] if isinstance(value, str) else ""
