"""What CloudWatch would have of the jobs: both streams of a container in one, in pages, if asked for backwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.stand_ins.aws_batch.jobs import now_ms
from tests.stand_ins.aws_batch.model import Refused
from tests.stand_ins.aws_batch.site import Site

GROUP = "/aws/batch/job"
TARGET = "Logs_20140328."


def get_log_events(site: Site, body: Mapping[str, Any], page: int) -> dict[str, Any]:
    """The newest page first. A token leads to the page before; that of the first page leads to itself."""
    file = site.log_file(body["logStreamName"])
    if body.get("logGroupName") != GROUP or not file.exists():
        raise Refused("The specified log stream does not exist.", "ResourceNotFoundException")
    lines = file.read_text(errors="replace").splitlines()
    end = int(str(body.get("nextToken") or f"b/{len(lines)}").partition("/")[2])
    start = max(0, end - page)
    events = [{"timestamp": now_ms(), "message": line, "ingestionTime": now_ms()} for line in lines[start:end]]
    return {"events": events, "nextForwardToken": f"f/{len(lines)}", "nextBackwardToken": f"b/{start}"}
