"""Runs in the database of a test: start them, launch what is ready, read their rows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.services.run_request import RunRequest


def one_step(**step: Any) -> dict[str, Any]:
    """A pipeline with one step, which is retried at once."""
    return {"name": "one", "steps": [{"name": "only", "command": ["a"], "retry": {"backoff_seconds": 0}, **step}]}


def start(context: Context, spec: dict[str, Any] | None = None, count: int = 1) -> list[UUID]:
    """Submit runs of `spec`, by default of one step."""
    run_ids, _ = context.submitter.submit_bulk([RunRequest(spec=spec or one_step())] * count, actor="test")
    return run_ids


def retry_backend(context: Context) -> None:
    """As if the pause after a problem of the backend had passed."""
    with context.database.begin() as unit:
        unit.execute("UPDATE backends SET retry_at = now()")


def end_delays(context: Context) -> None:
    """As if every back-off and every pause had passed."""
    retry_backend(context)
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET not_before = NULL")


def expire_leases(context: Context) -> None:
    with context.database.begin() as unit:
        unit.execute("UPDATE step_runs SET lease_until = now() - interval '1 second' WHERE lease_owner IS NOT NULL")


def launch(context: Context, limit: int = 10) -> int:
    """Launch what is ready, after every delay."""
    end_delays(context)
    return context.launcher.launch("noop", limit)


def rows(context: Context, columns: str = "*", table: str = "step_runs") -> list[Any]:
    order = "step_run_id, number" if table == "attempts" else "id"
    with context.database.read() as unit:
        return list(unit.execute(f"SELECT {columns} FROM {table} ORDER BY {order}").all())


def row(context: Context, columns: str = "*", table: str = "step_runs") -> Any:
    """The only row of the table."""
    [found] = rows(context, columns, table)
    return found


def backend_problem(context: Context) -> str | None:
    with context.database.read() as unit:
        problem: str | None = unit.execute("SELECT problem FROM backends WHERE name = 'noop'").scalar()
        return problem


def poll(context: Context) -> None:
    """Poll every live job."""
    context.poller.poll_all("noop")


def cancel_wanted(context: Context) -> int:
    """Carry out the cancel requests. Returns how many were confirmed."""
    return context.canceller.cancel_wanted("noop")
