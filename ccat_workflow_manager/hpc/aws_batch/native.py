"""Steps that run in their own image, without Apptainer: the job's container is the step's. Pure text.

The volumes of a job are those of its definition, the same for all attempts. So the directories of an attempt get their
places in the container by links that are made when it starts: what may only be read is not write-protected.
"""

from __future__ import annotations

from collections.abc import Sequence
from posixpath import dirname
from shlex import quote

from ccat_workflow_manager.lifecycle.models import Mount

_CANNOT = 125
"""The exit code of a job whose image lets nobody make the links."""


def seen_as(path: str, mounts: Sequence[Mount]) -> str:
    """Where the container sees a directory."""
    return next((each.target for each in mounts if each.source == path), path)


def with_links(script: str, mounts: Sequence[Mount]) -> str:
    """The job script with what makes the places that the step knows, in front."""
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
            # In order: one place may be inside another, which is a link by then.
            parent = dirname(each.target)
            lines += [f"mkdir -p {quote(parent)} || cannot"]
        lines += [f"[ ! -d {target} ] || [ -L {target} ] || rmdir {target} || cannot"]
        lines += [f"ln -sfn -- {quote(each.source)} {target} || cannot"]
    return "\n".join(lines) + "\n" + script
