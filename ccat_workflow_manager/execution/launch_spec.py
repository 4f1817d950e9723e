"""What is to be launched: one attempt of one step run, as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ccat_workflow_manager.json_values import JSON
from ccat_workflow_manager.lifecycle.models import Mount, Resources

Progress = Callable[[], None]
"""Called between longer pieces of work; renews a lease, or raises when there is no reason to go on."""


def no_progress() -> None:
    """For callers that hold no lease."""


@dataclass(frozen=True, slots=True)
class UpstreamProduct:
    """A product that an earlier step has published; `path` is relative to that step run's output directory."""

    id: UUID
    name: str
    type: str
    path: str
    size: int
    sha256: str
    is_directory: bool = False


@dataclass(frozen=True, slots=True)
class UpstreamProducts:
    """All products of one step run that this one depends on; `directory` is its published output on the host."""

    step: str
    key: str
    directory: str
    products: Sequence[UpstreamProduct] = ()


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
    resources: Resources = field(default_factory=Resources)
    parameters: Mapping[str, JSON] = field(default_factory=dict)
    item: JSON = None
    upstream: Sequence[UpstreamProducts] = ()
    limits_by_runtime: bool = False
    """Ask the container runtime to limit memory and CPU, because the backend cannot."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a backend is given: the argument vector, and the variables that go with it."""

    vector: list[str]
    environment: dict[str, str]
    mounts: tuple[Mount, ...] = ()
    """What the container sees, where the backend itself makes it."""


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """An image that lies on this machine's filesystem, or that the backend will fetch."""

    reference: str
    path: str
    """Empty if the backend runs the image by its reference."""
    digest: str | None = None
    """`sha256:...` of the file, where it was pulled or pinned."""
