"""Calls the target of a webhook: one POST to an address that was checked, signed by the rules of Standard Webhooks."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from ccat_workflow_manager.db.webhooks import Delivery, Outcome
from ccat_workflow_manager.execution.transfers import tls_context

if TYPE_CHECKING:
    import httpx

_SECRET_PREFIX = "whsec_"
_SECRET_BYTES = 32
_LONGEST_URL = 2000
_LONGEST_PROBLEM = 500
_LONGEST_RETRY_AFTER = 3600.0
_GONE = 410
_NOT_PUBLIC = "is at an address that is not public; the setting WEBHOOK_PRIVATE_TARGETS can allow such"
_PORTS = {"http": 80, "https": 443}
# Addresses of IPv6 that stand for one of IPv4, which could be a private one.
_TRANSLATED = [ipaddress.ip_network(each) for each in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")]

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def new_secret() -> str:
    return _SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def signature(secret: str, delivery_id: str, timestamp: int, body: str) -> str:
    """The value of the header `webhook-signature`."""
    key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX))
    digest = hmac.digest(key, f"{delivery_id}.{timestamp}.{body}".encode(), hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def url_problem(url: str, *, private_allowed: bool) -> str | None:
    """Why this cannot be the address of a target. Names are resolved, and checked, only when something is sent."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if len(url) > _LONGEST_URL or not url.isascii() or not url.isprintable() or " " in url:
        return f"must have at most {_LONGEST_URL} printable ASCII characters without blanks"
    if parts.scheme not in _PORTS or not parts.hostname or port == 0:
        return "must begin with https:// or http:// and name a host"
    if parts.username is not None or parts.password is not None or parts.fragment:
        return "must have no user, no password and no fragment"
    return None if private_allowed or not _is_private(parts.hostname) else _NOT_PUBLIC


def _is_private(host: str) -> bool:
    try:
        return not _is_public(ipaddress.ip_address(host))
    except ValueError:
        return f".{host}".endswith(".localhost")


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if any(address in network for network in _TRANSLATED):
            return False
    return address.is_global and not address.is_multicast


@dataclass(frozen=True, slots=True)
class _Refused(Exception):
    """The target must not be called."""

    problem: str


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends deliveries. `seconds` is the time for one call, from the connection to the status of the answer."""

    private_allowed: bool
    seconds: float = 15

    def send(self, delivery: Delivery) -> Outcome:
        """One attempt. Never raises: what goes wrong is the problem of the outcome."""
        import httpx

        try:
            response = asyncio.run(self._post(delivery))
        except _Refused as refused:
            return Outcome(refused.problem, final=True)
        except TimeoutError:
            return Outcome(f"no answer within {self.seconds:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            return Outcome(f"{type(error).__name__}: {error}"[:_LONGEST_PROBLEM])
        if response.is_success:
            return Outcome(None, response.status_code)
        problem = f"the target answers {response.status_code}"
        if response.has_redirect_location:
            problem += "; redirects are not followed"
        return Outcome(
            problem,
            response.status_code,
            gone=response.status_code == _GONE,
            retry_after=_retry_after(response.headers.get("retry-after", "")),
        )

    async def _post(self, delivery: Delivery) -> httpx.Response:
        import httpx

        async with asyncio.timeout(self.seconds):
            parts = urlsplit(delivery.url)
            address = await self._resolve(parts)
            timestamp = int(time.time())
            headers = {
                "host": parts.netloc,
                "content-type": "application/cloudevents+json",
                "user-agent": "ccat-wm",
                "webhook-id": str(delivery.id),
                "webhook-timestamp": str(timestamp),
                "webhook-signature": signature(delivery.secret, str(delivery.id), timestamp, delivery.body),
            }
            # No proxy and no credentials of the environment: the connection goes to the address that was checked.
            async with (
                httpx.AsyncClient(
                    trust_env=False, follow_redirects=False, timeout=self.seconds, verify=tls_context()
                ) as client,
                client.stream(
                    "POST",
                    _at(parts, address),
                    headers=headers,
                    content=delivery.body.encode(),
                    extensions={"sni_hostname": parts.hostname},
                ) as response,
            ):
                return response

    async def _resolve(self, parts: SplitResult) -> str:
        """The address to connect to. Every address of the name must be allowed."""
        loop = asyncio.get_running_loop()
        port = parts.port or _PORTS[parts.scheme]
        found = await loop.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
        addresses = [str(each[4][0]) for each in found]
        if not self.private_allowed and (private := _private(addresses)):
            raise _Refused(f"{parts.hostname} is {private}, which is not a public address (WEBHOOK_PRIVATE_TARGETS)")
        return addresses[0]


def _private(addresses: Sequence[str]) -> str | None:
    """The first address that is not public."""
    for text in addresses:
        if not _is_public(ipaddress.ip_address(text.partition("%")[0])):
            return text
    return None


def _at(parts: SplitResult, address: str) -> str:
    """The URL with the address in place of the name."""
    host = f"[{address}]" if ":" in address else address
    port = f":{parts.port}" if parts.port else ""
    return parts._replace(netloc=f"{host}{port}").geturl()


def _retry_after(text: str) -> float | None:
    return min(float(text), _LONGEST_RETRY_AFTER) if text.isdecimal() and len(text) < 10 else None
