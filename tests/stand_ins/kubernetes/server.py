"""The whole stand-in cluster: store, HTTP, controllers and kubelets, to be started and stopped."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from ccat_workflow_manager.hpc.supervisor import cgroups
from tests.stand_ins.container_node.link import NodeLink
from tests.stand_ins.kubernetes.api import Access, Api
from tests.stand_ins.kubernetes.clockwork import Clockwork
from tests.stand_ins.kubernetes.containers import Surroundings
from tests.stand_ins.kubernetes.deletion import Deletion
from tests.stand_ins.kubernetes.events import Recorder
from tests.stand_ins.kubernetes.fault_injector import ClusterFaults, FaultInjector
from tests.stand_ins.kubernetes.http_server import HOST, HttpServer, LoggedRequest
from tests.stand_ins.kubernetes.job_controller import JobController
from tests.stand_ins.kubernetes.kubelet import Kubelet
from tests.stand_ins.kubernetes.nodes import NodeController, Scheduler
from tests.stand_ins.kubernetes.objects import PODS, Image, Key, Node, Resource, key_of
from tests.stand_ins.kubernetes.store import Change, Store
from tests.stand_ins.kubernetes.writes import Writes

_OLD = (1, 25)
"""Before this version, the server behaves as the recorded 1.20 did."""
_CONTEXT = "stand-in"


class ApiServer:
    """A stand-in cluster on loopback. Everything that it writes is below `directory`; `stop` leaves no process.

    `images`: image name or pattern (`team/*`) -> what runs; an unknown name cannot be pulled.
    `nodes`: what pods may be put on. `claims`: name of a PersistentVolumeClaim -> directory.
    `clock_scale`: how many times faster than real the controllers' clocks go (back-off, deadlines, grace, TTL, the
    second between two looks at a pod). `version`: "1.37" answers as current servers are documented to, "1.20" as one
    was recorded. `rules`: those of a Role; with them a client may do only what they allow (403 for the rest).
    `tls`: certificate and key file for HTTPS; clients get the certificate as that of the authority.
    """

    def __init__(
        self,
        directory: Path,
        *,
        images: Mapping[str, Image] | None = None,
        nodes: Sequence[Node] = (Node(),),
        claims: Mapping[str, Path] | None = None,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        namespaces: Sequence[str] = ("default",),
        clock_scale: float = 1.0,
        version: str = "1.37",
        rules: Sequence[Mapping[str, Any]] | None = None,
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        """Written by `start`: context `stand-in` for the first namespace, and one named like each further namespace."""
        self.token_file = directory / "token"
        self.namespaces = tuple(namespaces)
        old = tuple(int(part) for part in version.split(".")[:2]) < _OLD
        self._tls = tls
        self._store = store = Store()
        self._clockwork = clockwork = Clockwork(clock_scale)
        self._access = Access(rules)
        self._groups: cgroups.Groups | None = None
        recorder, deletion = Recorder(store), Deletion(store, clockwork)
        self._kubelet = kubelet = Kubelet(store, clockwork, recorder, dict(images or {}), old=old)
        scheduler = Scheduler(store, clockwork, recorder, kubelet, {node.name: node for node in nodes}, old=old)
        jobs = JobController(store, clockwork, recorder, deletion, old=old)
        controller = NodeController(store, clockwork, kubelet, scheduler, deletion)
        self.faults = FaultInjector(self._cluster_faults(controller))
        writes = Writes(store, deletion, self.faults, self.namespaces, old=old)
        api = Api(store, writes, self._access, self.faults, version, clock_scale, directory, kubelet.lost)
        self._http = HttpServer(api.answer, tls)
        self.url = f"{'https' if tls else 'http'}://{HOST}:{self._http.port}"
        kubelet.surroundings = Surroundings(directory, dict(claims or {}), HOST, self._http.port, secrets or {})
        store.listeners += [scheduler.on_change, self._on_change, jobs.on_change, deletion.on_change]

    @property
    def requests(self) -> list[LoggedRequest]:
        """Every request so far."""
        return list(self._http.log)

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self._groups = cgroups.detect(f"ccat-wm-stand-in-{os.getpid()}-{secrets.token_hex(4)}")
        self._kubelet.groups = self._groups
        self._link = NodeLink(self.directory, self._on_report, self._groups.base if self._groups else None)
        self._kubelet.send = self._link.send
        self._write_access()
        self._clockwork.start()
        self._http.start()

    def stop(self) -> None:
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

    def _on_change(self, resource: Resource, change: Change) -> None:
        if resource is PODS:
            key = key_of(change.object)
            self._clockwork.soon(("pod", key), partial(self._kubelet.sync, key))

    def _on_report(self, report: dict[str, Any]) -> None:
        self._clockwork.run(partial(self._kubelet.on_report, report))

    def _cluster_faults(self, nodes: NodeController) -> ClusterFaults:
        run = self._clockwork.run

        def evict(key: Key) -> None:
            self._store.get(PODS, key)
            run(partial(self._kubelet.evict, key))

        def expire_tokens(renew: bool) -> None:
            self._access.expire(renew=renew)
            if renew:
                self._write_access()

        return ClusterFaults(
            close_watches=self._store.close_feeds,
            forget_history=self._store.forget_history,
            expire_tokens=expire_tokens,
            lose_node=lambda name: run(partial(nodes.lose, name)),
            return_node=lambda name: run(partial(nodes.bring_back, name)),
            remove_node=lambda name: run(partial(nodes.remove, name)),
            evict=lambda namespace, pod: evict((namespace, pod)),
            drain=lambda namespace, pod: run(partial(nodes.drain, (namespace, pod))),
        )

    def _write_access(self) -> None:
        """The token, and a kubeconfig with one context for each namespace; the first one is the current one."""
        token, names = self._access.token, [_CONTEXT, *self.namespaces[1:]]
        authority = {"certificate-authority": str(self._tls[0])} if self._tls else {}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": _CONTEXT, "cluster": {"server": self.url, **authority}}],
            "users": [{"name": _CONTEXT, "user": {"token": token}}],
            "contexts": [
                {"name": name, "context": {"cluster": _CONTEXT, "user": _CONTEXT, "namespace": namespace}}
                for name, namespace in zip(names, self.namespaces, strict=True)
            ],
            "current-context": _CONTEXT,
        }
        _replace(self.token_file, token)
        _replace(self.kubeconfig, json.dumps(content, indent=1))


def _replace(path: Path, text: str) -> None:
    """A reader sees the old content or the new one, and only this user may read it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.touch(mode=0o600)
    new.write_text(text)
    new.replace(path)
