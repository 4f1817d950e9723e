"""From a container of a pod to the order for the node: arguments, environment, directory, mounts, user."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.stand_ins.kubernetes.models import Image, Object

MOST_MESSAGE = 4096
NODE_ADDRESS = "127.0.0.1"

_REFERENCE = re.compile(r"\$(\$|\(([A-Za-z_.-][A-Za-z0-9_.-]*)\))")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class CannotConfigure(Exception):
    """The container cannot be made from what its pod says (CreateContainerConfigError)."""


class VolumeMissing(Exception):
    """A volume is not there (yet): the container stays in creation, and events say why."""


@dataclass(frozen=True, slots=True)
class Site:
    """What all containers of the cluster have around them."""

    directory: Path
    claims: Mapping[str, Path]
    host: str
    port: int


def order(site: Site, pod: Object, container: Object, image: Image, home: Path, join: str | None) -> Object:
    """`home`: the directory of this container, where its log and its termination message go."""
    scratch, message = home / "root", home / "message"
    scratch.mkdir(parents=True, exist_ok=True)
    message.write_bytes(b"")
    message.chmod(0o666)
    environment = _environment(site, pod, container, image)
    command = [_expand(word, environment) for word in container.get("command") or ()]
    args = [_expand(word, environment) for word in container.get("args") or ()]
    argv = command + args if command else [*image.entrypoint, *(args or image.cmd)]
    if not argv:
        raise CannotConfigure("no command specified")
    target = container["terminationMessagePath"]
    user = _user(pod, container)
    return {
        "order": "start",
        "argv": argv,
        "env": environment,
        "cwd": container.get("workingDir") or image.working_dir,
        "image_directory": image.root is not None,
        "mounts": [*_mounts(site, pod, container, environment), [str(message), target, False]],
        "message_target": target,
        "root": str(image.root) if image.root else None,
        "scratch": str(scratch),
        "log": str(home / "log"),
        "join": join,
        **user,
    }


def _environment(site: Site, pod: Object, container: Object, image: Image) -> dict[str, str]:
    environment = {
        "PATH": _PATH,
        "HOSTNAME": pod["metadata"]["name"],
        "HOME": "/root",
        "KUBERNETES_SERVICE_HOST": site.host,
        "KUBERNETES_SERVICE_PORT": str(site.port),
        **image.environment,
    }
    for variable in container.get("env") or ():
        if source := variable.get("valueFrom"):
            environment[variable["name"]] = _from_source(pod, container, source)
        else:
            environment[variable["name"]] = _expand(variable.get("value") or "", environment)
    return environment


def _from_source(pod: Object, container: Object, source: Object) -> str:
    if field := source.get("fieldRef"):
        path = field["fieldPath"]
        if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.+)'\]", path):
            return str((pod["metadata"].get(match[1]) or {}).get(match[2], ""))
        own = {"status.podIP": NODE_ADDRESS, "status.hostIP": NODE_ADDRESS}
        if path in own:
            return own[path]
        value: object = pod
        for word in path.split("."):
            value = value.get(word) if isinstance(value, dict) else None
        return "" if value is None else str(value)
    if field := source.get("resourceFieldRef"):
        _, _, name = str(field["resource"]).partition(".")
        kind = str(field["resource"]).partition(".")[0]
        return str((container["resources"].get(kind) or {}).get(name, "0"))
    for kind, what in (("secretKeyRef", "secret"), ("configMapKeyRef", "configmap")):
        if field := source.get(kind):
            if field.get("optional"):
                return ""
            raise CannotConfigure(f'{what} "{field.get("name")}" not found')
    raise CannotConfigure(f"unsupported source of a variable: {sorted(source)}")


def _expand(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` becomes its value, `$$` a dollar; an unknown name stays as it is."""

    def replaced(match: re.Match[str]) -> str:
        return "$" if match[1] == "$" else environment.get(match[2], match[0])

    return _REFERENCE.sub(replaced, text)


