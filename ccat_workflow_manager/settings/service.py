"""The settings of the service itself. Their defaults are in settings.toml; empty text means "not set"."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

from pydantic import Field, model_validator

from ccat_workflow_manager.identity import grants_of
from ccat_workflow_manager.settings.backends import BackendSettings
from ccat_workflow_manager.settings.model import Rule, SettingsModel, matching, url_of

_UNSET = Path()
_ROOT = re.compile(r"/.*|(s3|https?)://[^/]+(/.*)?", re.DOTALL)


def _are_roots(value: str) -> bool:
    roots = [each.strip() for each in value.split(",") if each.strip()]
    return all(_ROOT.fullmatch(each) and ".." not in each.split("/") for each in roots)


def _networks(value: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Raises ValueError."""
    return tuple(ip_network(each.strip()) for each in value.split(",") if each.strip())


def _is_read_by(read: Callable[[str], object]) -> Callable[[str], bool]:
    """The check that `read` raises no ValueError for a value."""

    def check(value: str) -> bool:
        try:
            read(value)
        except ValueError:
            return False
        return True

    return check


_are_networks = _is_read_by(_networks)
_are_grants = _is_read_by(grants_of)


class Settings(SettingsModel):
    """Every setting of a process, checked: those of the service as fields, those of backends by `for_backend`."""

    environment: str
    hpc_backend: Annotated[str, matching(r"[a-z][a-z0-9_]*", "the name of a backend (`ccat-wm backends`)")] = Field(
        description="Backend of the steps that name none."
    )
    container_runtime: Literal["auto", "apptainer", "singularity", "none"] = Field(
        description="How images are run. `auto`: apptainer, then singularity, and in localdev then `none`. "
        "`none` runs commands without a container and is refused in staging and production."
    )
    processing_location_id: int = Field(ge=0, description="Number of the processing location that is served.")

    data_dir: Path = Field(
        description="What the service keeps for itself: embedded databases, the state of backends. "
        "Empty: `$XDG_DATA_HOME/ccat-workflow-manager`."
    )
    pipeline_base_dir: Path = Field(description="Directories of all runs. Empty: `pipelines` under `DATA_DIR`.")
    run_group: str = Field(
        description="Group that may read the directories of runs, besides the user of the service. Empty: none."
    )
    sif_cache_dir: Path = Field(description="Images fetched from registries. Empty: `sif-cache` under `DATA_DIR`.")
    input_roots: Annotated[
        str, Rule("absolute paths, s3://BUCKET and https://HOST with commas between them", _are_roots)
    ] = Field(
        description="Directories, `s3://BUCKET/PREFIX` and `https://HOST/PATH` that `inputs` of steps may come from, "
        "with commas between them. Empty: none, in localdev any."
    )
    secrets_dir: Path = Field(
        description="Directory of the secrets that steps may name: the file `PROJECT/NAME` holds the value. No input "
        "may come from it. Empty: only variables `CCAT_WM_SECRET_PROJECT__NAME` of the worker."
    )
    input_max_files: int = Field(ge=1, description="How many inputs one step run may have.")
    input_max_entries: int = Field(
        ge=1,
        description="How many names a pattern may look at, and how many entries the directories among the inputs "
        "of one step run may have together.",
    )
    input_fetch_gb: float = Field(gt=0, description="The largest object that is fetched from a store as an input.")
    input_fetch_seconds: float = Field(gt=0, description="How long fetching one object may take.")
    image_pull_seconds: float = Field(gt=0, description="How long the pull of one image by a worker may take.")
    s3_endpoint_url: Annotated[str, url_of("https", "http")] = Field(
        description="The S3-compatible store of `s3://` inputs. Empty: that of AWS."
    )

    database_url: Annotated[str, url_of("postgresql", "postgresql+psycopg", "postgres", password=True)] = Field(
        repr=False, description="PostgreSQL. Empty: an embedded server, in localdev only."
    )
    statement_seconds: float = Field(
        ge=0, description="The longest time that one statement of the API may take in the database; 0: any."
    )
    events_keep_months: int = Field(
        ge=0, description="Events older than so many months are deleted, a whole month at a time; 0: never."
    )
    audit_keep_months: int = Field(ge=0, description="The same for the audit; 0: never.")
    keep_runs_days: int = Field(
        ge=0, le=36500, description="Runs that have been over for so many days are deleted with their files; 0: never."
    )
    keep_workspaces_days: int = Field(
        ge=0, le=36500, description="After so many days the workspaces of finished runs are removed; 0: never."
    )
    keep_failed_output_days: int = Field(
        ge=0,
        le=36500,
        description="After so many days the output of attempts that did not complete is removed; 0: never.",
    )
    redis_url: Annotated[str, url_of("redis", "rediss", "unix", password=True)] = Field(
        repr=False,
        description="Redis or Valkey. Empty: built from `REDIS_HOST`; without that an embedded server, in localdev "
        "only.",
    )
    redis_host: Annotated[str, matching(r"[^\s/@]*", "a host name, or empty")] = Field(
        description="Builds `REDIS_URL` when that is empty."
    )
    redis_port: int = Field(ge=1, le=65535, description="Used with `REDIS_HOST`.")
    redis_password: str = Field(repr=False, description="Used with `REDIS_HOST`.")

    api_host: Annotated[str, matching(r"[^\s/@]+", "an address or a host name")] = Field(
        description="Address the API listens on. Anything but loopback needs `AUTH_REQUIRED`."
    )
    api_port: int = Field(ge=0, le=65535, description="Port the API listens on; 0 takes a free one.")
    api_hosts: Annotated[str, matching(r"[A-Za-z0-9._:\[\]\s,-]*", "host names with commas between them")] = Field(
        description="Names under which the API may be called (header `Host`), beside those of loopback and `API_HOST`. "
        "Needed in staging and production."
    )
    api_proxies: Annotated[str, Rule("addresses and networks with commas between them", _are_networks)] = Field(
        description="Proxies that are believed when they say in `X-Forwarded-For` and `X-Forwarded-Proto` who calls, "
        "for the audit, and by which scheme."
    )
    api_socket: Path = Field(
        description="Path of a Unix socket that the API listens on instead of a port, in a directory of mode 0700. "
        "Empty: the port, where calls of other users need the secret in `DATA_DIR/api-secret`."
    )
    deployment: Annotated[str, matching(r"[a-z0-9-]{0,63}", "up to 63 lower-case letters, digits and hyphens")] = Field(
        description="Name of this deployment in the source of its events. Empty: the environment."
    )
    event_streams: int = Field(ge=1, description="How many streams of events, and of logs, a manager serves at a time.")
    webhook_in_flight: int = Field(ge=1, le=100, description="How many deliveries of a webhook are under way at once.")
    webhook_retry_hours: float = Field(
        gt=0, description="How long a delivery of a webhook is repeated before it is given up."
    )
    webhook_private_targets: bool = Field(
        description="Whether webhooks may call addresses that are not public: of this host, of the local network."
    )
    metrics_host: Annotated[str, matching(r"[^\s/@]+", "an address or a host name")] = Field(
        description="Address at which a worker, or a manager without API, serves its metrics."
    )
    metrics_port: int = Field(
        ge=0,
        le=65535,
        description="Port of the metrics of a worker, or of a manager without API, or the next free one above it; "
        "0: none.",
    )
    otel_exporter_otlp_endpoint: Annotated[str, url_of("http", "https")] = Field(
        description="Collector of traces, which takes OTLP over HTTP at `/v1/traces` below this address. Empty: the "
        "variable of this name without prefix; without that no traces."
    )
    otel_exporter_otlp_headers: str = Field(
        repr=False, description="Headers for the collector: `NAME=VALUE` with commas between them."
    )
    auth_required: bool = Field(description="Whether every call needs a token or a log-in.")
    session_key_file: Path = Field(
        description="File with at least 32 bytes that sign the cookies of people, the same for all managers. "
        "Empty: made in `DATA_DIR` in localdev, and no log-in elsewhere."
    )
    oidc_issuer: Annotated[str, url_of("https", "http")] = Field(
        description="The OpenID Connect provider with which people log in, as it names itself. Empty: none. `http://` "
        "on loopback only."
    )
    oidc_client_id: str = Field(description="The name of this service at the provider.")
    oidc_client_secret_file: Path = Field(
        description="File with the secret of this service at the provider. Empty: a public client, by PKCE alone."
    )
    oidc_role_claim: Annotated[str, matching(r"[^\s]+", "the name of a claim, with `.` inside nested ones")] = Field(
        description="The claim that lists the groups of a person, such as `groups` or `realm_access.roles`."
    )
    oidc_roles: Annotated[
        str, Rule("GROUP=ROLE or GROUP=ROLE@PROJECT+PROJECT with commas between them", _are_grants)
    ] = Field(
        description="What groups may do: `staff=operator, night-crew=submitter@night`. The highest role counts, in all "
        "projects in which a group of the person has it. Who has none is refused."
    )
    api_requests_per_second: float = Field(
        ge=0, description="How many requests a second one token or person may make of one manager; 0: any number."
    )
    api_connections: int = Field(ge=10, description="How many connections a manager keeps; it closes further ones.")
    api_header_seconds: float = Field(gt=0, description="How long a client may take to send the headers of a request.")
    api_body_seconds: float = Field(gt=0, description="How long a client may take to send the body of a request.")
    body_limit_mb: int = Field(ge=1, description="How large the body of a request may be.")
    json_depth: int = Field(ge=8, le=100, description="How deep JSON and YAML may be nested.")
    json_values: int = Field(ge=1000, description="How many values one JSON or YAML document may hold.")
    schema_visits: int = Field(
        ge=1000,
        description="How many keywords and entries of a JSON Schema one check of parameters may look at; a million "
        "takes half a minute.",
    )
    request_step_runs: int = Field(ge=1, description="How many step runs all runs of one request may have.")
    listed_step_runs: int = Field(
        ge=1, description="How many step runs the answer with one run may list; the others come in pages."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(description="The least severe messages to log.")
    log_format: Literal["auto", "text", "json"] = Field(
        description="`json`: one object a line, with the ids that a message names. `auto`: `json` in staging and "
        "production, but `text` on a terminal."
    )

    workers: int = Field(ge=1, le=256, description="Workers that `ccat-wm up` starts.")
    lease_seconds: float = Field(ge=1, description="How long a worker may be silent before another takes its work.")
    hang_seconds: float = Field(
        ge=1,
        description="A worker without progress for so long, in a call of a backend or elsewhere, is ended.",
    )
    max_worker_deaths: int = Field(
        ge=1, description="An attempt with which so many workers die, one after the other, fails."
    )
    dispatch_seconds: float = Field(
        gt=0, description="How often the manager repeats lost notices of rows that are ready."
    )
    follow_seconds: float = Field(gt=0, description="How often a backend is asked for the state of its jobs.")
    sweep_seconds: float = Field(gt=0, description="How often the manager repairs what a dead worker left.")
    unknown_grace_seconds: float = Field(ge=0, description="How long a backend may not know a job before it is LOST.")
    cancel_confirm_seconds: float = Field(
        gt=0,
        description="How long a worker waits for a cancelled job to stop; then others get their turn, and it is asked "
        "again.",
    )
    reaper_seconds: float = Field(
        ge=0, description="How often a backend is searched for jobs that no step run waits for; 0: never."
    )
    reaper_grace_seconds: float = Field(
        ge=0,
        description="How long an attempt must have been over before its job, if it still runs, is stopped.",
    )

    breaker_failures: int = Field(
        ge=0,
        description="So many step runs of one step and image that fail the same way, with no success in between, hold "
        "back the rest; 0: never.",
    )
    breaker_window_minutes: float = Field(gt=0, description="The time within which they have to fail.")
    breaker_probe_minutes: float = Field(
        ge=0,
        description="How long after that one of the held back step runs is tried; 0: none, until an operator releases "
        "them.",
    )

    kill_grace_seconds: float = Field(ge=0, description="From asking a process to stop to killing it.")
    log_limit_mb: int = Field(ge=1, description="A job that writes more log than this is stopped.")
    disk_limit_gb: float = Field(
        ge=0,
        description="A job whose attempt takes more disk is stopped (not on AWS Batch); 0: never.",
    )
    output_max_files: int = Field(
        ge=1, description="The most products of one step run; a directory that is one product counts once."
    )
    output_max_entries: int = Field(
        ge=1, description="The most files, directories and links in the output of one step run."
    )
    output_limit_gb: float = Field(gt=0, description="The most that the files of one output may hold together.")
    output_sparse_gb: float = Field(
        ge=0, description="How much larger a file may claim to be than what it takes on the disk."
    )
    output_limit_seconds: float = Field(gt=0, description="How long collecting the output of one step run may take.")
    output_metadata_kb: float = Field(gt=0, description="The most metadata of one product in `products.json`.")
    output_max_parents: int = Field(
        ge=1, description="The most parents that the products of one step run may declare together."
    )
    upstream_max_products: int = Field(
        ge=1, description="The most products of other steps that one step run may be given."
    )

    backends: Mapping[str, BackendSettings] = {}
    """Settings that are given for backends, by name of the backend."""
    backend_extras: Mapping[str, Mapping[str, Any]] = Field(default={}, repr=False)
    """The same for backends that declare no settings: keywords and values, unchecked."""

    def for_backend(self, name: str) -> dict[str, Any]:
        """The keyword arguments that are given for a backend: LOCAL_MAX_CPU is `max_cpu` of `local`."""
        declared, given = self.backends.get(name.lower()), self.backend_extras.get(name.lower(), {})
        if declared is not None:
            given = declared.model_dump(exclude_unset=True, by_alias=True)
        return {keyword: value for keyword, value in given.items() if value != ""}

    @property
    def logs_json(self) -> bool:
        """Whether a process that logs to stderr writes JSON."""
        if self.log_format == "auto":
            return self.environment != "localdev" and not sys.stderr.isatty()
        return self.log_format == "json"

    @property
    def event_source(self) -> str:
        """The source of all events of this deployment."""
        return f"/ccat-wm/{self.deployment or self.environment}"

    @property
    def api_names(self) -> frozenset[str]:
        """The names under which the API may be called, beside those of loopback."""
        given = (name.strip() for name in (*self.api_hosts.split(","), self.api_host))
        return frozenset(name for name in given if name not in ("", "0.0.0.0", "::"))

    @property
    def proxies(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The entries of API_PROXIES."""
        return _networks(self.api_proxies)

    @property
    def places_of_inputs(self) -> tuple[str, ...]:
        """The entries of INPUT_ROOTS."""
        return tuple(each.strip() for each in self.input_roots.split(",") if each.strip())

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """Fill in the settings that follow from others when they are empty."""
        home = Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser()
        data_dir = self.data_dir if self.data_dir != _UNSET else home / "ccat-workflow-manager"
        below = {"pipeline_base_dir": data_dir / "pipelines", "sif_cache_dir": data_dir / "sif-cache"}
        completed: dict[str, object] = {
            "data_dir": data_dir,
            **{name: default for name, default in below.items() if getattr(self, name) == _UNSET},
            # SQLAlchemy takes the plain scheme for another driver than ours.
            "database_url": re.sub(r"^(postgres|postgresql)://", "postgresql+psycopg://", self.database_url),
        }
        for name in ("otel_exporter_otlp_endpoint", "otel_exporter_otlp_headers"):
            completed[name] = getattr(self, name) or os.environ.get(name.upper(), "")
        if self.redis_host and not self.redis_url:
            secret = f":{quote(self.redis_password, safe='')}@" if self.redis_password else ""
            host = f"[{self.redis_host}]" if ":" in self.redis_host else self.redis_host
            completed["redis_url"] = f"redis://{secret}{host}:{self.redis_port}/0"
        return self.model_copy(update=completed)
