"""The start of a step that runs in its own image, without Apptainer. Pure text.

The volumes of a job are those of its definition, the same for all attempts, and writable. So the script of an attempt
first makes links from the paths that the step knows to the directories of the attempt. Nothing is write-protected.
"""

from __future__ import annotations

from collections.abc import Sequence
from posixpath import dirname
from shlex import quote

from ccat_workflow_manager.lifecycle.models import Mount

_CANNOT = 125
"""The exit code of a job whose user may not make the links."""


def seen_as(path: str, mounts: Sequence[Mount]) -> str:
    """The path of a directory in the container."""
    return next((each.target for each in mounts if each.source == path), path)


def with_links(script: str, mounts: Sequence[Mount]) -> str:
    """The job script, with the commands that make the links in front."""
    lines = [
        "#!/bin/sh",
        "cannot() {",
        '  echo "the directories of the attempt cannot be put into the image" >&2',
        f"  exit {_CANNOT}",
        "}",
    ]
    parent = ""
    for each in mounts:
        target = quote(each.target)
        if dirname(each.target) != parent:
            # In order: a target may be inside another one, which is a link by then.
            parent = dirname(each.target)
            lines += [f"mkdir -p {quote(parent)} || cannot"]
        lines += [f"[ ! -d {target} ] || [ -L {target} ] || rmdir {target} || cannot"]
        lines += [f"ln -sfn -- {quote(each.source)} {target} || cannot"]
    return "\n".join(lines) + "\n" + script
