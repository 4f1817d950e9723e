"""The kubelets of all nodes: pods that are bound to a node are run, looked at about once a second, and stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from ccat_workflow_manager.hpc.supervisor.cgroups import Groups
from tests.stand_ins.kubernetes import pod_status
from tests.stand_ins.kubernetes.answers import PODS
from tests.stand_ins.kubernetes.clock import stamp
from tests.stand_ins.kubernetes.clockwork import Clockwork
from tests.stand_ins.kubernetes.models import Image, Object
from tests.stand_ins.kubernetes.orders import NODE_ADDRESS, Site
from tests.stand_ins.kubernetes.pod_run import PodRun
from tests.stand_ins.kubernetes.recording import Recorder
from tests.stand_ins.kubernetes.store import Key, Store

EVICTED = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 92Mi. "


class Kubelet:
    """Runs in the one thread of the clockwork."""

    def __init__(
        self,
        store: Store,
        clockwork: Clockwork,
        recorder: Recorder,
        images: dict[str, Image],
        *,
        old: bool,
    ) -> None:
        self.store = store
        self.clockwork = clockwork
        self.recorder = recorder
        self.images = images
        self.old = old
        self.groups: Groups | None = None
        """Where memory can be limited; set before the first pod comes."""
        self.lost: set[str] = set()
        """Nodes whose kubelet is not heard of."""
        self.site: Site
        self.send: Callable[[Object], None]
        self._runs: dict[str, PodRun] = {}
        """By uid."""
        self._present: dict[Key, str] = {}

    def sync(self, key: Key) -> None:
        """Look at a pod that has changed."""
        pod = self.store.find(PODS, key)
        uid = pod["metadata"]["uid"] if pod else None
        before = self._present.get(key)
        if before is not None and before != uid:
            self._forget(self._runs[before])
        node = pod["spec"].get("nodeName") if pod else None
        if pod is None or not node or node in self.lost:
            return
        run = self._runs.get(pod["metadata"]["uid"])
        if run is None:
            if pod_status.is_over(pod) or "deletionTimestamp" in pod["metadata"]:
                self._finish_deletion(pod)
                return
            run = PodRun(self, pod)
            self._runs[run.uid] = run
            self._present[key] = run.uid
            run.create()
        elif "deletionTimestamp" in pod["metadata"]:
            run.stop(pod["metadata"]["deletionGracePeriodSeconds"])

    def hear(self, news: Object) -> None:
        """From the node, in the thread of the clockwork."""
        uid, _, rest = news["id"].partition("/")
        run = self._runs.get(uid)
        if run is not None:
            run.hear(rest, news)

    def runs(self) -> list[PodRun]:
        """Of the nodes that are heard of."""
        return [run for run in list(self._runs.values()) if run.node not in self.lost]

    def image(self, name: str) -> Image | None:
        """What a name stands for; None if there is no such image."""
        if name in self.images:
            return self.images[name]
        return next((image for pattern, image in self.images.items() if fnmatchcase(name, pattern)), None)

    def write(self, run: PodRun, how: Callable[[Object], Object]) -> None:
        """Change the status of the pod in the store, unless this kubelet is not heard of."""
        if run.node not in self.lost:
            self.store.change(PODS, run.key, lambda pod: {**pod, "status": how(pod["status"])}
                              if pod["metadata"]["uid"] == run.uid else pod)  # fmt: skip

    def tell(self, run: PodRun, kind: str, reason: str, message: str, container: str | None = None) -> None:
        pod = self.store.find(PODS, run.key)
        if pod is not None and run.node not in self.lost:
            self.recorder.tell(pod, kind, reason, message, component="kubelet", host=run.node, container=container)

    def over(self, run: PodRun) -> None:
        """All containers of a pod have ended and that has been told."""
        pod = self.store.find(PODS, run.key)
        if pod is not None and pod["metadata"]["uid"] == run.uid and "deletionTimestamp" in pod["metadata"]:
            self._finish_deletion(pod)

    def evict(self, key: Key) -> None:
        pod = self.store.get(PODS, key)
        if run := self._runs.get(pod["metadata"]["uid"]):
            end: dict[str, Any] = {"phase": "Failed", "reason": "Evicted", "message": EVICTED}
            self.tell(run, "Warning", "Evicted", EVICTED)
            run.fail(end, disruption=None if self.old else ("TerminationByKubelet", EVICTED))

    def returned(self, node: str) -> None:
        """A lost node is back: what has happened meanwhile is told now."""
        self.lost.discard(node)
        for run in [run for run in self._runs.values() if run.node == node]:
            run.dirty()
            self.clockwork.soon(("pod", run.key), partial(self.sync, run.key))

    def kill_all(self, node: str) -> None:
        """The node is gone."""
        for run in [run for run in self._runs.values() if run.node == node]:
            self._forget(run)

    def _finish_deletion(self, pod: Object) -> None:
        if "deletionTimestamp" in pod["metadata"]:
            key = (pod["metadata"]["namespace"], pod["metadata"]["name"])
            self.store.change(
                PODS, key, lambda pod: {**pod, "metadata": {**pod["metadata"], "deletionGracePeriodSeconds": 0}}
            )

    def _forget(self, run: PodRun) -> None:
        del self._runs[run.uid], self._present[run.key]
        run.abandon()
        shutil.rmtree(self.site.directory / "volumes" / run.uid, ignore_errors=True)

    @staticmethod
    def addresses() -> Object:
        return {"hostIP": NODE_ADDRESS, "podIP": NODE_ADDRESS, "podIPs": [{"ip": NODE_ADDRESS}], "startTime": stamp()}
