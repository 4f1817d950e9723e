"""One pod that is bound to a node, from the creation of its containers until nothing of it is left."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from tests.stand_ins.kubernetes import pod_status
from tests.stand_ins.kubernetes.answers import PODS
from tests.stand_ins.kubernetes.container_run import ContainerRun
from tests.stand_ins.kubernetes.models import Object
from tests.stand_ins.kubernetes.store import key_of

if TYPE_CHECKING:
    from tests.stand_ins.kubernetes.kubelet import Kubelet

_LOOK_SECONDS = 1.0
"""How often a kubelet looks at the containers of a pod."""
_CLEARING, _OLD_CLEARING = 0.5, 3.0
_DEADLINE_MESSAGE = "Pod was active on the node longer than the specified deadline"


class PodRun:
    """What the kubelet knows of a pod."""

    def __init__(self, kubelet: Kubelet, pod: Object) -> None:
        self.kubelet = kubelet
        self.pod = pod
        self.key = key_of(pod)
        self.uid = str(pod["metadata"]["uid"])
        self.node = str(pod["spec"]["nodeName"])
        self.inits = [ContainerRun(self, spec) for spec in pod["spec"].get("initContainers") or ()]
        self.containers = [ContainerRun(self, spec) for spec in pod["spec"]["containers"]]
        self.stopping = False
        self._abandoned = False
        self._end: Object = {}
        """What the status says at the end, whatever the containers say."""
        self._disruption: tuple[str, str] | None = None
        self._first = time.monotonic()
        self._look_due = False
        self._told_end = self._leaving = False
        self._own_address = {**kubelet.addresses()}

    def now(self) -> float:
        return time.time()

    def tell(self, kind: str, reason: str, message: str, container: str | None = None) -> None:
        if not self._abandoned:
            self.kubelet.tell(self, kind, reason, message, container)

    def create(self) -> None:
        """First word of the kubelet, then the containers."""
        self.kubelet.write(self, lambda status: self._status({**status, **self._own_address}, "Pending"))
        deadline = self.pod["spec"].get("activeDeadlineSeconds")
        if deadline is not None:
            self.kubelet.clockwork.after(deadline, self._past_deadline)
        self._go_on()

    def began(self) -> None:
        """A container runs: from now on there is a look a second."""
        if sum(one.running for one in self.containers) == 1:
            self._first = time.monotonic()
        self.dirty()

    def container_ended(self, container: ContainerRun) -> None:
        self.dirty()
        policy = self.pod["spec"]["restartPolicy"]
        if self.stopping:
            return
        if container in self.inits and container.succeeded:
            self._go_on()
        elif policy == "Always" or (policy == "OnFailure" and not container.succeeded):
            container.restart()

    def _go_on(self) -> None:
        """Init containers one after another, then all others."""
        for init in self.inits:
            if not init.succeeded:
                if not init.ended:
                    init.begin()
                return
        for container in self.containers:
            container.begin()

    def hear(self, address: str, news: Object) -> None:
        """News of one container; those of an earlier round come too late."""
        name, _, _ = address.partition("/")
        for container in (*self.inits, *self.containers):
            if container.name == name and container.address.endswith(f"/{address}"):
                container.hear(news)

    def stop(self, grace: float) -> None:
        """SIGTERM, then SIGKILL after the grace."""
        clock = self.kubelet.clockwork
        if not self.stopping:
            self.stopping = True
            for container in self._running():
                container.stop()
        clock.after(grace, self._kill)
        self.dirty()

    def fail(self, end: Object, disruption: tuple[str, str] | None = None) -> None:
        """End it now; the status will say why."""
        self.stopping = True
        self._end = end
        self._disruption = disruption
        self._kill()
        self.dirty()

    def abandon(self) -> None:
        """The pod is gone; so must its processes be."""
        self.stopping = self._abandoned = True
        self._kill()

    def dirty(self) -> None:
        """Something has changed that the next look will see."""
        if self._look_due:
            return
        self._look_due = True
        scale = self.kubelet.clockwork.scale
        passed = (time.monotonic() - self._first) * scale
        self.kubelet.clockwork.after(_LOOK_SECONDS - passed % _LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._look_due = False
        if self._abandoned or self.node in self.kubelet.lost:
            return
        everything = (*self.inits, *self.containers)
        idle = not self._running()
        over = idle and (self.stopping or all(one.ended for one in self.containers) or self._init_failed())
        if self._told_end:
            self._leave()
            return
        never_ran = not any(one.ended for one in everything)
        if over and never_ran and self.stopping and not self._end:
            self._told_end = True
            self._leave()
            return
        restarting = not self.stopping and self.pod["spec"]["restartPolicy"] != "Never"
        phase = self._phase(over and not (restarting and not self._done_well()))
        self._told_end = phase in ("Succeeded", "Failed")
        end = self._end if self._told_end else {}
        self.kubelet.write(self, lambda status: self._status({**status, **end}, phase))
        if self._told_end:
            self._leave()

    def _leave(self) -> None:
        """What is left is cleared up; then a pod that is being deleted is gone."""
        if self.stopping and not self._leaving:
            self._leaving = True
            seconds = _OLD_CLEARING if self.kubelet.old else _CLEARING
            self.kubelet.clockwork.after(seconds, partial(self.kubelet.over, self))

    def _phase(self, over: bool) -> str:
        if self._end and over:
            return str(self._end["phase"])
        if over:
            return "Succeeded" if self._done_well() else "Failed"
        return "Running" if any(one.running or one.ended or one.last for one in self.containers) else "Pending"

    def _done_well(self) -> bool:
        return all(one.succeeded for one in self.containers)

    def _init_failed(self) -> bool:
        return self.pod["spec"]["restartPolicy"] == "Never" and any(
            one.ended and not one.succeeded for one in self.inits
        )

    def _status(self, status: Object, phase: str) -> Object:
        containers = [one.status() for one in self.containers]
        inits = [one.status() for one in self.inits]
        initialized = all(one.succeeded for one in self.inits)
        if not initialized:
            for one in containers:
                one["state"] = pod_status.waiting("PodInitializing")
        status = pod_status.with_containers(status, containers, inits, phase, initialized=initialized)
        if not self.kubelet.old:
            ready = "False" if phase in ("Succeeded", "Failed") else "True"
            status = pod_status.condition(status, "PodReadyToStartContainers", ready)
            status["hostIPs"] = [{"ip": status["hostIP"]}]
            if self._disruption:
                status = pod_status.condition(status, "DisruptionTarget", "True", *self._disruption)
        return status

    def pids(self) -> list[tuple[str, int, float]]:
        """Name, first process and start of the containers that run."""
        return [(one.name, one.pid, one.started) for one in self.containers if one.running and one.pid]

    def _running(self) -> list[ContainerRun]:
        return [one for one in (*self.inits, *self.containers) if one.running or one.pending]

    def _kill(self) -> None:
        for container in self._running():
            container.kill()

    def _past_deadline(self) -> None:
        pod = self.kubelet.store.find(PODS, self.key)
        if pod is None or pod["metadata"]["uid"] != self.uid or pod_status.is_over(pod) or self.stopping:
            return
        end = {"phase": "Failed", "reason": "DeadlineExceeded", "message": _DEADLINE_MESSAGE}
        self.stopping, self._end = True, end
        for container in self._running():
            container.stop()
        self.kubelet.clockwork.after(self.pod["spec"]["terminationGracePeriodSeconds"], partial(self._kill))
        self.dirty()
