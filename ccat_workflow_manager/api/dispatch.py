"""From a request to its route, without the layers of FastAPI in between.

FastAPI goes through its routers twice, and puts each request into nine layers. What requests need of that is here: find
the route, run it, answer errors. What is called here may change with any version of FastAPI, so `pyproject.toml` allows
one minor version only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from re import Match
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import Route as PlainRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from ccat_workflow_manager.api.route import HEAD, Route


class _Place(NamedTuple):
    """A route at one address."""

    match: Callable[[str], Match[str] | None]
    methods: frozenset[str]
    route: PlainRoute
    """A `Route`, or one without rights: of files, or of the description of the API."""


class Dispatch:
    """Runs the first route that takes the path and the method."""

    def __init__(self, app: FastAPI) -> None:
        self._places: Sequence[_Place] = tuple(_places(app))
        self._router = app.router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"
        method = "GET" if is_head else scope["method"]
        found = self._find(scope["path"], method)
        if found is None:
            if others := [place for place in self._places if place.match(scope["path"]) is not None]:
                scope["route"] = others[0].route  # for the metrics
                raise HTTPException(405, headers={"Allow": ", ".join(_methods(others))})
            raise HTTPException(404)
        route, scope["path_params"] = found
        scope["route"], scope["endpoint"] = route, route.endpoint
        if not isinstance(route, Route):
            await route.app(scope, receive, send)
            return
        if is_head:
            scope = {**scope, "method": method, HEAD: True}
        await route.answer(scope, receive, send)

    def _find(self, path: str, method: str) -> tuple[PlainRoute, dict[str, Any]] | None:
        for place in self._places:
            if method in place.methods and (match := place.match(path)) is not None:
                return place.route, match.groupdict()
        return None


def _methods(places: Iterable[_Place]) -> list[str]:
    found = {method for place in places for method in place.methods}
    return sorted(found | {"HEAD"} if "GET" in found else found)


def _places(app: FastAPI) -> Iterator[_Place]:
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if isinstance(route, PlainRoute):
            own: Any = context
            yield _Place(own.path_regex.match, frozenset(own.methods or ()), route)


def stack(app: FastAPI) -> ASGIApp:
    """The middleware of the application around its routes. Unlike FastAPI's, it has no layer that does nothing here."""
    layers: ASGIApp = ExceptionMiddleware(Dispatch(app), handlers=app.exception_handlers)
    for kind, args, kwargs in reversed(app.user_middleware):
        layers = kind(layers, *args, **kwargs)
    return layers
