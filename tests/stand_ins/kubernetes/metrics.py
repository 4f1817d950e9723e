"""metrics.k8s.io, as a metrics server adds it to a cluster: what the containers of a pod use now."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from ccat_workflow_manager.hpc.attempt import process_tree
from tests.stand_ins.kubernetes import answers
from tests.stand_ins.kubernetes.access import Access
from tests.stand_ins.kubernetes.answers import Resource
from tests.stand_ins.kubernetes.clock import stamp
from tests.stand_ins.kubernetes.exchange import Answer, Request
from tests.stand_ins.kubernetes.models import Object
from tests.stand_ins.kubernetes.pod_run import PodRun
from tests.stand_ins.kubernetes.store import Key

METRICS = Resource("pods", "PodMetrics", "metrics.k8s.io", "v1beta1")

_PATH = re.compile(r"/apis/metrics\.k8s\.io/v1beta1/namespaces/(?P<namespace>[^/]+)/pods(?:/(?P<name>[^/]+))?")


class Metrics:
    """Used by the threads of all requests at once. `runs` gives the pods that kubelets have."""

    def __init__(self, runs: Callable[[], list[PodRun]], access: Access) -> None:
        self.runs = runs
        self.access = access

    def answer(self, request: Request) -> Answer | None:
        """None for what is no path of this API. Raises ApiError."""
        match = _PATH.fullmatch(request.path)
        if match is None or request.method != "GET":
            return None
        namespace, name = match["namespace"], match["name"] or ""
        self.access.check("get" if name else "list", METRICS, "", namespace, name)
        running = {run.key: run for run in self.runs() if run.key[0] == namespace and any(run.pids())}
        if not name:
            items = [_usage(key, run) for key, run in sorted(running.items())]
            return Answer(
                200, {"kind": "PodMetricsList", "apiVersion": METRICS.api_version, "metadata": {}, "items": items}
            )
        run = running.get((namespace, name))
        if run is None:
            raise answers.not_found(METRICS, f"{namespace}/{name}")
        return Answer(200, _usage(run.key, run))


def _usage(key: Key, run: PodRun) -> Object:
    processes = process_tree.table()
    containers = []
    for name, pid, started in run.pids():
        root = process_tree.identity(pid)
        mine = [processes[each] for each in process_tree.related(root, processes)] if root else []
        cores = sum(one.cpu_seconds for one in mine) / max(0.001, time.time() - started)
        memory = process_tree.memory(mine) // 1024
        containers.append({"name": name, "usage": {"cpu": f"{int(cores * 1e9)}n", "memory": f"{memory}Ki"}})
    metadata = {
        "name": key[1],
        "namespace": key[0],
        "creationTimestamp": stamp(),
        "labels": run.pod["metadata"].get("labels", {}),
    }
    return {"kind": "PodMetrics", "apiVersion": METRICS.api_version, "metadata": metadata, "timestamp": stamp(),
            "window": "15s", "containers": containers}  # fmt: skip
