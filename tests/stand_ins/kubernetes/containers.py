"""One container of a pod: the order for the node that starts it, its state from image to end, its log."""

from __future__ import annotations

import os
import random
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ccat_workflow_manager.hpc.supervisor.cgroups import Group
from tests.stand_ins.kubernetes import pod_status
from tests.stand_ins.kubernetes.clockwork import stamp
from tests.stand_ins.kubernetes.objects import Image, Object, quantity

if TYPE_CHECKING:
    from tests.stand_ins.kubernetes.kubelet import PodRun

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
"""Seconds from one state of a failing pull to the next, as recorded; the last one repeats."""
_MOST_MESSAGE = 4096
_FALLBACK_LINES, _FALLBACK_BYTES = 80, 2048
_REFERENCE = re.compile(r"\$(\$|\(([A-Za-z_.-][A-Za-z0-9_.-]*)\))")
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_random = random.Random()


class CannotConfigure(Exception):
    """The container cannot be made from what its pod says (CreateContainerConfigError)."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all containers of the cluster have around them."""

    directory: Path
    claims: Mapping[str, Path]
    host: str
    port: int
    secrets: Mapping[str, Mapping[str, str]]
    """The same Secrets in every namespace."""


class ContainerRun:
    """`state` is the present state; the pod reports it at its next look."""

    def __init__(self, pod_run: PodRun, spec: Object) -> None:
        self.pod_run = pod_run
        self.kubelet = pod_run.kubelet
        self.spec = spec
        self.name = str(spec["name"])
        self.state: Object = pod_status.waiting("ContainerCreating")
        self.running = False
        self.pending = False
        """Ordered from the node, which has not answered yet."""
        self._group: Group | None = None
        self._id: str | None = None
        self._pulls = 0
        self._started = 0.0

    @property
    def _address(self) -> str:
        return f"{self.pod_run.uid}/{self.name}"

    @property
    def _home(self) -> Path:
        """The directory of this container, where its log and its termination message go."""
        return log_of(self.kubelet.surroundings.directory, self.pod_run.uid, self.name).parent

    @property
    def ended(self) -> bool:
        return "terminated" in self.state

    @property
    def succeeded(self) -> bool:
        return self.ended and self.state["terminated"]["exitCode"] == 0

    def status(self) -> Object:
        return pod_status.container_status(self.name, self.spec["image"], self.state, self._id)

    def begin(self) -> None:
        """Get the image, then start."""
        if self.pod_run.stopping:
            return
        name, policy = self.spec["image"], self.spec["imagePullPolicy"]
        image = self.kubelet.image(name)
        if image is None and policy == "Never":
            message = f'Container image "{name}" is not present with pull policy of Never'
            self._event("Warning", "ErrImageNeverPull", message)
            self._event("Warning", "Failed", "Error: ErrImageNeverPull")
            self._wait("ErrImageNeverPull", message)
        elif image is None:
            self._pull_in_vain()
        else:
            if policy == "Always":
                self._event("Normal", "Pulling", f'Pulling image "{name}"')
                self._event("Normal", "Pulled", f'Successfully pulled image "{name}"')
            else:
                self._event("Normal", "Pulled", f'Container image "{name}" already present on machine')
            self._start(image)

    def _pull_in_vain(self) -> None:
        """The state goes to and fro between the two for as long as the pod is there."""
        if self.pod_run.stopping:
            return
        image = self.spec["image"]
        if self._pulls % 2 == 0:
            why = (_OLD_PULL_MESSAGE if self.kubelet.old else _PULL_MESSAGE).format(image)
            self._event("Normal", "Pulling", f'Pulling image "{image}"')
            self._event("Warning", "Failed", f'Failed to pull image "{image}": {why}')
            self._event("Warning", "Failed", "Error: ErrImagePull")
            self._wait("ErrImagePull", why)
        else:
            self._event("Normal", "BackOff", f'Back-off pulling image "{image}"')
            self._event("Warning", "Failed", "Error: ImagePullBackOff")
            self._wait("ImagePullBackOff", f'Back-off pulling image "{image}"')
        self._pulls += 1
        pause = _PULL_RETRY[min(self._pulls, len(_PULL_RETRY) - 1)]
        self.kubelet.clockwork.after(pause, self._pull_in_vain)

    def _event(self, kind: str, reason: str, message: str) -> None:
        self.pod_run.record(kind, reason, message, self.name)

    def _wait(self, reason: str, message: str) -> None:
        self.state = pod_status.waiting(reason, message)
        self.pod_run.look_soon()

    def _start(self, image: Image) -> None:
        try:
            self._take_group()
            join = self._group.join_file if self._group else None
            order = _order(self.kubelet.surroundings, self.pod_run.pod, self.spec, image, self._home, join)
        except CannotConfigure as error:
            self._event("Warning", "Failed", f"Error: {error}")
            self._wait("CreateContainerConfigError", str(error))
            return
        self._event("Normal", "Created", f"Created container {self.name}")
        engine = "docker" if self.kubelet.old else "containerd"
        self._id = f"{engine}://{_random.randbytes(32).hex()}"
        self.pending = True
        self.kubelet.send({**order, "id": self._address})

    def on_report(self, report: Object) -> None:
        """From the node, in the thread of the clockwork."""
        if report["event"] == "started":
            self.pending, self.running = False, True
            self._started = report["at"]
            self.state = {"running": {"startedAt": stamp(report["at"])}}
            self._event("Normal", "Started", f"Started container {self.name}")
            self.pod_run.container_started()
        elif report["event"] == "ended":
            self._end(report["code"], report["at"])
        elif report["event"] == "refused":
            self._refuse(report)
        elif self.running or self.pending:
            # Its shim was killed, so it could not report an end.
            self._end(137, report["at"])

    def _end(self, code: int, at: float) -> None:
        self.pending = self.running = False
        reason = "Completed" if code == 0 else "Error"
        if self._group is not None:
            reason = "OOMKilled" if self._group.oom_killed() else reason
            self._give_group_back()
        message = _termination_message(self._home, self.spec, code)
        self.state = pod_status.terminated(code, reason, self._started, at, self._id or "", message)
        self.pod_run.look_soon()

    def _refuse(self, report: Object) -> None:
        """The program could not be started."""
        self.pending = False
        self._give_group_back()
        old, argv = self.kubelet.old, _words(self.spec)
        if report["stage"] == "exec":
            where = "no such file or directory" if "/" in argv[0] else "executable file not found in $PATH"
            why = f'exec: "{argv[0]}": {where}: unknown'
        else:
            why = f"{report['stage']}: {report['message']}: unknown"
        message = (_OLD_START_ERROR if old else _START_ERROR) + why
        self._event("Warning", "Failed", f"Error: {message}")
        code, reason = (127, "ContainerCannotRun") if old else (128, "StartError")
        self.state = pod_status.terminated(code, reason, 0.0, report["at"], self._id or "", message)
        self.pod_run.look_soon()

    def stop(self) -> None:
        self._event("Normal", "Killing", f"Stopping container {self.name}")
        self.kubelet.send({"order": "stop", "id": self._address})

    def kill(self) -> None:
        self.kubelet.send({"order": "kill", "id": self._address})

    def _take_group(self) -> None:
        limit = self.spec["resources"].get("limits", {}).get("memory")
        if limit and self._group is None and self.kubelet.groups is not None:
            self._group = self.kubelet.groups.acquire(int(quantity(limit)))

    def _give_group_back(self) -> None:
        if self._group is not None and self.kubelet.groups is not None:
            self.kubelet.groups.release(self._group)
            self._group = None


