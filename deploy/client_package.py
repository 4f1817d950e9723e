"""The distribution `ccat-workflow-manager-client`: the client and all that it imports, out of the same tree.

No module is listed here. What the client imports, inside functions as well, is read from the code.
`python3 deploy/client_package.py DIRECTORY` lays its sources out, for `pip install DIRECTORY`.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGE = "ccat_workflow_manager"
NAME = "ccat-workflow-manager-client"
_SAME = ("requires-python", "license", "license-files", "authors", "keywords")


def stage(root: Path, source: Path) -> None:
    """Lay out the sources of the distribution in a new directory, ready to be built. Raises ValueError."""
    files, libraries = closure(root)
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["optional-dependencies"]["client"]
    if (named := {re.split(r"[^\w.-]", each)[0] for each in needed}) != libraries:
        raise ValueError(f"the extra `client` names {sorted(named)}, but the client imports {sorted(libraries)}")
    for path in [*files, Path("LICENSE")]:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / path, source / path)
    shutil.copy(root / "docs" / "client.md", source / "README.md")
    (source / "pyproject.toml").write_text(_pyproject(project, needed), encoding="utf-8")


def closure(root: Path) -> tuple[set[Path], set[str]]:
    """The files of the client and of what it imports, relative to the tree, and the libraries that these import."""
    waiting = list((root / PACKAGE / "client").rglob("*.py"))
    files = {Path(PACKAGE) / "py.typed"}
    libraries: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path.relative_to(root) in files:
            continue
        files.add(path.relative_to(root))
        waiting += [each / "__init__.py" for each in path.parents if each.is_relative_to(root / PACKAGE)]
        for name in _imported(path):
            if name.split(".")[0] == PACKAGE:
                module = root.joinpath(*name.split("."))
                waiting += [each for each in (module.with_suffix(".py"), module / "__init__.py") if each.exists()]
            else:
                libraries.add(name.split(".")[0])
    return files, libraries - sys.stdlib_module_names


def _imported(path: Path) -> Iterator[str]:
    """The names of all modules that a file imports, and of what it takes out of them: that may be a module too."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def _pyproject(project: dict[str, Any], dependencies: list[str]) -> str:
    """The description of the project, where it is true of the client too."""
    fields = {
        "name": NAME,
        "description": f"Python client of {project['name']}: {project['description']}",
        "readme": "README.md",
        "dynamic": ["version"],
        "dependencies": dependencies,
        "classifiers": [each for each in project["classifiers"] if not each.startswith(("Environment", "Framework"))],
        **{name: project[name] for name in _SAME},
    }
    lines = "\n".join(f"{name} = {_toml(value)}" for name, value in fields.items())
    return f"""[build-system]
requires = ["setuptools>=75"]
build-backend = "setuptools.build_meta"

[project]
{lines}

[tool.setuptools.dynamic]
version = {{ attr = "{PACKAGE}.__version__" }}

[tool.setuptools.packages.find]
include = ["{PACKAGE}", "{PACKAGE}.*"]
namespaces = false

[tool.setuptools.package-data]
{PACKAGE} = ["py.typed"]
"""


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


if __name__ == "__main__":
    stage(Path(__file__).parents[1], Path(sys.argv[1]))
