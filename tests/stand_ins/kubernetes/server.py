"""The whole cluster: store, HTTP, controllers and kubelet, to be started and stopped."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from ccat_workflow_manager.hpc.supervisor import cgroups
from tests.stand_ins.kubernetes import kubeconfig
from tests.stand_ins.kubernetes.access import Access
from tests.stand_ins.kubernetes.answers import NAMESPACES, PODS, Resource, bad_request
from tests.stand_ins.kubernetes.api import Api
from tests.stand_ins.kubernetes.clockwork import Clockwork
from tests.stand_ins.kubernetes.defaults import new_metadata
from tests.stand_ins.kubernetes.deletion import Deletion
from tests.stand_ins.kubernetes.fault_desk import FaultInjector
from tests.stand_ins.kubernetes.faults import Faults
from tests.stand_ins.kubernetes.http_face import HOST, HttpFace, Seen
from tests.stand_ins.kubernetes.job_controller import JobController
from tests.stand_ins.kubernetes.kubelet import Kubelet
from tests.stand_ins.kubernetes.metrics import Metrics
from tests.stand_ins.kubernetes.models import Image, Node
from tests.stand_ins.kubernetes.node_link import NodeLink
from tests.stand_ins.kubernetes.nodes import NodeController
from tests.stand_ins.kubernetes.orders import Site
from tests.stand_ins.kubernetes.pod_parts import PodParts
from tests.stand_ins.kubernetes.recording import Recorder
from tests.stand_ins.kubernetes.scheduler import Scheduler
from tests.stand_ins.kubernetes.store import Change, Store, key_of
from tests.stand_ins.kubernetes.writes import Writes

_OLD = (1, 25)
"""Before this version, the server behaves as the recorded 1.20 did."""


class ApiServer:
    """A cluster on loopback. Everything that it writes is below `directory`; `stop` leaves no process.

    `images`: image name or pattern (`team/*`) -> what runs; an unknown name cannot be pulled.
    `nodes`: what pods may be put on. `claims`: name of a PersistentVolumeClaim, or `server:path` of an NFS volume,
    -> directory. `clock_scale`: how many times faster than real the controllers' clocks go (back-off, deadlines, grace,
    TTL, the second between two looks at a pod). `version`: "1.37" answers as current servers are documented to, "1.20"
    as one was recorded. `rules`: those of a Role; with them a client may do only what they allow (403 for the rest).
    `tls`: certificate and key file for HTTPS; the certificate is given to clients as that of the authority.
    `metrics`: with metrics.k8s.io.
    """

    url: str
    """Known after `start`."""

    def __init__(
        self,
        directory: Path,
        *,
        images: Mapping[str, Image] | None = None,
        nodes: Sequence[Node] = (Node(),),
        claims: Mapping[str, Path] | None = None,
        namespaces: Sequence[str] = ("default",),
        clock_scale: float = 1.0,
        version: str = "1.37",
        rules: Sequence[Mapping[str, Any]] | None = None,
        tls: tuple[Path, Path] | None = None,
        metrics: bool = False,
        port: int = 0,
    ) -> None:
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        """Written by `start`: context `stand-in` for the first namespace, and one named like each further namespace."""
        self.token_file = directory / "token"
        self.namespaces = tuple(namespaces)
        self.faults = Faults(self._fault)
        old = tuple(int(part) for part in version.split(".")[:2]) < _OLD
        by_name = {node.name: node for node in nodes}
        self._tls, self._port, self._nodes, self._claims = tls, port, by_name, dict(claims or {})
        self._store = store = Store()
        self._clockwork = Clockwork(clock_scale)
        self._desk = FaultInjector()
        self._access = Access(self._desk, rules)
        self._groups: cgroups.Groups | None = None
        recorder = Recorder(store)
        self._deletion = Deletion(store, self._clockwork)
        self._scheduler = Scheduler(store, self._clockwork, recorder, by_name, old=old)
        self._kubelet = Kubelet(store, self._clockwork, recorder, dict(images or {}), old=old)
        jobs = JobController(store, self._clockwork, recorder, self._deletion, old=old)
        self._node_controller = NodeController(
            store, self._clockwork, self._kubelet, self._scheduler, self._deletion, f"v{version}.2"
        )
        self._parts = PodParts(store, self._deletion, directory, self._kubelet.lost, old=old)
        writes = Writes(store, self._deletion, self._desk, old=old)
        usage = Metrics(self._kubelet.runs, self._access) if metrics else None
        self._api = Api(store, writes, self._parts, self._access, self._desk, version, clock_scale, usage)
        store.listeners += [self._scheduler.hear, self._hear_pod, jobs.hear, self._deletion.hear]

    @property
    def requests(self) -> list[Seen]:
        """Every request so far."""
        return list(self._http.seen)

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._http = HttpFace(self._port, self._api.answer, self._desk, self._fault, self._tls)
        port = self._http.server_address[1]
        self.url = f"{'https' if self._tls else 'http'}://{HOST}:{port}"
        site = Site(self.directory, self._claims, HOST, int(port))
        self._scheduler.site = self._kubelet.site = site
        self._groups = cgroups.detect(f"ccat-wm-stand-in-{os.getpid()}-{secrets.token_hex(4)}")
        self._kubelet.groups = self._groups
        self._link = NodeLink(self.directory, self._hear_node, self._groups)
        self._kubelet.send = self._link.send
        for name in self.namespaces:
            namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}
            namespace |= {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}
            self._store.create(NAMESPACES, new_metadata(namespace, ""))
        self._node_controller.register(self._nodes)
        self._write_access()
        self._clockwork.start()
        self._http.start()

    def stop(self) -> None:
        self._parts.stopping.set()
        self._store.close_feeds()
        self._http.stop()
        self._clockwork.stop()
        self._link.stop()
        if self._groups is not None:
            self._groups.close()

    def __enter__(self) -> ApiServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _write_access(self) -> None:
        token = self._access.token
        authority = self._tls[0] if self._tls else None
        kubeconfig.replace(self.token_file, token)
        kubeconfig.write(self.kubeconfig, self.url, token, self.namespaces, authority)

    def _hear_pod(self, resource: Resource, change: Change) -> None:
        if resource is PODS:
            key = key_of(change.object)
            self._clockwork.soon(("pod", key), partial(self._kubelet.sync, key))

    def _hear_node(self, news: dict[str, Any]) -> None:
        self._clockwork.soon(object(), partial(self._kubelet.hear, news))

    def _fault(self, order: dict[str, Any]) -> None:
        """Carry out what `Faults` asks for."""
        nodes, clockwork = self._node_controller, self._clockwork
        actions: dict[str, Callable[[], object]] = {
            "close_watches": self._store.close_feeds,
            "forget_history": self._store.forget_history,
            "forbid": lambda: self._desk.forbid(order["verb"], order["resource"]),
            "expire_tokens": lambda: self._expire_tokens(renew=order["renew"]),
            "lose_node": lambda: clockwork.soon(object(), lambda: nodes.lose(order["name"])),
            "return_node": lambda: clockwork.soon(object(), lambda: nodes.bring_back(order["name"])),
            "remove_node": lambda: clockwork.soon(object(), lambda: nodes.remove(order["name"])),
            "evict": lambda: self._evict(order["namespace"], order["pod"]),
            "clear": self._desk.clear,
        }
        if order["fault"] in actions:
            actions[order["fault"]]()
        elif hasattr(Faults, order["fault"]):
            self._desk.put(order)
        else:
            raise bad_request(f"no such fault: {order['fault']}")

    def _evict(self, namespace: str, pod: str) -> None:
        self._store.get(PODS, (namespace, pod))
        self._clockwork.soon(object(), lambda: self._kubelet.evict((namespace, pod)))

    def _expire_tokens(self, *, renew: bool) -> None:
        self._access.expire(renew=renew)
        if renew:
            self._write_access()
