"""The routes of this API: what is checked before a handler runs, where it runs, and what the service gives to it.

FastAPI binds and describes what a client sends: path, query and headers. Each dependency would cost about as much as
the handling of all of these, so there are none: a handler marks with `Given` what the service provides.

    def create_run(context: Ctx, who: Who, body: Body, key: IdempotencyKey = None) -> Response: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any, get_args

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ccat_workflow_manager.api.dependencies import Given, known_parameters, no_unknown_body, reading_body
from ccat_workflow_manager.api.event_stream import EventStream
from ccat_workflow_manager.api.rights import RIGHTS, Right, authorize
from ccat_workflow_manager.threads import in_thread

Handler = Callable[..., Any]
Endpoint = Callable[..., Coroutine[Any, Any, Any]]

HEAD = "ccat_wm.head"
"""In the scope of a request for the head of an answer only."""
_STACKS = ("fastapi_middleware_astack", "fastapi_inner_astack", "fastapi_function_astack")
"""Where FastAPI puts what is to be closed at the end of a request."""
_READS_QUERY = "_reads_query"
_PUBLIC = ("/openapi.json", "/static")
"""Not of FastAPI: the description of the API, and the files of pages."""


class Route(APIRoute):
    """A route that refuses what its caller has no right to."""

    is_strict = False
    """It refuses a body that its handler would ignore."""

    _checked: Callable[[Request], Coroutine[Any, Any, Response]]

    def __init__(self, path: str, endpoint: Handler, **options: Any) -> None:
        signature = inspect.signature(endpoint, eval_str=True)
        given = {name: found for name, each in signature.parameters.items() if (found := _given(each.annotation))}
        self.rights: dict[str, Right] = {}
        """By method; `declare` sets them."""
        self._checks_query = not getattr(endpoint, _READS_QUERY, False)
        self.takes_body = any(each.reads_body for each in given.values())
        super().__init__(path, _with_given(endpoint, signature, given), **options)
        self.parameters = {each.alias: each.field_info.annotation for each in self.dependant.query_params}
        """Those of the query, by name, with their types."""

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request whose path and method are those of this route."""
        request = Request(scope, receive, send)
        async with AsyncExitStack() as stack:
            scope.update(dict.fromkeys(_STACKS, stack))
            response = await self._checked(request)
            if HEAD in scope:
                response = _head_of(response)
            await response(scope, receive, send)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def checked(request: Request) -> Response:
            await authorize(request, self.rights[request.method], self.name)
            if self._checks_query and request.scope["query_string"]:
                known_parameters(request, self.parameters)
            if not self.takes_body:
                if self.is_strict:
                    await no_unknown_body(request)
                return await answer(request)
            async with reading_body(request):
                return await answer(request)

        self._checked = checked
        return checked


def _head_of(response: Response) -> Response:
    """The same without its body, which may be a large file or without an end: it is not made."""
    if isinstance(response, EventStream):
        response.abandon()
    head = Response(status_code=response.status_code)
    head.raw_headers = response.raw_headers
    return head


class ApiRoute(Route):
    """A route of the API, unlike one of the pages."""

    is_strict = True


def reads_query(handler: Handler) -> Handler:
    """Mark a handler that looks at the names of the query itself. Other routes refuse those that they do not know."""
    setattr(handler, _READS_QUERY, True)
    return handler


def api_router(**options: Any) -> APIRouter:
    return APIRouter(route_class=ApiRoute, **options)


def page_router() -> APIRouter:
    return APIRouter(route_class=Route)


def declare(app: FastAPI) -> None:
    """Give each route its right. Raises LookupError if a route has none, or checks none."""
    faults = []
    for context in iter_route_contexts(app.routes):
        route = context.original_route
        if not isinstance(route, APIRoute):
            if not str(context.path).startswith(_PUBLIC):
                faults.append(f"{context.path} is no route of FastAPI")
            continue
        for method in sorted(context.methods or ()):
            right = RIGHTS.get(key := f"{method} {context.path_format}")
            if right is None:
                faults.append(f"{key} is not in RIGHTS")
            elif not isinstance(route, Route):
                faults.append(f"{key} is no `Route`")
            elif route.rights.setdefault(method, right) != right:
                faults.append(f"{key} has another right than the same function elsewhere")
    if faults:
        raise LookupError("; ".join(faults))


def _given(annotation: Any) -> Given | None:
    return next((each for each in get_args(annotation) if isinstance(each, Given)), None)


def _with_given(handler: Handler, signature: inspect.Signature, given: Mapping[str, Given]) -> Endpoint:
    """The handler as FastAPI sees it: a coroutine that takes the request, and what the client sends."""
    own_request = next((name for name, each in signature.parameters.items() if each.annotation is Request), None)
    sources = {name: each.of for name, each in given.items()}

    def call(request: Request, values: dict[str, Any]) -> Any:
        for name, of in sources.items():
            values[name] = of(request)
        if own_request is not None:
            values[own_request] = request
        return handler(**values)

    async def in_loop(_request: Request, **values: Any) -> Any:
        return await call(_request, values)

    async def elsewhere(_request: Request, **values: Any) -> Any:
        return await in_thread(call, _request, values)

    endpoint: Any = in_loop if inspect.iscoroutinefunction(handler) else elsewhere
    sent = [each for name, each in signature.parameters.items() if name not in given and name != own_request]
    first = inspect.Parameter("_request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    sent = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in sent]
    endpoint.__signature__ = signature.replace(parameters=[first, *sent])
    endpoint.__name__, endpoint.__doc__, endpoint.__module__ = handler.__name__, handler.__doc__, handler.__module__
    return endpoint  # type: ignore[no-any-return]
