"""The nodes as objects, and what the node controller does about one that is not heard of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from tests.stand_ins.kubernetes import pod_status
from tests.stand_ins.kubernetes.answers import NODES, PODS
from tests.stand_ins.kubernetes.clock import stamp
from tests.stand_ins.kubernetes.clockwork import Clockwork
from tests.stand_ins.kubernetes.defaults import new_metadata
from tests.stand_ins.kubernetes.deletion import Deletion, uncounted
from tests.stand_ins.kubernetes.kubelet import Kubelet
from tests.stand_ins.kubernetes.models import Node, Object
from tests.stand_ins.kubernetes.scheduler import Scheduler, tolerates
from tests.stand_ins.kubernetes.store import Store, key_of

_SILENCE = 40.0
"""Seconds without news until a node counts as lost."""
_UNREACHABLE = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
_TAINTS = [_UNREACHABLE, {**_UNREACHABLE, "effect": "NoSchedule"}]


class NodeController:
    """Runs in the one thread of the clockwork."""

    def __init__(
        self,
        store: Store,
        clockwork: Clockwork,
        kubelet: Kubelet,
        scheduler: Scheduler,
        deletion: Deletion,
        version: str,
    ) -> None:
        self.store = store
        self.clockwork = clockwork
        self.kubelet = kubelet
        self.scheduler = scheduler
        self.deletion = deletion
        self.version = version
        self.old = scheduler.old

    def register(self, nodes: Mapping[str, Node]) -> None:
        for node in nodes.values():
            self.store.create(NODES, self._object(node))

    def lose(self, name: str) -> None:
        """Its kubelet falls silent; what follows takes its time."""
        self.kubelet.lost.add(name)
        self.clockwork.after(_SILENCE, partial(self._miss, name))

    def bring_back(self, name: str) -> None:
        self.scheduler.taints[name] = [one for one in self.scheduler.taints[name] if one not in _TAINTS]
        self.store.change(NODES, ("", name), partial(_with_ready, value="True"))
        self.kubelet.returned(name)
        self.scheduler.look_again()

    def remove(self, name: str) -> None:
        """The machine is gone, and its object too: its pods fail and are removed."""
        self.kubelet.lost.add(name)
        self.scheduler.nodes = {key: node for key, node in self.scheduler.nodes.items() if key != name}
        self.store.remove(NODES, ("", name))
        self.kubelet.kill_all(name)
        for pod in self._pods(name):
            self.store.change(PODS, key_of(pod), self._collected)
            self.deletion.delete_pod(key_of(pod), 0)

    def _collected(self, pod: Object) -> Object:
        if self.old:
            return uncounted(pod)
        if pod_status.is_over(pod):
            return pod
        message = "PodGC: node no longer exists"
        status = pod_status.condition(pod["status"], "DisruptionTarget", "True", "DeletionByPodGC", message)
        return {**pod, "status": {**status, "phase": "Failed"}}

    def _miss(self, name: str) -> None:
        if name not in self.kubelet.lost or name not in self.scheduler.nodes:
            return
        self.store.change(NODES, ("", name), partial(_with_ready, value="Unknown"))
        for pod in self._pods(name):
            self.store.change(PODS, key_of(pod), _unready)
        if all(other in self.kubelet.lost for other in self.scheduler.nodes):
            return  # Full disruption: when nothing is heard of at all, it is the controller that is cut off.
        self.scheduler.taints[name] = [*self.scheduler.taints[name], *_TAINTS]
        for pod in self._pods(name):
            if pod_status.is_over(pod):
                continue
            tolerated = [one for one in pod["spec"].get("tolerations") or () if tolerates(one, _UNREACHABLE)]
            seconds = [one.get("tolerationSeconds") for one in tolerated]
            if not seconds or any(one is not None for one in seconds):
                patience = min((one for one in seconds if one is not None), default=0)
                self.clockwork.after(patience, partial(self._evict, name, key_of(pod), pod["metadata"]["uid"]))

    def _evict(self, node: str, key: tuple[str, str], uid: str) -> None:
        pod = self.store.find(PODS, key)
        if node in self.kubelet.lost and pod is not None and pod["metadata"]["uid"] == uid:
            reason = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
            self.deletion.delete_pod(key, disruption=None if self.old else reason)

    def _pods(self, node: str) -> list[Object]:
        return [pod for pod in self.store.all(PODS) if pod["spec"].get("nodeName") == node]

    def _object(self, node: Node) -> Object:
        room = {"cpu": node.cpu, "memory": node.memory, "pods": "100000", **node.extended}
        labels = {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux", **node.labels}
        item: Object = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": node.name, "labels": labels}}
        info = dict.fromkeys(
            ("architecture", "bootID", "kernelVersion", "kubeProxyVersion", "machineID", "osImage", "systemUUID"),
            "stand-in",
        )
        item["spec"] = {"taints": [dict(taint) for taint in node.taints]} if node.taints else {}
        item["status"] = {
            "capacity": room,
            "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": node.name}],
            "nodeInfo": {**info, "kubeletVersion": self.version, "operatingSystem": "linux",
                         "containerRuntimeVersion": "stand-in://1"},
        }  # fmt: skip
        return _with_ready(new_metadata(item, ""), "True")


def _with_ready(node: Object, value: str) -> Object:
    now = stamp()
    reason = "KubeletReady" if value == "True" else "NodeStatusUnknown"
    message = "kubelet is posting ready status" if value == "True" else "Kubelet stopped posting node status."
    ready = {"type": "Ready", "status": value, "reason": reason, "message": message,
             "lastHeartbeatTime": now, "lastTransitionTime": now}  # fmt: skip
    taints = [one for one in node["spec"].get("taints", ()) if one not in _TAINTS]
    taints += _TAINTS if value == "Unknown" else []
    spec = {key: part for key, part in node["spec"].items() if key != "taints"} | ({"taints": taints} if taints else {})
    return {**node, "spec": spec, "status": {**node["status"], "conditions": [ready]}}


def _unready(pod: Object) -> Object:
    if pod_status.is_over(pod) or not pod["status"].get("containerStatuses"):
        return pod
    return {**pod, "status": pod_status.condition(pod["status"], "Ready", "False")}
