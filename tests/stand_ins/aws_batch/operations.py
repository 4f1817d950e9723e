"""The operations of AWS Batch, and the one of CloudWatch Logs: from a request of the right shape to an answer."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from tests.stand_ins.aws_batch.jobs import ACCOUNT, Job, now_ms
from tests.stand_ins.aws_batch.model import Refused
from tests.stand_ins.aws_batch.site import Site

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_LOG_GROUP = "/aws/batch/job"
_OVERRIDES_LIMIT = 8192
_MOST_DESCRIBED = 100
_MOST_FILTERED = 100


class Operations:
    """`lag_ms`: how long a new job is not shown yet. `most_listed`: jobs on a page. `log_page`: lines on a page."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.lag_ms = 0
        self.most_listed = 1000
        self.log_page = 1000
        self.by_name: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
            "SubmitJob": self.submit,
            "DescribeJobs": self.describe,
            "ListJobs": self.list,
            "TerminateJob": lambda body: self._stop(body, started_too=True),
            "CancelJob": lambda body: self._stop(body, started_too=False),
            "RegisterJobDefinition": self.register,
            "DescribeJobDefinitions": self.describe_definitions,
            "DeregisterJobDefinition": self.deregister,
            "DescribeJobQueues": self.describe_queues,
            "GetLogEvents": self.get_log_events,
        }

    def submit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        name, site = body["jobName"], self.site
        size = (body.get("arrayProperties") or {}).get("size")
        seconds = (body.get("timeout") or {}).get("attemptDurationSeconds")
        overrides = body.get("containerOverrides") or {}
        if not _NAME.fullmatch(name):
            raise Refused(f"Job name should match valid pattern: {name}")
        if size is not None and not 2 <= size <= 10_000:
            raise Refused("Array size must be between 2 and 10000")
        if seconds is not None and seconds < 60:
            raise Refused("attemptDurationSeconds must be at least 60 seconds")
        if len(json.dumps(overrides)) > _OVERRIDES_LIMIT:
            raise Refused(f"Container overrides length must be at most {_OVERRIDES_LIMIT}")
        if "" in overrides.get("command", ()):
            raise Refused("Command can not contain an empty string")
        job_id = str(uuid4())
        job = Job(
            job_id=job_id,
            name=name,
            queue=self._queue(body["jobQueue"]),
            definition=(definition := self._definition(body["jobDefinition"]))["jobDefinitionArn"],
            container=_overridden(definition["containerProperties"], overrides),
            timeout_seconds=seconds,
            size=size,
            extra={name: body[name] for name in ("tags", "shareIdentifier", "propagateTags") if name in body},
        )
        for index in range(size or 0):
            child = replace(job, job_id=f"{job_id}:{index}", size=None, index=index, children=[], attempts=[], extra={})
            job.children.append(child)
        site.add(job)
        return {"jobArn": f"{ACCOUNT}:job/{job_id}", "jobName": name, "jobId": job_id}

    def describe(self, body: Mapping[str, Any]) -> dict[str, Any]:
        if len(body["jobs"]) > _MOST_DESCRIBED:
            raise Refused(f"jobs must have at most {_MOST_DESCRIBED} entries")
        with self.site.lock:
            found = [self.site.jobs[each] for each in body["jobs"] if each in self.site.jobs]
            return {"jobs": [job.detail() for job in found if self._shown(job)]}

    def list(self, body: Mapping[str, Any]) -> dict[str, Any]:
        filters = {each["name"]: each["values"] for each in body.get("filters", ())}
        largest = _MOST_FILTERED if filters else self.most_listed
        status = body.get("jobStatus", "RUNNING")
        with self.site.lock:
            if "arrayJobId" in body:
                parent = self.site.jobs.get(body["arrayJobId"])
                jobs = parent.children if parent is not None else []
            elif "jobQueue" in body:
                queue = self._queue(body["jobQueue"])
                jobs = [job for job in self.site.jobs.values() if job.index is None and job.queue == queue]
                jobs.sort(key=lambda job: -job.created_at)
            else:
                raise Refused("One of jobQueue, multiNodeJobId, arrayJobId must be given")
            if names := filters.get("JOB_NAME"):
                jobs = [job for job in jobs if any(_matches(job.name, pattern) for pattern in names)]
            else:
                jobs = [job for job in jobs if job.status == status]
            jobs = [job for job in jobs if self._shown(job)]
            return _page([job.summary() for job in jobs], "jobSummaryList", body, largest)

    def _shown(self, job: Job) -> bool:
        return now_ms() - job.created_at >= self.lag_ms

    def _stop(self, body: Mapping[str, Any], *, started_too: bool) -> dict[str, Any]:
        job = self.site.jobs.get(body["jobId"])
        if job is not None:
            self.site.terminate(job, body["reason"], started_too=started_too)
        return {}

    # --- definitions and queues --------------------------------------------------------------------------------------

    def register(self, body: Mapping[str, Any]) -> dict[str, Any]:
        name = body["jobDefinitionName"]
        if not _NAME.fullmatch(name):
            raise Refused(f"Job definition name should match valid pattern: {name}")
        with self.site.lock:
            revisions = self.site.definitions.setdefault(name, [])
            arn = f"{ACCOUNT}:job-definition/{name}:{len(revisions) + 1}"
            revisions.append({**body, "jobDefinitionArn": arn, "revision": len(revisions) + 1, "status": "ACTIVE"})
        return {"jobDefinitionName": name, "jobDefinitionArn": arn, "revision": len(revisions)}

    def deregister(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self._definition(body["jobDefinition"])["status"] = "INACTIVE"
        return {}

    def describe_definitions(self, body: Mapping[str, Any]) -> dict[str, Any]:
        with self.site.lock:
            all_of_them = [each for revisions in self.site.definitions.values() for each in revisions]
        found = [
            each
            for each in all_of_them
            if each["jobDefinitionName"] == body.get("jobDefinitionName", each["jobDefinitionName"])
            and each["status"] == body.get("status", each["status"])
        ]
        return _page(found, "jobDefinitions", body, _MOST_FILTERED)

    def describe_queues(self, body: Mapping[str, Any]) -> dict[str, Any]:
        wanted = body.get("jobQueues") or sorted(self.site.queues)
        queues = [
            {
                "jobQueueName": name,
                "jobQueueArn": f"{ACCOUNT}:job-queue/{name}",
                "state": "ENABLED",
                "status": "VALID",
                "statusReason": "JobQueue Healthy",
                "priority": 1,
                "computeEnvironmentOrder": [{"order": 1, "computeEnvironment": f"{ACCOUNT}:compute-environment/own"}],
            }
            for name in sorted(self.site.queues)
            if name in wanted
        ]
        return _page(queues, "jobQueues", body, _MOST_FILTERED)

    # --- CloudWatch Logs ---------------------------------------------------------------------------------------------

    def get_log_events(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The newest page first. A token leads to the page before; that of the first page leads to itself."""
        file = self.site.log_file(body["logStreamName"])
        if body.get("logGroupName") != _LOG_GROUP or not file.exists():
            raise Refused("The specified log stream does not exist.", "ResourceNotFoundException")
        lines = file.read_text(errors="replace").splitlines()
        end = int(str(body.get("nextToken") or f"b/{len(lines)}").partition("/")[2])
        start = max(0, end - self.log_page)
        events = [{"timestamp": now_ms(), "message": line, "ingestionTime": now_ms()} for line in lines[start:end]]
        return {"events": events, "nextForwardToken": f"f/{len(lines)}", "nextBackwardToken": f"b/{start}"}

    def _queue(self, name: str) -> str:
        name = name.rpartition("/")[2]
        if name not in self.site.queues:
            raise Refused(f"JobQueue {name} not found.")
        return name

    def _definition(self, name: str) -> dict[str, Any]:
        name, _, revision = name.rpartition("/")[2].partition(":")
        active = [each for each in self.site.definitions.get(name, ()) if each["status"] == "ACTIVE"]
        found = [each for each in active if not revision or each["revision"] == int(revision)]
        if not found:
            raise Refused(f"JobDefinition {name} not found.")
        return found[-1]


def _overridden(properties: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**properties, **({"command": overrides["command"]} if "command" in overrides else {})}
    for list_name, key in (("resourceRequirements", "type"), ("environment", "name")):
        both = [*properties.get(list_name, ()), *overrides.get(list_name, ())]
        merged[list_name] = list({each[key]: each for each in both}.values())
    return merged


def _matches(name: str, pattern: str) -> bool:
    name, pattern = name.lower(), pattern.lower()
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _page(items: Sequence[Any], key: str, body: Mapping[str, Any], largest: int) -> dict[str, Any]:
    """A page, with an opaque token for the next if there is more."""
    size = min(body.get("maxResults") or largest, largest)
    try:
        start = int(base64.b64decode(body.get("nextToken", ""), validate=True) or b"0")
    except (binascii.Error, ValueError):
        raise Refused("Invalid nextToken") from None
    more = start + size < len(items)
    token = {"nextToken": base64.b64encode(str(start + size).encode()).decode()} if more else {}
    return {key: list(items[start : start + size]), **token}
