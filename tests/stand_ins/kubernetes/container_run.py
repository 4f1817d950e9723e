"""One container of a pod that runs: from its image to its end, with restarts."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from ccat_workflow_manager.hpc.supervisor.cgroups import Group
from tests.stand_ins.kubernetes import logs, orders, pod_status, quantities
from tests.stand_ins.kubernetes.clock import stamp
from tests.stand_ins.kubernetes.models import Image, Object

if TYPE_CHECKING:
    from tests.stand_ins.kubernetes.pod_run import PodRun

_PULL_MESSAGE = (
    'failed to pull and unpack image "docker.io/{0}": failed to resolve reference "docker.io/{0}": not found'
)
_OLD_PULL_MESSAGE = "rpc error: code = Unknown desc = Error response from daemon: pull access denied for {0}"
_START_ERROR = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: error during container init: "
)
_OLD_START_ERROR = "OCI runtime create failed: container_linux.go:370: starting container process caused: "
_PULL_RETRY = (0.9, 12.7, 11.0, 12.3)
"""Seconds from one state of a failing pull to the next, as recorded; the last one goes on."""
_CREATE_RETRY = 2.0
_random = random.Random()
_CRASH_DELAY, _LONGEST_DELAY = 10.0, 300.0


class ContainerRun:
    """`state` is what is the case; the pod tells it at its next look."""

    def __init__(self, pod_run: PodRun, spec: Object) -> None:
        self.pod_run = pod_run
        self.kubelet = pod_run.kubelet
        self.spec = spec
        self.name = str(spec["name"])
        self.state: Object = pod_status.waiting("ContainerCreating")
        self.last: Object | None = None
        self.restarts = 0
        self.pid = 0
        self.running = False
        self.pending = False
        """Ordered from the node, which has not answered yet."""
        self.group: Group | None = None
        self._id: str | None = None
        self._round = 0
        self._pulls = 0
        self.started = 0.0
        self._pretending = False

    @property
    def home(self) -> Path:
        """The directory of the present round."""
        return home_of(self.kubelet.site.directory, self.pod_run.uid, self.name, self.restarts)

    @property
    def ended(self) -> bool:
        return "terminated" in self.state

    @property
    def succeeded(self) -> bool:
        return self.ended and self.state["terminated"]["exitCode"] == 0

    def status(self) -> Object:
        return pod_status.container_status(
            self.name, self.spec["image"], self.state, last=self.last, restarts=self.restarts, ran=self._id
        )

    def begin(self) -> None:
        """Get the image, then start."""
        if self.pod_run.stopping:
            return
        name, policy = self.spec["image"], self.spec["imagePullPolicy"]
        image = self.kubelet.image(name)
        if image is None:
            if policy == "Never":
                self._never_pull()
            else:
                self._pull_in_vain()
        elif policy == "Never" or (policy == "IfNotPresent" and not image.pull_seconds):
            self.pod_run.tell("Normal", "Pulled", f'Container image "{name}" already present on machine', self.name)
            self._start(image)
        else:
            self.pod_run.tell("Normal", "Pulling", f'Pulling image "{name}"', self.name)
            self.kubelet.clockwork.after(image.pull_seconds, lambda: self._pulled(image))

    def _pulled(self, image: Image) -> None:
        if not self.pod_run.stopping:
            self.pod_run.tell("Normal", "Pulled", f'Successfully pulled image "{self.spec["image"]}"', self.name)
            self._start(image)

    def _never_pull(self) -> None:
        message = f'Container image "{self.spec["image"]}" is not present with pull policy of Never'
        self.pod_run.tell("Warning", "ErrImageNeverPull", message, self.name)
        self.pod_run.tell("Warning", "Failed", "Error: ErrImageNeverPull", self.name)
        self._wait("ErrImageNeverPull", message)

    def _pull_in_vain(self) -> None:
        """The state goes to and fro between the two for as long as the pod is there."""
        if self.pod_run.stopping:
            return
        image = self.spec["image"]
        if self._pulls % 2 == 0:
            why = (_OLD_PULL_MESSAGE if self.kubelet.old else _PULL_MESSAGE).format(image)
            self.pod_run.tell("Normal", "Pulling", f'Pulling image "{image}"', self.name)
            self.pod_run.tell("Warning", "Failed", f'Failed to pull image "{image}": {why}', self.name)
            self.pod_run.tell("Warning", "Failed", "Error: ErrImagePull", self.name)
            self._wait("ErrImagePull", why)
        else:
            self.pod_run.tell("Normal", "BackOff", f'Back-off pulling image "{image}"', self.name)
            self.pod_run.tell("Warning", "Failed", "Error: ImagePullBackOff", self.name)
            self._wait("ImagePullBackOff", f'Back-off pulling image "{image}"')
        self._pulls += 1
        pause = _PULL_RETRY[min(self._pulls, len(_PULL_RETRY) - 1)]
        self.kubelet.clockwork.after(pause, self._pull_in_vain)

    def _wait(self, reason: str, message: str | None = None) -> None:
        self.state = pod_status.waiting(reason, message)
        self.pod_run.dirty()

    def _start(self, image: Image) -> None:
        order: Object = {}
        if image.pretend_seconds is None:
            try:
                self._take_group()
                join = self.group.join_file if self.group else None
                order = orders.order(self.kubelet.site, self.pod_run.pod, self.spec, image, self.home, join)
            except orders.VolumeMissing as error:
                self.pod_run.tell("Warning", "FailedMount", str(error))
                self.kubelet.clockwork.after(_CREATE_RETRY, self.begin)
                return
            except orders.CannotConfigure as error:
                self.pod_run.tell("Warning", "Failed", f"Error: {error}", self.name)
                self._wait("CreateContainerConfigError", str(error))
                self.kubelet.clockwork.after(_CREATE_RETRY, self.begin)
                return
        self.pod_run.tell("Normal", "Created", f"Created container {self.name}", self.name)
        self._round += 1
        engine = "docker" if self.kubelet.old else "containerd"
        self._id = f"{engine}://{_random.randbytes(32).hex()}"
        self.pending = True
        if image.pretend_seconds is None:
            self.kubelet.send({**order, "id": self.address})
        else:
            self._pretend(image.pretend_seconds)

    @property
    def address(self) -> str:
        return f"{self.pod_run.uid}/{self.name}/{self._round}"

    def _pretend(self, seconds: float) -> None:
        self._pretending = True
        self.hear({"event": "started", "at": self.pod_run.now()})
        self.kubelet.clockwork.after(seconds, self._stop_pretending)

    def _stop_pretending(self, code: int = 0) -> None:
        if self.running:
            self.hear({"event": "ended", "code": code, "at": self.pod_run.now()})

    def hear(self, news: Object) -> None:
        """From the node."""
        if news["event"] == "started":
            self.pending, self.running = False, True
            self.started, self.pid = news["at"], news.get("pid", 0)
            self.state = {"running": {"startedAt": stamp(news["at"])}}
            self.pod_run.tell("Normal", "Started", f"Started container {self.name}", self.name)
            self.pod_run.began()
        elif news["event"] == "ended":
            self._ended(news["code"], news["at"])
        elif news["event"] == "refused":
            self._refused(news)
        elif self.running or self.pending:
            # Its shim is gone without a word, killed by somebody.
            self._ended(137, self.pod_run.now())

    def _ended(self, code: int, at: float) -> None:
        self.pending = self.running = False
        reason = "Completed" if code == 0 else "Error"
        if self.group is not None:
            reason = "OOMKilled" if self.group.oom_killed() else reason
            self._give_group_back()
        message: str | None = None
        if not self._pretending:
            message = orders.message_of(self.home, self.spec, code, lambda: logs.end(self.home / "log"))
        self.state = pod_status.terminated(code, reason, self.started, at, self._id or "", message)
        self.pod_run.container_ended(self)

    def _refused(self, news: Object) -> None:
        """The program could not be started."""
        self.pending = False
        self._give_group_back()
        old = self.kubelet.old
        argv = [*(self.spec.get("command") or ()), *(self.spec.get("args") or ())]
        program = argv[0] if argv else "?"
        if news["stage"] == "exec":
            where = "no such file or directory" if "/" in program else "executable file not found in $PATH"
            why = f'exec: "{program}": {where}: unknown'
        else:
            why = f"{news['stage']}: {news['message']}: unknown"
        message = (_OLD_START_ERROR if old else _START_ERROR) + why
        self.pod_run.tell("Warning", "Failed", f"Error: {message}", self.name)
        code, reason = (127, "ContainerCannotRun") if old else (128, "StartError")
        self.state = pod_status.terminated(code, reason, 0.0, news["at"], self._id or "", message)
        self.pod_run.container_ended(self)

    def restart(self) -> None:
        """By the restart policy: the first time at once, then after longer and longer pauses."""
        pause = 0.0 if self.restarts == 0 else min(_CRASH_DELAY * 2 ** (self.restarts - 1), _LONGEST_DELAY)
        ended = self.state
        if pause:
            message = f"back-off {pause:g}s restarting failed container={self.name}"
            self.pod_run.tell("Warning", "BackOff", "Back-off restarting failed container", self.name)
            self.last = ended
            self._wait("CrashLoopBackOff", message)
        self.kubelet.clockwork.after(pause, lambda: self._again(ended))

    def _again(self, ended: Object) -> None:
        if not self.pod_run.stopping:
            self.last = ended
            self.restarts += 1
            self.begin()

    def stop(self) -> None:
        self.pod_run.tell("Normal", "Killing", f"Stopping container {self.name}", self.name)
        if not self._pretending:
            self.kubelet.send({"order": "stop", "id": self.address})

    def kill(self) -> None:
        if self._pretending:
            self._stop_pretending(137)
        else:
            self.kubelet.send({"order": "kill", "id": self.address})

    def _take_group(self) -> None:
        limit = (self.spec["resources"].get("limits") or {}).get("memory")
        if limit and self.group is None and self.kubelet.groups is not None:
            self.group = self.kubelet.groups.acquire(int(quantities.parse(limit)))

    def _give_group_back(self) -> None:
        if self.group is not None and self.kubelet.groups is not None:
            self.kubelet.groups.release(self.group)
            self.group = None


def home_of(directory: Path, uid: str, name: str, restart: int) -> Path:
    return directory / "containers" / uid / f"{name}-{restart}"
