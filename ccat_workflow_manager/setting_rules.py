"""What may be said about a setting: its type, what is allowed, how it is shown. Pure, so that it can be tested as text.

`settings.Settings` is the list of settings that uses these words.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PREFIX = "CCAT_WORKFLOW_MANAGER_"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rule:
    """What is allowed, in words and as a test on a value of the right type."""

    allowed: str
    accepts: Callable[[Any], bool]


def one_of(*names: str) -> Rule:
    return Rule(", ".join(names), lambda value: value in names)


def at_least(lowest: float) -> Rule:
    return Rule(f"{lowest} or more", lambda value: value >= lowest)


def more_than(bound: float) -> Rule:
    return Rule(f"more than {bound}", lambda value: value > bound)


def between(lowest: float, highest: float) -> Rule:
    return Rule(f"from {lowest} to {highest}", lambda value: lowest <= value <= highest)


def matching(pattern: str, allowed: str) -> Rule:
    return Rule(allowed, lambda value: re.fullmatch(pattern, value) is not None)


def url_of(*schemes: str) -> Rule:
    def accepts(value: str) -> bool:
        try:
            parts = urlsplit(value)
            return not value or (parts.scheme in schemes and bool(parts.netloc or parts.path) and parts.port != 0)
        except ValueError:
            return False

    return Rule("empty, or " + " or ".join(f"{scheme}://..." for scheme in schemes), accepts)


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """One setting, as validation, documentation and the doctor see it."""

    name: str
    kind: type
    about: str
    group: str
    rule: Rule | None = None
    secret: bool = False

    @property
    def variable(self) -> str:
        return PREFIX + self.name

    @property
    def allowed(self) -> str:
        kind = {bool: "true or false", int: "a whole number", float: "a number", Path: "a path"}.get(self.kind, "")
        return ", ".join(filter(None, (kind, self.rule.allowed if self.rule else ""))) or "any text"

    def shown(self, value: object) -> str:
        """The value as people may see it."""
        text = str(value)
        if not self.secret or not text:
            return text
        return masked_url(text) if "://" in text else "***"


def converted(kind: type, value: object) -> object:
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
        return kind(number)
    if not isinstance(value, str | Path) or "\0" in str(value):
        raise ValueError(value)
    if kind is Path:
        return Path(value) if str(value) else None
    return str(value).strip()


def masked_url(url: str) -> str:
    """The URL without its password."""
    url = re.sub(r"(://[^/?#]*?:)[^/?#]*@", r"\1***@", url)
    return re.sub(r"([?&][^=&]*passw[^=&]*=)[^&]*", r"\1***", url)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
