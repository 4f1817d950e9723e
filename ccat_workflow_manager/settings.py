"""The settings of a process: read from files and environment by Dynaconf, validated all at once, then frozen.

`Settings` is the one list of settings, with those of the backends in `BackendSettings`: a field says its type, its
meaning, what is allowed and whether it is secret.
Its defaults are in settings.toml beside this file. Validation, docs/settings.md and `ccat-wm doctor` derive from both.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import quote

from ccat_workflow_manager.backend_settings import BackendSettings, setting
from ccat_workflow_manager.errors import ConfigurationError, Fault
from ccat_workflow_manager.setting_rules import (
    PREFIX,
    SettingSpec,
    at_least,
    between,
    converted,
    is_loopback,
    matching,
    more_than,
    one_of,
    url_of,
)

ENVIRONMENTS = ("localdev", "staging", "production")
ENVIRONMENT_SWITCH = "ENV_FOR_DYNACONF"
SITE_FILE = PREFIX + "SETTINGS_FILE"
BACKEND_GROUP = "ccat_workflow_manager.backends"
# What begins with one of these is a setting of our own backends and in the list; what begins with the name of another
# installed backend is handed to that one as it is.
BACKEND_PREFIXES = (
    "LOCAL_", "NOOP_", "CONCURRENT_", "SLURM_", "PBS_", "KUBERNETES_", "K8S_", "AWS_BATCH_", "DASK_", "RADICAL_PILOT_",
)  # fmt: skip
_SHORT_PREFIXES = {"kubernetes": "K8S_"}
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|(^|_)KEY$")


def default_settings_file() -> Path:
    """The defaults as shipped; `settings.toml` at the top of a checkout is a link to it."""
    return Path(__file__).with_name("settings.toml")


def migrations_dir() -> Path:
    """The alembic scripts as shipped; `alembic/` at the top of a checkout is a link to it."""
    return Path(__file__).parent / "db" / "migrations"


# --- the settings ---


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings(BackendSettings):
    """Every setting of the service, validated. Empty text means "not set"."""

    environment: str
    hpc_backend: str = setting(
        "Backend of the steps that name none.",
        matching(r"[a-z][a-z0-9_]*", "the name of a backend (`ccat-wm backends`)"),
        group="Where work runs",
    )
    container_runtime: str = setting(
        "How images are run. `auto`: apptainer, then singularity, and in localdev then `none`. "
        "`none` runs commands without a container and is refused in staging and production.",
        one_of("auto", "apptainer", "singularity", "none"),
    )
    processing_location_id: int = setting("Number of the processing location that is served.", at_least(0))

    data_dir: Path = setting(
        "What the service keeps for itself: embedded databases, the state of backends. "
        "Empty: `$XDG_DATA_HOME/ccat-workflow-manager`.",
        group="Directories",
    )
    pipeline_base_dir: Path = setting("Directories of all runs. Empty: `pipelines` under `DATA_DIR`.")
    sif_cache_dir: Path = setting("Images fetched from registries. Empty: `sif-cache` under `DATA_DIR`.")

    database_url: str = setting(
        "PostgreSQL. Empty: an embedded server, in localdev only.",
        url_of("postgresql", "postgresql+psycopg", "postgres"),
        secret=True,
        group="Databases",
    )
    redis_url: str = setting(
        "Redis or Valkey. Empty: built from `REDIS_HOST`; without that an embedded server, in localdev only.",
        url_of("redis", "rediss", "unix"),
        secret=True,
    )
    redis_host: str = setting("Builds `REDIS_URL` when that is empty.", matching(r"[^\s/@]*", "a host name, or empty"))
    redis_port: int = setting("Used with `REDIS_HOST`.", between(1, 65535))
    redis_password: str = setting("Used with `REDIS_HOST`.", secret=True)

    api_host: str = setting(
        "Address the API listens on. Anything but loopback needs `AUTH_REQUIRED`.",
        matching(r"[^\s/@]+", "an address or a host name"),
        group="API and log",
    )
    api_port: int = setting("Port the API listens on; 0 takes a free one.", between(0, 65535))
    auth_required: bool = setting("Whether every call needs a token.")
    log_level: str = setting("The least severe messages to log.", one_of("DEBUG", "INFO", "WARNING", "ERROR"))

    workers: int = setting("Workers that `ccat-wm up` starts.", between(1, 256), group="Pace and patience")
    lease_seconds: float = setting("How long a worker may be silent before another takes its work.", at_least(1))
    dispatch_seconds: float = setting("How often the manager looks for rows nobody answered.", more_than(0))
    follow_seconds: float = setting("How often a backend is asked for the state of its jobs.", more_than(0))
    sweep_seconds: float = setting("How often the manager repairs what a dead worker left.", more_than(0))
    unknown_grace_seconds: float = setting("How long a backend may not know a job before it is LOST.", at_least(0))
    cancel_confirm_seconds: float = setting(
        "How long a worker waits for a cancelled job to stop; then others get their turn, and it is asked again.",
        more_than(0),
    )

    reaper_seconds: float = setting(
        "How often a backend is searched for jobs that nobody waits for any more; 0: never.", at_least(0)
    )
    reaper_grace_seconds: float = setting(
        "How long an attempt must have been over before its job, if it still runs, is stopped.", at_least(0)
    )

    breaker_failures: int = setting(
        "So many step runs of one step and image that fail the same way, with no success in between, hold back the "
        "rest; 0: never.",
        at_least(0),
        group="Circuit breakers",
    )
    breaker_window_minutes: float = setting("The time within which they have to fail.", more_than(0))
    breaker_probe_minutes: float = setting(
        "How long after that one of the held back step runs is tried; 0: none, until an operator releases them.",
        at_least(0),
    )

    kill_grace_seconds: float = setting("From asking a process to stop to killing it.", at_least(0), group="Jobs")
    log_limit_mb: int = setting("A job that writes more log than this is stopped.", at_least(1))

    backend_extras: Mapping[str, object] = field(default_factory=dict)

    def for_backend(self, name: str) -> dict[str, Any]:
        """The keyword arguments that the settings hold for a backend: LOCAL_MAX_CPU is `max_cpu` of `local`."""
        # The long name is the later one and wins.
        prefixes = (_SHORT_PREFIXES.get(name.lower(), name.upper() + "_"), name.upper() + "_")
        own = {spec.name: getattr(self, spec.name.lower()) for spec in specs()}
        return {
            key.removeprefix(prefix).lower(): value
            for prefix in prefixes
            for key, value in {**own, **self.backend_extras}.items()
            if key.startswith(prefix) and value != ""
        }

    def shown(self) -> dict[str, str]:
        """Name and value of every setting as people may see them: secrets are masked."""
        known = {spec.name: spec.shown(getattr(self, spec.name.lower())) for spec in specs()}
        return known | {name: "***" if _SECRET_NAME.search(name) else str(v) for name, v in self.backend_extras.items()}

    def __repr__(self) -> str:
        return f"Settings({self.environment}, {', '.join(f'{name}={value!r}' for name, value in self.shown().items())})"


@cache
def specs() -> tuple[SettingSpec, ...]:
    """Every setting, in the order of the documentation."""
    kinds = get_type_hints(Settings)
    found, group = [], ""
    # Those of the backends come last.
    for item in sorted(fields(Settings), key=lambda each: each.name in BackendSettings.__dataclass_fields__):
        if item.metadata:
            about = dict(item.metadata)
            group = about.pop("group") or group
            found.append(SettingSpec(item.name.upper(), kinds[item.name], group=group, **about))
    return tuple(found)


# --- reading --------------------------------------------------------------------------------------------------------


def load_settings(overrides: Mapping[str, object] | None = None) -> Settings:
    """Shipped defaults, site file, environment variables, then `overrides` (None is "not given"): the later win.

    Every fault of all of them is reported in one ConfigurationError.
    """
    faults: list[Fault] = []
    environment = os.environ.get(ENVIRONMENT_SWITCH, "").strip().lower() or ENVIRONMENTS[0]
    if environment not in ENVIRONMENTS:
        faults.append(Fault(ENVIRONMENT_SWITCH, f"{environment!r} is not allowed; allowed: {', '.join(ENVIRONMENTS)}"))
        raise _refusal(faults)
    values = _from_files(environment, faults) | _from_environment()
    values |= {name.upper(): value for name, value in (overrides or {}).items() if value is not None}
    extras = _backend_extras(values, faults)
    typed = {spec.name: _typed(spec, values.get(spec.name, ""), faults) for spec in specs()}
    if not faults:
        _fill_in(typed)
        faults.extend(_contradictions(environment, typed))
    if faults:
        raise _refusal(faults)
    return Settings(
        environment=environment, backend_extras=extras, **{name.lower(): value for name, value in typed.items()}
    )


def _refusal(faults: list[Fault]) -> ConfigurationError:
    lines = "\n".join(f"  {fault}" for fault in faults)
    return ConfigurationError(f"The settings cannot be used:\n{lines}", faults)


def _from_files(environment: str, faults: list[Fault]) -> dict[str, object]:
    # Dynaconf costs 60 ms of import, which what only needs the types above should not pay.
    from dynaconf import Dynaconf

    files = [default_settings_file()]
    if site := os.environ.get(SITE_FILE):
        site_faults = [Fault(SITE_FILE, message) for message in _site_file_faults(Path(site))]
        faults.extend(site_faults)
        files += [] if site_faults else [Path(site).absolute()]
    # Environment variables are read below: Dynaconf would take the password 1_000 for a number.
    loaded = Dynaconf(
        environments=True,
        env=environment,
        envvar_prefix=None,
        auto_cast=False,
        core_loaders=["TOML"],
        root_path=str(default_settings_file().parent),
        settings_files=[str(file) for file in files],
    )
    return dict(loaded.as_dict(env=environment))


def _site_file_faults(path: Path) -> Iterator[str]:
    """What Dynaconf would pass over in silence."""
    import tomllib

    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        yield f"{path} cannot be read: {error.strerror}"
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        yield f"{path} is not TOML: {error}"
    else:
        for name, content in sections.items():
            if name.lower() not in ("default", *ENVIRONMENTS) or not isinstance(content, dict):
                yield f"{name!r} in {path} is not one of the sections [default], [{'], ['.join(ENVIRONMENTS)}]"


def _from_environment() -> dict[str, object]:
    return {
        name.removeprefix(PREFIX): value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and name != SITE_FILE
    }


def _backend_extras(values: Mapping[str, object], faults: list[Fault]) -> dict[str, object]:
    """The settings that are those of a plug-in, which alone knows them; any other that is none of ours is a fault."""
    known = [spec.name for spec in specs()]
    unknown = sorted(set(values) - set(known))
    if not unknown:
        return {}
    from importlib.metadata import entry_points

    installed = {point.name.upper() + "_" for point in entry_points(group=BACKEND_GROUP)}
    plug_ins = tuple(installed.difference(BACKEND_PREFIXES))
    extras: dict[str, object] = {}
    for name in unknown:
        if name.startswith(plug_ins):
            extras[name] = _guessed(values[name])
        else:
            faults.append(Fault(PREFIX + name, _no_setting(name, known)))
    return extras


def _no_setting(name: str, known: list[str]) -> str:
    """What is wrong with a name that means nothing, and which one was probably meant."""
    from difflib import get_close_matches

    prefix = next((prefix for prefix in BACKEND_PREFIXES if name.startswith(prefix)), "")
    of_backend = {each.removeprefix(prefix): each for each in known if prefix and each.startswith(prefix)}
    close = get_close_matches(name, known, n=1, cutoff=0.85)
    close += [of_backend[each] for each in get_close_matches(name.removeprefix(prefix), of_backend, n=1)]
    if close:
        return f"is not a setting; did you mean {PREFIX}{close[0]}?"
    if prefix:
        return "is not a setting of this backend, which has those of docs/settings.md"
    return "is not a setting, nor does it begin with the name of a backend"


def _guessed(value: object) -> object:
    """Text of the environment as the number or truth value that it spells, for a backend that knows what it wants."""
    for kind in (int, float, bool):
        try:
            return converted(kind, value)
        except ValueError:
            continue
    return value


# --- validating -----------------------------------------------------------------------------------------------------


def _typed(spec: SettingSpec, value: object, faults: list[Fault]) -> Any:
    try:
        typed = converted(spec.kind, value)
        if isinstance(typed, Path):
            typed = typed.expanduser().absolute()
        if spec.rule is None or spec.rule.accepts(typed):
            return typed
    except (ValueError, RuntimeError):  # the latter from expanduser: ~nobody-we-know
        pass
    faults.append(Fault(spec.variable, f"{spec.shown(value)!r} is not allowed; allowed: {spec.allowed}"))
    return None


def _fill_in(values: dict[str, Any]) -> None:
    """Settings that follow from others when they are empty."""
    home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
    values["DATA_DIR"] = values["DATA_DIR"] or home / "ccat-workflow-manager"
    values["PIPELINE_BASE_DIR"] = values["PIPELINE_BASE_DIR"] or values["DATA_DIR"] / "pipelines"
    values["SIF_CACHE_DIR"] = values["SIF_CACHE_DIR"] or values["DATA_DIR"] / "sif-cache"
    # SQLAlchemy takes the plain scheme for another driver than ours.
    values["DATABASE_URL"] = re.sub(r"^(postgres|postgresql)://", "postgresql+psycopg://", values["DATABASE_URL"])
    if values["REDIS_HOST"] and not values["REDIS_URL"]:
        secret = f":{quote(values['REDIS_PASSWORD'], safe='')}@" if values["REDIS_PASSWORD"] else ""
        host = f"[{values['REDIS_HOST']}]" if ":" in values["REDIS_HOST"] else values["REDIS_HOST"]
        values["REDIS_URL"] = f"redis://{secret}{host}:{values['REDIS_PORT']}/0"


def _contradictions(environment: str, values: Mapping[str, Any]) -> Iterator[Fault]:
    if environment != "localdev":
        for name in ("DATABASE_URL", "REDIS_URL"):
            if not values[name]:
                yield Fault(PREFIX + name, f"'' is not allowed in {environment}: name the server to use")
        if values["CONTAINER_RUNTIME"] == "none":
            yield Fault(
                PREFIX + "CONTAINER_RUNTIME",
                f"'none' is not allowed in {environment}; allowed: auto, apptainer, singularity",
            )
    if not values["AUTH_REQUIRED"] and not is_loopback(values["API_HOST"]):
        yield Fault(
            PREFIX + "API_HOST",
            f"{values['API_HOST']!r} is not allowed without {PREFIX}AUTH_REQUIRED=true; allowed: a loopback address",
        )


def settings_markdown() -> str:
    """docs/settings.md."""
    shipped = {environment: _from_files(environment, []) for environment in ENVIRONMENTS}
    lines = [_DOCUMENT]
    group = ""
    for spec in specs():
        if spec.group != group:
            group = spec.group
            lines += [f"\n## {group}\n", "| setting | default | allowed | meaning |", "|---|---|---|---|"]
        values = [_toml_text(shipped[environment][spec.name]) for environment in ENVIRONMENTS]
        shown = [f"`{value}`" if value else "empty" for value in (values if len(set(values)) > 1 else values[:1])]
        lines.append(f"| `{spec.name}` | {' / '.join(shown)} | {spec.allowed} | {spec.about} |")
    return "\n".join(lines) + "\n"


def _toml_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_DOCUMENT = """# Settings

<!-- Written by `make docs` from ccat_workflow_manager/settings.py and settings.toml; do not edit. -->

A setting `X` is given, the later winning, in

1. the shipped `settings.toml`;
2. the site's own file of the same shape, named by the environment variable `CCAT_WORKFLOW_MANAGER_SETTINGS_FILE`;
3. the environment variable `CCAT_WORKFLOW_MANAGER_X`.

`ENV_FOR_DYNACONF` chooses between `localdev` (which it is when unset), `staging` and `production`; the files have a
section for each, and `[default]` for all. Where defaults differ, the table names those of the three in this order.

Every process validates all settings when it starts and refuses to run with any fault, naming all faults at once.

A name that is none of those below is a fault too, unless it begins with the name of a backend that a plug-in brought:
the rest of such a name, in lower case, is an argument of that backend. Passwords are never shown."""
