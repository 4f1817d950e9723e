"""Everything that a release needs except publishing it: `make release-check` (see docs/contributing/release.md).

Each check returns its failures. The wheel and the sdist are left in dist/, ready to be published.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from importlib import metadata
from pathlib import Path

from deploy import client_package
from deploy.client_package import PACKAGE

ROOT = Path(__file__).parents[1]
FROZEN = "deploy/released_migrations.sha256"
NOT_SOURCE = (".*", "build", "dist", "*.egg-info", "__pycache__")
NOT_SHIPPED = re.compile(r"(^|/)(tests?|stand_ins?|bench|chaos|__pycache__)(/|$)|\.pyc$")
LICENCES_BY_HAND = {"spython": "MPL-2.0"}
"""Packages whose metadata do not name their licence."""
CALLS = (("ccat-wm", "--version"), ("ccat-wm", "--help"))
CALLS_OF_CLIENT = (("python", "-c", f"import {PACKAGE}.client"),)
_COPYLEFT = re.compile(r"\bA?GPL|Affero|GNU General Public", re.IGNORECASE)
_SECONDS = 600


class NotDone(Exception):
    """A check could not be done here."""


class Failed(Exception):
    """A program that a check needs has failed."""


def check_version(root: Path) -> list[str]:
    """`__version__` is the newest version of CHANGELOG.md, that has a date, and nothing in it is unreleased."""
    version = version_of(root)
    sections = re.findall(
        r"^## \[(.+?)\](?: - (\S+))?\n(.*?)(?=^## |\Z)",
        (root / "CHANGELOG.md").read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    failures = [
        "CHANGELOG.md: the section [Unreleased] is not empty; move its lines below the new version"
        for name, _, text in sections
        if name.lower() == "unreleased" and text.strip()
    ]
    newest, date = next(((name, date) for name, date, _ in sections if name.lower() != "unreleased"), ("none", ""))
    if newest != version:
        failures.append(f"CHANGELOG.md: the newest version is {newest}, but __version__ is {version}")
    elif not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        failures.append(f"CHANGELOG.md: version {newest} has no date")
    return failures


def check_checkout(root: Path) -> list[str]:
    """Everything is committed, and the version has no tag yet."""
    if shutil.which("git") is None:
        raise NotDone("there is no git on the search path")
    changed = _must(["git", "-C", root, "status", "--porcelain"]).splitlines()
    tag = f"v{version_of(root)}"
    failures = [f"not committed: {line.strip()}" for line in changed]
    return failures + ([f"the tag {tag} exists"] if _must(["git", "-C", root, "tag", "--list", tag]) else [])


def version_of(root: Path) -> str:
    text = (root / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return found[1] if found else "none"


def check_migrations(root: Path) -> list[str]:
    """Every migration is frozen: its checksum is recorded, and the file still has it."""
    folder = root / PACKAGE / "db" / "migrations" / "versions"
    lines = (root / FROZEN).read_text(encoding="utf-8").splitlines()
    frozen = {name: digest for digest, name in (line.split() for line in lines if line and not line.startswith("#"))}
    present = {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(folder.glob("*.py"))}
    failures = [f"{name} was released and is gone" for name in frozen if name not in present]
    for name, content in present.items():
        digest = hashlib.sha256(content).hexdigest()
        if name not in frozen:
            failures.append(f"{name} is not frozen; add to {FROZEN}: {digest}  {name}")
        elif digest != frozen[name]:
            failures.append(f"{name} was released and has changed; write a new migration instead")
    return failures


def check_documentation(root: Path) -> list[str]:
    """The generated pages are current."""
    done = _run([sys.executable, root / "docs" / "generate.py", "--check"])
    return done.stderr.splitlines() if done.returncode else []


def check_packages(root: Path) -> list[str]:
    """Build sdist and wheel, look into the wheel, install both elsewhere and run them; those of the client too."""
    target = root / "dist"
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="release-") as temporary:
        directory = Path(temporary)
        service = build(root, target, directory / "source")
        client = build_client(root, target, directory / "client-source")
        failures = check_contents(root, service[0])
        failures += check_contents(root, client[0], {each.as_posix() for each in client_package.closure(root)[0]})
        for archive in (*service, *client):
            programs = install(archive, directory / f"of-{archive.name}")
            for program, *arguments in CALLS_OF_CLIENT if archive in client else CALLS:
                done = _run([programs / program, *arguments], cwd=directory)
                if done.returncode != 0:
                    text = done.stderr.strip()[-500:]
                    failures.append(f"{archive.name}: {' '.join([program, *arguments])} fails: {text}")
    return failures


def build(root: Path, target: Path, source: Path) -> tuple[Path, Path]:
    """Build the sdist, and the wheel from it, out of a clean copy of the checkout. Needs no network."""
    shutil.copytree(root, source, symlinks=True, ignore=shutil.ignore_patterns(*NOT_SOURCE))
    return _built(source, target)


def build_client(root: Path, target: Path, source: Path) -> tuple[Path, Path]:
    """The same for the distribution of the client."""
    try:
        client_package.stage(root, source)
    except ValueError as error:
        raise Failed(str(error)) from None
    return _built(source, target)


def _built(source: Path, target: Path) -> tuple[Path, Path]:
    made = source / "dist"
    _must([sys.executable, "-m", "build", "--no-isolation", "--outdir", made, source])
    target.mkdir(parents=True, exist_ok=True)
    (wheel,), (sdist,) = made.glob("*.whl"), made.glob("*.tar.gz")
    return Path(shutil.move(wheel, target)), Path(shutil.move(sdist, target))


def check_contents(root: Path, wheel: Path, wanted: Collection[str] = ()) -> list[str]:
    """The wheel holds these files, or every file of the package, the licence, and nothing else."""
    package = (path for path in (root / PACKAGE).rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    wanted = set(wanted) or {path.relative_to(root).as_posix() for path in package}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    found = {name for name in names if ".dist-info/" not in name}
    failures = [f"{wheel.name} lacks {name}" for name in sorted(wanted - found)]
    failures += [f"{wheel.name} must not contain {name}" for name in sorted(found - wanted)]
    failures += [f"{wheel.name} must not contain {name}" for name in sorted(found & wanted) if NOT_SHIPPED.search(name)]
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        failures.append(f"{wheel.name} lacks the licence")
    return failures


def install(archive: Path, environment: Path) -> Path:
    """Install into a new environment. Returns the directory of its programs. Needs no network.

    Libraries are borrowed from this environment through a .pth file. Its own .pth files are not read through that, so
    an editable checkout is not on the path.
    """
    venv.create(environment, symlinks=True)
    paths = sysconfig.get_paths(vars={"base": str(environment), "platbase": str(environment)})
    borrowed = {str(metadata.distribution(name).locate_file("")) for name in ("setuptools", "sqlalchemy", "psycopg")}
    (Path(paths["purelib"]) / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--quiet"]
    _must(
        [
            *pip,
            "--no-compile",
            "--disable-pip-version-check",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            archive,
        ]
    )
    return environment / "bin"


def check_licences(root: Path) -> list[str]:
    """List the licences of all that is required. None may be unknown, and no copyleft one but that of an extra."""
    failures, missing, licences = [], [], defaultdict[str, set[str]](set)
    for file in ("runtime", "backends", "radical"):
        for name in re.findall(r"^([\w.-]+)==", (root / "requirements" / f"{file}.txt").read_text(), re.MULTILINE):
            try:
                licence = licence_of(name)
            except metadata.PackageNotFoundError:
                missing.append(name)
                continue
            licences[licence or "unknown"].add(name)
            if not licence:
                failures.append(f"{name} does not name its licence; add it to LICENCES_BY_HAND")
            elif file == "runtime" and _COPYLEFT.search(licence):
                failures.append(f"{name} is required and its licence is {licence}")
    for licence, names in sorted(licences.items()):
        _say(f"    {licence}: {', '.join(sorted(names))}")
    if missing and not failures:
        raise NotDone(f"not installed here: {', '.join(missing)}")
    return failures


def licence_of(name: str) -> str:
    """Returns what the metadata of an installed package say, or ""."""
    if name in LICENCES_BY_HAND:
        return LICENCES_BY_HAND[name]
    found = metadata.metadata(name)
    for field in ("License-Expression", "License"):
        text: str = (found.get_all(field) or [""])[0]
        if text and "\n" not in text and text not in ("UNKNOWN", "Dual License"):
            return text
    classifiers = found.get_all("Classifier") or []
    return " or ".join(text.split(" :: ")[-1] for text in classifiers if text.startswith("License ::"))


def check_vulnerabilities(root: Path) -> list[str]:
    """Ask `pip-audit` about the locked versions. It is no dependency of ours and needs the network."""
    program = shutil.which("pip-audit")
    if program is None:
        raise NotDone("there is no pip-audit on the search path")
    failures = []
    for file in ("runtime", "backends", "radical"):
        requirements = root / "requirements" / f"{file}.txt"
        done = _run([program, "--disable-pip", "--require-hashes", "--format", "json", "--requirement", requirements])
        try:
            packages = json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            raise NotDone(f"pip-audit gave no result: {done.stderr.strip()[-300:]}") from None
        failures += [
            f"{package['name']} {package['version']}: {each['id']}, fixed in {each['fix_versions'] or 'no version'}"
            for package in packages
            for each in package.get("vulns", ())
        ]
    return failures


CHECKS: dict[str, Callable[[Path], list[str]]] = {
    "version and changelog": check_version,
    "checkout": check_checkout,
    "frozen migrations": check_migrations,
    "generated pages": check_documentation,
    "wheel and sdist": check_packages,
    "licences": check_licences,
    "known vulnerabilities": check_vulnerabilities,
}


def main(root: Path = ROOT) -> int:
    """Run all checks and list all failures at the end."""
    failures, not_done = [], []
    for name, check in CHECKS.items():
        _say(f"{name} ...")
        try:
            found = check(root)
        except NotDone as reason:
            not_done.append(f"{name}: {reason}")
        except Failed as failure:
            failures.append(f"{name}: {failure}")
        else:
            failures += [f"{name}: {text}" for text in found]
    for title, texts in (("NOT CHECKED", not_done), ("FAILED", failures)):
        for text in texts:
            _say(f"{title}  {text}")
    _say("not ready for a release" if failures else "ready for a release, except what was not checked")
    return 1 if failures else 0


def _run(argv: Sequence[str | Path], cwd: str | Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=_SECONDS, check=False)


def _must(argv: Sequence[str | Path]) -> str:
    done = _run(argv)
    if done.returncode != 0:
        raise Failed((done.stdout + done.stderr).strip()[-2000:])
    return done.stdout


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
