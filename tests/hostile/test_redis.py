"""A client of Redis cannot run a function of its choice in a worker."""

from __future__ import annotations

from pathlib import Path

from redis import Redis
from rq import Callback, Queue
from rq.serializers import JSONSerializer

from tests.support.fixtures_service import Service, sh


def test_a_message_runs_tasks_only(service: Service, tmp_path: Path) -> None:
    with Redis.from_url(service.valkey.url) as redis:
        queue = Queue("ask:local", connection=redis, serializer=JSONSerializer)
        for number, lifetime in enumerate((0, 60)):
            touch = f"touch {tmp_path}/by-function-{number}"
            queue.enqueue("os.system", touch, result_ttl=lifetime, job_timeout=5)
            callback = Callback("this.s")  # the import of `this` prints a poem
            arguments = {"on_success": callback, "on_failure": callback, "result_ttl": lifetime, "job_timeout": 5}
            queue.enqueue("ccat_workflow_manager.tasks.ask", {"path": str(tmp_path)}, **arguments)
    run = service.wait(service.submit(sh("true")))
    assert run["status"] == "COMPLETED"
    assert list(tmp_path.glob("by-*")) == []
    assert "'os.system' is not a task" in service.log()
    assert "Zen" not in service.log()
