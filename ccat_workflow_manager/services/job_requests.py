"""From a claimed step run to the request that its backend gets."""

from __future__ import annotations

from collections.abc import Sequence

from ccat_workflow_manager.db.products import Upstream
from ccat_workflow_manager.definition.compiled import CompiledPipeline
from ccat_workflow_manager.definition.substitution import substitute_step
from ccat_workflow_manager.errors import StagingError
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
from ccat_workflow_manager.execution.secrets import hand_over
from ccat_workflow_manager.execution.staging import stage
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.base import JobRequest
from ccat_workflow_manager.lifecycle.models import WorkItem
from ccat_workflow_manager.lifecycle.states import Status
from ccat_workflow_manager.services.backend_handle import BackendHandle
from ccat_workflow_manager.services.worker_context import WorkerHost
from ccat_workflow_manager.tracing import parsed


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
    step = _step_launch(item, compiled, upstream, inputs, backend, host)
    values = _secret_values(item, step, backend, host)
    staged = stage(
        step,
        base_dir=host.base_dir,
        sif_cache_dir=host.sif_cache_dir,
        runtime=host.runtime_for(backend),
        read_files=read_files,
        progress=progress,
        group=host.run_group,
        pull_seconds=host.image_pull_seconds,
    )
    dirs, launch, image = staged.dirs, staged.launch, staged.image
    own_record = backend.capabilities.exit_record
    if values:
        by_variable = {variable: values[name] for variable, name in launch.secrets.items()}
        hand_over(by_variable, AttemptFiles.of(dirs.workspace, item.job_name))
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
        secrets={variable: f"{item.run.project}/{name}" for variable, name in launch.secrets.items()},
    )


def _secret_values(item: WorkItem, step: StepLaunch, backend: BackendHandle, host: WorkerHost) -> dict[str, str]:
    """The values of the secrets by name, as far as the backend does not take them from a store of its own."""
    if not step.secrets or backend.secrets == "own":
        return {}
    if backend.secrets == "none":
        text = f"the backend {backend.name} cannot give secrets to its jobs, and step {item.step} uses some"
        raise StagingError(FailureReason.REJECTED, text)
    return host.secrets.values(item.run.project, set(step.secrets.values()), item.step)


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
        secrets=step.secrets,
        trace=None if (trace := parsed(run.trace)) is None else str(trace.of_attempt(item.job_name)),
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
