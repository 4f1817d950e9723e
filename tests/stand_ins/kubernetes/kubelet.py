"""The kubelets of all nodes: pods that are bound to a node are run, looked at about once a second, and stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial

from ccat_workflow_manager.hpc.supervisor.cgroups import Groups
from tests.stand_ins.kubernetes import pod_status
from tests.stand_ins.kubernetes.clockwork import Clockwork, stamp
from tests.stand_ins.kubernetes.containers import ContainerRun, Surroundings
from tests.stand_ins.kubernetes.events import Recorder
from tests.stand_ins.kubernetes.objects import PODS, Image, Key, Object, is_being_deleted, key_of
from tests.stand_ins.kubernetes.store import Store

_EVICTED = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 92Mi. "
_ADDRESS = "127.0.0.1"
_LOOK_SECONDS = 1.0
"""How often a kubelet looks at the containers of a pod."""
_CLEARING, _OLD_CLEARING = 0.5, 3.0
_DEADLINE_MESSAGE = "Pod was active on the node longer than the specified deadline"


class Kubelet:
    """Runs in the one thread of the clockwork."""

    groups: Groups | None
    """Where memory can be limited."""
    surroundings: Surroundings
    send: Callable[[Object], None]
    """Gives an order to the node. All three are set before the first pod comes."""

    def __init__(
        self, store: Store, clockwork: Clockwork, recorder: Recorder, images: Mapping[str, Image], *, old: bool
    ) -> None:
        self.store = store
        self.clockwork = clockwork
        self.recorder = recorder
        self.images = images
        self.old = old
        self.lost: set[str] = set()
        """Nodes whose kubelet is silent."""
        self._runs: dict[str, PodRun] = {}
        """By uid."""
        self._present: dict[Key, str] = {}

    def sync(self, key: Key) -> None:
        """Look at a pod that has changed."""
        pod = self.store.find(PODS, key)
        before = self._present.get(key)
        if before is not None and before != (pod["metadata"]["uid"] if pod else None):
            self._forget(self._runs[before])
        node = pod["spec"].get("nodeName") if pod else None
        if pod is None or not node or node in self.lost:
            return
        run = self._runs.get(pod["metadata"]["uid"])
        if run is not None:
            if is_being_deleted(pod):
                run.stop(pod["metadata"]["deletionGracePeriodSeconds"])
        elif pod_status.is_over(pod) or is_being_deleted(pod):
            self._finish_deletion(pod)
        else:
            run = self._runs[pod["metadata"]["uid"]] = PodRun(self, pod)
            self._present[key] = run.uid
            run.create()

    def on_report(self, report: Object) -> None:
        """From the node, in the thread of the clockwork."""
        uid, _, name = report["id"].partition("/")
        if (run := self._runs.get(uid)) is not None:
            for container in run.containers:
                if container.name == name:
                    container.on_report(report)

    def image(self, name: str) -> Image | None:
        """The image of this name or of a pattern that fits it."""
        if name in self.images:
            return self.images[name]
        return next((image for pattern, image in self.images.items() if fnmatchcase(name, pattern)), None)

    def write(self, run: PodRun, how: Callable[[Object], Object]) -> None:
        """Change the status of the pod in the store, unless this kubelet is silent."""
        if run.node not in self.lost:
            self.store.change(PODS, run.key, lambda pod: {**pod, "status": how(pod["status"])}
                              if pod["metadata"]["uid"] == run.uid else pod)  # fmt: skip

    def record(self, run: PodRun, kind: str, reason: str, message: str, container: str | None = None) -> None:
        pod = self.store.find(PODS, run.key)
        if pod is not None and run.node not in self.lost:
            self.recorder.record(pod, kind, reason, message, component="kubelet", host=run.node, container=container)

    def over(self, run: PodRun) -> None:
        """All containers of a pod have ended, and its status says so."""
        pod = self.store.find(PODS, run.key)
        if pod is not None and pod["metadata"]["uid"] == run.uid and is_being_deleted(pod):
            self._finish_deletion(pod)

    def evict(self, key: Key) -> None:
        pod = self.store.get(PODS, key)
        if run := self._runs.get(pod["metadata"]["uid"]):
            self.record(run, "Warning", "Evicted", _EVICTED)
            run.fail(
                {"phase": "Failed", "reason": "Evicted", "message": _EVICTED},
                disruption=None if self.old else ("TerminationByKubelet", _EVICTED),
            )

    def returned(self, node: str) -> None:
        """A lost node reports again, also what has happened meanwhile."""
        self.lost.discard(node)
        for run in self._runs_on(node):
            run.look_soon()
            self.clockwork.soon(("pod", run.key), partial(self.sync, run.key))

    def kill_all(self, node: str) -> None:
        """The node is gone."""
        for run in self._runs_on(node):
            self._forget(run)

    def _runs_on(self, node: str) -> list[PodRun]:
        return [run for run in self._runs.values() if run.node == node]

    def _finish_deletion(self, pod: Object) -> None:
        if is_being_deleted(pod):
            at_once = {"deletionGracePeriodSeconds": 0}
            self.store.change(PODS, key_of(pod), lambda pod: {**pod, "metadata": {**pod["metadata"], **at_once}})

    def _forget(self, run: PodRun) -> None:
        del self._runs[run.uid], self._present[run.key]
        run.abandon()


class PodRun:
    """What the kubelet knows of a pod, from the creation of its containers until nothing of it is left."""

    def __init__(self, kubelet: Kubelet, pod: Object) -> None:
        self.kubelet = kubelet
        self.pod = pod
        self.key = key_of(pod)
        self.uid = str(pod["metadata"]["uid"])
        self.node = str(pod["spec"]["nodeName"])
        self.containers = [ContainerRun(self, spec) for spec in pod["spec"]["containers"]]
        self.stopping = False
        self._abandoned = False
        self._end: Object = {}
        """What the status says at the end, instead of what follows from the containers."""
        self._disruption: tuple[str, str] | None = None
        self._first = time.monotonic()
        self._look_due = False
        self._reported_end = self._leaving = False

    def record(self, kind: str, reason: str, message: str, container: str | None = None) -> None:
        if not self._abandoned:
            self.kubelet.record(self, kind, reason, message, container)

    def create(self) -> None:
        """The first status, then the containers."""
        own = {"hostIP": _ADDRESS, "podIP": _ADDRESS, "podIPs": [{"ip": _ADDRESS}], "startTime": stamp()}
        self.kubelet.write(self, lambda status: self._status({**status, **own}, "Pending"))
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None:
            self.kubelet.clockwork.after(deadline, self._past_deadline)
        for container in self.containers:
            container.begin()

    def container_started(self) -> None:
        """From the first one on there is a look a second."""
        if sum(one.running for one in self.containers) == 1:
            self._first = time.monotonic()
        self.look_soon()

    def stop(self, grace: float) -> None:
        """SIGTERM, then SIGKILL after the grace."""
        if not self.stopping:
            self.stopping = True
            for container in self._running():
                container.stop()
        self.kubelet.clockwork.after(grace, self._kill)
        self.look_soon()

    def fail(self, end: Object, disruption: tuple[str, str] | None = None) -> None:
        """End it now. `end` is put into its status."""
        self.stopping = True
        self._end = end
        self._disruption = disruption
        self._kill()
        self.look_soon()

    def abandon(self) -> None:
        """The pod is gone, and so its processes have to go."""
        self.stopping = self._abandoned = True
        self._kill()

    def look_soon(self) -> None:
        """Something has changed that the next look will see."""
        if self._look_due:
            return
        self._look_due = True
        passed = (time.monotonic() - self._first) * self.kubelet.clockwork.scale
        self.kubelet.clockwork.after(_LOOK_SECONDS - passed % _LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._look_due = False
        if self._abandoned or self.node in self.kubelet.lost:
            return
        over = not self._running() and (self.stopping or all(one.ended for one in self.containers))
        never_ran = not any(one.ended for one in self.containers)
        if over and never_ran and self.stopping and not self._end:
            self._reported_end = True
        if not self._reported_end:
            phase = self._phase(over)
            self._reported_end = over
            end = self._end if over or self.kubelet.old else {}
            self.kubelet.write(self, lambda status: self._status({**status, **end}, phase))
        if self._reported_end:
            self._leave()

    def _leave(self) -> None:
        """Clear up; then a pod that is being deleted is gone."""
        if self.stopping and not self._leaving:
            self._leaving = True
            seconds = _OLD_CLEARING if self.kubelet.old else _CLEARING
            self.kubelet.clockwork.after(seconds, partial(self.kubelet.over, self))

    def _phase(self, over: bool) -> str:
        if over:
            succeeded = all(one.succeeded for one in self.containers)
            return str(self._end.get("phase") or ("Succeeded" if succeeded else "Failed"))
        if self._end and self.kubelet.old:
            return str(self._end["phase"])  # Before the containers have ended.
        return "Running" if any(one.running or one.ended for one in self.containers) else "Pending"

    def _status(self, status: Object, phase: str) -> Object:
        status = pod_status.with_containers(status, [one.status() for one in self.containers], phase)
        if not self.kubelet.old:
            ready = "False" if phase in ("Succeeded", "Failed") else "True"
            status = pod_status.condition(status, "PodReadyToStartContainers", ready)
            status["hostIPs"] = [{"ip": status["hostIP"]}]
            if self._disruption:
                status = pod_status.condition(status, "DisruptionTarget", "True", *self._disruption)
        return status

    def _running(self) -> list[ContainerRun]:
        return [one for one in self.containers if one.running or one.pending]

    def _kill(self) -> None:
        for container in self._running():
            container.kill()

    def _past_deadline(self) -> None:
        pod = self.kubelet.store.find(PODS, self.key)
        if pod is not None and pod["metadata"]["uid"] == self.uid and not pod_status.is_over(pod) and not self.stopping:
            self._end = {"phase": "Failed", "reason": "DeadlineExceeded", "message": _DEADLINE_MESSAGE}
            self.stop(self.pod["spec"]["terminationGracePeriodSeconds"])
