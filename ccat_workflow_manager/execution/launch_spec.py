"""One attempt of a step run and the command that launches it, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Mount, Resources

Progress = Callable[[], None]
"""Called between long pieces of work. It renews the lease; it raises LeaseLost or CancelRequested to end the work."""


ReadFiles = Callable[[Collection[str]], Mapping[str, bytes]]
"""Returns the contents of those of these files of the definition that are stored, by SHA-256."""


def no_progress() -> None:
    """For callers without a lease."""


def no_files(digests: Collection[str]) -> Mapping[str, bytes]:
    """For attempts whose definition has no files."""
    return {}


@dataclass(frozen=True, slots=True)
class UpstreamProduct:
    """A published product of an upstream step run; `path` is relative to the output directory of that step run."""

    id: UUID
    name: str
    type: str
    path: str
    size: int
    sha256: str
    is_directory: bool = False


@dataclass(frozen=True, slots=True)
class UpstreamProducts:
    """All products of one upstream step run; `directory` is its published output on the host."""

    step: str
    key: str
    directory: str
    products: Sequence[UpstreamProduct] = ()


@dataclass(frozen=True, slots=True)
class Input:
    """A file or directory that a program finds at `/workflow/input`, as it was when the step run started."""

    name: str
    """Below `/workflow/input`."""
    source: str
    """As the definition names it, or as its pattern has found it."""
    path: str
    """On the host, without links."""
    size: int
    sha256: str
    """Of a directory: of the sorted list of its names, sizes and times."""
    is_directory: bool = False
    file_count: int = 1


@dataclass(frozen=True, slots=True)
class LostUpstream:
    """An upstream step run that did not complete, which this one tolerates."""

    step: str
    key: str
    outcome: str
    """`failed`, `skipped` or `cancelled`."""
    reason: str | None
    text: str | None


@dataclass(frozen=True, slots=True)
class StepLaunch:
    """One attempt of a step run, all substitutions done."""

    pipeline: str
    run_id: str
    step: str
    key: str
    attempt: int
    command: Sequence[str]
    image: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    """The names of secrets by variables."""
    resources: Resources = field(default_factory=Resources)
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    item: JSON = None
    upstream: Sequence[UpstreamProducts] = ()
    lost: Sequence[LostUpstream] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of each file of the definition, by its name below `/workflow/code`."""
    inputs: Sequence[Input] = ()
    trace: str | None = None
    """The variable TRACEPARENT: spans of the program belong to the trace of the request."""
    limits_by_runtime: bool = False
    """The container runtime limits memory and CPU, because the backend cannot."""


@dataclass(frozen=True, slots=True)
class Launch:
    """The command of an attempt, for its backend."""

    vector: list[str]
    environment: dict[str, str]
    mounts: tuple[Mount, ...] = ()
    """The mounts of the container, if the backend starts it."""
    secrets: Mapping[str, str] = field(default_factory=dict)
    """The name of the secret of each variable that the backend sets besides `environment`."""


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """An image on this machine's filesystem, or one that the backend pulls."""

    reference: str
    path: str
    """Empty if the backend runs the image by its reference."""
    digest: str | None = None
    """`sha256:...` of the file, if it was pulled or pinned."""