# --- the order for the node ------------------------------------------------------------------------------------------


def _order(around: Surroundings, pod: Object, container: Object, image: Image, home: Path, join: str | None) -> Object:
    """Arguments, environment, directory, mounts and user. Raises CannotConfigure."""
    scratch, message = home / "root", home / "message"
    scratch.mkdir(parents=True, exist_ok=True)
    message.write_bytes(b"")
    message.chmod(0o666)
    environment = _environment(around, pod, container, image)
    argv = [_expand(word, environment) for word in _words(container)]
    target = container["terminationMessagePath"]
    return {
        "order": "start",
        "argv": argv,
        "env": environment,
        "cwd": container.get("workingDir") or "/",
        "image_directory": image.root is not None,
        "mounts": [*_mounts(around, pod, container), [str(message), target, False]],
        "message_target": target,
        "root": str(image.root) if image.root else None,
        "scratch": str(scratch),
        "log": str(home / "log"),
        "join": join,
        **_user(pod, container),
    }


def _words(container: Object) -> list[str]:
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    if not words:
        raise CannotConfigure("no command specified")
    return words


def _environment(around: Surroundings, pod: Object, container: Object, image: Image) -> dict[str, str]:
    environment = {
        "PATH": _SEARCH_PATH,
        "HOSTNAME": pod["metadata"]["name"],
        "HOME": "/root",
        "KUBERNETES_SERVICE_HOST": around.host,
        "KUBERNETES_SERVICE_PORT": str(around.port),
        "KUBERNETES_PORT": f"tcp://{around.host}:{around.port}",
        **image.environment,
    }
    for variable in container.get("env") or ():
        source = variable.get("valueFrom")
        if source is None:
            environment[variable["name"]] = _expand(variable.get("value") or "", environment)
        elif source == {"fieldRef": {"fieldPath": "metadata.name"}}:
            environment[variable["name"]] = pod["metadata"]["name"]
        elif source == {"fieldRef": {"fieldPath": "spec.nodeName"}}:
            environment[variable["name"]] = pod["spec"]["nodeName"]
        elif (wanted := source.get("secretKeyRef")) is not None:
            environment[variable["name"]] = _secret(around, pod["metadata"]["namespace"], wanted)
        else:
            raise CannotConfigure(f"the stand-in has no variables of this source: {source}")
    return environment


