"""All that spython does for us: ask a runtime for its version, look into an image, pull one.

It does not launch (docs/decisions/0006-spython-does-not-launch.md). Its client calls whatever is named `singularity`;
here it is made to call the runtime that was found.
"""

from __future__ import annotations

import json
from typing import Any


class SpythonFailed(Exception):
    """The program that spython called could not be run or said no; the text is its own."""


def version(program: str) -> str:
    """What `--version` prints."""
    return _run([program, "--version"])


def pull(program: str, reference: str, target: str) -> None:
    """Fetch a registry image into the file `target`, replacing what is there."""
    _run([program, "pull", "--force", "--name", target, reference])


def inspect(program: str, image: str) -> dict[str, Any]:
    """Labels, definition and scripts of an image; empty if there is nothing to tell or it cannot be read."""
    from spython.main import get_client

    client = get_client(quiet=True)

    def command(action: str, flags: list[str] | None = None) -> list[str]:
        return [program, *(flags or []), action]

    client._init_command = command
    try:
        answer = client.inspect(image)
    except (OSError, KeyError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    attributes = answer.get("attributes") if isinstance(answer, dict) else None
    return attributes if isinstance(attributes, dict) else {}


def _run(argv: list[str]) -> str:
    from spython.utils import run_command  # late: processes that never see a container do without the import

    try:
        answer = run_command(argv, quiet=True)
    except (OSError, UnicodeDecodeError) as error:
        raise SpythonFailed(f"{argv[0]} cannot be run: {error}") from error
    text = "".join(answer["message"]).strip()
    if answer["return_code"] != 0:
        raise SpythonFailed(text or f"{argv[0]} ended with exit code {answer['return_code']}")
    return text
