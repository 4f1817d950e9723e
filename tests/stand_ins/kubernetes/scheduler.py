"""The scheduler: which node a pod goes to, and why none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import TypeAlias

from tests.stand_ins.kubernetes import pod_status, quantities
from tests.stand_ins.kubernetes.answers import PODS, Resource
from tests.stand_ins.kubernetes.clockwork import Clockwork
from tests.stand_ins.kubernetes.models import Node, Object
from tests.stand_ins.kubernetes.orders import Site, missing_claims
from tests.stand_ins.kubernetes.recording import Recorder
from tests.stand_ins.kubernetes.selectors import matches
from tests.stand_ins.kubernetes.store import Change, Key, Store, key_of

Amounts: TypeAlias = dict[str, Decimal]

_NOTHING = Decimal(0)
_NO_VICTIMS = " preemption: 0/{0} nodes are available: {0} Preemption is not helpful for scheduling."


class Scheduler:
    """Runs in the one thread of the clockwork. Pods that do not fit are looked at again whenever something goes."""

    def __init__(
        self, store: Store, clockwork: Clockwork, recorder: Recorder, nodes: Mapping[str, Node], *, old: bool
    ) -> None:
        self.store = store
        self.clockwork = clockwork
        self.recorder = recorder
        self.nodes = nodes
        self.old = old
        self.site: Site
        self.taints: dict[str, list[Mapping[str, str]]] = {name: list(node.taints) for name, node in nodes.items()}
        self._used: dict[str, Amounts] = {name: {} for name in nodes}
        self._bound: dict[str, tuple[str, Amounts]] = {}
        self._waiting: dict[Key, str] = {}
        """Pods that did not fit -> what they want; those that want the same are not all tried again."""

    def hear(self, resource: Resource, change: Change) -> None:
        """Called by the store for every change."""
        if resource is not PODS:
            return
        pod = change.object
        if change.type == "DELETED" or pod_status.is_over(pod):
            self.clockwork.soon(("free", pod["metadata"]["uid"]), partial(self._free, pod))
        elif change.type == "ADDED" and not pod["spec"].get("nodeName"):
            key = key_of(pod)
            self.clockwork.soon(("schedule", key), partial(self._schedule, key))

    def look_again(self) -> None:
        self.clockwork.soon("look again", self._look_again)

    def _look_again(self) -> None:
        in_vain: set[str] = set()
        for key, wish in list(self._waiting.items()):
            if wish not in in_vain:
                self._schedule(key)
                if key in self._waiting:
                    in_vain.add(wish)

    def _free(self, pod: Object) -> None:
        bound = self._bound.pop(pod["metadata"]["uid"], None)
        if bound is not None:
            node, wants = bound
            if node in self._used:
                self._add(node, wants, -1)
            self.look_again()

    def _add(self, node: str, wants: Amounts, sign: int) -> None:
        used = self._used[node]
        for name, amount in wants.items():
            used[name] = used.get(name, _NOTHING) + sign * amount

    def _schedule(self, key: Key) -> None:
        self._waiting.pop(key, None)
        pod = self.store.find(PODS, key)
        if pod is None or pod["spec"].get("nodeName") or "deletionTimestamp" in pod["metadata"]:
            return
        wants = _wants(pod)
        reasons: Counter[str] = Counter()
        if missing := missing_claims(self.site, pod):
            self._refuse(pod, f'persistentvolumeclaim "{missing[0]}" not found')
            return
        for name, node in self.nodes.items():
            why = self._misfits(pod, name, node, wants)
            if not why:
                self._bind(pod, name, wants)
                return
            reasons.update(why)
        told = ", ".join(f"{number} {why}" for why, number in sorted(reasons.items()))
        self._refuse(pod, told)

    def _misfits(self, pod: Object, name: str, node: Node, wants: Amounts) -> list[str]:
        tolerations = pod["spec"].get("tolerations") or ()
        for taint in self.taints.get(name, ()):
            if taint["effect"] != "PreferNoSchedule" and not any(tolerates(one, taint) for one in tolerations):
                label = f"{{{taint['key']}: {taint.get('value', '')}}}"
                old, new = (
                    f"node(s) had taint {label}, that the pod didn't tolerate",
                    f"node(s) had untolerated taint {label}",
                )
                return [old if self.old else new]
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", **node.labels}
        if not matches(pod["spec"].get("nodeSelector") or {}, labels):
            return ["node(s) didn't match Pod's node affinity" + ("" if self.old else "/selector")]
        room = {"cpu": node.cpu, "memory": node.memory, **node.extended}
        return [
            f"Insufficient {what}"
            for what, amount in wants.items()
            if amount and self._used[name].get(what, _NOTHING) + amount > quantities.parse(room.get(what, "0"))
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
        self.recorder.tell(pod, "Normal", "Scheduled", message, component="default-scheduler")

    def _refuse(self, pod: Object, why: str) -> None:
        key, number = key_of(pod), len(self.nodes)
        self._waiting[key] = _wish(pod)
        message = f"0/{number} nodes are available: {why}."
        if not self.old:
            message += _NO_VICTIMS.format(number)

        def change(pod: Object) -> Object:
            return {
                **pod,
                "status": pod_status.condition(pod["status"], "PodScheduled", "False", "Unschedulable", message),
            }

        changed = self.store.change(PODS, key, change)
        if changed is not pod:
            self.recorder.tell(pod, "Warning", "FailedScheduling", message, component="default-scheduler")


def tolerates(toleration: Object, taint: Mapping[str, str]) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("key") not in (None, "", taint["key"]):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.get("value", "")


def _wish(pod: Object) -> str:
    spec = pod["spec"]
    resources = [one["resources"] for one in spec["containers"]]
    return repr((spec.get("nodeSelector"), spec.get("tolerations"), spec.get("volumes"), resources))


def _wants(pod: Object) -> Amounts:
    total: Amounts = {}
    for container in pod["spec"]["containers"]:
        for name, amount in (container["resources"].get("requests") or {}).items():
            if name != "ephemeral-storage":
                total[name] = total.get(name, _NOTHING) + quantities.parse(amount)
    return total
