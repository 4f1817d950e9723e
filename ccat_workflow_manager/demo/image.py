"""The container image of the demo: the Python of this machine, the demo program, and a shell.

It holds only the modules that the program imports, so it has a few megabytes and is built in a second or two. Its name
contains a digest of everything that determines its content: another program or Python makes another image.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import py_compile
import sys
import tempfile
from importlib.util import cache_from_source
from pathlib import Path

from ccat_workflow_manager import shell
from ccat_workflow_manager.demo.sandbox import ImageBuildFailed, Sandbox, which_all
from ccat_workflow_manager.execution.runtime import Runtime

PROGRAM = Path(__file__).parent / "stand-alone" / "reduce.py"
PROGRAM_IN_IMAGE = "/opt/demo/reduce.py"
INTERPRETER_IN_IMAGE = "python3"
LATEST = "ccat-demo.sif"
"""A link to the newest demo image: the name in pipeline.yaml."""

_PREFIX = "/opt/python"
_LAYOUT = "1"
_TOOLS = ("sh", "cat", "ls", "env", "true", "sleep")
_ALSO_IMPORTED = ("encodings.utf_8", "encodings.latin_1", "encodings.ascii", "traceback", "site")
_LIST_MODULES = """
import json, os, runpy, sys
sys.path.insert(0, os.path.dirname(sys.argv[1]))
runpy.run_path(sys.argv[1], run_name="listed")
for name in {also!r}: __import__(name)
files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
print(json.dumps(sorted({{file for file in files if file}})))
"""


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
    extensions = f"{home}/lib-dynload"  # Python finds its home by this directory
    (sandbox.root / extensions.lstrip("/")).mkdir(parents=True)
    for module in _modules(interpreter):
        if not module.endswith(".py"):
            sandbox.copy(module, f"{extensions}/{os.path.basename(module)}")
            sandbox.add_libraries_of(module)
            continue
        target = f"{home}/{os.path.relpath(module, standard_library)}"
        sandbox.copy(module, target)
        if os.path.exists(compiled := cache_from_source(module)):
            sandbox.copy(compiled, f"{os.path.dirname(target)}/__pycache__/{os.path.basename(compiled)}")
    for source in _program_files():
        target = f"{os.path.dirname(PROGRAM_IN_IMAGE)}/{source.name}"
        sandbox.copy(str(source), target)
        # The image is read-only, so Python could not store what it compiles at the first start.
        compiled = cache_from_source(str(sandbox.root / target.lstrip("/")))
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(source), compiled, dfile=target, doraise=True, invalidation_mode=mode)
    for tool in which_all(_TOOLS):
        sandbox.add_program(tool)


def _modules(interpreter: str) -> list[str]:
    """Files of all modules that are loaded after the imports of the program."""
    argv = [interpreter, "-B", "-I", "-S", "-c", _LIST_MODULES.format(also=_ALSO_IMPORTED), str(PROGRAM)]
    done = shell.run(argv, timeout=60)
    if done.returncode != 0:
        raise ImageBuildFailed(f"{interpreter} cannot import what the demo program needs: {done.output_tail}")
    files: list[str] = json.loads(done.stdout)
    ours = {str(source) for source in _program_files()}
    return [os.path.realpath(file) for file in files if file not in ours]


def _program_files() -> list[Path]:
    return sorted(PROGRAM.parent.glob("*.py"))


def _point_latest(link: Path, name: str) -> None:
    if link.is_symlink() and os.readlink(link) == name:
        return
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.symlink_to(name)
    partial.rename(link)
