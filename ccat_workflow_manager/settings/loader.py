"""Settings of a process: Dynaconf merges the files, environment variables win, the models check all values at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path

from ccat_workflow_manager.errors import Fault
from ccat_workflow_manager.settings.backends import BackendSettings, declared, prefix_of
from ccat_workflow_manager.settings.contradictions import contradictions
from ccat_workflow_manager.settings.model import PREFIX, SettingSpec, converted, parse, refusal, specs_of
from ccat_workflow_manager.settings.service import Settings

ENVIRONMENTS = ("localdev", "staging", "production")
ENVIRONMENT_SWITCH = "ENV_FOR_DYNACONF"
SITE_FILE = PREFIX + "SETTINGS_FILE"


def default_settings_file() -> Path:
    """The defaults as shipped; `settings.toml` at the top of a checkout is a link to it."""
    return Path(__file__).parents[1] / "settings.toml"


def migrations_dir() -> Path:
    """The alembic scripts as shipped; `alembic/` at the top of a checkout is a link to it."""
    return Path(__file__).parents[1] / "db" / "migrations"


def load_settings(
    overrides: Mapping[str, object] | None = None, *, serves_api: bool = False, runs_jobs: bool = False
) -> Settings:
    """Shipped defaults, site file, environment variables, then `overrides` (None is "not given"): the later win.

    A process that serves the API needs the files with its secrets, too, and one that has to do with jobs the default
    backend. Raises one ConfigurationError with the faults of all of them.
    """
    faults: list[Fault] = []
    environment = os.environ.get(ENVIRONMENT_SWITCH, "").strip().lower() or ENVIRONMENTS[0]
    if environment not in ENVIRONMENTS:
        allowed = ", ".join(ENVIRONMENTS)
        raise refusal([Fault(ENVIRONMENT_SWITCH, f"{environment!r} is not allowed; allowed: {allowed}")])
    values = from_files(environment, faults) | _from_environment(faults)
    values |= {name.upper(): value for name, value in (overrides or {}).items() if value is not None}
    service = {spec.keyword: values.pop(spec.name, "") for spec in specs_of(Settings)}
    backends, extras = _of_backends(values, faults)
    given = {"environment": environment, "backends": backends, "backend_extras": extras, **service}
    settings = parse(Settings, "", given, faults)
    wrong = {fault.path for fault in faults}
    checked = settings or _without(wrong, given)
    if checked is not None:
        together = contradictions(checked, serves_api=serves_api, runs_jobs=runs_jobs)
        faults.extend(each for each in together if each.path not in wrong)
    if settings is None or faults:
        raise refusal(faults)
    return settings


def _without(wrong: Set[str], given: Mapping[str, object]) -> Settings | None:
    """The settings with shipped values in place of the wrong ones, to see what else is wrong."""
    shipped = _shipped(str(given["environment"]))
    values = {spec.keyword: shipped.get(spec.name, "") for spec in specs_of(Settings) if spec.variable in wrong}
    return parse(Settings, "", {**given, **values}, [])


# --- reading ---------------------------------------------------------------------------------------------------------


def from_files(environment: str, faults: list[Fault]) -> dict[str, object]:
    """The values of the shipped file and of the site's own for an environment, by name of the setting."""
    if site := os.environ.get(SITE_FILE):
        site_faults = [Fault(SITE_FILE, message) for message in _site_file_faults(Path(site))]
        faults.extend(site_faults)
        if not site_faults:
            return _loaded(environment, default_settings_file(), Path(site).absolute())
    return dict(_shipped(environment))


@cache
def _shipped(environment: str) -> Mapping[str, object]:
    """The values of the shipped file. It does not change while a process runs, and Dynaconf needs 50 ms for it."""
    return _loaded(environment, default_settings_file())


def _loaded(environment: str, *files: Path) -> dict[str, object]:
    # Importing Dynaconf takes 60 ms: too much for programs that need only the types above.
    from dynaconf import Dynaconf

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
    """What Dynaconf would ignore without an error."""
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


