"""The nodes: which one a pod goes to, and what becomes of the pods of a node that falls silent or is removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import TypeAlias

from tests.stand_ins.kubernetes import pod_status
from tests.stand_ins.kubernetes.clockwork import Clockwork
from tests.stand_ins.kubernetes.containers import missing_claims
from tests.stand_ins.kubernetes.deletion import Deletion, uncounted
from tests.stand_ins.kubernetes.events import Recorder
from tests.stand_ins.kubernetes.kubelet import Kubelet
from tests.stand_ins.kubernetes.objects import PODS, Key, Node, Object, Resource, is_being_deleted, key_of, quantity
from tests.stand_ins.kubernetes.store import ADDED, DELETED, Change, Store

Amounts: TypeAlias = dict[str, Decimal]
Taint: TypeAlias = Mapping[str, str]

_NOTHING = Decimal(0)
_NO_VICTIMS = " preemption: 0/{0} nodes are available: {0} Preemption is not helpful for scheduling."
_SILENCE = 40.0
"""Seconds without news until a node counts as lost."""
_UNREACHABLE: Taint = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}
_EVICTION = ("EvictionByEvictionAPI", "Eviction API: evicting")
_OF_LOST_NODES: tuple[Taint, ...] = (_UNREACHABLE, {**_UNREACHABLE, "effect": "NoSchedule"})


class Scheduler:
    """Runs in the one thread of the clockwork. Pods that do not fit are tried again when room becomes free."""

    def __init__(
        self,
        store: Store,
        clockwork: Clockwork,
        recorder: Recorder,
        kubelet: Kubelet,
        nodes: Mapping[str, Node],
        *,
        old: bool,
    ) -> None:
        self.store = store
        self.clockwork = clockwork
        self.recorder = recorder
        self.kubelet = kubelet
        self.nodes = dict(nodes)
        self.old = old
        self.taints: dict[str, list[Taint]] = {name: list(node.taints) for name, node in nodes.items()}
        self._used: dict[str, Amounts] = {name: {} for name in nodes}
        self._bound: dict[str, tuple[str, Amounts]] = {}
        self._waiting: dict[Key, str] = {}
        """Pods that did not fit -> their demand; pods with the same demand are not all tried again."""

    def on_change(self, resource: Resource, change: Change) -> None:
        """Called by the store for every change."""
        if resource is not PODS:
            return
        pod = change.object
        if change.type == DELETED or pod_status.is_over(pod):
            self.clockwork.soon(("free", pod["metadata"]["uid"]), partial(self._free, pod))
        elif change.type == ADDED:
            self.clockwork.soon(("schedule", key_of(pod)), partial(self._schedule, key_of(pod)))

    def look_again(self) -> None:
        self.clockwork.soon("look again", self._look_again)

    def _look_again(self) -> None:
        in_vain: set[str] = set()
        for key, demand in list(self._waiting.items()):
            if demand not in in_vain:
                self._schedule(key)
                if key in self._waiting:
                    in_vain.add(demand)

    def _free(self, pod: Object) -> None:
        bound = self._bound.pop(pod["metadata"]["uid"], None)
        if bound is not None:
            self._add(*bound, -1)
            self.look_again()

    def _add(self, node: str, wants: Amounts, sign: int) -> None:
        used = self._used[node]
        for name, amount in wants.items():
            used[name] = used.get(name, _NOTHING) + sign * amount

    def _schedule(self, key: Key) -> None:
        self._waiting.pop(key, None)
        pod = self.store.find(PODS, key)
        if pod is None or pod["spec"].get("nodeName") or is_being_deleted(pod):
            return
        if missing := missing_claims(self.kubelet.surroundings, pod):
            self._refuse(pod, f'persistentvolumeclaim "{missing[0]}" not found')
            return
        wants = _wants(pod)
        reasons: Counter[str] = Counter()
        for node in self.nodes.values():
            why = self._misfits(pod, node, wants)
            if not why:
                self._bind(pod, node.name, wants)
                return
            reasons.update(why)
        self._refuse(pod, ", ".join(f"{number} {why}" for why, number in sorted(reasons.items())))

    def _misfits(self, pod: Object, node: Node, wants: Amounts) -> list[str]:
        tolerations = pod["spec"].get("tolerations") or ()
        for taint in self.taints[node.name]:
            if taint["effect"] != "PreferNoSchedule" and not any(_tolerates(one, taint) for one in tolerations):
                label = f"{{{taint['key']}: {taint.get('value', '')}}}"
                if self.old:
                    return [f"node(s) had taint {label}, that the pod didn't tolerate"]
                return [f"node(s) had untolerated taint {label}"]
        if not (pod["spec"].get("nodeSelector") or {}).items() <= node.all_labels.items():
            return ["node(s) didn't match Pod's node affinity" + ("" if self.old else "/selector")]
        used = self._used[node.name]
        return [
            f"Insufficient {what}"
            for what, amount in wants.items()
            if amount and used.get(what, _NOTHING) + amount > quantity(node.room.get(what, "0"))
        ]

    def _bind(self, pod: Object, node: str, wants: Amounts) -> None:
        self._bound[pod["metadata"]["uid"]] = (node, wants)
        self._add(node, wants, 1)

        def change(pod: Object) -> Object:
            status = pod_status.condition(pod["status"], "PodScheduled", "True")
            return {**pod, "spec": {**pod["spec"], "nodeName": node}, "status": status}

        key = key_of(pod)
        self.store.change(PODS, key, change)
        message = f"Successfully assigned {key[0]}/{key[1]} to {node}"
        self.recorder.record(pod, "Normal", "Scheduled", message, component="default-scheduler")

    def _refuse(self, pod: Object, why: str) -> None:
        key, number = key_of(pod), len(self.nodes)
        self._waiting[key] = _demand(pod)
        message = f"0/{number} nodes are available: {why}."
        if not self.old:
            message += _NO_VICTIMS.format(number)

        def change(pod: Object) -> Object:
            status = pod_status.condition(pod["status"], "PodScheduled", "False", "Unschedulable", message)
            return {**pod, "status": status}

        if self.store.change(PODS, key, change) is not pod:
            self.recorder.record(pod, "Warning", "FailedScheduling", message, component="default-scheduler")


class NodeController:
    """Runs in the one thread of the clockwork."""

    def __init__(
        self, store: Store, clockwork: Clockwork, kubelet: Kubelet, scheduler: Scheduler, deletion: Deletion
    ) -> None:
        self.store = store
        self.clockwork = clockwork
        self.kubelet = kubelet
        self.scheduler = scheduler
        self.deletion = deletion
        self.old = scheduler.old

    def lose(self, name: str) -> None:
        """Its kubelet falls silent. After a while the node counts as lost."""
        self.kubelet.lost.add(name)
        self.clockwork.after(_SILENCE, partial(self._miss, name))

    def bring_back(self, name: str) -> None:
        taints = self.scheduler.taints
        taints[name] = [one for one in taints[name] if one not in _OF_LOST_NODES]
        self.kubelet.returned(name)
        self.scheduler.look_again()

    def remove(self, name: str) -> None:
        """The machine is gone: its pods fail and are removed."""
        self.kubelet.lost.add(name)
        del self.scheduler.nodes[name]
        self.kubelet.kill_all(name)
        for pod in self._pods(name):
            self.store.change(PODS, key_of(pod), self._collected)
            self.deletion.delete_pod(key_of(pod), 0)

    def drain(self, key: Key) -> None:
        self.deletion.delete_pod(key, disruption=None if self.old else _EVICTION)

    def _collected(self, pod: Object) -> Object:
        if self.old:
            return uncounted(pod)
        if pod_status.is_over(pod):
            return pod
        reason = ("DeletionByPodGC", "PodGC: node no longer exists")
        status = pod_status.condition(pod["status"], "DisruptionTarget", "True", *reason)
        return {**pod, "status": {**status, "phase": "Failed"}}

    def _miss(self, name: str) -> None:
        if name not in self.kubelet.lost or name not in self.scheduler.nodes:
            return
        for pod in self._pods(name):
            self.store.change(PODS, key_of(pod), _unready)
        if all(other in self.kubelet.lost for other in self.scheduler.nodes):
            return  # Full disruption: when all nodes are silent, it is the controller that is cut off.
        self.scheduler.taints[name] += _OF_LOST_NODES
        for pod in self._pods(name):
            if pod_status.is_over(pod):
                continue
            tolerated = [one for one in pod["spec"].get("tolerations") or () if _tolerates(one, _UNREACHABLE)]
            seconds = [one.get("tolerationSeconds") for one in tolerated]
            if not seconds or any(one is not None for one in seconds):
                patience = min((one for one in seconds if one is not None), default=0)
                self.clockwork.after(patience, partial(self._evict, name, key_of(pod), pod["metadata"]["uid"]))

    def _evict(self, node: str, key: Key, uid: str) -> None:
        pod = self.store.find(PODS, key)
        if node in self.kubelet.lost and pod is not None and pod["metadata"]["uid"] == uid:
            reason = ("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")
            self.deletion.delete_pod(key, disruption=None if self.old else reason)

    def _pods(self, node: str) -> list[Object]:
        return [pod for pod in self.store.all(PODS) if pod["spec"].get("nodeName") == node]


def _unready(pod: Object) -> Object:
    if pod_status.is_over(pod) or not pod["status"].get("containerStatuses"):
        return pod
    return {**pod, "status": pod_status.condition(pod["status"], "Ready", "False")}


def _tolerates(toleration: Object, taint: Taint) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")


def _demand(pod: Object) -> str:
    spec = pod["spec"]
    resources = [one["resources"] for one in spec["containers"]]
    return repr((spec.get("nodeSelector"), spec.get("tolerations"), spec.get("volumes"), resources))


def _wants(pod: Object) -> Amounts:
    total: Amounts = {}
    for container in pod["spec"]["containers"]:
        for name, amount in container["resources"].get("requests", {}).items():
            if name != "ephemeral-storage":
                total[name] = total.get(name, _NOTHING) + quantity(amount)
    return total
