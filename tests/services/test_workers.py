"""A drained worker leaves messages to others, gives signs of life, and ends at a signal."""

from __future__ import annotations

import subprocess
import sys

from ccat_workflow_manager.context import Context
from ccat_workflow_manager.doorbell import Bell

DRAINED = """
import sys
from ccat_workflow_manager.doorbell import listen
listen(sys.argv[1], ["noop"], name="drained", on_alive=lambda: print("alive", flush=True), is_drained=lambda: True)
"""


def test_a_drained_worker_takes_no_message_and_ends_at_a_signal(context: Context) -> None:
    context.doorbell.ring(Bell.LAUNCH, "noop")
    command = [sys.executable, "-c", DRAINED, context.settings.redis_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        for _ in range(3):
            assert worker.stdout.readline() == "alive\n"
        worker.terminate()
        assert worker.wait(30) == 0
    assert context.doorbell.waiting(Bell.LAUNCH, "noop") == 1
