"""The endpoint that ours is held against: the same libraries and the same style, and nothing but one committed row.

python -m tests.bench.http_reference DATABASE_URL PORT
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import uvicorn
from fastapi import Depends, FastAPI, Request
from sqlalchemy import create_engine, text
from starlette.responses import Response

from ccat_workflow_manager.db.session import new_id
from tests.bench.client import Connection
from tests.bench.deployment import Deployment, free_port
from tests.support.waiting import wait_for

_TABLE = "CREATE TABLE IF NOT EXISTS bare (id uuid PRIMARY KEY, body jsonb, at timestamptz DEFAULT now())"
_INSERT = text("INSERT INTO bare (id, body) VALUES (:id, :body)")


async def _body(request: Request) -> bytes:
    return await request.body()


def application(url: str) -> FastAPI:
    engine = create_engine(url, pool_size=5, max_overflow=5)
    with engine.begin() as connection:
        connection.execute(text(_TABLE))
    app = FastAPI()

    @app.post("/rows", status_code=202)
    def create(body: Annotated[bytes, Depends(_body)]) -> Response:
        row_id = str(new_id())
        content = json.loads(body)
        with engine.begin() as connection:
            connection.execute(_INSERT, {"id": row_id, "body": json.dumps(content)})
        return Response(json.dumps({"id": row_id}), 202, media_type="application/json")

    return app


@contextmanager
def bare_endpoint(beside: Deployment) -> Iterator[int]:
    """It runs in a process of its own, on the same database server: its port."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", __name__, beside.database_url, str(port)])
    try:
        wait_for(lambda: _accepts(port), 30, "the bare endpoint", 0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _accepts(port: int) -> bool:
    try:
        Connection(port).socket.close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1]), port=int(sys.argv[2]), log_config=None, access_log=False)
