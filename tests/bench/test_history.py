"""The invented history is one that the service could have written."""

from __future__ import annotations

import psycopg

from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.services.verify import Progress, Verification
from tests.bench.filling import fill
from tests.bench.million import count_figures


def test_nothing_is_wrong_with_an_invented_history(postgres_url: str) -> None:
    fill(postgres_url, 60)
    count_figures(postgres_url)
    database = Database(postgres_url)
    verification = Verification(database, "/nowhere", rest=lambda seconds: None)
    assert {finding.kind for finding in verification.findings(Progress())} == {"product"}, (
        "only their files are missing"
    )
    database.close()
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        statuses: dict[str, int] = dict(connection.execute("SELECT status, count(*) FROM runs GROUP BY 1").fetchall())
    assert sum(statuses.values()) == 60
    assert statuses.keys() >= {"COMPLETED", "RUNNING", "PENDING"}
