"""The argument vectors and environments, word for word, and what the ends of containers mean."""

from __future__ import annotations

from dataclasses import asdict, replace
from uuid import UUID

import pytest

from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.execution.command_builder import build_command, interpret_exit, mount_option
from ccat_workflow_manager.execution.launch_spec import ResolvedImage, StepLaunch, UpstreamProduct, UpstreamProducts
from ccat_workflow_manager.execution.layout import AttemptDirs, attempt_dirs, program_paths
from ccat_workflow_manager.execution.manifest import manifest
from ccat_workflow_manager.execution.runtime import BY_BACKEND, NO_RUNTIME, Runtime, RuntimeKind
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Mount, Resources
from tests.support.golden_files import check_golden

APPTAINER = Runtime(RuntimeKind.APPTAINER, "/usr/bin/apptainer", "1.4.5")
SINGULARITY = Runtime(RuntimeKind.SINGULARITY, "/usr/bin/singularity", "4.1.0")
IMAGE = ResolvedImage("chai.sif", "/data/sif-cache/chai.sif")
RUN = "0192f0c4-0000-7000-8000-000000000001"

PLAIN = StepLaunch(
    pipeline="chai-map",
    run_id=RUN,
    step="calibrate",
    key="scan-7",
    attempt=1,
    image="chai.sif",
    command=["calibrate", "--scan", "scan 7", "--line", "CO43"],
    environment={"OMP_NUM_THREADS": "4"},
    resources=Resources(cpu=4, memory_gb=16),
    parameters={"line": "CO43"},
    item="scan 7",
)


def dirs_of(step: StepLaunch, base: str = "/data/pipelines") -> AttemptDirs:
    return attempt_dirs(base, step.pipeline, step.run_id, step.step, step.key, step.attempt)


def upstream(step: str, key: str, attempt: int = 1) -> UpstreamProducts:
    product = UpstreamProduct(
        UUID(int=len(key)), "science/spectrum.json", "SCIENCE", "science/spectrum.json", 17, "ab" * 32
    )
    directory = f"/data/pipelines/chai-map/{RUN}/{step}/{key}/attempt-{attempt}/output"
    return UpstreamProducts(step, key, directory, [product])


FAN_IN = replace(
    PLAIN,
    step="grid",
    key="all",
    attempt=2,
    command=["grid"],
    item=None,
    upstream=[upstream("baseline", "scan-7"), upstream("baseline", "scan-8", 3), upstream("tune", "once")],
)


@pytest.mark.parametrize(
    ("name", "step", "runtime", "limits"),
    [
        ("command-none", PLAIN, NO_RUNTIME, False),
        ("command-apptainer", PLAIN, APPTAINER, False),
        ("command-singularity", PLAIN, SINGULARITY, False),
        ("command-fan-in", FAN_IN, APPTAINER, False),
        ("command-limits-gpu", replace(PLAIN, resources=Resources(0.5, 1.5, gpu=1)), APPTAINER, True),
        (
            "command-odd-strings",
            replace(
                PLAIN, command=["run", "", "$(id)", 'a "b"\n', "é"], environment={"A": "a,B=2", "Q": "\"'$(id)`\n"}
            ),
            APPTAINER,
            False,
        ),
    ],
)
def test_vector_and_environment(name: str, step: StepLaunch, runtime: Runtime, limits: bool) -> None:
    launch = build_command(step, dirs_of(step), runtime, IMAGE, limits=limits)
    check_golden(name, {"vector": launch.vector, "environment": launch.environment})


@pytest.mark.parametrize("contained", [True, False], ids=["container", "none"])
def test_manifest(contained: bool) -> None:
    paths = program_paths(dirs_of(FAN_IN), contained=contained)
    check_golden(
        f"manifest-{'container' if contained else 'none'}", manifest(FAN_IN, paths, IMAGE if contained else None)
    )


def test_a_backend_that_runs_images_gets_the_plain_command_and_the_mounts() -> None:
    launch = build_command(FAN_IN, dirs_of(FAN_IN), BY_BACKEND, ResolvedImage("docker://chai:1", ""), limits=False)
    check_golden(
        "command-backend",
        {
            "vector": launch.vector,
            "environment": launch.environment,
            "mounts": [asdict(each) for each in launch.mounts],
        },
    )


def test_any_source_path_can_be_mounted() -> None:
    assert mount_option(Mount('/odd: "a", b', "/workflow/input", writable=False)) == (
        'type=bind,"src=/odd: ""a"", b",dst=/workflow/input,ro'
    )


@pytest.mark.parametrize(
    ("step", "contained", "words"),
    [
        (replace(PLAIN, environment={"A B": "x"}), False, "'A B' cannot be the name"),
        (replace(PLAIN, environment={"": "x"}), False, "'' cannot be the name"),
        (replace(PLAIN, environment={"A": "x\0"}), False, "the value of A contains a NUL"),
        (replace(PLAIN, environment={"A": "\ud800"}), False, "surrogate"),
        (replace(PLAIN, environment={"HOME": "/x"}), True, "HOME is set by the container runtime"),
        (replace(PLAIN, environment={"A": "x\r\ny"}), True, "CR LF"),
        (replace(PLAIN, environment={"A": "x\x80y"}), True, "U+0080"),
        (replace(PLAIN, environment={"A": "x\x81y"}), True, "U+0081"),
        (replace(PLAIN, command=["a", "\0"]), True, "the argument '\\x00' contains a NUL"),
    ],
)
def test_what_would_not_arrive_is_refused(step: StepLaunch, contained: bool, words: str) -> None:
    with pytest.raises(StagingError) as refused:
        build_command(step, dirs_of(step), APPTAINER if contained else NO_RUNTIME, IMAGE)
    assert refused.value.reason is FailureReason.REJECTED
    assert words in str(refused.value)