def _from_environment(faults: list[Fault]) -> dict[str, object]:
    values: dict[str, object] = {
        name.removeprefix(PREFIX): value
        for name, value in os.environ.items()
        if name.startswith(PREFIX) and name != SITE_FILE
    }
    for spec in specs_of(Settings):
        file = values.pop(f"{spec.name}_FILE", None) if spec.is_secret else None
        if file is not None:
            values[spec.name] = _secret_in(str(file), spec, values, faults)
    return values


def _secret_in(file: str, spec: SettingSpec, values: Mapping[str, object], faults: list[Fault]) -> str:
    """Returns what the file of a secret holds. Crash dumps show variables, and orchestrators hand over files."""
    variable = f"{spec.variable}_FILE"
    if spec.name in values:
        faults.append(Fault(variable, f"is given beside {spec.variable}; give one of them"))
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        faults.append(Fault(variable, f"{file} cannot be read: {error.strerror}"))
    except UnicodeDecodeError:
        faults.append(Fault(variable, f"{file} is not text"))
    return ""


def unprefixed() -> list[str]:
    """The variables of the environment that are named like a setting without its prefix."""
    known = {spec.name for spec in specs()}
    return sorted(name for name in os.environ if name in known and PREFIX + name not in os.environ)


# --- settings of backends --------------------------------------------------------------------------------------------

_Checked = dict[str, BackendSettings]
_Unchecked = dict[str, dict[str, object]]


def _of_backends(values: Mapping[str, object], faults: list[Fault]) -> tuple[_Checked, _Unchecked]:
    """The settings that are given for backends. A name that belongs to no backend is a fault."""
    models = declared(values)
    known = {
        spec.name: (backend, spec)
        for backend, model in models.items()
        if model is not None
        for spec in specs_of(model, prefix_of(backend))
    }
    given: _Unchecked = {}
    extras: _Unchecked = {}
    for name, value in sorted(values.items()):
        if name in known:
            backend, spec = known[name]
            given.setdefault(backend, {})[spec.keyword] = value
        elif (plug_in := _owner(name, models)) is not None and models[plug_in] is None:
            extras.setdefault(plug_in.lower(), {})[name.removeprefix(prefix_of(plug_in)).lower()] = _guessed(value)
        else:
            faults.append(Fault(PREFIX + name, _no_setting(name.upper())))
    checked = {
        backend.lower(): settings
        for backend, keywords in given.items()
        if (model := models[backend]) is not None
        and (settings := parse(model, prefix_of(backend), keywords, faults)) is not None
    }
    return checked, extras


def _owner(name: str, models: Mapping[str, type[BackendSettings] | None]) -> str | None:
    """The backend whose prefix the name has; the longest prefix wins."""
    owners = [backend for backend in models if name.startswith(prefix_of(backend))]
    return max(owners, key=len, default=None)


def _no_setting(name: str) -> str:
    """What is wrong with a name that is no setting, and which one was probably meant."""
    from difflib import get_close_matches

    models = [(prefix_of(backend), model) for backend, model in declared().items() if model is not None]
    prefixes = [prefix for long, model in models for prefix in (long, model.short_prefix) if prefix]
    prefix = next((each for each in prefixes if name.startswith(each)), "")
    known = [spec.name for spec in specs()]
    of_backend = {each.removeprefix(prefix): each for each in known if prefix and each.startswith(prefix)}
    close = get_close_matches(name, known, n=1, cutoff=0.85)
    close += [of_backend[each] for each in get_close_matches(name.removeprefix(prefix), of_backend, n=1)]
    if close:
        return f"is not a setting; did you mean {PREFIX}{close[0]}?"
    if prefix:
        return "is not a setting of this backend: see docs/settings.md, or the documentation of its plug-in"
    return "is not a setting, nor does it begin with the name of a backend"


def _guessed(value: object) -> object:
    """Text of the environment as the number or truth value that it spells, for a backend that declares no types."""
    for kind in (int, float, bool):
        try:
            return converted(kind, value)
        except ValueError:
            continue
    return value


def specs() -> tuple[SettingSpec, ...]:
    """Every setting: those of the service, then those of the installed backends by name."""
    models = sorted((backend, model) for backend, model in declared().items() if model is not None)
    of_backends = [spec for backend, model in models for spec in specs_of(model, prefix_of(backend))]
    return (*specs_of(Settings), *of_backends)
