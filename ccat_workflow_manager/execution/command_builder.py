"""Build the argument vector and the environment of one attempt, and explain the exit of a runtime. No I/O.

docs/container-contract.md describes the traps of the runtimes; each has a test with the real runtime.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from posixpath import dirname

from ccat_workflow_manager.definition.variables import container_name_problem, container_value_problem
from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.execution.launch_spec import Launch, ResolvedImage, StepLaunch
from ccat_workflow_manager.execution.layout import (
    CONTAINER_ROOT,
    IN_CONTAINER,
    RUN_VIEW,
    AttemptDirs,
    ProgramPaths,
    program_paths,
)
from ccat_workflow_manager.execution.runtime import Runtime, RuntimeKind
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.json_values import text_problem
from ccat_workflow_manager.lifecycle.models import Mount

MOST_PRODUCT_MOUNTS = 64
MOST_INPUT_MOUNTS = 64
MOST_INPUT_DIRECTORIES = 1000
INPUT_VIEW = ".input"
"""Below `/workflow`: the directories of the host that the links in `/workflow/input` lead to."""
_PLAIN = re.compile(r"[A-Za-z0-9=/._-]+")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_PREFIX = {RuntimeKind.APPTAINER: "APPTAINERENV_", RuntimeKind.SINGULARITY: "SINGULARITYENV_"}


def build_command(
    step: StepLaunch, dirs: AttemptDirs, runtime: Runtime, image: ResolvedImage | None, *, limits: bool = False
) -> Launch:
    """The command for the backend. With `limits` the runtime limits memory and CPU.

    Leave `limits` off if the backend enforces them: the runtime would put the job into a cgroup of its own, which is
    removed when the job ends, with the peak of memory and the only evidence of an out-of-memory kill.
    """
    _check_command(step)
    paths = program_paths(dirs, contained=runtime.contained)
    environment = {**step.environment, **contract_environment(step, paths)}
    _check_environment(environment, contained=runtime.contained)
    if not runtime.contained:
        return Launch([_on_host(argument, paths) for argument in step.command], environment, secrets=step.secrets)
    if image is None:
        raise StagingError(
            FailureReason.IMAGE_MISSING,
            f"step {step.step} names no image; name one, such as docker://python:3.12-slim: steps without an image run "
            "only with CCAT_WORKFLOW_MANAGER_CONTAINER_RUNTIME=none",
        )
    if runtime.kind is RuntimeKind.BACKEND:
        return Launch(list(step.command), environment, tuple(_mounts(step, dirs)), step.secrets)
    # Variables travel in the launcher's environment: `--env` reads its value as comma-separated values (`a,B=2` becomes
    # two variables, quotes at the ends are lost) and shows it to every user of the machine in the process list.
    prefix = _PREFIX[runtime.kind]
    vector = [
        runtime.program,
        "--silent",  # the log belongs to the program; FATAL lines still come through
        "exec",
        "--containall",  # nothing of the host, a clean environment, and a PID namespace: one kill ends the whole tree
        "--no-eval",  # values and arguments are not evaluated by a shell in the container
        "--no-privs",  # programs get no privileges from a worker that runs as root
        *(word for each in _mounts(step, dirs) for word in ("--mount", mount_option(each))),
        "--workdir",
        dirs.scratch,
        "--pwd",
        IN_CONTAINER.workspace,
    ]
    if step.resources.gpu:
        vector.append("--nv")
    if limits:
        vector += ["--memory", str(round(step.resources.memory_gb * 1024**3)), "--cpus", number(step.resources.cpu)]
    vector.append(image.path)
    vector += step.command
    secrets = {prefix + variable: name for variable, name in step.secrets.items()}
    return Launch(vector, {prefix + name: value for name, value in environment.items()}, secrets=secrets)


def contract_environment(step: StepLaunch, paths: ProgramPaths) -> dict[str, str]:
    """The variables that every program gets."""
    return {
        "WORKFLOW_INPUT_DIR": paths.input,
        "WORKFLOW_UPSTREAM_DIR": paths.upstream,
        "WORKFLOW_WORKSPACE_DIR": paths.workspace,
        "WORKFLOW_OUTPUT_DIR": paths.output,
        "WORKFLOW_MANIFEST": paths.manifest,
        "WORKFLOW_LOG_DIR": paths.logs,
        "WORKFLOW_RUN_ID": step.run_id,
        "WORKFLOW_STEP": step.step,
        "WORKFLOW_KEY": step.key,
        "WORKFLOW_ATTEMPT": str(step.attempt),
        "WORKFLOW_CPU": number(step.resources.cpu),
        "WORKFLOW_MEMORY_GB": number(step.resources.memory_gb),
        **({"WORKFLOW_CODE_DIR": paths.code} if step.files else {}),
        **({"TRACEPARENT": step.trace} if step.trace else {}),
    }


def _on_host(argument: str, paths: ProgramPaths) -> str:
    """An argument of a program without a container: a path that begins with one of the contract's is that of the host.

    So the same definition, say `[python, /workflow/code/reduce.py]`, runs with a container and without.
    """
    if argument.startswith(f"{CONTAINER_ROOT}/"):
        for part in fields(ProgramPaths):
            inside, outside = getattr(IN_CONTAINER, part.name), getattr(paths, part.name)
            if outside and (argument == inside or argument.startswith(f"{inside}/")):
                return f"{outside}{argument[len(inside) :]}"
    return argument


def number(value: float) -> str:
    """`4`, not `4.0`; `0.5`."""
    return format(value, ".10g")


def mount_option(mount: Mount) -> str:
    """A `--mount` specification. Unlike `--bind` it can quote any source path."""
    source, target = (text.replace('"', '""') for text in (f"src={mount.source}", f"dst={mount.target}"))
    target = target if _PLAIN.fullmatch(target) else f'"{target}"'
    return f'type=bind,"{source}",{target}' + ("" if mount.writable else ",ro")


def mounts_products(step: StepLaunch) -> bool:
    """Whether the container gets the output of each upstream step run as a mount, not as a link.

    A program that walks through `upstream` without following links finds only mounts. But every mount costs time at the
    start, and a step may depend on thousands of step runs.
    """
    return 0 < len(step.upstream) <= MOST_PRODUCT_MOUNTS


def mounts_inputs(step: StepLaunch) -> bool:
    """Whether the container gets each input as a mount. More of them are links into mounts of their directories."""
    return len(step.inputs) <= MOST_INPUT_MOUNTS


def input_directories(step: StepLaunch) -> dict[str, str]:
    """For links: the path in the container of each directory of the host that holds inputs."""
    directories = dict.fromkeys(dirname(each.path) for each in step.inputs)
    if len(directories) > MOST_INPUT_DIRECTORIES:
        message = f"the inputs lie in {len(directories)} directories; a container can have {MOST_INPUT_DIRECTORIES}"
        raise StagingError(FailureReason.INPUT_REFUSED, message)
    return {path: f"{CONTAINER_ROOT}/{INPUT_VIEW}/{number}" for number, path in enumerate(directories)}


def input_mounts(step: StepLaunch) -> list[Mount]:
    if mounts_inputs(step):
        return [Mount(each.path, f"{IN_CONTAINER.input}/{each.name}", writable=False) for each in step.inputs]
    return [Mount(path, target, writable=False) for path, target in input_directories(step).items()]


def upstream_steps(step: StepLaunch, dirs: AttemptDirs) -> list[str]:
    """The names of the upstream steps, which are directories of the run."""
    start = len(dirs.run) + 1
    return list(dict.fromkeys(source.directory[start:].split("/", 1)[0] for source in step.upstream))


def _mounts(step: StepLaunch, dirs: AttemptDirs) -> list[Mount]:
    mounted = mounts_products(step)
    own = [
        Mount(dirs.input_places if step.inputs else dirs.input, IN_CONTAINER.input, writable=False),
        *input_mounts(step),
        Mount(dirs.mount_points if mounted else dirs.upstream, IN_CONTAINER.upstream, writable=False),
        Mount(dirs.workspace, IN_CONTAINER.workspace, writable=True),
        Mount(dirs.output_partial, IN_CONTAINER.output, writable=True),
        Mount(dirs.config, f"{CONTAINER_ROOT}/config", writable=False),
        Mount(dirs.logs, IN_CONTAINER.logs, writable=True),
        *([Mount(dirs.code, IN_CONTAINER.code, writable=False)] if step.files else []),
    ]
    if mounted:
        products = [
            Mount(source.directory, f"{IN_CONTAINER.upstream}/{source.step}/{source.key}", writable=False)
            for source in step.upstream
        ]
    else:
        # The links in `upstream` lead into the run's directory: one mount for each upstream step is enough.
        products = [
            Mount(f"{dirs.run}/{name}", f"{CONTAINER_ROOT}/{RUN_VIEW}/{name}", writable=False)
            for name in upstream_steps(step, dirs)
        ]
    return own + products


def _check_command(step: StepLaunch) -> None:
    if not step.command:
        raise StagingError(FailureReason.COMMAND_NOT_FOUND, f"step {step.step} has an empty command")
    for argument in step.command:
        if problem := text_problem(argument):
            raise _rejected(f"the argument {argument!r} {problem}")


def _check_environment(environment: Mapping[str, str], *, contained: bool) -> None:
    """Reject variables that the runtime would drop or change."""
    for name, value in environment.items():
        if not _VARIABLE.match(name):
            raise _rejected(f"{name!r} cannot be the name of an environment variable")
        if problem := text_problem(value):
            raise _rejected(f"the value of {name} {problem}")
        if contained and (problem := container_name_problem(name)):
            raise _rejected(f"{name} {problem}")
        if contained and (problem := container_value_problem(value)):
            raise _rejected(f"the value of {name} {problem}")


def _rejected(message: str) -> StagingError:
    return StagingError(FailureReason.REJECTED, message)


# --- explaining an exit -----------------------------------------------------------------------------------------------

_FATAL = "FATAL:   "
_FATAL_TEXTS = (
    (
        r"executable file not found|exec format error|^stat /|^exec .* failed|^permission denied$|^is a directory$",
        FailureReason.COMMAND_NOT_FOUND,
    ),
    (r"no space left on device|disk quota exceeded", FailureReason.DISK_FULL),
    (r"could not open image .*no such file or directory", FailureReason.IMAGE_MISSING),
    (r"image format not recognized|system partition|bad superblock", FailureReason.IMAGE_INVALID),
)
"""Messages of real runtimes. Any other message is CONTAINER_FAILED."""


def fatal_line(stderr_tail: str) -> str | None:
    """The last message of the runtime. Only the last line of the log counts: a program may print FATAL too."""
    last = stderr_tail.rstrip().rpartition("\n")[2]
    return last[len(_FATAL) :].strip() if last.startswith(_FATAL) else None


def interpret_exit(runtime: Runtime, exit_code: int | None, stderr_tail: str) -> FailureReason | None:
    """Why the runtime failed before or instead of the program; None if the exit code is the program's own."""
    if exit_code is None:
        return None
    if not runtime.program:
        return _interpret_uncontained(exit_code, stderr_tail)
    fatal = fatal_line(stderr_tail) if exit_code == 255 else None
    if fatal is None:
        return None
    return next((reason for text, reason in _FATAL_TEXTS if re.search(text, fatal)), FailureReason.CONTAINER_FAILED)


def _interpret_uncontained(exit_code: int, stderr_tail: str) -> FailureReason | None:
    """The shell of the job script exits with 127 or 126 if it cannot start the program."""
    last = stderr_tail.rstrip().rpartition("\n")[2]
    if exit_code == 127 and last.endswith(("not found", "No such file or directory")):
        return FailureReason.COMMAND_NOT_FOUND
    if exit_code == 126 and last.endswith(("Permission denied", "Exec format error", "cannot execute")):
        return FailureReason.COMMAND_NOT_FOUND
    return None
