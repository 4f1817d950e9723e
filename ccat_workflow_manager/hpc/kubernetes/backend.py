"""Kubernetes: one batch/v1 Job for each attempt, through the API server; see docs/backends/kubernetes.md.

The name of a Job follows from the attempt, so a job that is submitted twice is one Job. The files of attempts lie on
the volume that workers and pods share.
"""

from __future__ import annotations

import importlib.util
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.definition.image_names import NoOciImage
from ccat_workflow_manager.errors import (
    BackendError,
    BackendRejected,
    BackendUnavailable,
    JobDeferred,
)
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import claim as claims
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.base import Availability, Capabilities, JobRequest, JobSeen, QueueStatus, ResourceUsage
from ccat_workflow_manager.hpc.file_backend import FileBackend
from ccat_workflow_manager.hpc.kubernetes import client
from ccat_workflow_manager.hpc.kubernetes.client import KubernetesClient
from ccat_workflow_manager.hpc.kubernetes.manifest import object_name, render_job
from ccat_workflow_manager.hpc.kubernetes.objects import JobKey, SeenJob, SeenPod, read_job, usage_of
from ccat_workflow_manager.hpc.kubernetes.script import pod_files, render_pod_script
from ccat_workflow_manager.hpc.kubernetes.settings import KubernetesSettings
from ccat_workflow_manager.hpc.kubernetes.site import site_of
from ccat_workflow_manager.hpc.kubernetes.status import Evidence, resolve_status
from ccat_workflow_manager.hpc.kubernetes.view import View
from ccat_workflow_manager.hpc.log_watch import LogWatch
from ccat_workflow_manager.hpc.note_store import REMEMBERED, JobNote, NoteStore
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.settings import settings_of

_AT_ONCE = 8
"""The most requests at the same time: an API server shares its capacity among all users."""
_LOG_LINES = 10_000
SWEEP_SECONDS = 3600.0
"""How often, and how soon after its start, a worker removes the notes of jobs that were never cleaned up."""


@dataclass(frozen=True, slots=True)
class KubernetesJob(JobNote):
    submitted_at: float


def job_store(base_dir: Path) -> NoteStore[KubernetesJob]:
    """The submitted jobs by the name of their Job, for all workers that share PIPELINE_BASE_DIR."""
    return NoteStore("kubernetes", base_dir / ".kubernetes", asdict, lambda data: KubernetesJob(**data))


