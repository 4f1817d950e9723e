"""Kubernetes: one batch/v1 Job for each attempt, through the API server; see docs/backends/kubernetes.md.

Jobs have names that follow from the attempt, so that one that was submitted twice is still one. Their files lie on the
volume that workers and pods share; what the API server says of a namespace is kept in one view for all its jobs.
"""

from __future__ import annotations

import importlib.util
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ccat_workflow_manager.definition.image_names import oci_image
from ccat_workflow_manager.errors import (
    BackendConfused,
    BackendError,
    BackendRejected,
    BackendUnavailable,
    JobDeferred,
)
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt import files as shared
from ccat_workflow_manager.hpc.attempt.logs import read_logs, tail_log
from ccat_workflow_manager.hpc.attempt.script import write_script
from ccat_workflow_manager.hpc.base import (
    Availability,
    BulkBackend,
    Capabilities,
    JobRequest,
    JobSeen,
    LogStream,
    QueueStatus,
    ResourceUsage,
)
from ccat_workflow_manager.hpc.kubernetes import calls, notes
from ccat_workflow_manager.hpc.kubernetes.calls import Calls
from ccat_workflow_manager.hpc.kubernetes.configuration import site_of
from ccat_workflow_manager.hpc.kubernetes.manifest import NATIVE_SETTING, object_name, render_job
from ccat_workflow_manager.hpc.kubernetes.metrics import usage_of
from ccat_workflow_manager.hpc.kubernetes.notes import Notes
from ccat_workflow_manager.hpc.kubernetes.notices import Notices
from ccat_workflow_manager.hpc.kubernetes.observed import SeenJob, SeenPod, read_job
from ccat_workflow_manager.hpc.kubernetes.script import AttemptFiles, render_pod_script
from ccat_workflow_manager.hpc.kubernetes.settings import KubernetesSettings
from ccat_workflow_manager.hpc.kubernetes.site import LABEL, Mode
from ccat_workflow_manager.hpc.kubernetes.states import Evidence, merge
from ccat_workflow_manager.hpc.kubernetes.view import View
from ccat_workflow_manager.hpc.log_watch import LogWatch
from ccat_workflow_manager.lifecycle.job_info import UNKNOWN, HPCJobInfo, JobStatus
from ccat_workflow_manager.lifecycle.models import JOB_PREFIX
from ccat_workflow_manager.settings import settings_of

_ID = re.compile(rf"({LABEL.pattern})/({LABEL.pattern})")
_AT_ONCE = 8
"""Requests at the same time; an API server shares itself out fairly among its users."""
_REMEMBERED = 20_000
_LOG_LINES = 10_000


