"""The invariants, for deployments that were started with `ccat-wm up`."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psutil

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.settings import load_settings
from tests.support import invariants
from tests.support.fixtures_service import Service
from tests.support.waiting import wait_until


@contextmanager
def context_of(service: Service) -> Iterator[Context]:
    """What a process of this deployment works with."""
    context = Context(
        load_settings(
            {
                "DATA_DIR": str(service.data_dir),
                "DATABASE_URL": service.postgres.url,
                "REDIS_URL": service.valkey.url,
                "CONTAINER_RUNTIME": "none",
            }
        )
    )
    try:
        yield context
    finally:
        context.close()


def require_all_is_well(
    service: Service, run_ids: Collection[str], *, marks: bool = False, seconds: float = 15
) -> None:
    """Within a while everything has come to rest, and nothing is wrong."""
    wrong: list[str] = []
    assert service.process is not None
    family = psutil.Process(service.process.pid)
    with context_of(service) as context:
        ground = invariants.Ground(
            database=context.database,
            data_dir=context.settings.data_dir,
            base_dir=Path(context.settings.pipeline_base_dir),
            backends={name: context.backend(name) for name in ("local", "noop", "concurrent")},
            marks=marks,
            own=lambda: [family.pid, *(child.pid for child in family.children(recursive=True))],
        )

        def well() -> bool:
            wrong[:] = invariants.violations(ground, [UUID(run_id) for run_id in run_ids])
            return not wrong

        try:
            wait_until(well, seconds)
        except AssertionError:
            raise AssertionError("\n".join(wrong[:20])) from None
