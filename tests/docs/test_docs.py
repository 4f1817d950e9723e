"""The documentation is true: generated pages, links, commands, settings, pipelines, code that pages name, units."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ccat_workflow_manager.commands.arguments import read_pipeline
from ccat_workflow_manager.definition.spec import parse_pipeline
from ccat_workflow_manager.settings import PREFIX, specs
from tests.cli.commands import program
from tests.support.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [*(REPOSITORY / name for name in ("README.md", "CHANGELOG.md", "tests/README.md")), *sorted(DOCS.rglob("*.md"))]
UNITS = sorted((REPOSITORY / "deploy" / "systemd").iterdir())

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
_INLINE = re.compile(r"`([^`\n]+)`")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_COMMAND = re.compile(r"(?:^|[\s(=/])ccat-wm(?=\s|$)(.*)")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_/-]*\Z")
_EXAMPLE_BACKEND = PREFIX + "SAMPLE_"


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def blocks(path: Path, *languages: str) -> Iterator[str]:
    for language, text in _FENCE.findall(path.read_text(encoding="utf-8")):
        if language in languages:
            yield text


# --- generated pages and links ---------------------------------------------------------------------------------------


def test_generated_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "generate.py"), "--check"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def anchors(path: Path) -> set[str]:
    """The anchors of the headings, as they are made where these pages are read."""
    text = _FENCE.sub("", path.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").strip().lower()).replace(" ", "-")
        for heading in _HEADING.findall(text)
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    wrong = []
    for one, other in _LINK.findall(text):
        link = one or other
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        is_there = target.exists() and target.is_relative_to(REPOSITORY)
        if not is_there or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_every_page_can_be_reached() -> None:
    """From the README, over links."""
    reached, waiting = set[Path](), [REPOSITORY / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for one, other in _LINK.findall(page.read_text(encoding="utf-8")):
            target = (page.parent / (one or other).partition("#")[0]).resolve()
            waiting += sorted(target.glob("*.md")) if target.is_dir() else [target] if target.suffix == ".md" else []
    assert {name_of(page) for page in PAGES} - {name_of(page) for page in reached} == set()


# --- commands --------------------------------------------------------------------------------------------------------


def commands_of(path: Path) -> Iterator[str]:
    """What stands behind `ccat-wm`, in blocks of commands and between backticks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        for line in text.splitlines():
            found = re.fullmatch(r"ExecStart=\S*/ccat-wm (.*)", line)
            if found:
                yield found[1]
        return
    lines = [line for block in blocks(path, "", "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += _INLINE.findall(_FENCE.sub("", text))
    for line in lines:
        command = re.sub(r"\s#.*", "", line).removeprefix("$ ")
        if command.startswith("error:"):
            continue
        found = _COMMAND.search(command)
        if found:
            yield found[1].strip()


def complaint(text: str) -> str | None:
    """Why there is no such command."""
    words = shlex.split(text.replace("\\|", "|"))
    command: Any = program()
    while words and hasattr(command, "commands"):
        word = words.pop(0)
        if word.startswith("-"):
            continue
        if word not in command.commands:
            return None if _PLACEHOLDER.match(word) else f"there is no command {word!r} in {command.name!r}"
        command = command.commands[word]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [
        word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in {*options, "--help"}
    ]
    return f"`{command.name}` has no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", [*PAGES, *UNITS], ids=name_of)
def test_every_command_exists(page: Path) -> None:
    found = {text: complaint(text) for text in commands_of(page)}
    assert {text: why for text, why in found.items() if why} == {}


def test_commands_are_found_at_all() -> None:
    readme = set(commands_of(REPOSITORY / "README.md"))
    assert {"pipeline apply first-light.yaml", "run submit first-light --watch", "doctor"} <= readme
    assert complaint("run submit x --wach")
    assert complaint("pipelines apply")
    assert complaint("run list --status FAILED") is None


# --- settings, pipelines, code ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [*PAGES, *UNITS], ids=name_of)
def test_every_setting_exists(page: Path) -> None:
    known = {spec.variable for spec in specs()} | {PREFIX + name for name in ("SETTINGS_FILE", "X", "X_FILE")}
    known |= {f"{spec.variable}_FILE" for spec in specs() if spec.is_secret}
    named = set(re.findall(rf"{PREFIX}[A-Z][A-Z0-9_]*", page.read_text(encoding="utf-8")))
    assert {name for name in named - known if not name.startswith(_EXAMPLE_BACKEND)} == set()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_pipeline_parses(page: Path, tmp_path: Path) -> None:
    for text in blocks(page, "yaml"):
        definition = yaml.safe_load(text)
        assert "steps" in definition, f"not a pipeline: {text}"
        owners = [definition, *definition["steps"]]
        for path in (path for owner in owners for path in owner.get("files", {}).values()):
            (tmp_path / path).touch()
        file = tmp_path / "pipeline.yaml"
        file.write_text(text, encoding="utf-8")
        parse_pipeline(read_pipeline(str(file)))


def test_there_are_pipelines() -> None:
    assert len(list(blocks(DOCS / "pipelines.md", "yaml"))) >= 4
    [first] = blocks(REPOSITORY / "README.md", "yaml")
    assert len(first.splitlines()) <= 25


# --- code that pages name --------------------------------------------------------------------------------------------

ROOTS = (REPOSITORY, REPOSITORY / "ccat_workflow_manager", REPOSITORY / "examples" / "sample-backend")
_CODE = re.compile(r"`([\w./-]+\.(?:py|sh))(?:::([\w.]+))?`")


def missing(page: Path) -> Iterator[str]:
    """Files, and names in files, that this page mentions and that do not exist."""
    for path, name in _CODE.findall(page.read_text(encoding="utf-8")):
        if "/" not in path and not name:
            continue
        files = [root / path for root in (page.parent, *ROOTS) if (root / path).is_file()]
        if not files:
            yield path
        elif name and not defines(ast.parse(files[0].read_text(encoding="utf-8")).body, name.split(".")):
            yield f"{path}::{name}"


def defines(body: list[ast.stmt], names: list[str]) -> bool:
    """True if the statements define this name, or this member of a class."""
    for node in body:
        match node:
            case ast.ClassDef(name=name, body=members) if name == names[0]:
                return not names[1:] or defines(members, names[1:])
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)) if [name] == names:
                return True
            case ast.Assign(targets=[ast.Name(id=name)]) if [name] == names:
                return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_and_name_exists(page: Path) -> None:
    assert set(missing(page)) == set()


