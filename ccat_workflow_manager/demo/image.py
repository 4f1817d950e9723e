"""The container image of the demo: the Python of this machine, the demo program, a shell and some tools.

People run their own first scripts in it, so it has the standard library but for its tests and windows.
Its name contains a digest of everything that determines its content: another program or Python makes another image.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import py_compile
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path

from ccat_workflow_manager.demo.sandbox import Sandbox, which_all
from ccat_workflow_manager.execution.runtime import Runtime

PROGRAM = Path(__file__).parent / "stand-alone" / "reduce.py"
PROGRAM_IN_IMAGE = "/opt/demo/reduce.py"
INTERPRETER_IN_IMAGE = "python3"
LATEST = "ccat-demo.sif"
"""A link to the newest demo image: the name in pipeline.yaml."""

_PREFIX = "/opt/python"
_LAYOUT = "2"
_TOOLS = (
    *("sh", "cat", "ls", "env", "true", "false", "sleep", "echo", "cp", "mv", "mkdir", "rm", "head", "tail", "wc"),
    *("grep", "sed", "sort", "uniq", "cut", "tr", "date", "basename", "dirname"),
)
_LEFT_OUT = (
    *("test", "tests", "__pycache__", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtledemo"),
    *("site-packages", "dist-packages"),
)
_EXTENSIONS_LEFT_OUT = ("_test", "_tkinter", "_xxtest", "xxlimited")


def ensure_demo_image(cache_dir: str, runtime: Runtime) -> str:
    """Build the demo image in `cache_dir` unless it exists. Returns its file name."""
    cache = Path(cache_dir)
    cache.mkdir(parents=True, exist_ok=True)
    identity = hashlib.sha256(f"{_LAYOUT} {sys.version} {sys.platform} {os.uname().machine}".encode())
    for source in _program_files():
        identity.update(f"\0{source.name}\0".encode() + source.read_bytes())
    image = cache / f"ccat-demo-{identity.hexdigest()[:16]}.sif"
    with (cache / ".ccat-demo.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            with tempfile.TemporaryDirectory(prefix=".ccat-demo-", dir=cache) as directory:
                sandbox = Sandbox(Path(directory))
                _fill(sandbox)
                sandbox.build(runtime, image)
        _point_latest(cache / LATEST, image.name)
    return image.name


def _fill(sandbox: Sandbox) -> None:
    interpreter = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    sandbox.add_program(interpreter, f"{_PREFIX}/bin/python3")
    (sandbox.root / "usr/bin/python3").symlink_to(f"{_PREFIX}/bin/python3")
    standard_library = os.path.dirname(os.path.realpath(os.__file__))
    home = f"{_PREFIX}/{sys.platlibdir}/{os.path.basename(standard_library)}"
    extensions = []
    for module in _modules(Path(standard_library)):
        target = f"{home}/{module.relative_to(standard_library)}"
        sandbox.copy(str(module), target)
        if module.suffix == ".so":
            extensions.append(str(module))
        elif os.path.exists(compiled := cache_from_source(module)):
            sandbox.copy(compiled, f"{os.path.dirname(target)}/__pycache__/{os.path.basename(compiled)}")
    sandbox.add_libraries_of(*extensions)
    for source in _program_files():
        target = f"{os.path.dirname(PROGRAM_IN_IMAGE)}/{source.name}"
        sandbox.copy(str(source), target)
        # The image is read-only, so Python could not store what it compiles at the first start.
        compiled = cache_from_source(str(sandbox.root / target.lstrip("/")))
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(source), compiled, dfile=target, doraise=True, invalidation_mode=mode)
    for tool in which_all(_TOOLS):
        sandbox.add_program(tool)


def _modules(standard_library: Path) -> Iterator[Path]:
    """Files of the standard library, and of its compiled modules in lib-dynload."""
    for directory, below, files in os.walk(standard_library):
        below[:] = [name for name in below if name not in _LEFT_OUT]
        for name in files:
            if name.endswith(".py") or (name.endswith(".so") and not name.startswith(_EXTENSIONS_LEFT_OUT)):
                yield Path(directory, name)


def _program_files() -> list[Path]:
    return sorted(PROGRAM.parent.glob("*.py"))


def _point_latest(link: Path, name: str) -> None:
    if link.is_symlink() and os.readlink(link) == name:
        return
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.symlink_to(name)
    partial.rename(link)
