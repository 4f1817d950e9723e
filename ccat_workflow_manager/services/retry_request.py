"""A retry as a client requests it, with other resources or another backend for the next attempts."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictStr, model_validator

from ccat_workflow_manager.definition.messages import given_fields
from ccat_workflow_manager.definition.spec import ResourceSpec
from ccat_workflow_manager.errors import Fault, Invalid
from ccat_workflow_manager.lifecycle.models import Resources, RetryPolicy, WorkItem
from ccat_workflow_manager.services.run_request import Moment, Text, storable

LONGEST_REASON = 1000
Reason = Annotated[StrictStr, Field(max_length=LONGEST_REASON), AfterValidator(storable)]
_UNITS = {"cpu": " CPUs", "memory_gb": " GB", "time_hours": " h", "gpu": " GPUs"}


class RetryRequest(BaseModel):
    """Which step runs are retried, and with what. Without fields: all that did not complete, as before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: Text | None = Field(default=None, description="Only the step runs of this step, and those behind them.")
    key: Text | None = Field(default=None, description="Only the step run of the step with this key.")
    resources: ResourceSpec | None = Field(
        default=None, description="For the next attempts of the step; what is not given stays."
    )
    backend: Text | None = Field(default=None, description="For the next attempts of the step.")
    reason: Reason | None = Field(default=None, description="For the history.")
    until: Moment | None = Field(
        default=None, description="Other resources or another backend are for attempts that start until then."
    )

    _given = model_validator(mode="before")(given_fields)

    @property
    def changes(self) -> bool:
        """Whether the next attempts differ from the last ones."""
        return self.resources is not None or self.backend is not None

    def text(self, actor: str) -> str:
        """The text of the event, without what changes."""
        return f"requested by {actor}" + (f": {self.reason}" if self.reason else "")

    def resources_of(self, item: WorkItem, policy: RetryPolicy) -> Resources:
        """The resources of the next attempt. Raises Invalid if they are above the caps of the step."""
        given = {} if self.resources is None else dict(self.resources)
        extra = given.pop("extra", {})
        changed = {name: value for name, value in given.items() if value is not None}
        wanted = replace(item.resources, **changed, extra={**item.resources.extra, **extra})
        caps = {"memory_gb": policy.memory_cap_gb, "time_hours": policy.time_cap_hours}
        faults = [
            Fault(f"resources.{name}", f"may be at most {cap:g} for the step {item.step} (its retry.{name_of_cap})")
            for (name, cap), name_of_cap in zip(caps.items(), ("memory_cap_gb", "time_cap_hours"), strict=True)
            if name in changed and cap is not None and changed[name] > max(cap, getattr(item.resources, name))
        ]
        if faults:
            raise Invalid(faults=faults)
        return wanted

    def change_text(self, item: WorkItem, wanted: Resources) -> str:
        """` with 8 GB instead of 2 GB, on slurm instead of local`; empty if nothing changes."""
        parts = [
            f"{getattr(wanted, name):g}{unit} instead of {getattr(item.resources, name):g}{unit}"
            for name, unit in _UNITS.items()
            if getattr(wanted, name) != getattr(item.resources, name)
        ]
        parts += [
            f"{name} {getattr(wanted, name)} instead of {getattr(item.resources, name) or 'none'}"
            for name in ("partition", "account")
            if getattr(wanted, name) != getattr(item.resources, name)
        ]
        if wanted.extra != item.resources.extra:
            parts.append(f"extra {', '.join(sorted(wanted.extra))}")
        text = f" with {' and '.join(parts)}" if parts else ""
        if self.backend is not None and self.backend != item.backend:
            text += f", on {self.backend} instead of {item.backend}"
        return text


AS_BEFORE = RetryRequest()