@dataclass(frozen=True, slots=True)
class JobKey:
    """What a job id says."""

    namespace: str
    name: str
    """Of the Job at the API server."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class KubernetesBackend(BulkBackend):
    """Jobs in one namespace of a cluster."""

    name = "kubernetes"
    capabilities = Capabilities(bulk_status=True, find=True, exit_record=True, notifies=True, lists=True, gpu=True)
    settings = KubernetesSettings
    submit_seconds = 60

    def __init__(
        self,
        *,
        pipeline_base_dir: str,
        sif_cache_dir: str = "",
        kill_grace_seconds: float = 5,
        log_limit_mb: float = 512,
        **settings: Any,
    ) -> None:
        own = settings_of(KubernetesSettings, self.name, settings)
        texts = {**own.model_dump(), "namespace": own.used_namespace, "image_volume": own.sif_volume}
        self._site = site_of(
            base_dir=str(pipeline_base_dir), image_dir=str(sif_cache_dir), grace_seconds=kill_grace_seconds, **texts
        )
        self.runs_images = self._site.mode is Mode.NATIVE
        self._calls = Calls(context=own.context or None, request_seconds=own.request_seconds)
        self._notes = Notes(self._site.base_dir)
        self._logs = LogWatch(self.name, log_limit_mb)
        self._image_grace_seconds = own.image_grace_seconds
        self._new_view: Callable[[str], View] = lambda each: View(
            self._calls, each, poll_seconds=own.poll_seconds, watch=own.watch
        )
        self._views: dict[str, View] = {}
        self._lock = threading.Lock()
        self._over: dict[JobKey, HPCJobInfo] = {}

    @classmethod
    def is_available(cls) -> Availability:
        if importlib.util.find_spec("kubernetes") is None:
            return Availability(False, "not installed: kubernetes", "pip install 'ccat-workflow-manager[kubernetes]'")
        if calls.kubeconfig() or calls.in_cluster():
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
        """Write the script, then send the Job. A Job that is there already is this one, from an earlier try."""
        version = self._calls.version()
        try:
            job = render_job(request, self._site, version)
            attempt = AttemptFiles.of(request.workspace_dir, request.job_name)
            script = render_pod_script(
                request.execution_command,
                environment=request.environment_variables,
                attempt=attempt,
                native=self.runs_images,
            )
            write_script(attempt.files, script)
        except ValueError as error:
            raise self._rejected(request, error) from error
        except OSError as error:
            text = f"the job script cannot be written: {error.strerror}: {error.filename}"
            raise BackendRejected(text, backend=self.name, reason=FailureReason.STAGING_FAILED) from error
        key = JobKey(self._site.namespace, job["metadata"]["name"])
        try:
            self._notes.write(key.name, attempt)
        except OSError as error:
            text = f"the job cannot be written down: {error.strerror}: {error.filename}"
            raise BackendUnavailable(text, backend=self.name) from error
        created = self._calls.create(key.namespace, job)
        if created is not None:
            self._view(key.namespace).add(created)
        elif self._find(key, request.job_name) is None:
            words = f"the Job {key.name} was there when it was submitted, and is gone now"
            raise BackendUnavailable(words, backend=self.name)
        return str(key)

    def _rejected(self, request: JobRequest, error: ValueError) -> BackendRejected:
        reason = FailureReason.REJECTED
        if self.runs_images:
            try:
                oci_image(request.image_ref, NATIVE_SETTING)
            except ValueError:
                reason = FailureReason.IMAGE_INVALID
        return BackendRejected(f"kubernetes cannot take this job: {error}", backend=self.name, reason=reason)

    def find(self, job_name: str) -> str | None:
        key = JobKey(self._site.namespace, object_name(job_name))
        return str(key) if self._find(key, job_name) is not None else None

    def _find(self, key: JobKey, job_name: str) -> SeenJob | None:
        """The Job of this name. Raises BackendRejected if it is somebody else's."""
        data = self._calls.get(key.namespace, key.name)
        if data is None:
            return None
        seen = _read(data)
        if seen.job_name != job_name:
            words = f"the name {key.name} is taken in {key.namespace} by a Job that is not ours"
            raise BackendRejected(words, backend=self.name)
        self._view(key.namespace).add(data)
        return seen

    # --- following ---------------------------------------------------------------------------------------------------

    def get_status(self, job_id: str) -> HPCJobInfo:
        return self.get_statuses([job_id])[job_id]

    def get_statuses(self, job_ids: Sequence[str]) -> dict[str, HPCJobInfo]:
        keys = {job_id: key for job_id in job_ids if (key := _key(job_id)) is not None}
        for namespace in {key.namespace for key in keys.values()}:
            wanted = [key.name for key in keys.values() if key.namespace == namespace and key not in self._over]
            self._view(namespace).look(wanted)
        infos = {job_id: self._info(keys[job_id]) if job_id in keys else UNKNOWN for job_id in job_ids}
        return self._logs.apply(infos, self._files, self.cancel_many)

    def _info(self, key: JobKey) -> HPCJobInfo:
        known = self._over.get(key)
        if known is not None:
            return known
        job, pods = self._view(key.namespace).of(key.name)
        attempt = self._attempt(key, job)
        evidence = Evidence(job, pods, datetime.now(UTC), image_grace_seconds=self._image_grace_seconds)
        if attempt is not None:
            evidence = _with_files(evidence, attempt)
        info = merge(evidence)
        if not info.finished:
            return info
        if job is not None and not job.over and attempt is not None and not notes.take(attempt, str(info.message)):
            # A pod that could not start for so long has begun after all.
            return HPCJobInfo(JobStatus.RUNNING)
        with self._lock:
            if len(self._over) >= _REMEMBERED:
                self._over.clear()
            self._over[key] = info
        return info

    def _attempt(self, key: JobKey, job: SeenJob | None) -> AttemptFiles | None:
        if job is not None and job.attempt:
            return AttemptFiles.parse(job.attempt)
        return self._notes.read(key.name)

    def listen(self, on_change: Callable[[Sequence[str]], None]) -> Callable[[], None]:
        notices = Notices(on_change)
        namespace = self._site.namespace
        stop_hearing = self._view(namespace).listen(lambda name: notices.add(str(JobKey(namespace, name))))

        def stop() -> None:
            stop_hearing()
            notices.stop()

        return stop

    def list_jobs(self) -> Iterable[JobSeen]:
        view = self._view(self._site.namespace)
        if not view.is_recent:
            view.refresh()
        found = []
        for job, pods in view.all():
            alive = any(not pod.over for pod in pods)
            if job is not None and job.job_name.startswith(JOB_PREFIX) and (not job.over or alive):
                found.append(JobSeen(str(JobKey(view.namespace, job.name)), job.job_name, job.created))
            elif job is None and alive and pods[0].group.startswith(JOB_PREFIX):
                found.append(JobSeen(str(JobKey(view.namespace, pods[0].group)), pods[0].group, pods[0].created))
        return found

    def _view(self, namespace: str) -> View:
        with self._lock:
            known = self._views.get(namespace)
            if known is None:
                known = self._views[namespace] = self._new_view(namespace)
            return known

    # --- stopping, forgetting ----------------------------------------------------------------------------------------

    def cancel(self, job_id: str) -> None:
        self.cancel_many([job_id])

    def cancel_many(self, job_ids: Sequence[str]) -> None:
        keys = [key for job_id in job_ids if (key := _key(job_id)) is not None and key not in self._over]
        if keys:
            self.get_statuses([str(key) for key in keys])
            self._at_once(self._cancel, keys)

    def _cancel(self, key: JobKey) -> None:
        """First the note, so that whatever begins meanwhile ends at once; then the Job and its pods."""
        job, _ = self._view(key.namespace).of(key.name)
        attempt = self._attempt(key, job)
        if key in self._over or attempt is None or (job is not None and job.over):
            return
        notes.note_cancel(attempt, time.time())
        self._calls.delete(key.namespace, key.name, job.uid if job is not None else "")

    def cleanup(self, job_id: str) -> None:
        self.cleanup_many([job_id])

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        self._at_once(self._clean, [key for job_id in job_ids if (key := _key(job_id)) is not None])

    def _clean(self, key: JobKey) -> None:
        self._calls.delete(key.namespace, key.name)
        self._notes.forget(key.name)
        with self._lock:
            self._over.pop(key, None)

    def _at_once(self, do: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
        if len(items) < 2:
            return [do(item) for item in items]
        with ThreadPoolExecutor(min(_AT_ONCE, len(items))) as pool:
            return list(pool.map(do, items))

    # --- logs --------------------------------------------------------------------------------------------------------

    def get_logs(self, job_id: str) -> str:
        files = self._files(job_id)
        if files is None:
            return ""
        text = read_logs(files)
        return text or self._pod_log(job_id, _LOG_LINES)

    def tail_logs(self, job_id: str, *, stream: LogStream = "stdout", lines: int = 200) -> str:
        files = self._files(job_id)
        if files is None or lines <= 0:
            return ""
        return tail_log(files, stream, lines)

    def _files(self, job_id: str) -> shared.AttemptFiles | None:
        key = _key(job_id)
        attempt = self._attempt(key, self._view(key.namespace).of(key.name)[0]) if key is not None else None
        return attempt.files if attempt is not None else None

    def _pod_log(self, job_id: str, lines: int) -> str:
        """What the pod itself has printed: something only if the job script could not begin."""
        key = _key(job_id)
        pods = self._pods(key) if key is not None else []
        return "".join(self._calls.pod_log(key.namespace, pod.name, lines) for pod in pods if key is not None)

    def _pods(self, key: JobKey) -> Sequence[SeenPod]:
        return [pod for pod in self._view(key.namespace).of(key.name)[1] if pod.phase != "Pending"]

    # --- for operators -----------------------------------------------------------------------------------------------

    def get_resource_usage(self, job_id: str) -> ResourceUsage | None:
        key = _key(job_id)
        if key is None:
            return None
        running = [pod for pod in self._pods(key) if not pod.over]
        data = self._calls.pod_metrics(key.namespace, running[0].name) if running else None
        return usage_of(data) if data is not None else None

    def queue_status(self) -> list[QueueStatus]:
        view = self._view(self._site.namespace)
        if not view.is_recent:
            view.refresh()
        live = [pods for job, pods in view.all() if job is not None and not job.over]
        running = sum(any(pod.phase == "Running" for pod in pods) for pods in live)
        version = ".".join(map(str, self._calls.version()))
        details = {
            "version": version, "mode": str(self._site.mode), "watched": view.watched, "requests": self._calls.requests
        }  # fmt: skip
        return [QueueStatus(view.namespace, running=running, pending=len(live) - running, details=details)]

    def close(self) -> None:
        for view in self._views.values():
            view.close()
        self._calls.close()


def _key(job_id: str) -> JobKey | None:
    match = _ID.fullmatch(job_id) if len(job_id) < 200 else None
    return JobKey(match[1], match[3]) if match else None


def _read(data: Mapping[str, Any]) -> SeenJob:
    try:
        return read_job(data)
    except ValueError as error:
        raise BackendConfused(f"a Job cannot be read: {error}", backend="kubernetes") from error


def _with_files(evidence: Evidence, attempt: AttemptFiles) -> Evidence:
    """With what lies in the attempt's directory, as far as it can matter by now."""
    job = evidence.job
    if job is not None and not job.over and job.deleting is None:
        # The word of a node that a container has started comes later than the container.
        starting = any(pod.node and pod.phase == "Pending" for pod in evidence.pods)
        return replace(evidence, claim=notes.claim(attempt)) if starting else evidence
    return replace(
        evidence,
        record=notes.record(attempt),
        claim=notes.claim(attempt),
        cancelled_at=notes.cancelled_at(attempt),
    )