def test_a_missing_name_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`doorbell.py::Doorbell.ring`, `doorbell.py::Doorbell.rang`, `hpc/none.py`, `doorbell.py::BATCH`")
    assert list(missing(page)) == ["doorbell.py::Doorbell.rang", "hpc/none.py"]


def test_the_layers_are_those_of_the_import_contract() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {each["name"]: each for each in project["tool"]["importlinter"]["contracts"]}
    text = (DOCS / "contributing" / "architecture.md").read_text(encoding="utf-8")
    shown = text.partition("<!-- layers")[2].split("```")[1].split("\n")
    assert [line for line in shown if line] == contracts["layers"]["layers"]


def test_the_ten_things_a_newcomer_looks_for_are_listed() -> None:
    text = (DOCS / "contributing" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Where to find")[2].partition("Also:")[0]
    assert len(re.findall(r"^\| (?!\||-).+ \| .+ \|$", table, re.MULTILINE)) == 10


def test_the_example_backend_is_the_one_that_is_tested() -> None:
    sample, page = REPOSITORY / "examples" / "sample-backend", DOCS / "writing-a-backend.md"
    package = sample / "ccat_wm_sample_backend"
    for name, file in {"SampleBackend": "backend.py", "SampleSettings": "settings.py"}.items():
        shown = next(text for text in blocks(page, "python") if text.startswith(f"class {name}"))
        assert shown.strip() in (package / file).read_text(encoding="utf-8")
    [entry_point] = blocks(page, "toml")
    assert entry_point.strip() in (sample / "pyproject.toml").read_text(encoding="utf-8")


def test_every_dependency_has_its_reason() -> None:
    wanted = set()
    for file in (REPOSITORY / "requirements").glob("*.in"):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-")):
                wanted.add(re.split(r"[\s<>=~!\[]", line)[0])
    rows = re.findall(r"^\| ([^|]+) \|", (DOCS / "dependencies.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert wanted <= {name.strip() for row in rows for name in re.sub(r"\[[^]]*\]", "", row).split(",")}
