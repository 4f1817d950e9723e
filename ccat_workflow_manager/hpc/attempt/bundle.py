"""The sources of this directory, for nodes that do not have the package."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[2]
_NAME = _PACKAGE.name
PROGRAM = "run.py"


def sources(main_module: str) -> dict[str, str]:
    """File name -> content of a directory from which `python -I -S run.py` calls `main()` of a module.

    `main_module` is its path in the package, such as `hpc/dask/watcher.py`. It may import the standard library and
    `hpc.attempt`.
    """
    modules = [*sorted(Path(__file__).parent.glob("*.py")), _PACKAGE / main_module]
    files = {f"{_NAME}/{path.relative_to(_PACKAGE).as_posix()}": path.read_text(encoding="utf-8") for path in modules}
    for package in {name.rpartition("/")[0] for name in files} | {_NAME, f"{_NAME}/hpc"}:
        files[f"{package}/__init__.py"] = ""
    dotted = f"{_NAME}/{main_module}".removesuffix(".py").replace("/", ".")
    run = f'sys.path.insert(0, __file__.rpartition("/")[0])\n\nfrom {dotted} import main\n\nsys.exit(main())\n'
    return {**files, PROGRAM: f"import sys\n\n{run}"}
