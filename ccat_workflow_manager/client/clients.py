"""Client and AsyncClient: the same groups of methods over two transports."""

from __future__ import annotations

import httpx

from ccat_workflow_manager.client import groups
from ccat_workflow_manager.client.both import AsyncGroup, SyncGroup, finished
from ccat_workflow_manager.client.connection import Address
from ccat_workflow_manager.client.transport import AsyncTransport, BlockingTransport

PATIENCE_SECONDS = 60.0


class _Pipelines(SyncGroup, groups.Pipelines): ...


class _Runs(SyncGroup, groups.Runs): ...


class _StepRuns(SyncGroup, groups.StepRuns): ...


class _Products(SyncGroup, groups.Products): ...


class _Backends(SyncGroup, groups.Backends): ...


class _Explain(SyncGroup, groups.Explain): ...


class _Events(SyncGroup, groups.Events): ...


class _AsyncPipelines(AsyncGroup, groups.Pipelines): ...


class _AsyncRuns(AsyncGroup, groups.Runs): ...


class _AsyncStepRuns(AsyncGroup, groups.StepRuns): ...


class _AsyncProducts(AsyncGroup, groups.Products): ...


class _AsyncBackends(AsyncGroup, groups.Backends): ...


class _AsyncExplain(AsyncGroup, groups.Explain): ...


class _AsyncEvents(AsyncGroup, groups.Events): ...


class Client:
    """Calls the service and returns when it has answered.

    Without `url` and `token` it finds the service as the commands do: CCAT_WM_URL and CCAT_WM_TOKEN, else the service
    of this user on this machine. While the service does not answer, a request is repeated for `patience` seconds.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        patience: float = PATIENCE_SECONDS,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.api = api = BlockingTransport(Address.find(url, token), patience, transport)
        self.pipelines = _Pipelines(api)
        self.runs = _Runs(api)
        self.step_runs = _StepRuns(api)
        self.products = _Products(api)
        self.backends = _Backends(api)
        self.explain = _Explain(api)
        self.events = _Events(api)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        finished(self.api.aclose())


class AsyncClient:
    """The same methods, to be awaited."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        patience: float = PATIENCE_SECONDS,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.api = api = AsyncTransport(Address.find(url, token), patience, transport)
        self.pipelines = _AsyncPipelines(api)
        self.runs = _AsyncRuns(api)
        self.step_runs = _AsyncStepRuns(api)
        self.products = _AsyncProducts(api)
        self.backends = _AsyncBackends(api)
        self.explain = _AsyncExplain(api)
        self.events = _AsyncEvents(api)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.api.aclose()