def _mounts(site: Site, pod: Object, container: Object, environment: Mapping[str, str]) -> list[list[object]]:
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or ()}
    mounts: list[list[object]] = []
    for mount in container.get("volumeMounts") or ():
        volume = volumes[mount["name"]]
        source = volume_path(site, pod, volume)
        below = _expand(mount.get("subPathExpr") or "", environment) or mount.get("subPath") or ""
        if below:
            source = source / below
            source.mkdir(parents=True, exist_ok=True)
        claim = volume.get("persistentVolumeClaim") or {}
        mounts.append([str(source), mount["mountPath"], bool(mount.get("readOnly") or claim.get("readOnly"))])
    return mounts


def volume_path(site: Site, pod: Object, volume: Object) -> Path:
    """The directory or file that a volume is. Raises VolumeMissing, CannotConfigure."""
    name = volume["name"]
    if (host := volume.get("hostPath")) is not None:
        return _host_path(name, host)
    if (claim := volume.get("persistentVolumeClaim")) is not None:
        name = str(claim["claimName"])
        return site.claims[name]
    if volume.get("emptyDir") is not None:
        path = site.directory / "volumes" / str(pod["metadata"]["uid"]) / str(name)
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o777)
        return path
    if (share := volume.get("nfs")) is not None:
        exported = site.claims.get(f"{share['server']}:{share['path']}")
        if exported is not None:
            return exported
        raise VolumeMissing(f'MountVolume.SetUp failed for volume "{name}" : mount failed: exit status 32')
    kind = next(key for key in volume if key != "name")
    raise VolumeMissing(f'MountVolume.SetUp failed for volume "{name}" : {kind.lower()} is not there')


_CHECKS: dict[str, tuple[str, Callable[[Path], bool]]] = {
    "Directory": ("is not a directory", Path.is_dir),
    "File": ("is not a file", Path.is_file),
    "Socket": ("is not a socket", Path.is_socket),
}


def _host_path(name: str, host: Object) -> Path:
    path, kind = Path(host["path"]), host.get("type") or ""
    if kind == "DirectoryOrCreate" or (not kind and not path.exists()):
        path.mkdir(parents=True, exist_ok=True)
    elif kind == "FileOrCreate":
        path.touch()
    elif kind in _CHECKS and not _CHECKS[kind][1](path):
        raise VolumeMissing(f'MountVolume.SetUp failed for volume "{name}" : hostPath type check failed: '
                            f"{path} {_CHECKS[kind][0]}")  # fmt: skip
    return path


def missing_claims(site: Site, pod: Object) -> list[str]:
    """The claims that the pod wants and nobody has made."""
    wanted = [volume["persistentVolumeClaim"]["claimName"] for volume in pod["spec"].get("volumes") or ()
              if volume.get("persistentVolumeClaim")]  # fmt: skip
    return [name for name in wanted if name not in site.claims]


def _user(pod: Object, container: Object) -> Object:
    general, own = pod["spec"].get("securityContext") or {}, container.get("securityContext") or {}
    context = {**general, **own}
    uid, gid = context.get("runAsUser"), context.get("runAsGroup")
    if context.get("runAsNonRoot") and not uid and os.geteuid() == 0:
        raise CannotConfigure("container has runAsNonRoot and image will run as root")
    groups = list(general.get("supplementalGroups") or ())
    if general.get("fsGroup") is not None:
        groups.append(general["fsGroup"])
    changes = uid is not None and uid != os.geteuid()
    if changes and gid is None:
        gid = 0
    return {"uid": uid, "gid": gid, "groups": groups if groups or changes else None}


def message_of(home: Path, container: Object, code: int, log_end: Callable[[], str]) -> str | None:
    """What the container has left as its last words."""
    path, target = home / "message", Path(container["terminationMessagePath"])
    text = path.read_bytes()[:MOST_MESSAGE].decode("utf-8", "replace")
    if not text and container["terminationMessagePolicy"] == "FallbackToLogsOnError" and code:
        text = log_end()
    if not text and not str(target).startswith("/dev/") and target.is_file():
        # Where nothing can be mounted, the container has written into the file itself.
        text = target.read_bytes()[:MOST_MESSAGE].decode("utf-8", "replace")
    return text or None
