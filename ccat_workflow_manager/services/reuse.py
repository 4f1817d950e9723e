"""Whether a step run takes over the products of an earlier one, and the takeover itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ccat_workflow_manager.db.inputs import saved_inputs
from ccat_workflow_manager.db.products import Upstream, UpstreamReader
from ccat_workflow_manager.db.reuse import Done, OldProduct, find_done, products_of
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.definition.compiled import CompiledPipeline
from ccat_workflow_manager.execution.launch_spec import Input, Progress
from ccat_workflow_manager.execution.provenance import provenance
from ccat_workflow_manager.execution.reuse import discard, missing, take_over
from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Facts, NewProduct, Transition, TransitionEvent, WorkItem
from ccat_workflow_manager.lifecycle.states import Event
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.catalogue import Catalogue
from ccat_workflow_manager.services.fingerprint import IMAGE, differences, own_parts, parts_of
from ccat_workflow_manager.services.worker_context import WorkerContext

log = logging.getLogger(__name__)

NO_DIGEST = "the digest of its image is not known, and without one nothing is reused"
DELETED = "the step run that it could reuse was deleted"


class NotReused(Exception):
    """Why a step run is launched instead of taking over products."""


class Reuser:
    """Decides for one worker, when a step run is ready and the products before it are known."""

    def __init__(self, context: WorkerContext) -> None:
        self._context = context

    def provenance(
        self, item: WorkItem, compiled: CompiledPipeline, backend: BackendHandle, progress: Progress
    ) -> Mapping[str, Any] | None:
        """What an attempt runs now. None at a backend that runs nothing."""
        if not backend.capabilities.executes:
            return None
        parts = own_parts(item, compiled)
        command, image = parts["command"], parts[IMAGE]
        assert isinstance(command, list)
        host = self._context.host
        return provenance(
            [str(each) for each in command],
            None if image is None else str(image),
            runtime=host.runtime_for(backend),
            sif_cache_dir=host.sif_cache_dir,
            progress=progress,
        )

    def take_over(
        self,
        item: WorkItem,
        compiled: CompiledPipeline,
        upstream: Sequence[Upstream],
        inputs: Sequence[Input],
        backend: BackendHandle,
        progress: Progress,
    ) -> Transition:
        """The transition of a step run that takes over products. Raises NotReused."""
        context, now = self._context, self.provenance(item, compiled, backend, progress)
        try:
            old, products = self._find(item)
            before = old_parts(context.database, context.catalogue, old, context.upstream_max_products)
            if why := reasons_against(
                parts_of(item, compiled, upstream, _checksums(inputs), now or {}), before, now, old.provenance
            ):
                raise NotReused(why)
            if backend.capabilities.executes:
                self._link(item, old.item, products, progress)
        except NotReused:
            if backend.capabilities.executes:
                discard(self._context.host.dirs(item))
            raise
        text = f"took over the products of step run {old.item.step_run_id} of run {old.item.run.run_id}"
        return Transition(
            item.step_run_id,
            [TransitionEvent(Event.REUSED, self._context.worker, text=text)],
            item.token,
            Facts(provenance=now),
            products=[_taken(product) for product in products],
        )

    def _find(self, item: WorkItem) -> tuple[Done, Sequence[OldProduct]]:
        assert item.replay_of is not None
        with self._context.database.read() as unit:
            old = find_done(unit, item.replay_of)
            if old is None:
                raise NotReused(DELETED)
            if not old.completed:
                raise NotReused(f"the step run that it could reuse is {old.item.status}")
            return old, products_of(unit, item.replay_of)

    def _link(self, item: WorkItem, old: WorkItem, products: Sequence[OldProduct], progress: Progress) -> None:
        host = self._context.host
        source = host.dirs(old).output
        if (lost := missing(source, products)) is not None:
            raise NotReused(f"the product {lost} of {old.step}/{old.key} in run {old.run.run_id} is not there any more")
        try:
            take_over(source, host.dirs(item), group=host.run_group, progress=progress)
        except OSError as error:
            log.warning("%s/%s could not take over products: %s", item.step, item.key, error)
            raise NotReused(f"the products could not be linked: {error.strerror or error}") from error


def old_parts(database: Database, catalogue: Catalogue, done: Done, most_products: int) -> dict[str, JSON]:
    """The fingerprint of a step run that has run, or is ready to."""
    upstream = UpstreamReader(database, [done.item], most_products).of(done.item)
    with database.read() as unit:
        compiled = catalogue.compiled(unit, done.item.run.spec_id)
        saved = saved_inputs(unit, [done.item.step_run_id])
    inputs = [Input(**each) for each in saved.get(done.item.step_run_id, ())]
    return parts_of(done.item, compiled, upstream, _checksums(inputs), done.provenance or {})


def _checksums(inputs: Sequence[Input]) -> dict[str, str]:
    return {each.name: each.sha256 for each in inputs}


def reasons_against(
    now: Mapping[str, JSON],
    before: Mapping[str, JSON],
    provenance_now: Mapping[str, Any] | None,
    provenance_before: Mapping[str, Any] | None,
) -> str | None:
    """Why a step run cannot take over the products of another. None: it can."""
    if provenance_now is not None and (
        provenance_now.get(IMAGE) is None or provenance_before is None or provenance_before.get(IMAGE) is None
    ):
        return NO_DIGEST
    return "; ".join(difference.text for difference in differences(now, before)) or None


def _taken(product: OldProduct) -> NewProduct:
    return NewProduct(
        name=product.name,
        type=product.type,
        path=product.path,
        size=product.size,
        sha256=product.sha256,
        is_directory=product.is_directory,
        file_count=product.file_count,
        metadata=product.metadata,
        parents=[product.id],
    )