def test_home_may_be_chosen_without_a_container() -> None:
    step = replace(PLAIN, environment={"HOME": "/x"})
    assert build_command(step, dirs_of(step), NO_RUNTIME, None).environment["HOME"] == "/x"


def test_the_contract_variables_cannot_be_replaced() -> None:
    step = replace(PLAIN, environment={"WORKFLOW_KEY": "other"})
    assert build_command(step, dirs_of(step), NO_RUNTIME, None).environment["WORKFLOW_KEY"] == "scan-7"


def test_a_step_without_image_does_not_run_uncontained_where_containers_are_wanted() -> None:
    with pytest.raises(StagingError) as refused:
        build_command(replace(PLAIN, image=None), dirs_of(PLAIN), APPTAINER, None)
    assert refused.value.reason is FailureReason.IMAGE_MISSING


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a\0"])
def test_no_name_leads_out_of_the_base_directory(name: str) -> None:
    with pytest.raises(StagingError):
        attempt_dirs("/data", "p", RUN, "s", name, 1)


# Recorded from Apptainer 1.4.5.
RECORDED = [
    ('FATAL:   "nosuch": executable file not found in $PATH\n', FailureReason.COMMAND_NOT_FOUND),
    ("FATAL:   stat /nosuch: no such file or directory\n", FailureReason.COMMAND_NOT_FOUND),
    ("FATAL:   permission denied\n", FailureReason.COMMAND_NOT_FOUND),
    ("FATAL:   is a directory\n", FailureReason.COMMAND_NOT_FOUND),
    ("FATAL:   exec /x failed: fork/exec /x: no such file or directory\n", FailureReason.COMMAND_NOT_FOUND),
    (
        "FATAL:   While checking container encryption: could not open image /a/nosuch.sif: failed to retrieve path for "
        "/a/nosuch.sif: lstat /a/nosuch.sif: no such file or directory\n",
        FailureReason.IMAGE_MISSING,
    ),
    (
        "FATAL:   While checking container encryption: could not open image /a/x.sif: image format not recognized\n",
        FailureReason.IMAGE_INVALID,
    ),
    (
        "FATAL:   While checking container encryption: could not open image /a/x.sif: while checking system partition "
        "header: failed to read SIF partition at offset 36864: EOF\n",
        FailureReason.IMAGE_INVALID,
    ),
    (
        "FATAL:   container creation failed: mount hook function failure: mount /proc/self/fd/3->/r error: while "
        "mounting image /proc/self/fd/3: kernel reported a bad superblock for squashfs image partition, possible "
        "causes are that your kernel doesn't support the compression algorithm or the image is corrupted\n",
        FailureReason.IMAGE_INVALID,
    ),
    (
        "FATAL:   container creation failed: mount hook function failure: mount /nosuch->/x error: while mounting "
        "/nosuch: mount source /nosuch doesn't exist\n",
        FailureReason.CONTAINER_FAILED,
    ),
    ("FATAL:   failed to set working directory: chdir /x: no such file or directory\n", FailureReason.CONTAINER_FAILED),
    ("FATAL:   container creation failed: mkdir /x: no space left on device\n", FailureReason.DISK_FULL),
    ("what the program said\nFATAL:   something new\n", FailureReason.CONTAINER_FAILED),
]


@pytest.mark.parametrize(("stderr", "reason"), RECORDED)
def test_the_runtimes_own_failures_are_named(stderr: str, reason: FailureReason) -> None:
    assert interpret_exit(APPTAINER, 255, stderr) is reason


@pytest.mark.parametrize(
    ("exit_code", "stderr"),
    [
        (255, ""),
        (255, "FATAL: the database is gone\n"),
        (255, "FATAL:   mine\nbut I went on\n"),
        (1, "FATAL:   stat /nosuch: no such file or directory\n"),
        (0, "FATAL:   odd\n"),
        (None, ""),
    ],
)
def test_the_programs_own_end_is_left_alone(exit_code: int | None, stderr: str) -> None:
    assert interpret_exit(APPTAINER, exit_code, stderr) is None


def test_uncontained_commands_that_cannot_start() -> None:
    missing = "/tmp/job.sh: 4: nosuch: not found\n"
    assert interpret_exit(NO_RUNTIME, 127, missing) is FailureReason.COMMAND_NOT_FOUND
    assert interpret_exit(NO_RUNTIME, 126, "job.sh: 4: x: Permission denied\n") is FailureReason.COMMAND_NOT_FOUND
    assert interpret_exit(NO_RUNTIME, 127, "") is None
    assert interpret_exit(NO_RUNTIME, 255, "FATAL:   x\n") is None
