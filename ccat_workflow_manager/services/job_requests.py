"""From a claimed step run to the request that its backend gets."""

from __future__ import annotations

from collections.abc import Sequence

from ccat_workflow_manager.db.products import Upstream
from ccat_workflow_manager.definition.compiled import CompiledPipeline
from ccat_workflow_manager.definition.substitution import substitute_step
from ccat_workflow_manager.execution.exit_record import wrapped
from ccat_workflow_manager.execution.launch_spec import (
    Input,
    LostUpstream,
    Progress,
    ReadFiles,
    StepLaunch,
    UpstreamProduct,
    UpstreamProducts,
)
from ccat_workflow_manager.execution.staging import stage
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.lifecycle.models import WorkItem
from ccat_workflow_manager.lifecycle.states import Status
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.worker_context import WorkerHost


def build_request(
    item: WorkItem,
    compiled: CompiledPipeline,
    upstream: Sequence[Upstream],
    inputs: Sequence[Input],
    *,
    backend: BackendHandle,
    host: WorkerHost,
    read_files: ReadFiles,
    progress: Progress,
) -> JobRequest:
    """Stage the attempt and return its request. A backend that runs nothing gets no directories."""
    if not backend.capabilities.executes:
        return JobRequest(job_name=item.job_name, resource_requirements=item.resources, priority=item.priority)
    staged = stage(
        _step_launch(item, compiled, upstream, inputs, backend, host),
        base_dir=host.base_dir,
        sif_cache_dir=host.sif_cache_dir,
        runtime=host.runtime_for(backend),
        read_files=read_files,
        progress=progress,
        group=host.run_group,
    )
    dirs, launch, image = staged.dirs, staged.launch, staged.image
    own_record = backend.capabilities.exit_record
    return JobRequest(
        execution_command=launch.vector if own_record else wrapped(launch, dirs, item.job_name),
        image_ref=image.reference if image else None,
        sif_path=(image.path or None) if image else None,
        input_dir=dirs.input,
        output_dir=dirs.output_partial,
        workspace_dir=dirs.workspace,
        manifest_path=dirs.manifest,
        resource_requirements=item.resources,
        environment_variables=launch.environment,
        job_name=item.job_name,
        priority=item.priority,
        mounts=launch.mounts,
    )


def _step_launch(
    item: WorkItem,
    compiled: CompiledPipeline,
    upstream: Sequence[Upstream],
    inputs: Sequence[Input],
    backend: BackendHandle,
    host: WorkerHost,
) -> StepLaunch:
    run, definition = item.run, compiled.step(item.step)
    step = substitute_step(definition.spec, run.parameters, item.item, str(run.run_id), item.step)
    return StepLaunch(
        pipeline=run.pipeline,
        run_id=str(run.run_id),
        step=item.step,
        key=item.key,
        attempt=item.attempt,
        command=step.command,
        image=step.image,
        environment=step.environment,
        resources=item.resources,
        parameters=run.parameters,
        item=item.item,
        files=definition.files,
        upstream=[_upstream_products(item, each, host) for each in upstream if each.status == Status.COMPLETED],
        lost=[
            LostUpstream(each.step, each.key, each.status.lower(), each.reason, each.reason_text)
            for each in upstream
            if each.status != Status.COMPLETED
        ],
        inputs=inputs,
        limits_by_runtime=not backend.capabilities.memory_limit,
    )


def _upstream_products(item: WorkItem, upstream: Upstream, host: WorkerHost) -> UpstreamProducts:
    products = [
        UpstreamProduct(p.id, p.name, p.type, p.path, p.size, p.sha256, p.is_directory) for p in upstream.products
    ]
    dirs = host.dirs_of(item.run, upstream.step, upstream.key, upstream.attempt)
    return UpstreamProducts(upstream.step, upstream.key, dirs.output, products)