class KubernetesBackend(FileBackend):
    """Jobs in one namespace of a cluster."""

    name = "kubernetes"
    capabilities = Capabilities(
        bulk_status=True, find=True, exit_record=True, notifies=True, lists=True, gpu=True, secrets="own"
    )
    settings = KubernetesSettings
    submit_seconds = 60

    def __init__(
        self,
        *,
        pipeline_base_dir: str,
        sif_cache_dir: str = "",
        kill_grace_seconds: float = 5,
        log_limit_mb: float = 512,
        disk_limit_gb: float = 0,
        **settings: Any,
    ) -> None:
        own = settings_of(KubernetesSettings, self.name, settings)
        self._site = site_of(
            own,
            base_dir=str(pipeline_base_dir),
            image_dir=str(sif_cache_dir),
            grace_seconds=kill_grace_seconds,
            disk_limit_gb=disk_limit_gb,
        )
        self.runs_images = self._site.native
        self._client = KubernetesClient(context=own.context or None, request_seconds=own.request_seconds)
        self._store = job_store(Path(self._site.base.path))
        self._finished: BoundedCache[JobKey, HPCJobInfo] = BoundedCache(REMEMBERED)
        self._logs = LogWatch(self.name, log_limit_mb, disk_limit_gb)
        self._new_view = partial(View, self._client, poll_seconds=own.poll_seconds, watch=own.watch)
        self._views: dict[str, View] = {}
        self._lock = threading.Lock()
        self._swept_at = time.monotonic()

    @classmethod
    def is_available(cls) -> Availability:
        if importlib.util.find_spec("kubernetes") is None:
            return Availability(False, "not installed: kubernetes", "pip install 'ccat-workflow-manager[kubernetes]'")
        if client.kubeconfig() or client.in_cluster():
            return Availability(True)
        hint = "name the configuration of the cluster in KUBECONFIG, or run the worker in a pod with a service account"
        return Availability(False, "no kubeconfig, and not in a cluster", hint)

    # --- submitting --------------------------------------------------------------------------------------------------

    def submit_many(self, requests: Sequence[JobRequest]) -> list[str | BackendError]:
        away: list[BackendError] = []

        def submit(request: JobRequest) -> str | BackendError:
            if away:
                return away[0]
            try:
                return self._submit(request)
            except (BackendRejected, JobDeferred) as error:
                return error
            except BackendError as error:
                away.append(error)
                return error

        return self._at_once(submit, requests)

    def _submit(self, request: JobRequest) -> str:
        """Write the script, then create the Job. A Job that exists already stems from an earlier try."""
        version = self._client.version()
        try:
            job = render_job(request, self._site, version)
        except ValueError as error:
            reason = FailureReason.IMAGE_INVALID if isinstance(error, NoOciImage) else FailureReason.REJECTED
            raise self.rejected(str(error), reason) from error
        files = self.prepare_script(
            request,
            lambda files: render_pod_script(
                request.execution_command,
                environment=request.environment_variables,
                files=files,
                native=self._site.native,
            ),
        )
        self.on_files(lambda: os.makedirs(pod_files(files).directory, exist_ok=True))
        key = JobKey(self._site.settings.used_namespace, job["metadata"]["name"])
        self._store.put(key.name, KubernetesJob(request.job_name, files.workspace, time.time()))
        created = self._client.create(key.namespace, job)
        if created is not None:
            self._view(key.namespace).add(created)
        elif self._find(key, request.job_name) is None:
            words = f"the Job {key.name} existed when it was submitted, and is gone now"
            raise BackendUnavailable(words, backend=self.name)
        return str(key)

    def find(self, job_name: str) -> str | None:
        key = JobKey(self._site.settings.used_namespace, object_name(job_name))
        return str(key) if self._find(key, job_name) is not None else None

    def _find(self, key: JobKey, job_name: str) -> SeenJob | None:
        """The Job of this name. Raises BackendRejected if it does not belong to this job."""
        data = self._client.get(key.namespace, key.name)
        if data is None:
            return None
        seen = read_job(data)
        if seen.job_name != job_name:
            raise self.rejected(f"{key.namespace} has another Job with the name {key.name}, which is not ours")
        self._view(key.namespace).add(data)
        return seen

    # --- following ---------------------------------------------------------------------------------------------------

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        keys = {job_id: key for job_id in job_ids if (key := JobKey.of(job_id)) is not None}
        for namespace in {key.namespace for key in keys.values()}:
            wanted = [key.name for key in keys.values() if key.namespace == namespace and key not in self._finished]
            self._view(namespace).look(wanted)
        infos = {job_id: self._info(keys[job_id]) if job_id in keys else UNKNOWN for job_id in job_ids}
        return self._logs.apply(infos, self.attempt_files, self.cancel_many)

    def _info(self, key: JobKey) -> HPCJobInfo:
        known = self._finished.get(key)
        if known is not None:
            return known
        files = self.attempt_files(str(key))
        evidence = self._evidence(key, files)
        info = resolve_status(evidence)
        if not info.finished:
            return info
        if files is not None and not self._settle(files, evidence, info):
            return HPCJobInfo(JobStatus.RUNNING)
        self._finished.put(key, info)
        return info

    def _evidence(self, key: JobKey, files: AttemptFiles | None) -> Evidence:
        """What the API server shows, and what the files can add to it at this point of the job's life."""
        job, pods = self._view(key.namespace).of(key.name)
        evidence = partial(Evidence, job, pods, datetime.now(UTC), self._site.settings.image_grace_seconds)
        if files is None:
            return evidence()
        own = pod_files(files)
        if job is not None and not job.over and job.deleting is None:
            # A node reports the start of a container later than the container starts; and of two pods, the claim shows
            # which one is the attempt.
            needed = len(pods) > 1 or any(pod.node and pod.phase == "Pending" for pod in pods)
            return evidence(claim=self.claim_of(own)) if needed else evidence()
        published = self.record_of(files)
        return evidence(
            claim=self.claim_of(own),
            record=self.record_of(own) if published is None else published,
            cancelled_at=self.on_files(lambda: claims.cancel_requested_at(files)),
        )

    def _settle(self, files: AttemptFiles, evidence: Evidence, info: HPCJobInfo) -> bool:
        """Make the end of a job final. Returns False if its pod, which had been given up, has started."""
        job = evidence.job
        if job is not None and not job.over:
            return self._block(files, str(info.message))
        if evidence.record is not None:
            self.on_files(lambda: _publish(files))
        return True

    def _block(self, files: AttemptFiles, why: str) -> bool:
        """Block an attempt. Returns False if its pod has started: only a program closes the directory of the claim."""

        def block() -> bool:
            try:
                return claims.block(pod_files(files), why)
            except PermissionError:
                return False

        return self.on_files(block)

    def listen(self, on_change: Callable[[Sequence[str]], None]) -> Callable[[], None]:
        ended: SimpleQueue[str | None] = SimpleQueue()
        namespace = self._site.settings.used_namespace
        threading.Thread(target=_report, args=(ended, on_change), name="kubernetes notices", daemon=True).start()
        stop_listening = self._view(namespace).listen(lambda name: ended.put(str(JobKey(namespace, name))))

        def stop() -> None:
            stop_listening()
            ended.put(None)

        return stop

    def list_jobs(self) -> Iterable[JobSeen]:
        view = self._fresh_view()
        self._sweep({job.name for job, _ in view.all() if job is not None})
        return view.living()

    def _sweep(self, existing: Collection[str]) -> None:
        """Remove the notes of jobs that a killed worker did not clean up, once Kubernetes has removed their Jobs."""
        if time.monotonic() - self._swept_at < SWEEP_SECONDS:
            return
        self._swept_at = time.monotonic()
        settings = self._site.settings
        oldest = time.time() - settings.pending_hours * 3600 - settings.ttl_seconds
        for name in self._store.ids():
            job = self._store.get(name) if name not in existing else None
            if job is not None and job.submitted_at < oldest:
                self._store.remove(name)

    def _view(self, namespace: str) -> View:
        with self._lock:
            if namespace not in self._views:
                self._views[namespace] = self._new_view(namespace)
            return self._views[namespace]

    def _fresh_view(self) -> View:
        view = self._view(self._site.settings.used_namespace)
        if not view.is_recent:
            view.refresh()
        return view

    # --- stopping and forgetting -------------------------------------------------------------------------------------

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        keys = [key for job_id in job_ids if (key := JobKey.of(job_id)) is not None and key not in self._finished]
        if keys:
            self.get_statuses([str(key) for key in keys])
            self._at_once(self._cancel, keys)

    def _cancel(self, key: JobKey) -> None:
        """First request and claim, so that a pod that has not started never does; then delete the Job and its pods."""
        job, _ = self._view(key.namespace).of(key.name)
        files = self.attempt_files(str(key))
        if key in self._finished or files is None or (job is not None and job.over):
            return
        self.on_files(lambda: claims.request_cancel(files, time.time()))
        self._block(files, claims.CANCELLED)
        self._client.delete(key.namespace, key.name, job.uid if job is not None else "")

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        self._at_once(self._clean, [key for job_id in job_ids if (key := JobKey.of(job_id)) is not None])

    def _clean(self, key: JobKey) -> None:
        self._client.delete(key.namespace, key.name)
        self._store.remove(key.name)
        self._finished.pop(key)

    def _at_once(self, do: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        if len(items) < 2:
            return [do(item) for item in items]
        with ThreadPoolExecutor(min(_AT_ONCE, len(items))) as pool:
            return list(pool.map(do, items))

    # --- files and logs ----------------------------------------------------------------------------------------------

    def attempt_files(self, job_id: str) -> AttemptFiles | None:
        key = JobKey.of(job_id)
        job = self._store.cached(key.name) if key is not None else None
        return job.files if job is not None else None

    def get_logs(self, job_id: str) -> str:
        """The log of the attempt; if there is none, that of the pod, for a job script that could not start."""
        text = super().get_logs(job_id)
        key = JobKey.of(job_id)
        if text or key is None or self.attempt_files(job_id) is None:
            return text
        return "".join(self._client.pod_log(key.namespace, pod.name, _LOG_LINES) for pod in self._started_pods(key))

    def _started_pods(self, key: JobKey) -> Sequence[SeenPod]:
        return [pod for pod in self._view(key.namespace).of(key.name)[1] if pod.phase != "Pending"]

    # --- for operators -----------------------------------------------------------------------------------------------

    def get_resource_usage(self, job_id: str) -> ResourceUsage | None:
        key = JobKey.of(job_id)
        running = [pod for pod in self._started_pods(key) if not pod.over] if key is not None else []
        data = self._client.pod_metrics(key.namespace, running[0].name) if key is not None and running else None
        return usage_of(data) if data is not None else None

    def ping(self) -> str:
        return f"server of version {'.'.join(map(str, self._client.version()))}"

    def queue_status(self) -> list[QueueStatus]:
        view = self._fresh_view()
        live = [pods for job, pods in view.all() if job is not None and not job.over]
        running = sum(any(pod.phase == "Running" for pod in pods) for pods in live)
        version = ".".join(map(str, self._client.version()))
        details = {
            "version": version, "mode": self._site.settings.mode, "watched": view.watched,
            "requests": self._client.requests,
        }  # fmt: skip
        return [QueueStatus(view.namespace, running=running, pending=len(live) - running, details=details)]

    def close(self) -> None:
        for view in self._views.values():
            view.close()
        self._client.close()


def _report(ended: SimpleQueue[str | None], on_change: Callable[[Sequence[str]], None]) -> None:
    """Report jobs until None comes. A slow listener does not hold up a watch: further ends gather meanwhile."""
    while True:
        gathered = {ended.get(): None}
        while not ended.empty():
            gathered[ended.get()] = None
        if None in gathered:
            return
        on_change([job_id for job_id in gathered if job_id is not None])


def _publish(files: AttemptFiles) -> None:
    """Move the exit record to the path that the service reads, where the program cannot change it."""
    if not os.path.lexists(files.record):
        # Another worker was faster, or the program has closed the directory.
        with suppress(FileNotFoundError, PermissionError):
            os.rename(pod_files(files).record, files.record)
