"""Jobs in queues of AWS Batch, through its API.

One `describe_jobs` covers a hundred jobs; of a large array only those children are listed whose state has changed.
Alike step runs that are ready together become one array job. Every call is counted against `calls_per_minute`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from ccat_workflow_manager.bounded_cache import BoundedCache
from ccat_workflow_manager.definition.image_names import oci_image
from ccat_workflow_manager.errors import BackendConfused, BackendUnavailable, ConfigurationError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles, write_new
from ccat_workflow_manager.hpc.aws_batch import credentials
from ccat_workflow_manager.hpc.aws_batch.client import Aws, AwsError, Done
from ccat_workflow_manager.hpc.aws_batch.definition import mounts_of, render_definition
from ccat_workflow_manager.hpc.aws_batch.job_queries import JobQueries, aws_id
from ccat_workflow_manager.hpc.aws_batch.native import seen_as, with_links
from ccat_workflow_manager.hpc.aws_batch.request import (
    CANCEL_REASON,
    LARGEST_ARRAY,
    aws_name,
    parse_option,
    render_ask,
    render_submit,
)
from ccat_workflow_manager.hpc.aws_batch.settings import AwsBatchSettings
from ccat_workflow_manager.hpc.aws_batch.staging import S3Staging
from ccat_workflow_manager.hpc.aws_batch.status import STARTED, DescribedJob, Evidence, resolve_status
from ccat_workflow_manager.hpc.base import Availability, Capabilities, JobRequest, LogStream, QueueStatus
from ccat_workflow_manager.hpc.batch.scheduler_backend import SETTLE_SECONDS, BatchBackend, JobKey
from ccat_workflow_manager.hpc.batch.script import render_batch_script
from ccat_workflow_manager.hpc.batch.store import ArrayTask, Submission
from ccat_workflow_manager.lifecycle.job_info import HPCJobInfo, JobStatus
from ccat_workflow_manager.settings import settings_of

_HOME = "/tmp"
_FINISHED = 50_000
_LOG_WORDS_BYTES = 500
_LARGEST_SENT = 100
_LATER = re.compile(r"disabled|not in (a )?valid|being (deleted|updated)|UPDATING|try again", re.IGNORECASE)
_NO_DEFINITION = re.compile(r"job ?definition.*(not found|not exist|inactive|deregistered)", re.IGNORECASE)


class AwsBatchBackend(BatchBackend):
    """Runs jobs in queues of AWS Batch; see docs/backends/aws_batch.md."""

    name = "aws_batch"
    capabilities = Capabilities(bulk_status=True, bulk_submit=True, find=True, exit_record=True, gpu=True, lists=True)
    settings = AwsBatchSettings
    own_cgroup = True
    number_pattern = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"

    def __init__(self, *, job_queue: str, log_limit_mb: float = 512, **settings: Any) -> None:
        site = self._site = settings_of(AwsBatchSettings, self.name, {"job_queue": job_queue, **settings})
        region = site.region or credentials.region(site.profile)
        if region is None:
            raise ConfigurationError("AWS_BATCH_REGION must name the region of the queue, or AWS_REGION has to")
        try:
            self._mounts = mounts_of(site)
        except ValueError as error:
            raise ConfigurationError(f"the settings AWS_BATCH_* cannot be used: {error}") from error
        self.runs_images = site.mode == "native"
        _check_mode(site)
        super().__init__(state_dir=site.state_dir or None, log_limit_mb=log_limit_mb)
        self._definitions: dict[str, str] = {}
        self._queues = self._store.directory / "queues"
        self._aws = Aws(
            self.name, self._store.directory, per_minute=site.calls_per_minute, region=region, profile=site.profile,
            endpoint_url=site.endpoint_url,
        )  # fmt: skip
        self._staging = self._make_staging(site, region)
        self._finished: BoundedCache[JobKey, HPCJobInfo] = BoundedCache(_FINISHED)
        self._queries = JobQueries(self._aws)

    def _make_staging(self, site: AwsBatchSettings, region: str) -> S3Staging | None:
        if not site.s3_prefix:
            return None
        try:
            return S3Staging(
                self._aws, site.s3_prefix, region, home=None if self.runs_images else _HOME,
                limit_gb=site.s3_result_limit_gb, locks=self._store.directory / "fetching",
            )  # fmt: skip
        except ValueError as error:
            raise ConfigurationError(f"AWS_BATCH_S3_PREFIX cannot be used: {error}") from error

    @classmethod
    def is_available(cls, profile: str | None = None) -> Availability:
        return credentials.availability(profile)

    def close(self) -> None:
        self._aws.close()

    # --- submitting --------------------------------------------------------------------------------------------------

    def _options(self, request: JobRequest) -> tuple[str, ...]:
        workspace = request.workspace_dir
        shared = not self._site.job_definition and self._staging is None
        if shared and not any(mount.holds(workspace) for mount in self._mounts):
            raise ValueError(f"jobs do not see {workspace}: no volume of AWS_BATCH_VOLUMES holds it")
        image = oci_image(request.image_ref, "AWS_BATCH_MODE=native") if self.runs_images else ""
        return (render_ask(request.resource_requirements, request.priority, self._site, image).as_option(),)

    def _job_script(self, request: JobRequest, files: AttemptFiles) -> str:
        if not self.runs_images:
            return super()._job_script(request, files)
        inside = replace(request, workspace_dir=seen_as(request.workspace_dir, request.mounts))
        return with_links(super()._job_script(inside, files), request.mounts)

    def _largest_array(self) -> int:
        # Attempts are uploaded one by one, and the lease of the caller must not run out meanwhile.
        return LARGEST_ARRAY if self._staging is None else _LARGEST_SENT

    def _submitted(self, submission: Submission, options: Sequence[str]) -> Submission:
        ask = parse_option(options[0])
        try:
            request = render_submit(
                ask,
                name=submission.name,
                definition=self._definition(ask.image or self._site.image),
                command=self._command(submission),
                size=len(submission.members) if submission.array else None,
            )
        except ValueError as error:
            raise self.rejected(str(error)) from error
        self._add_queue(ask.queue)
        self._store.add(submission)
        try:
            answer = self._aws.act("batch", "submit_job", **request)
        except BackendConfused as error:
            return self._look_up(submission, error.message)
        except AwsError as error:
            return self._not_submitted(submission, error)
        number = str(answer.get("jobId", ""))
        if not re.fullmatch(self.number_pattern, number):
            return self._look_up(submission, f"its answer cannot be read: {str(answer)[:300]}")
        return self._store.numbered(submission, number)

    def _command(self, submission: Submission) -> list[str]:
        if self._staging is not None:
            return self._staging.send(submission)
        return ["/bin/sh", self._script(submission)]

    def _script(self, submission: Submission) -> str:
        """Write the script that all jobs of a submission start with. Returns its path."""
        text = render_batch_script(
            submission.members,
            number='"${AWS_BATCH_JOB_ID%%:*}"',
            index='"$AWS_BATCH_JOB_ARRAY_INDEX"' if submission.array else None,
            home=_HOME,
            own_path=self.runs_images,
        )
        path = os.path.join(submission.members[0].files.directory, f"{submission.name}.batch")
        write_new(path, text.encode("utf-8", "surrogateescape"))
        return path

    def _not_submitted(self, submission: Submission, error: AwsError) -> Submission:
        words = error.message
        if error.done is Done.PERHAPS:
            return self._look_up(submission, words)
        self._store.drop(submission)
        if error.done is Done.REFUSED:
            if _NO_DEFINITION.search(words) and not self._site.job_definition:
                # It was deregistered at AWS; the next try registers it again.
                self._definitions.clear()
            elif not _LATER.search(words):
                raise self.rejected(words) from error
        raise error

    def _definition(self, image: str) -> str:
        """The job definition of an image, registered if there is none."""
        if self._site.job_definition:
            return self._site.job_definition
        known = self._definitions.get(image)
        if known is None:
            wanted = render_definition(image, self._site, self._mounts)
            name = wanted["jobDefinitionName"]
            answer = self._aws.look("batch", "describe_job_definitions", jobDefinitionName=name, status="ACTIVE")
            found = self._aws.items(answer, "jobDefinitions", "describe_job_definitions")
            revisions = [int(each.get("revision", 0)) for each in found]
            if not revisions:
                registered = self._aws.act("batch", "register_job_definition", **wanted)
                revisions = [int(registered.get("revision", 1))]
            known = self._definitions[image] = f"{name}:{max(revisions)}"
        return known

    def _add_queue(self, queue: str) -> None:
        """Record that a queue is used: jobs are listed by queue. Raises BackendRejected if it does not exist."""
        file = self._queues / quote(queue, safe="")
        if queue != self._site.job_queue and not file.exists() and not self._existing([queue]):
            raise self.rejected(f"there is no job queue {queue} at AWS Batch")
        self._queues.mkdir(exist_ok=True)
        file.touch()

    def _known_queues(self) -> list[str]:
        """The queues that were used and still exist: a queue is deleted after its jobs."""
        try:
            others = {unquote(name) for name in os.listdir(self._queues)} - {self._site.job_queue}
        except FileNotFoundError:
            others = set()
        return [self._site.job_queue, *(self._existing(sorted(others)) if others else ())]

    def _existing(self, queues: Sequence[str]) -> list[str]:
        known = {
            each for queue in self._described(queues) for each in (queue.get("jobQueueName"), queue.get("jobQueueArn"))
        }
        return [queue for queue in queues if queue in known]

    def _described(self, queues: Sequence[str]) -> list[Mapping[str, Any]]:
        answer = self._aws.look("batch", "describe_job_queues", jobQueues=list(queues))
        return self._aws.items(answer, "jobQueues", "describe_job_queues")

    def _numbers_of(self, name: str, tried_at: float | None) -> Sequence[str]:
        found = [job for queue in self._known_queues() for job in self._queries.named(queue, aws_name(name))]
        return [job.job_id for job in sorted(found, key=lambda job: (str(job.created_at), job.job_id))]

    # --- following ---------------------------------------------------------------------------------------------------

    def _observe(self, jobs: Sequence[JobKey]) -> Mapping[JobKey, HPCJobInfo]:
        finished = {key: info for key in jobs if (info := self._finished.get(key)) is not None}
        # A finished job stays finished. Without any other one is asked for, so that an outage of AWS is noticed.
        described = self._queries.describe([key for key in jobs if key not in finished] or jobs[:1])
        return {key: finished.get(key) or self._resolve(key, described.get(key)) for key in jobs}

    def _resolve(self, key: JobKey, job: DescribedJob | None) -> HPCJobInfo:
        known = self._known(key.job_name)
        member = known[0].members[known[1]] if known is not None else None
        now = datetime.now(UTC)
        record = self._results(member) if member is not None and (job is None or job.over) else None
        if record is not None and record.status is JobStatus.RUNNING:
            return record
        info = resolve_status(
            Evidence(
                job,
                record,
                now,
                handed_over_recently=known is not None and now.timestamp() - known[0].tried_at < SETTLE_SECONDS,
                records_expected=member is not None,
            )
        )
        if info.finished:
            if info.reason is FailureReason.BACKEND_FAILED and job is not None and job.log_stream:
                info = replace(info, message=f"{info.message}{self._last_words(job)}")
            self._finished.put(key, info)
        return info

    def _results(self, member: ArrayTask) -> HPCJobInfo | None:
        """The status according to the exit record, which S3 may still have."""
        problem = self._staging.fetch(member) if self._staging is not None else None
        return problem or self._record_info(member)

    def _last_words(self, job: DescribedJob) -> str:
        """The end of the container's log, for a command that left nothing."""
        try:
            words = " ".join(self._aws.log_tail(self._site.log_group, job.log_stream, _LOG_WORDS_BYTES).split())
        except BackendUnavailable as error:
            words = error.message
        return f"; its container printed: {words}" if words else ""

    def _listing(self) -> Iterable[tuple[JobKey, datetime | None]]:
        return [each for queue in self._known_queues() for each in self._queries.live(queue)]

    # --- stopping, forgetting ----------------------------------------------------------------------------------------

    def _stop(self, jobs: Sequence[JobKey]) -> None:
        live = {key: job for key, job in self._queries.describe(jobs, urgent=True).items() if not job.over}
        waiting = [key for key, job in live.items() if job.status not in STARTED]
        whole = self._whole_arrays(live)
        for number in whole:
            started = any(key.number == number and key not in waiting for key in live)
            self._end(number, started=started)
        for key in live:
            if key.number not in whole:
                self._end(aws_id(key), started=key not in waiting)
        # Jobs that have started meanwhile were not cancelled.
        for key, job in self._queries.describe(waiting, urgent=True).items() if waiting else ():
            if job.status in STARTED:
                self._end(aws_id(key), started=True)

    def _whole_arrays(self, live: Mapping[JobKey, DescribedJob]) -> set[str]:
        """The arrays of which every child that is not over is to be stopped."""
        wanted: dict[str, set[str]] = {}
        for key in live:
            if key.index is not None:
                wanted.setdefault(key.number, set()).add(key.job_name)
        whole = set()
        for number, names in wanted.items():
            known = self._known(next(iter(names)))
            if len(names) < 2 or known is None:
                continue
            others = [
                key
                for index, member in enumerate(known[0].members)
                if member.job_name not in names
                and (key := JobKey(number, index, member.job_name)) not in self._finished
            ]
            described = self._queries.describe(others, urgent=True) if others else {}
            if all(key in described and described[key].over for key in others):
                whole.add(number)
        return whole

    def _end(self, job_id: str, *, started: bool) -> None:
        self._aws.act("batch", "terminate_job" if started else "cancel_job", jobId=job_id, reason=CANCEL_REASON)

    def cleanup_many(self, job_ids: Sequence[str]) -> None:
        keys = [key for job_id in job_ids if (key := self._key(job_id)) is not None]
        for key in keys:
            self._finished.pop(key)
        submissions = {known[0].name for key in keys if (known := self._known(key.job_name)) is not None}
        super().cleanup_many(job_ids)
        if self._staging is not None:
            over = [name for name in submissions if self._store.in_array(name, 0) is None]
            self._staging.forget([key.job_name for key in keys], over)

    # --- logs, for operators -----------------------------------------------------------------------------------------

    def get_logs(self, job_id: str) -> str:
        return super().get_logs(job_id) or self._cloudwatch(job_id)

    def tail_logs(self, job_id: str, *, stream: LogStream = "stdout", lines: int = 200) -> str:
        found = super().tail_logs(job_id, stream=stream, lines=lines)
        if found or stream != "stdout" or lines <= 0:
            return found
        return "".join(self._cloudwatch(job_id).splitlines(keepends=True)[-lines:])

    def _cloudwatch(self, job_id: str) -> str:
        """Both streams from CloudWatch, if the job has left no file that this process sees."""
        key, files = self._key(job_id), self.attempt_files(job_id)
        if key is None or (files is not None and os.path.lexists(files.stdout)):
            return ""
        job = self._queries.describe([key]).get(key)
        return self._aws.log_tail(self._site.log_group, job.log_stream) if job is not None and job.log_stream else ""

    def ping(self) -> str:
        return f"{len(self.queue_status())} job queues"

    def queue_status(self) -> list[QueueStatus]:
        budget = self._aws.budget
        return [
            QueueStatus(
                str(queue.get("jobQueueName", "")),
                available=(queue.get("state"), queue.get("status", "VALID")) == ("ENABLED", "VALID"),
                details={
                    "state": queue.get("state", ""),
                    "status": queue.get("status", ""),
                    "why": queue.get("statusReason", ""),
                    "calls_per_minute": budget.per_minute,
                    "calls_in_the_last_minute": budget.used(),
                    "calls_sent_back_in_the_last_minute": self._aws.throttled,
                },
            )
            for queue in self._described(self._known_queues())
        ]


def _check_mode(site: AwsBatchSettings) -> None:
    """Raises ConfigurationError."""
    if site.mode != "native":
        if not site.job_definition and not site.image:
            raise ConfigurationError("one of AWS_BATCH_IMAGE and AWS_BATCH_JOB_DEFINITION must name what jobs run in")
        return
    if site.job_definition:
        raise ConfigurationError("AWS_BATCH_MODE=native needs a job definition for each image, so none can be given")
    if not site.native_trusted:
        raise ConfigurationError(
            "with AWS_BATCH_MODE=native every step can write all of AWS_BATCH_VOLUMES, also the files of other runs, "
            "and can use AWS_BATCH_JOB_ROLE; if all steps are trusted with that, set AWS_BATCH_NATIVE_TRUSTED=true"
        )
