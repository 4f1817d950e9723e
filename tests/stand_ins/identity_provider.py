"""A stand-in for an OpenID Connect provider: real HTTP on loopback, real keys, codes that work once, PKCE checked.

It is no product of the field. Its answers have the form of OpenID Connect Core and Discovery; a test changes single
ones to see that they are refused.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

CLIENT_ID, CLIENT_SECRET = "ccat-wm", "a secret of the client"
ALGORITHM = "ES256"


def new_key() -> ECKey:
    return ECKey.generate_key("P-256", {"kid": secrets.token_hex(4), "use": "sig"})


@dataclass
class IdentityProvider:
    """The provider, its users by name with their claims, and what a test changes."""

    issuer: str
    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    key: ECKey = field(default_factory=new_key)
    published: list[ECKey] | None = None
    """The keys that it shows; None: the one that it signs with."""
    user_info: dict[str, Any] = field(default_factory=dict)
    """Claims that the identity token does not have."""
    change: Callable[[dict[str, Any]], None] = lambda claims: None
    """Changes the claims of an identity token before it is signed."""
    sign: Callable[[dict[str, Any]], str] | None = None
    """Makes the identity token in its own way."""
    status: int = 200
    """The status of its description of itself."""
    codes: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def description(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "jwks_uri": f"{self.issuer}/keys",
            "id_token_signing_alg_values_supported": [ALGORITHM, "HS256", "none"],
            "code_challenge_methods_supported": ["S256"],
        }

    def keys(self) -> dict[str, Any]:
        shown = [self.key] if self.published is None else self.published
        return dict(KeySet(list(shown)).as_dict(private=False))

    def rotate(self) -> None:
        self.key = new_key()

    # --- the three calls of a log-in ---------------------------------------------------------------------------------

    def authorize(self, query: dict[str, str]) -> str:
        """Returns the address to send the browser back to, with a code for the user `login`."""
        wanted = {"response_type": "code", "client_id": CLIENT_ID, "code_challenge_method": "S256"}
        if any(query.get(name) != value for name, value in wanted.items()) or "openid" not in query["scope"].split():
            raise ValueError(f"this is no request for a code with PKCE: {query}")
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        return f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"

    def token(self, form: dict[str, str], authorization: str) -> dict[str, Any]:
        expected = base64.b64encode(f"{CLIENT_ID}:{CLIENT_SECRET}".encode()).decode()
        if authorization != f"Basic {expected}" and authorization.replace("+", "%20") != f"Basic {expected}":
            return {"error": "invalid_client"}
        query = self.codes.pop(form.get("code", ""), None)  # a code works once
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        proof = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if query is None or query["code_challenge"] != proof or query["redirect_uri"] != form.get("redirect_uri"):
            return {"error": "invalid_grant"}
        now = int(time.time())
        claims = {
            "iss": self.issuer, "aud": CLIENT_ID, "sub": f"id of {query['login']}", "iat": now, "exp": now + 300,
            "nonce": query["nonce"], "preferred_username": query["login"], **self.users[query["login"]],
        }  # fmt: skip
        self.user_info.setdefault("sub", claims["sub"])
        self.change(claims)
        token = (
            self.sign(claims) if self.sign else jwt.encode({"alg": ALGORITHM, "kid": self.key.kid}, claims, self.key)
        )
        return {"access_token": "access", "token_type": "Bearer", "expires_in": 60, "id_token": token}


_FORM = """<!doctype html><title>Provider</title><form action="/authorize">{fields}
<label>Name <input name="login"></label><button>Sign in</button></form>"""


@contextmanager
def identity_provider(host: str = "127.0.0.1") -> Iterator[IdentityProvider]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path == "/.well-known/openid-configuration":
                self.answer(provider.description, provider.status)
            elif parts.path == "/keys":
                self.answer(provider.keys())
            elif parts.path == "/userinfo" and self.headers["authorization"] == "Bearer access":
                self.answer(provider.user_info)
            elif parts.path == "/authorize" and "login" in query:
                self.send_response(302)
                self.send_header("location", provider.authorize(query))
                self.send_header("content-length", "0")
                self.end_headers()
            elif parts.path == "/authorize":
                hidden = '<input type="hidden" name="{}" value="{}">'
                fields = "".join(hidden.format(name, html.escape(value)) for name, value in query.items())
                self.answer(_FORM.format(fields=fields), kind="text/html")
            else:
                self.answer({"error": "not_found"}, 404)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            form = {name: values[0] for name, values in parse_qs(body).items()}
            answer = provider.token(form, self.headers["authorization"] or "")
            self.answer(answer, 400 if "error" in answer else 200)

        def answer(self, content: Any, status: int = 200, kind: str = "application/json") -> None:
            body = (content if isinstance(content, str) else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in the base class
            """Nothing to the terminal."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = IdentityProvider(f"http://{host}:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
