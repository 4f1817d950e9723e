"""A private Slurm cluster in one directory: munge, MariaDB, slurmdbd, slurmctld and a slurmd for each node.

Nothing outside of the directory is used or written but the installed programs (and control groups of its own, where the
machine lets us make some). Each daemon can be killed and started again by its name: `munged`, `mariadbd`, `slurmdbd`,
`slurmctld`, or the name of a node.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from tests.support.reaper import Reaper, clear_away, kill_marked
from tests.support.waiting import PATIENCE, wait_until

NODES = 4
CPUS = 4
MEGABYTES = 3000
_CGROUPS = Path("/sys/fs/cgroup")
_SEARCH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@cache
def cgroups() -> bool:
    """Whether Slurm can keep its jobs in control groups here, as real sites do (version 1 only)."""
    for controller in ("freezer", "memory", "cpuset"):
        probe = _CGROUPS / controller / f"ccat-wm-probe-{os.getpid()}"
        try:
            probe.mkdir()
            probe.rmdir()
        except OSError:
            return False
    return True


class Cluster:
    """The daemons of one cluster and how to talk to it."""

    def __init__(
        self, reaper: Reaper, *, nodes: int = NODES, accounting: bool = True, extra: Sequence[str] = ()
    ) -> None:
        # The paths of sockets must be short.
        self.directory = Path(tempfile.mkdtemp(prefix="ccat-wm-slurm-"))
        self.accounting = accounting
        self.conf = self.directory / "slurm.conf"
        self._mark = f"SLURM_CONF={self.conf}"
        self._reaper = reaper
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports = _free_ports(3 + nodes)
        # Control groups bear the names of nodes: those of two clusters must differ.
        self.nodes = [f"p{self._ports[0]}n{number}" for number in range(1, nodes + 1)]
        reaper.kill_marked(self._mark)
        reaper.remove(self.directory)
        for group in self._groups():
            reaper.remove(group)
        for name in ("state", "spool", "db", "log", "munge"):
            (self.directory / name).mkdir()
        self._configure(extra)

    # --- using it ----------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
        return {**ours, "SLURM_CONF": str(self.conf), "PATH": _SEARCH}

    def ask(self, *argv: str) -> str:
        """What a command of Slurm prints."""
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout.strip()

    def jobs(self, name: str) -> list[str]:
        """The numbers of all jobs that ever had this name, from controller and accounting."""
        known = self.ask("squeue", "-h", "-t", "all", "-n", name, "-o", "%A").split()
        if self.accounting:
            known += self.ask("sacct", "-n", "-X", "-P", "-S", "now-1days", "--name", name, "-o", "JobIDRaw").split()
        return sorted(set(known))

    def end_time_limit(self, number: str) -> None:
        """Let the time limit of a running job be over. scontrol refuses that in the second in which the job started."""
        argv = ("scontrol", "update", f"jobid={number}", "EndTime=now")

        def is_accepted() -> bool:
            return subprocess.run(argv, env=self.environment, capture_output=True, timeout=PATIENCE).returncode == 0

        wait_until(is_accepted, 10, f"{' '.join(argv)} to be accepted")

    def drop_all(self) -> None:
        """End what earlier tests may have left."""
        if self.ask("squeue", "-h", "-o", "%A"):
            self.ask("scancel", "-Q", "-u", str(os.geteuid()))
        wait_until(lambda: not self.ask("squeue", "-h", "-o", "%A"), 30, "an empty queue")

    # --- daemons -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start whatever does not run, and wait until all nodes are ready."""
        for name in self._order():
            self.start_daemon(name)
        wait_until(self._ready, 60, f"the cluster in {self.directory} to be ready")

    def start_daemon(self, name: str) -> None:
        if self.running(name):
            return
        if name == "mariadbd":
            self._prepare_database()
        if name == "slurmctld" and self.accounting:
            self._register()
        with (self.directory / "log" / f"{name}.out").open("ab") as log:
            daemon = subprocess.Popen(
                self._argv(name), env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._daemons[name] = daemon
        self._reaper.watch(daemon.pid)
        if name in self._listening:
            port_or_socket = self._listening[name]
            wait_until(lambda: _answers(port_or_socket), 60, f"{name} to listen; see {self.directory}/log")

    def kill_daemon(self, name: str) -> None:
        """End it as a crash would."""
        daemon = self._daemons[name]
        daemon.kill()
        daemon.wait(PATIENCE)

    def remembers_until_now(self) -> Callable[[], None]:
        """Keep the state that the controller has saved. The function takes a controller that is dead back to it."""
        state, kept = self.directory / "state", self.directory / "state.kept"
        saved, name = state / "job_state", f"last-{secrets.token_hex(8)}"
        self.ask("sbatch", "--hold", "-J", name, "-o", "/dev/null", "-p", "short", "--wrap", "true")
        wait_until(
            lambda: saved.exists() and name.encode() in saved.read_bytes(), 60, "the controller to save its state"
        )
        shutil.rmtree(kept, ignore_errors=True)
        # The other two come and go while it saves.
        shutil.copytree(state, kept, ignore=shutil.ignore_patterns("*.new", "*.old"))

        def forget() -> None:
            shutil.rmtree(state)
            kept.rename(state)

        return forget

    def running(self, name: str) -> bool:
        daemon = self._daemons.get(name)
        return daemon is not None and daemon.poll() is None

    def close(self) -> None:
        """End and remove everything."""
        for daemon in reversed(self._daemons.values()):
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGKILL)
            daemon.wait(PATIENCE)
        kill_marked(self._mark)
        for group in self._groups():
            clear_away(group)
        clear_away(self.directory)

    def _groups(self) -> list[Path]:
        """The control groups that its nodes make."""
        controllers = sorted(_CGROUPS.iterdir()) if cgroups() else []
        return [controller / f"slurm_{node}" for controller in controllers for node in self.nodes]

    # --- inside ------------------------------------------------------------------------------------------------------

    def _order(self) -> list[str]:
        return ["munged", *(["mariadbd", "slurmdbd"] if self.accounting else []), "slurmctld", *self.nodes]

    @property
    def _listening(self) -> dict[str, int | Path]:
        ports = dict(zip(("mariadbd", "slurmdbd", "slurmctld"), self._ports, strict=False))
        return {"munged": self._munge_socket, **ports}

    @property
    def _munge_socket(self) -> Path:
        return self.directory / "munge" / "socket"

    def _argv(self, name: str) -> list[str]:
        at = self.directory
        if name == "munged":
            for left in (self._munge_socket, self._munge_socket.with_name("socket.lock")):
                left.unlink(missing_ok=True)
            return [
                "munged", "--foreground", "--force", f"--socket={self._munge_socket}", f"--key-file={at}/munge/key",
                f"--pid-file={at}/munge/pid", f"--log-file={at}/log/munged.log", f"--seed-file={at}/munge/seed",
            ]  # fmt: skip
        if name == "mariadbd":
            return [
                "mariadbd", "--no-defaults", f"--datadir={at}/db", f"--socket={at}/db.sock", f"--pid-file={at}/db.pid",
                "--bind-address=127.0.0.1", f"--port={self._ports[0]}", f"--user={_me()}", "--skip-name-resolve",
                "--skip-log-bin", "--performance-schema=OFF", "--innodb-buffer-pool-size=32M",
                "--innodb-log-file-size=32M",
                "--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0",
                f"--init-file={at}/db-init.sql",
            ]  # fmt: skip
        if name in self.nodes:
            return ["slurmd", "-D", "-N", name]
        return [name, "-D"]

    def _prepare_database(self) -> None:
        if (self.directory / "db" / "mysql").exists():
            return
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={self.directory}/db", f"--user={_me()}",
             "--skip-test-db", "--skip-name-resolve", "--auth-root-authentication-method=normal"],
            env=self.environment, check=True, capture_output=True, timeout=PATIENCE,
        )  # fmt: skip

    def _register(self) -> None:
        """The accounting must know the cluster before the controller first speaks to it."""
        if "lab" not in self.ask("sacctmgr", "-n", "-P", "list", "cluster", "format=cluster").split():
            self.ask("sacctmgr", "-iQ", "add", "cluster", "lab")

    def _ready(self) -> bool:
        drained = ["sinfo", "-h", "-N", "-p", "main", "-t", "drain,drng", "-o", "%N"]
        for node in subprocess.run(
            drained, env=self.environment, capture_output=True, text=True, timeout=PATIENCE
        ).stdout.split():
            # A node on which Slurm has found a job twice.
            self.ask("scontrol", "update", f"nodename={node}", "state=resume")
        done = subprocess.run(
            ["sinfo", "-h", "-p", "main", "-N", "-t", "idle,alloc,mix,comp", "-o", "%N"],
            env=self.environment, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        return len(done.stdout.split()) >= len(self.nodes)

    def _configure(self, extra: Sequence[str]) -> None:
        at = self.directory
        (at / "munge").chmod(0o700)
        (at / "munge" / "key").write_bytes(secrets.token_bytes(128))
        (at / "munge" / "key").chmod(0o600)
        (at / "db-init.sql").write_text(
            "CREATE DATABASE IF NOT EXISTS slurm_acct_db;\n"
            "CREATE USER IF NOT EXISTS slurm@'127.0.0.1' IDENTIFIED BY 'slurm';\n"
            "GRANT ALL ON slurm_acct_db.* TO slurm@'127.0.0.1';\n"
        )
        dbd = at / "slurmdbd.conf"
        dbd.write_text(self._slurmdbd_conf())
        dbd.chmod(0o600)
        self.conf.write_text("\n".join([self._slurm_conf(), *extra]) + "\n")
        (at / "cgroup.conf").write_text(
            "CgroupPlugin=cgroup/v1\n" + ("ConstrainRAMSpace=yes\nConstrainSwapSpace=no\n" if cgroups() else "")
        )

    def _slurmdbd_conf(self) -> str:
        return f"""\
AuthType=auth/munge
AuthInfo=socket={self._munge_socket}
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={self._ports[1]}
SlurmUser={_me()}
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={self._ports[0]}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
LogFile={self.directory}/log/slurmdbd.log
PidFile={self.directory}/slurmdbd.pid
"""

    def _slurm_conf(self) -> str:
        at, all_nodes = self.directory, ",".join(self.nodes)
        accounting = f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={self._ports[1]}
AccountingStoragePass={self._munge_socket}"""
        tracking = "ProctrackType=proctrack/linuxproc\nTaskPlugin=task/none\nJobAcctGatherParams=OverMemoryKill"
        if cgroups():
            tracking = "ProctrackType=proctrack/cgroup\nTaskPlugin=task/cgroup"
        nodes = "\n".join(
            f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port}"
            for node, port in zip(self.nodes, self._ports[3:], strict=True)
        )
        return f"""\
ClusterName=lab
SlurmctldHost={socket.gethostname().partition(".")[0]}(127.0.0.1)
SlurmctldPort={self._ports[2]}
SlurmUser={_me()}
SlurmdUser={_me()}
AuthType=auth/munge
AuthInfo=socket={self._munge_socket},cred_expire=5
CredType=cred/munge
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool/%n
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd-%n.pid
SlurmctldLogFile={at}/log/slurmctld.log
SlurmdLogFile={at}/log/slurmd-%n.log
{tracking}
MpiDefault=none
MailProg=/bin/true
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_continue
PriorityType=priority/multifactor
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
SlurmdTimeout=20
SlurmctldTimeout=20
KillWait=2
OverTimeLimit=0
MinJobAge=300
MaxJobCount=50000
MaxArraySize=10001
JobRequeue=1
DefMemPerCPU=100
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
{accounting if self.accounting else "AccountingStorageType=accounting_storage/none"}
NodeName=DEFAULT CPUs={CPUS} RealMemory={MEGABYTES} State=UNKNOWN
{nodes}
PartitionName=main Nodes={all_nodes} Default=YES MaxTime=INFINITE DefaultTime=60 PreemptMode=OFF State=UP
PartitionName=short Nodes={all_nodes} MaxTime=2 DefaultTime=1 PreemptMode=OFF State=UP
PartitionName=one Nodes={self.nodes[0]} MaxTime=INFINITE PreemptMode=OFF State=UP
PartitionName=low Nodes={all_nodes} PriorityTier=1 PreemptMode=CANCEL State=UP
PartitionName=high Nodes={all_nodes} PriorityTier=10 State=UP"""


def _answers(where: int | Path) -> bool:
    if isinstance(where, Path):
        return where.is_socket()
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", where)) == 0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _me() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name
