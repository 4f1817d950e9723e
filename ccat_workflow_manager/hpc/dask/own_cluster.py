"""A Dask cluster on this machine, for a deployment that names no scheduler: one per `state_dir`, shared by all workers.

It is a process of its own (`python -m ccat_workflow_manager.hpc.dask.own_cluster`), started by the first worker that
needs it. It outlives that worker and ends by itself after some time without tasks. A client of a Dask scheduler can run
anything as its user, so this one listens on loopback and accepts only clients that can read its key.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import Any

from ccat_workflow_manager import shell
from ccat_workflow_manager.errors import BackendUnavailable
from ccat_workflow_manager.hpc.attempt import process_tree
from ccat_workflow_manager.hpc.attempt.process_tree import Identity

START_SECONDS = 90.0
IDLE_SECONDS = 60.0
_PAUSE = Event()


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a certificate that is its own authority, and of its key."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a scheduler and the certificate for it."""

    address: str
    tls: Tls | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of the cluster."""

    workers: int
    threads: int
    """Threads of each worker: the most jobs at once."""
    cpu: float
    memory_gb: float
    idle_seconds: float = IDLE_SECONDS


class OwnCluster:
    """The cluster of one directory."""

    def __init__(self, state_dir: Path, shape: Shape) -> None:
        self.directory = state_dir / "cluster"
        self.shape = shape
        self.tls = Tls(str(self.directory / "certificate.pem"), str(self.directory / "key.pem"))

    def address(self) -> Address:
        """The address of the cluster, which is started if need be. Raises BackendUnavailable."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _Locked(self.directory / "starting"):
                address = self._running()
                if address is None:
                    self._make_certificate()
                    address = self._start()
        except OSError as error:
            text = f"the Dask cluster of this machine cannot be started in {self.directory}: {error}"
            raise BackendUnavailable(text, backend="dask") from error
        return Address(address, self.tls)

    def _running(self) -> str | None:
        try:
            found = json.loads((self.directory / "address.json").read_text(encoding="utf-8"))
            process = Identity(**found["process"])
            address = found["address"]
        except (FileNotFoundError, ValueError, TypeError, LookupError):
            return None
        return address if isinstance(address, str) and process.running else None

    def _start(self) -> str:
        log_file = self.directory / "cluster.log"
        orders = json.dumps({**asdict(self.shape), "tls": asdict(self.tls)})
        with log_file.open("ab") as log:
            process = shell.spawn(
                [sys.executable, "-m", __name__, str(self.directory), orders], stdout=log, stderr=log, cwd="/"
            )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            address = self._running()
            if address is not None:
                return address
            _PAUSE.wait(0.05)
        process.kill()
        process.wait()
        text = f"the Dask cluster of this machine does not start; see {log_file}"
        raise BackendUnavailable(text, backend="dask", output_tail=log_file.read_text(errors="replace")[-2000:])

    def _make_certificate(self) -> None:
        if os.path.exists(self.tls.certificate):
            return
        new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        files = ["-keyout", self.tls.key, "-out", self.tls.certificate + ".part"]
        try:
            done = shell.run([*new, "-days", "3650", "-subj", "/CN=ccat-workflow-manager", *files], timeout=30)
        except shell.CommandError as error:
            text = f"the Dask cluster of this machine has no certificate without openssl: {error.message}"
            raise BackendUnavailable(text, backend="dask", command=error.argv) from error
        if done.returncode != 0:
            raise BackendUnavailable(f"openssl makes no certificate: {done.output_tail}", backend="dask")
        os.chmod(self.tls.key, 0o600)
        os.rename(self.tls.certificate + ".part", self.tls.certificate)


class _Locked:
    """One process at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


# --- the process itself ----------------------------------------------------------------------------------------------


def serve(directory: Path, orders: Mapping[str, Any]) -> None:
    """Be the cluster until there has been nothing to do for a while."""
    from distributed import LocalCluster, Security, Status

    tls, shape = Tls(**orders["tls"]), Shape(**{key: value for key, value in orders.items() if key != "tls"})
    security = Security(
        tls_ca_file=tls.certificate,
        tls_client_cert=tls.certificate,
        tls_client_key=tls.key,
        tls_scheduler_cert=tls.certificate,
        tls_scheduler_key=tls.key,
        tls_worker_cert=tls.certificate,
        tls_worker_key=tls.key,
        require_encryption=True,
    )
    scratch = directory / "scratch"
    scratch.mkdir(exist_ok=True)
    cluster = LocalCluster(
        n_workers=shape.workers,
        threads_per_worker=shape.threads,
        processes=True,
        host="127.0.0.1",
        protocol="tls",
        security=security,
        dashboard_address=None,
        worker_dashboard_address=None,
        memory_limit=0,
        local_directory=str(scratch),
        resources={"cpu": shape.cpu / shape.workers, "memory_gb": shape.memory_gb / shape.workers},
        scheduler_kwargs={"idle_timeout": f"{shape.idle_seconds} s"},
    )
    with cluster:
        me = process_tree.identity(os.getpid())
        assert me is not None, "this process is in the process table"
        part = directory / f"address.{os.getpid()}"
        part.write_text(json.dumps({"address": cluster.scheduler_address, "process": asdict(me)}), encoding="utf-8")
        part.replace(directory / "address.json")
        while cluster.scheduler is not None and cluster.scheduler.status is Status.running:
            _PAUSE.wait(1)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), json.loads(sys.argv[2]))
