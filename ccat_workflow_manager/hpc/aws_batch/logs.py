"""What CloudWatch keeps of a job: both streams of its container in one, in pages, and some seconds late."""

from __future__ import annotations

from ccat_workflow_manager.hpc.aws_batch.client import Aws, AwsError

LIMIT_BYTES = 4 * 1024 * 1024
_MISSING = "ResourceNotFoundException"


def read_stream(aws: Aws, group: str, stream: str, limit: int = LIMIT_BYTES) -> str:
    """The last `limit` bytes of a log stream, or all of it; empty if there is none (yet)."""
    pages: list[str] = []
    size = 0
    token = ""
    while size < limit:
        more = {"nextToken": token} if token else {}
        try:
            answer = aws.act("logs", "get_log_events", logGroupName=group, logStreamName=stream, **more)
        except AwsError as error:
            if error.code == _MISSING:
                return ""
            raise error.error from error
        events = aws.items(answer, "events", "get_log_events")
        text = "".join(f"{event.get('message', '')}\n" for event in events)
        pages.append(text)
        size += len(text)
        following = str(answer.get("nextBackwardToken") or "")
        # CloudWatch may give an empty page that is not the last; the last one's token is its own.
        if not following or following == token:
            break
        token = following
    return "".join(reversed(pages))[-limit:]