def _secret(around: Surroundings, namespace: str, wanted: Object) -> str:
    name, key = wanted["name"], wanted["key"]
    if name not in around.secrets:
        raise CannotConfigure(f'secret "{name}" not found')
    if key not in around.secrets[name]:
        raise CannotConfigure(f"couldn't find key {key} in Secret {namespace}/{name}")
    return around.secrets[name][key]


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` becomes its value, `$$` a dollar; an unknown name stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else environment.get(match[2], match[0])

    return _REFERENCE.sub(replaced, text)


def _mounts(around: Surroundings, pod: Object, container: Object) -> list[list[object]]:
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
    mounts: list[list[object]] = []
    for mount in container.get("volumeMounts") or ():
        source = _volume_path(around, volumes[mount["name"]])
        if mount.get("subPath"):
            source = source / mount["subPath"]
            if not source.exists():
                source.mkdir(parents=True)
        mounts.append([str(source), mount["mountPath"], bool(mount.get("readOnly"))])
    return mounts


def _volume_path(around: Surroundings, volume: Object) -> Path:
    """The directory or file that a volume is."""
    if (host := volume.get("hostPath")) is not None:
        path = Path(host["path"])
        if not path.exists():
            path.mkdir(parents=True)
        return path
    if (claim := volume.get("persistentVolumeClaim")) is not None:
        return around.claims[claim["claimName"]]
    raise CannotConfigure(f"the stand-in has no volumes of this kind: {volume}")


def missing_claims(around: Surroundings, pod: Object) -> list[str]:
    """The claims that the pod wants and that do not exist."""
    wanted = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"].get("volumes") or ()
              if volume.get("persistentVolumeClaim")]  # fmt: skip
    return [name for name in wanted if name not in around.claims]


def _user(pod: Object, container: Object) -> Object:
    context = {**(pod["spec"].get("securityContext") or {}), **(container.get("securityContext") or {})}
    uid, gid = context.get("runAsUser"), context.get("runAsGroup")
    if context.get("runAsNonRoot") and not uid and os.geteuid() == 0:
        raise CannotConfigure("container has runAsNonRoot and image will run as root")
    changes = uid is not None and uid != os.geteuid()
    return {"uid": uid, "gid": 0 if changes and gid is None else gid, "groups": [] if changes else None}


# --- what it leaves behind -------------------------------------------------------------------------------------------


def log_of(directory: Path, uid: str, name: str) -> Path:
    """The log of a container, each line as the node wrote it: time, stream, `F` (whole) or `P` (part), text."""
    return directory / "containers" / uid / name / "log"


def shown_lines(lines: Iterable[bytes], *, timestamps: bool = False) -> Iterator[bytes]:
    """The lines of a log as `pods/log` shows them."""
    for line in lines:
        time, _stream, whole, text = line.split(b" ", 3)
        if whole == b"P":
            text = text.removesuffix(b"\n")
        yield time + b" " + text if timestamps else text


def _termination_message(home: Path, container: Object, code: int) -> str | None:
    text, target = _start_of(home / "message"), Path(container["terminationMessagePath"])
    if not text and container["terminationMessagePolicy"] == "FallbackToLogsOnError" and code:
        with (home / "log").open("rb") as file:
            text = b"".join(shown_lines(deque(file, _FALLBACK_LINES)))[-_FALLBACK_BYTES:].decode("utf-8", "replace")
    if not text and not str(target).startswith("/dev/") and target.is_file():
        # Where nothing can be mounted, the container has written into the file itself.
        text = _start_of(target)
    return text or None


def _start_of(path: Path) -> str:
    return path.read_bytes()[:_MOST_MESSAGE].decode("utf-8", "replace")
