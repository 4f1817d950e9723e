"""The values of secrets, read when a step run is launched. No value is in a message, a `repr` or an argument vector."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ccat_workflow_manager import failpoints
from ccat_workflow_manager.definition.variables import container_value_problem
from ccat_workflow_manager.errors import StagingError
from ccat_workflow_manager.failures import FailureReason
from ccat_workflow_manager.hpc.attempt.files import AttemptFiles
from ccat_workflow_manager.hpc.attempt.script import write_secrets
from ccat_workflow_manager.json_values import text_problem

VARIABLE_PREFIX = "CCAT_WM_SECRET_"
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Secrets:
    """Where a worker finds secrets: `DIRECTORY/<project>/<name>`, then variables of its environment."""

    directory: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def values(self, project: str, names: Collection[str], step: str) -> dict[str, str]:
        """The value of each of these secrets, which a step uses. Raises StagingError."""
        return {name: self._value(project, name, f"step {step}") for name in names}

    def _value(self, project: str, name: str, owner: str) -> str:
        try:
            found = self._of_file(project, name)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise _missing(f"{owner} uses the secret {name}, which cannot be read: {why}") from None
        variable = variable_of(project, name)
        value = self.environment.get(variable) if found is None else found
        if value is None:
            where = f"{self.directory}/{project}/{name} or " if self.directory else ""
            raise _missing(
                f"{owner} uses the secret {name}, which the project {project} does not have on this worker: there is "
                f"no {where}variable {variable}"
            )
        if problem := text_problem(value) or container_value_problem(value):
            raise _missing(f"{owner} uses the secret {name}, which {problem}")
        return value

    def _of_file(self, project: str, name: str) -> str | None:
        """The content without the line break at its end. Returns None if there is no such file."""
        if self.directory is None:
            return None
        try:
            with (self.directory / project / name).open("rb") as file:
                content = file.read(_MOST_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if len(content) > _MOST_BYTES:
            raise OSError(0, f"it has more than {_MOST_BYTES} bytes")
        return content.decode().removesuffix("\n")


def variable_of(project: str, name: str) -> str:
    """The variable of the worker that may hold this secret. No other secret has the same."""
    # A name has no two hyphens in a row and none at its end, so the last `__` ends the project.
    return f"{VARIABLE_PREFIX}{project}__{name}".replace("-", "_")


def hand_over(values: Mapping[str, str], files: AttemptFiles) -> None:
    """Write the private file from which the script of the job takes its secrets. Raises StagingError."""
    try:
        failpoints.around("files.secrets", lambda: write_secrets(files, values))
    except OSError as error:
        text = f"the secrets of the job cannot be written: {error.strerror}: {files.secrets}"
        raise StagingError(FailureReason.STAGING_FAILED, text) from error


def _missing(text: str) -> StagingError:
    return StagingError(FailureReason.SECRET_MISSING, text)
