"""How settings are declared: Pydantic models whose fields hold the type, default, bounds and description of a setting.

`parse` checks given values against a model and describes every bad one: its name, its value, what is allowed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from ccat_workflow_manager.errors import ConfigurationError, Fault

PREFIX = "CCAT_WORKFLOW_MANAGER_"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}

_BOUNDS = {"ge": "{} or more", "gt": "more than {}", "le": "at most {}", "lt": "less than {}"}


class SettingsModel(BaseModel):
    """Base of all groups of settings. A field with a description is a setting; `repr=False` marks a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    short_prefix: ClassVar[str] = ""
    """Fields whose names begin with it are settings of exactly that name."""

    @field_validator("*", mode="before")
    @classmethod
    def _strict(cls, value: object, info: ValidationInfo) -> object:
        # Pydantic alone takes the text "1_000" for a number and the number 1 for true.
        field = cls.model_fields[info.field_name or ""]
        return converted(field.annotation, value) if field.description else value

    def __repr_args__(self) -> Iterator[tuple[str, Any]]:
        fields = type(self).model_fields
        for name, value in self:
            yield name, value if fields[name].repr else masked(value)


Model = TypeVar("Model", bound=SettingsModel)


@dataclass(frozen=True, slots=True)
class Rule:
    """What a text may be, in words and as a test: `Annotated[str, Rule(...)]`."""

    allowed: str
    accepts: Callable[[str], bool]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._accepted, handler(source))

    def _accepted(self, value: str) -> str:
        if not self.accepts(value):
            raise ValueError(self.allowed)
        return value


def matching(pattern: str, allowed: str) -> Rule:
    return Rule(allowed, lambda value: re.fullmatch(pattern, value) is not None)


def url_of(*schemes: str, password: bool = False) -> Rule:
    """`password`: the URL may have one."""

    def accepts(value: str) -> bool:
        try:
            parts = urlsplit(value)
            begins = value.lower().startswith(f"{parts.scheme}://") and parts.scheme in schemes
            return not value or (begins and bool(parts.netloc or parts.path) and parts.port != 0)
        except ValueError:
            return False

    allowed = "empty, or " + " or ".join(f"{scheme}://..." for scheme in schemes)
    hint = "; in a password write %2F for /, %40 for @, %23 for #, %3F for ?, %25 for %"
    return Rule(allowed + (hint if password else ""), accepts)


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """One setting, as validation and documentation see it."""

    name: str
    keyword: str
    field: FieldInfo

    @property
    def variable(self) -> str:
        return PREFIX + self.name

    @property
    def allowed(self) -> str:
        kind = self.field.annotation
        choices = [", ".join(get_args(kind))] if get_origin(kind) is Literal else []
        words = [_KINDS.get(kind, ""), *choices, *_bounds(self.field.metadata)]  # type: ignore[arg-type]
        words += [each.allowed for each in self.field.metadata if isinstance(each, Rule)]
        return ", ".join(filter(None, words)) or "any text"

    @property
    def is_secret(self) -> bool:
        return not self.field.repr

    def shown(self, value: object) -> str:
        """The value without its secret."""
        return masked(value) if self.is_secret else str(value)

    def fault(self, value: object) -> Fault:
        return Fault(self.variable, f"{self.shown(value)!r} is not allowed; allowed: {self.allowed}")


def _bounds(metadata: list[Any]) -> list[str]:
    found = {name: getattr(each, name) for each in metadata for name in _BOUNDS if hasattr(each, name)}
    if found.keys() >= {"ge", "le"}:
        return [f"from {found['ge']} to {found['le']}"]
    return [_BOUNDS[name].format(bound) for name, bound in found.items()]


def specs_of(model: type[SettingsModel], prefix: str = "") -> tuple[SettingSpec, ...]:
    """The settings of a model, in the order of its fields."""
    found = []
    for name, field in model.model_fields.items():
        keyword = field.alias or name
        full = model.short_prefix and keyword.upper().startswith(model.short_prefix)
        if field.description:
            found.append(SettingSpec(keyword.upper() if full else prefix + keyword.upper(), keyword, field))
    return tuple(found)


def parse(model: type[Model], prefix: str, given: Mapping[str, object], faults: list[Fault]) -> Model | None:
    """The settings with these values by keyword, or None with more `faults`."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        specs = {spec.keyword: spec for spec in specs_of(model, prefix)}
        for each in error.errors(include_url=False):
            keyword = str(each["loc"][0])
            if keyword in specs:
                faults.append(specs[keyword].fault(given.get(keyword, "")))
            else:
                faults.append(Fault(PREFIX + prefix + keyword.upper(), "is not a setting"))
        return None


def refusal(faults: list[Fault]) -> ConfigurationError:
    lines = "\n".join(f"  {fault}" for fault in faults)
    return ConfigurationError(f"The settings cannot be used:\n{lines}", faults)


def converted(kind: Any, value: object) -> object:
    """The value as an object of that type, or ValueError."""
    if kind is bool:
        word = str(value).strip().lower()
        if word not in ("true", "false", "yes", "no", "on", "off", "1", "0"):
            raise ValueError(word)
        return word in ("true", "yes", "on", "1")
    if kind in (int, float):
        # float() alone would take "1_000", "nan" and "infinity" too.
        if isinstance(value, bool) or not _NUMBER.fullmatch(str(value).strip()):
            raise ValueError(value)
        number = float(str(value))
        if not math.isfinite(number) or (kind is int and number != int(number)):
            raise ValueError(value)
        return int(number) if kind is int else number
    if kind is str and isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        value = ",".join(value)  # a setting with commas between its entries, as a list of TOML
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise ValueError(value)
    if kind is Path:
        try:
            return Path(value).expanduser().absolute() if str(value) else Path()
        except RuntimeError as error:  # the home directory of an unknown user
            raise ValueError(value) from error
    return str(value).strip()


def masked(value: object) -> str:
    """What people may see of a secret."""
    text = str(value)
    return masked_url(text) if "://" in text else "***" if text else ""


def masked_url(url: str) -> str:
    """The URL without its password, also where that holds characters which end it for a reader of URLs."""
    url = re.sub(r"(://[^/?#@]*?:).*@", r"\1***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][^=&]*passw[^=&]*=)[^&]*", r"\1***", url)
