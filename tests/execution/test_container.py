"""The container contract, inside real containers."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ccat_workflow_manager.execution import command_builder
from ccat_workflow_manager.execution.command_builder import interpret_exit
from ccat_workflow_manager.execution.launch_spec import UpstreamProducts
from ccat_workflow_manager.execution.layout import attempt_dirs
from ccat_workflow_manager.execution.outputs import publish
from ccat_workflow_manager.execution.runtime import supports_limits
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.lifecycle.models import Resources
from tests.execution.conftest import StepRunner
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.needs("apptainer")

NASTY = [
    "",
    " a  b ",
    "$(echo hi)`id`$HOME",
    "'\"\\",
    "a\nb\n",
    "x,y=z",
    "é日本語",
    "*",
    "-x",
    "--",
    "%s\\n",
    "~",
    "\t\r",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40).filter(
    lambda text: "\r\n" not in text and not {"\x80", "\x81"} & set(text)
)
FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FEW
@example(NASTY, NASTY)
@given(arguments=st.lists(TEXT, max_size=6), values=st.lists(TEXT, max_size=6))
def test_arguments_and_variables_arrive_unchanged(runner: StepRunner, arguments: list[str], values: list[str]) -> None:
    script = 'printf "%s\\0" "$@"; env -0'
    environment = {f"V{index}": value for index, value in enumerate(values)}
    ended = runner.run(["sh", "-c", script, "sh", *arguments], environment=environment)
    assert ended.exit_code == 0, ended.stderr
    words = ended.stdout.split("\0")[:-1]
    assert words[: len(arguments) or 1] == (arguments or [""])
    variables = dict(word.split("=", 1) for word in words[len(arguments) :] if "=" in word)
    assert {name: variables.get(name) for name in environment} == environment


@pytest.mark.parametrize("name", ["a b", "a,b", 'a"b""c', "a:b", "$(id) `x`", "é日", "a\\b", "a\nb", "-x", "a'b"])
def test_any_name_of_the_base_directory_works(runner: StepRunner, name: str, tmp_path: Path) -> None:
    odd = StepRunner(tmp_path / name, runner.images, runner.runtime)
    ended = odd.run(["sh", "-c", 'echo result > "$WORKFLOW_OUTPUT_DIR/x"'])
    assert ended.exit_code == 0, ended.stderr
    assert Path(ended.staged.dirs.output_partial, "x").read_text() == "result\n"


def test_the_directories_of_the_contract(runner: StepRunner) -> None:
    script = (
        "for d in input upstream config; do touch /workflow/$d/x 2>/dev/null && echo writable $d; done;"
        "for d in workspace output logs; do touch /workflow/$d/x || echo read-only $d; done;"
        'cat "$WORKFLOW_MANIFEST" > "$WORKFLOW_OUTPUT_DIR/copy.json"; touch /tmp/x "$HOME/x"; readlink /proc/self/cwd'
    )
    ended = runner.run(["sh", "-c", script], item={"scan": 1}, parameters={"line": "CO"})
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "/workflow/workspace\n", "")
    dirs = ended.staged.dirs
    assert all(Path(path, "x").exists() for path in (dirs.workspace, dirs.output_partial, dirs.logs))
    manifest = json.loads(Path(dirs.output_partial, "copy.json").read_text())
    assert manifest["item"] == {"scan": 1}
    assert manifest["parameters"] == {"line": "CO"}
    assert manifest["paths"]["output"] == "/workflow/output"


def test_temporary_files_are_not_limited_by_memory(runner: StepRunner) -> None:
    ended = runner.run(["sh", "-c", "head -c 100000000 /dev/zero > /tmp/big && ls /tmp"])
    assert (ended.exit_code, ended.stdout) == (0, "big\n"), ended.stderr


def test_the_host_is_not_visible(runner: StepRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_WORKER", "1")
    ended = runner.run(["sh", "-c", 'env; ls /tmp /root; ls "$1" 2>&1', "sh", str(tmp_path)])
    assert "SECRET_OF_THE_WORKER" not in ended.stdout
    assert "APPTAINERENV" not in ended.stdout
    assert "No such file" in ended.stdout


def published(runner: StepRunner, run_id: str, step: str, key: str, attempt: int = 1) -> UpstreamProducts:
    dirs = attempt_dirs(str(runner.base), "p", run_id, step, key, attempt)
    os.makedirs(dirs.output_partial)
    Path(dirs.output_partial, "data").write_text(f"{step} {key}\n")
    publish(dirs)
    return UpstreamProducts(step, key, dirs.output)


@pytest.mark.parametrize("most", [64, 0], ids=["mounts", "links"])
@pytest.mark.parametrize("contained", [True, False], ids=["container", "none"])
def test_upstream_products(
    runner: StepRunner, bare_runner: StepRunner, contained: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_builder, "MOST_PRODUCT_MOUNTS", most)
    runner = runner if contained else bare_runner
    run_id = str(uuid4())
    upstream = [published(runner, run_id, "cal", key, 2) for key in ("k", "l,m", "n o")]
    upstream.append(published(runner, run_id, "setup", "only"))
    script = (
        'cd "$WORKFLOW_UPSTREAM_DIR"; cat cal/k/data "cal/l,m/data" "cal/n o/data" setup/only/data;'
        'cd "$WORKFLOW_WORKSPACE_DIR"; cat cal/data setup/data; ls'
    )
    ended = runner.run(["sh", "-c", script], run_id=run_id, key="k", upstream=upstream)
    assert ended.exit_code == 0, ended.stderr
    assert ended.stdout == "cal k\ncal l,m\ncal n o\nsetup only\ncal k\nsetup only\ncal\nsetup\n"


def test_programs_find_upstream_products_without_following_links(runner: StepRunner) -> None:
    run_id = str(uuid4())
    upstream = [published(runner, run_id, "cal", key) for key in ("k", 'l,"m')]
    script = (
        'find "$WORKFLOW_UPSTREAM_DIR" -type f; find "$WORKFLOW_UPSTREAM_DIR" -type l;'
        'cp -r "$WORKFLOW_UPSTREAM_DIR/cal/k" "$WORKFLOW_OUTPUT_DIR/copy"; touch "$WORKFLOW_UPSTREAM_DIR/cal/new"'
    )
    ended = runner.run(["sh", "-c", script], run_id=run_id, key="k", upstream=upstream)
    assert sorted(ended.stdout.splitlines()) == ["/workflow/upstream/cal/k/data", '/workflow/upstream/cal/l,"m/data']
    assert "Read-only file system" in ended.stderr
    copy = Path(ended.staged.dirs.output_partial, "copy")
    assert not copy.is_symlink()
    assert (copy / "data").read_text() == "cal k\n"
    assert sorted(os.listdir(Path(ended.staged.dirs.root, "upstream/cal"))) == ["k", 'l,"m']


def test_upstream_products_are_read_only(runner: StepRunner) -> None:
    run_id = str(uuid4())
    upstream = [published(runner, run_id, "cal", "k")]
    script = (
        "for p in upstream/cal/k workspace/cal .run/cal/k/attempt-1/output; do"
        " echo bad > /workflow/$p/data; touch /workflow/$p/new; done 2>/dev/null; cat /workflow/workspace/cal/data"
    )
    ended = runner.run(["sh", "-c", script], run_id=run_id, upstream=upstream)
    assert ended.stdout == "cal k\n"
    assert os.listdir(upstream[0].directory) == ["data"]


def test_a_wide_fan_in(runner: StepRunner) -> None:
    run_id = str(uuid4())
    upstream = [published(runner, run_id, "cal", f"k{index}") for index in range(1500)]
    ended = runner.run(
        ["sh", "-c", "cat /workflow/upstream/cal/*/data | head -n 3; ls upstream 2>&1"],
        run_id=run_id,
        upstream=upstream,
    )
    assert ended.stdout.splitlines()[:3] == ["cal k0", "cal k1", "cal k10"]
    assert len(ended.staged.launch.vector) < 40


@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        (["sh", "-c", "exit 0"], 0, None),
        (["sh", "-c", "exit 3"], 3, None),
        (["sh", "-c", "echo oh no >&2; exit 255"], 255, None),
        (["sh", "-c", "kill -9 $$"], 137, None),
        (["nosuch"], 255, FailureReason.COMMAND_NOT_FOUND),
        (["/workflow/nosuch"], 255, FailureReason.COMMAND_NOT_FOUND),
        (["/workflow/output"], 255, FailureReason.COMMAND_NOT_FOUND),
    ],
)
def test_exit_codes(runner: StepRunner, command: list[str], code: int, reason: FailureReason | None) -> None:
    ended = runner.run(command)
    assert ended.exit_code == code
    assert interpret_exit(runner.runtime, ended.exit_code, ended.stderr) is reason


@pytest.mark.parametrize("size", [0, 100, 33_000, 200_000])
def test_an_image_that_breaks_after_it_was_resolved(runner: StepRunner, tmp_path: Path, size: int) -> None:
    images = tmp_path / "copy"
    shutil.copytree(runner.images, images)
    broken = StepRunner(runner.base, images, runner.runtime)
    staged = broken.stage(["true"])
    data = (images / "tools.sif").read_bytes()[:size]
    (images / "tools.sif").write_bytes(data)
    ended = _launch(broken, staged.launch.vector)
    assert interpret_exit(runner.runtime, *ended) is FailureReason.IMAGE_INVALID
    (images / "tools.sif").unlink()
    assert interpret_exit(runner.runtime, *_launch(broken, staged.launch.vector)) is FailureReason.IMAGE_MISSING


def _launch(runner: StepRunner, vector: list[str]) -> tuple[int, str]:
    from ccat_workflow_manager import shell

    done = shell.run(vector, timeout=PATIENCE)
    return done.returncode, done.stderr


def test_limits_by_the_runtime(runner: StepRunner) -> None:
    if not supports_limits(runner.runtime):
        pytest.skip("this machine does not let the runtime limit memory")
    hungry = ["sh", "-c", "x=$(head -c 200000000 /dev/zero | tr '\\0' x)"]
    assert runner.run(hungry).exit_code == 0
    ended = runner.run(hungry, resources=Resources(memory_gb=0.06, cpu=1), limits_by_runtime=True)
    assert "--memory" in ended.staged.launch.vector
    assert ended.exit_code == 137
