"""The network between our processes and PostgreSQL, and between them and Redis, is cut again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest

from ccat_workflow_manager.db.session import Database
from tests.chaos.proxy import Proxy
from tests.chaos.test_servers import create
from tests.support import invariants
from tests.support.fixtures_service import ServiceMaker
from tests.support.waiting import wait_until


@pytest.fixture
def database_proxy(postgres_url: str) -> Iterator[Proxy]:
    [directory] = parse_qs(urlsplit(postgres_url).query)["host"]
    with closing(Proxy(f"{directory}/.s.PGSQL.5432")) as proxy:
        yield proxy


@pytest.fixture
def redis_proxy(redis_url: str) -> Iterator[Proxy]:
    with closing(Proxy(urlsplit(redis_url).path)) as proxy:
        yield proxy


@pytest.mark.slow
def test_a_network_that_comes_and_goes(
    make_service: ServiceMaker, postgres_url: str, database_proxy: Proxy, redis_proxy: Proxy
) -> None:
    """One deployment, whose ways to PostgreSQL and to Redis are cut for 1 and 30 s, and once are silent."""
    parts = urlsplit(postgres_url)
    user = parts.netloc.rpartition("@")[0]
    service = make_service(
        HPC_BACKEND="noop",
        DATABASE_URL=f"postgresql+psycopg://{user}@127.0.0.1:{database_proxy.port}{parts.path}",
        REDIS_URL=f"redis://127.0.0.1:{redis_proxy.port}/0",
    )
    promised: list[str] = []

    def more(number: int) -> None:
        """Ask until so many more runs have been promised."""
        target = len(promised) + number

        def asked() -> bool:
            run_id = create(service, uuid4().hex)
            promised.extend([run_id] if run_id else [])
            return len(promised) >= target

        wait_until(asked, 60, lambda: f"{number} runs to be promised; the log: {service.log()}")

    def trouble(*breaks: Callable[[], None]) -> None:
        more(3)
        for each in breaks:
            each()
        more(2)
        wait_until(lambda: database_proxy.whole and redis_proxy.whole, 40, "the network")
        more(1)
        for run_id in promised:
            assert service.wait(run_id, 60)["status"] == "COMPLETED"
        promised_ever.extend(promised)
        promised.clear()

    promised_ever: list[str] = []
    for proxy in (database_proxy, redis_proxy):
        trouble(lambda proxy=proxy: proxy.cut(1))  # type: ignore[misc]
        trouble(lambda proxy=proxy: proxy.hold(4))  # type: ignore[misc]
    trouble(lambda: database_proxy.cut(30), lambda: redis_proxy.cut(30))
    assert database_proxy.cuts > 2
    assert redis_proxy.cuts > 2
    assert len(promised_ever) >= 30
    with closing(Database(postgres_url)) as database, database.read() as unit:
        assert list(invariants.while_working(unit)) == []
