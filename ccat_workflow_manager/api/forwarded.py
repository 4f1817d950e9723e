"""What the proxies of the site say about a request. A claim of any other caller is ignored."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.requests import Request


def address_of(request: Request) -> str:
    """Where the request came from: the nearest address that is not one of a proxy of the site."""
    address = "" if request.client is None else request.client.host
    claims = ",".join(request.headers.getlist("x-forwarded-for")).split(",")
    while claims and _is_proxy(request, address) and (said := _parsed(claims.pop().strip())) is not None:
        address = str(said)
    return address


def base_url_of(request: Request) -> str:
    """The address of this service as its caller knows it. `Guard` has checked the name of the host."""
    claim = request.headers.get("x-forwarded-proto", "")
    believed = request.client is not None and _is_proxy(request, request.client.host) and claim in ("http", "https")
    return f"{claim if believed else request.url.scheme}://{request.headers['host']}"


def _is_proxy(request: Request, address: str) -> bool:
    proxies = request.app.state.context.settings.proxies
    parsed = _parsed(address) if proxies else None
    return parsed is not None and any(parsed in network for network in proxies)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, IPv4Address):
        return parsed
    return None if parsed.scope_id else parsed.ipv4_mapped or parsed  # any text may be a scope
