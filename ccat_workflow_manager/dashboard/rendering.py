"""Templates, and the responses that carry pages: compressed, with a strict policy, with an ETag."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from ccat_workflow_manager.dashboard import assets, times, words
from ccat_workflow_manager.dashboard.drawing import bars, charts, shapes, uptime

_TEMPLATES = Path(__file__).with_name("templates")
_SMALL = 1000
_CODE = re.compile("`([^`\n]+)`")
_MOMENT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})T([0-9]{2}:[0-9]{2}:[0-9]{2})\.[0-9]{1,6}(?:Z|\+00:00)")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache, private",
    "Vary": "Accept-Encoding",
}


@cache
def environment() -> Environment:
    """The templates, with everything that they may call."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals.update(
        icon=shapes.icon,
        shape=shapes.shape,
        cell=shapes.cell,
        bar=bars.bar,
        meter=bars.meter,
        nodes_bar=bars.nodes_bar,
        usage_bar=bars.usage,
        by_group=bars.by_group,
        uptime=uptime.uptime,
        away_seconds=uptime.away_seconds,
        groups=shapes.GROUPS,
        spark=charts.spark,
        asset=assets.address,
        w=words,
    )
    made.filters.update(
        clock=times.clock,
        exact=times.exact,
        iso=times.iso,
        duration=times.duration,
        age=times.age,
        since=times.since,
        number=times.number,
        bytes=times.size,
        short=times.short_id,
        shown=words.shown,
        told=told,
        pretty=pretty,
        yaml=as_yaml,
    )
    return made


def told(text: str) -> Markup:
    """A text of the service: what stands between backticks as code, and times without microseconds."""
    plain = _MOMENT.sub(r"\1 \2 UTC", text)
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(plain))))


def pretty(value: object) -> str:
    """A JSON value as indented text."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def as_yaml(value: object) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def render(template: str, values: Mapping[str, Any]) -> str:
    return environment().get_template(template).render(values)


class Rendered:
    """The text of a page or a part of one, ready to be sent to any reader."""

    def __init__(self, text: str) -> None:
        self.body = words.printable(text).encode("utf-8", "replace")
        self._responses: dict[int, Response] = {}

    @cached_property
    def etag(self) -> str:
        return f'W/"{hashlib.sha256(self.body).hexdigest()[:20]}"'

    @cached_property
    def zipped(self) -> bytes:
        return gzip.compress(self.body, 4, mtime=0)

    def prepare(self) -> None:
        """Hash and compress it now, in the present thread."""
        self.etag  # noqa: B018
        if len(self.body) > _SMALL:
            self.zipped  # noqa: B018

    def answer(self, request: Request, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """304 if the browser has it already."""
        accepted = request.headers.get("accept-encoding", "")
        if status == 200 and request.method == "GET" and not headers:
            return self.response(request.headers.get("if-none-match", ""), accepted)
        return self._whole(accepted, status, headers or {})

    def response(self, known: str, accepted: str) -> Response:
        """The response to a GET with these headers `If-None-Match` and `Accept-Encoding`, made once for all."""
        kind = 304 if known == self.etag else int("gzip" in accepted)
        if kind not in self._responses:
            headers = {"ETag": self.etag}
            self._responses[kind] = (
                Response(status_code=304, headers={**HEADERS, **headers})
                if kind == 304
                else self._whole(accepted, 200, headers)
            )
        return self._responses[kind]

    def _whole(self, accepted: str, status: int, headers: Mapping[str, str]) -> Response:
        body, sent = self.body, {**HEADERS, **headers}
        if len(body) > _SMALL and "gzip" in accepted:
            body = self.zipped
            sent["Content-Encoding"] = "gzip"
        return Response(body, status, sent, "text/html; charset=utf-8")


def html(request: Request, text: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A page or a fragment."""
    return Rendered(text).answer(request, status, headers)
