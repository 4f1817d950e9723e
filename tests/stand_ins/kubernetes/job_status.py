"""The status of a Job: what is counted, and the conditions at the end."""

from __future__ import annotations

from collections.abc import Sequence

from tests.stand_ins.kubernetes.clock import stamp
from tests.stand_ins.kubernetes.models import Object

BACKOFF = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
DEADLINE = ("DeadlineExceeded", "Job was active longer than specified deadline")
COMPLETE = ("CompletionsReached", "Reached expected number of succeeded pods")


def condition(kind: str, reason: str | None = None, message: str | None = None) -> Object:
    now = stamp()
    found: Object = {"type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now}
    return found | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})


def has(job: Object, *kinds: str) -> bool:
    return any(one["type"] in kinds and one["status"] == "True" for one in job["status"].get("conditions", ()))


def is_finished(job: Object) -> bool:
    return has(job, "Complete", "Failed")


def counted(status: Object, *, active: int, succeeded: int, failed: int, extra: Object | None = None) -> Object:
    """The status with these counts; as in the real one, a count of nothing is left out. `extra` has its zeros shown."""
    kept = {key: value for key, value in status.items() if key not in ("active", "succeeded", "failed")}
    numbers = {"active": active, "succeeded": succeeded, "failed": failed}
    return kept | {key: value for key, value in numbers.items() if value} | (extra or {})


def failure_by_policy(job: Object, pods: Sequence[Object]) -> tuple[tuple[str, str] | None, set[str]]:
    """What podFailurePolicy says of failed pods: why the Job fails at once, if so, and the pods that do not count."""
    ignored: set[str] = set()
    rules = (job["spec"].get("podFailurePolicy") or {}).get("rules") or ()
    for pod in pods:
        for index, rule in enumerate(rules):
            if (what := _matches(rule, pod)) is None:
                continue
            if rule["action"] == "FailJob":
                return ("PodFailurePolicy", f"{what} matching FailJob rule at index {index}"), ignored
            if rule["action"] == "Ignore":
                ignored.add(pod["metadata"]["uid"])
            break
    return None, ignored


def _matches(rule: Object, pod: Object) -> str | None:
    status = pod["status"]
    name = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
    if codes := rule.get("onExitCodes"):
        for one in status.get("containerStatuses", ()):
            code = one["state"].get("terminated", {}).get("exitCode", 0)
            if code == 0 or codes.get("containerName") not in (None, one["name"]):
                continue
            if (code in codes["values"]) == (codes["operator"] == "In"):
                return f"Container {one['name']} for pod {name} failed with exit code {code}"
        return None
    for wanted in rule.get("onPodConditions") or ():
        for one in status.get("conditions", ()):
            if one["type"] == wanted["type"] and one["status"] == wanted.get("status", "True"):
                return f"Pod {name} has condition {wanted['type']}"
    return None
