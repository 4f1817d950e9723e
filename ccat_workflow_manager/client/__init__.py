"""The Python client of the service.

    from ccat_workflow_manager.client import Client

    with Client() as client:
        run = client.runs.submit("chai-map", parameters={"scans": ["a", "b"]})
        run = client.runs.wait(run.id)

`AsyncClient` has the same methods, to be awaited. Both need `httpx` only.
"""

from ccat_workflow_manager.client.answers import Record, Run, StepRun
from ccat_workflow_manager.client.clients import AsyncClient, Client
from ccat_workflow_manager.client.connection import ApiRefused, WrongAddress
from ccat_workflow_manager.client.download import Damaged, Fetched, Occupied
from ccat_workflow_manager.errors import ServiceUnavailable

__all__ = [
    "ApiRefused", "AsyncClient", "Client", "Damaged", "Fetched", "Occupied", "Record", "Run", "ServiceUnavailable",
    "StepRun", "WrongAddress",
]  # fmt: skip
