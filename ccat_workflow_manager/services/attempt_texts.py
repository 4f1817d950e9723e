"""What an attempt has left beside its log: the manifest, the job script, the environment. Secrets are masked."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress

from ccat_workflow_manager.execution.layout import AttemptDirs
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.opener import UnsafeFile, opened

MASK = "•••"
_MOST_BYTES = 256 * 1024
_SECRET = re.compile(r"secret|token|passw|credential|private|auth|api_?key|access_?key|_key$|^key$", re.IGNORECASE)
_SHORTEST = 4
_ASSIGNED = re.compile(r"""\b(\w*(?:SECRET|TOKEN|PASSWORD|CREDENTIAL)\w*)=('[^']*'|"[^"]*"|\S+)""", re.IGNORECASE)


def masked(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with a mask in place of each value whose name says that it is secret."""
    return {name: MASK if _SECRET.search(name) and value else value for name, value in environment.items()}


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """The text with a mask in place of the secret values of the environment."""
    secrets = (value for name, value in environment.items() if _SECRET.search(name) and len(value) >= _SHORTEST)
    for secret in sorted(secrets, key=len, reverse=True):
        for form in (shlex.quote(secret), secret):
            text = text.replace(form, MASK)
    # Also where the name of a variable says so, whatever sets it.
    return _ASSIGNED.sub(rf"\1={MASK}", text)


def manifest(dirs: AttemptDirs) -> str | None:
    """The manifest that the program was given; None if it is not to be seen from here."""
    return _read(dirs.manifest, dirs.root)


def job_script(dirs: AttemptDirs, job_name: str, environment: Mapping[str, str]) -> str | None:
    """The script of the job, without secrets; None if the backend has written none, or it is not to be seen."""
    text = _read(AttemptFiles.of(dirs.workspace, job_name).script, dirs.root)
    return None if text is None else without_secrets(text, environment)


def _read(path: str, root: str) -> str | None:
    with suppress(FileNotFoundError, NotADirectoryError, PermissionError, UnsafeFile), opened(path, root=root) as file:
        return os.pread(file, _MOST_BYTES, 0).decode("utf-8", "replace")
    return None
