"""deploy/release_check.py finds what a release must not have, and lists all of it."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from deploy import release_check
from deploy.client_package import PACKAGE
from deploy.release_check import FROZEN, NotDone

VERSIONS = f"{PACKAGE}/db/migrations/versions"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project that is ready for a release."""
    migration = b"revision = '0001'\n"
    digest = hashlib.sha256(migration).hexdigest()
    files = {
        f"{PACKAGE}/__init__.py": '__version__ = "1.2.0"\n',
        f"{VERSIONS}/0001_first.py": migration.decode(),
        "CHANGELOG.md": "# Changes\n\n## [1.2.0] - 2026-01-31\n\n- More\n\n## [1.1.0] - 2025-12-24\n",
        "docs/generate.py": "",
        FROZEN: f"# released\n{digest}  {VERSIONS}/0001_first.py\n",
        **{f"requirements/{name}.txt": "" for name in ("runtime", "backends", "radical")},
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "first"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


def test_a_project_that_is_ready_passes(checkout: Path) -> None:
    for check in (release_check.check_version, release_check.check_checkout, release_check.check_migrations):
        assert check(checkout) == []
    assert release_check.check_documentation(checkout) == []


@pytest.mark.parametrize(
    ("changelog", "word"),
    [
        ("## [Unreleased]\n\n- More\n\n## [1.2.0] - 2026-01-31\n", "Unreleased"),
        ("## [1.2.0] - unreleased\n", "date"),
        ("## [1.1.0] - 2026-01-31\n", "1.1.0"),
        ("", "none"),
    ],
)
def test_version_and_changelog_must_agree(checkout: Path, changelog: str, word: str) -> None:
    (checkout / "CHANGELOG.md").write_text(changelog)
    [failure] = release_check.check_version(checkout)
    assert word in failure


def test_uncommitted_files_and_a_used_tag_are_failures(checkout: Path) -> None:
    (checkout / "new").touch()
    subprocess.run(["git", "-C", str(checkout), "tag", "v1.2.0"], check=True)
    uncommitted, tag = release_check.check_checkout(checkout)
    assert "new" in uncommitted
    assert "v1.2.0" in tag


def test_released_migrations_must_not_change(checkout: Path) -> None:
    (checkout / VERSIONS / "0001_first.py").write_text("changed")
    (checkout / VERSIONS / "0002_second.py").touch()
    changed, new = release_check.check_migrations(checkout)
    assert "0001_first.py" in changed
    assert hashlib.sha256().hexdigest() in new
    (checkout / VERSIONS / "0001_first.py").unlink()
    gone, _ = release_check.check_migrations(checkout)
    assert "0001_first.py" in gone


def test_the_wheel_holds_the_package_and_nothing_else(checkout: Path) -> None:
    wheel = checkout / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{PACKAGE}/__init__.py", "")
        archive.writestr("tests/stand_ins/server.py", "")
    lacking, foreign, licence = release_check.check_contents(checkout, wheel)
    assert "0001_first.py" in lacking
    assert "tests/stand_ins/server.py" in foreign
    assert "licence" in licence


def test_required_packages_need_a_licence_that_is_not_copyleft(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("runtime", "backends"):
        (checkout / "requirements" / f"{name}.txt").write_text("rich==14.0\n")
    assert release_check.check_licences(checkout) == []
    assert "MIT: rich" in capsys.readouterr().out
    monkeypatch.setitem(release_check.LICENCES_BY_HAND, "rich", "GPL-3.0-only")
    [only_required] = release_check.check_licences(checkout)
    assert "GPL-3.0-only" in only_required
    (checkout / "requirements" / "radical.txt").write_text("not-installed==1\n")
    (checkout / "requirements" / "runtime.txt").write_text("")
    with pytest.raises(NotDone, match="not-installed"):
        release_check.check_licences(checkout)


FOUND = '{"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1", "fix_versions": ["2"]}]}]}'


@pytest.mark.parametrize("auditor", [None, "echo no network >&2; exit 1"])
def test_an_audit_without_data_is_not_a_success(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, auditor: str | None
) -> None:
    monkeypatch.setenv("PATH", str(program(checkout, auditor)))
    with pytest.raises(NotDone):
        release_check.check_vulnerabilities(checkout)


def test_known_vulnerabilities_are_failures(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(program(checkout, f"echo '{FOUND}'; exit 1")))
    assert {"CVE-1" in failure for failure in release_check.check_vulnerabilities(checkout)} == {True}


def program(directory: Path, text: str | None) -> Path:
    """A directory with a `pip-audit` of this text, or without one."""
    (directory / "bin").mkdir()
    if text is not None:
        (directory / "bin" / "pip-audit").write_text(f"#!/bin/sh\n{text}\n")
        (directory / "bin" / "pip-audit").chmod(0o755)
    return directory / "bin"


def test_all_failures_are_listed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(root: Path) -> list[str]:
        raise release_check.Failed("no compiler")

    def undone(root: Path) -> list[str]:
        raise NotDone("no network")

    checks = {"first": lambda root: ["one", "two"], "second": broken, "third": undone, "fourth": lambda root: []}
    monkeypatch.setattr(release_check, "CHECKS", checks)
    assert release_check.main(checkout) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith(("FAILED", "NOT CHECKED"))] == [
        "NOT CHECKED  third: no network",
        "FAILED  first: one",
        "FAILED  first: two",
        "FAILED  second: no compiler",
    ]
    monkeypatch.setattr(release_check, "CHECKS", {"third": undone})
    assert release_check.main(checkout) == 0
