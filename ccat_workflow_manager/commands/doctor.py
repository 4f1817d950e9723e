"""`ccat-wm doctor`: the state of every dependency."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ccat_workflow_manager.commands.arguments import AsJson
from ccat_workflow_manager.commands.exit_codes import ExitCode

if TYPE_CHECKING:
    from ccat_workflow_manager.commands.checks import Check

DataDir = Annotated[Path | None, typer.Option(help="Directory of all data of the service to look at.")]
_WORDS = {True: ("ok", "green"), False: ("not ok", "bold red"), None: ("-", "dim")}


def doctor(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """Check each dependency of the service: one line each, ok or what to do.

    A line with `-` is about a dependency that is not needed or not running. Without --data-dir and DATA_DIR the doctor
    looks at the `ccat-wm up` or `ccat-wm demo` of this user that runs.

    Example:  ccat-wm doctor

    Exit codes:  0 all needed dependencies are ok,  3 one is not.
    """
    from rich.text import Text

    from ccat_workflow_manager.commands.output import console, print_json
    from ccat_workflow_manager.commands.terminal_text import plain

    out = console()
    found = []
    for check in _checks(data_dir):
        found.append(check)
        if not as_json:
            hint = f"; {check.hint}" if check.hint else ""
            word, style = _WORDS[check.ok]
            line = Text.assemble(
                f"{check.name:<19} ", (f"{word:<7}", style), plain(" ".join(f"{check.message}{hint}".split()))
            )
            out.print(line, soft_wrap=True)
    healthy = all(check.ok is not False for check in found)
    if as_json:
        print_json({"ok": healthy, "checks": [check.as_json() for check in found]})
    if not healthy:
        raise typer.Exit(ExitCode.NO_SERVICE)


def _checks(data_dir: Path | None) -> Iterator[Check]:
    from ccat_workflow_manager.commands.checks import all_checks, client_apart, settings_fault, without_prefix
    from ccat_workflow_manager.commands.running import only_running
    from ccat_workflow_manager.errors import ConfigurationError
    from ccat_workflow_manager.settings import load_settings

    yield from client_apart()
    found = None if data_dir is not None else only_running()
    chosen = data_dir or (None if found is None else found.data_dir)
    try:
        settings = load_settings({"DATA_DIR": str(chosen.absolute())} if chosen is not None else {})
    except ConfigurationError as error:
        yield settings_fault(error)
        return
    yield from without_prefix()
    yield from all_checks(settings, "" if found is None else f"of the running `ccat-wm {found.command}`")
