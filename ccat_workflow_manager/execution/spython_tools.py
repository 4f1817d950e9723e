"""What spython does here: ask a runtime for its version.

It does not launch, and it cannot end a pull that hangs (docs/decisions/0006-spython-does-not-launch.md). Its client
would call the program `singularity`, so only its `run_command` is used, with the runtime that was detected.
"""

from __future__ import annotations


class SpythonFailed(Exception):
    """The program that spython called could not be run, or failed with this text."""


def version(program: str) -> str:
    """The output of `--version`."""
    return _run([program, "--version"])


def _run(argv: list[str]) -> str:
    from spython.utils import run_command  # late: processes that use no container save the import

    try:
        answer = run_command(argv, quiet=True)
    except (OSError, UnicodeDecodeError) as error:
        raise SpythonFailed(f"{argv[0]} cannot be run: {error}") from error
    text = "".join(answer["message"]).strip()
    if answer["return_code"] != 0:
        raise SpythonFailed(text or f"{argv[0]} ended with exit code {answer['return_code']}")
    return text
