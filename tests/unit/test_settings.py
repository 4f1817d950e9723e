"""Settings: which source wins, what is refused, that all faults are reported at once and no secret is shown."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from ccat_workflow_manager.db.session import Database
from ccat_workflow_manager.errors import ConfigurationError, ServiceUnavailable
from ccat_workflow_manager.hpc.kubernetes.settings import KubernetesSettings
from ccat_workflow_manager.settings import (
    BACKEND_GROUP,
    Settings,
    default_settings_file,
    load_settings,
    migrations_dir,
    specs,
)
from ccat_workflow_manager.settings.backends import declared, prefix_of, registered
from ccat_workflow_manager.settings.model import PREFIX, converted, masked_url, parse, specs_of
from tests.backends import OURS

REPOSITORY = Path(__file__).parents[2]
SERVERS = {
    "DATABASE_URL": "postgresql://db/ccat",
    "REDIS_URL": "redis://:vKq3-xW81@cache:6379/0",
    "API_HOSTS": "wm.example.org",
}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith((PREFIX, "ENV_FOR_DYNACONF", "DYNACONF_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def set_variables(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(PREFIX + name, value)

    return set_variables


@pytest.fixture
def plug_ins(monkeypatch: pytest.MonkeyPatch, look_again: Callable[[], None]) -> Callable[..., None]:
    """Installs plug-ins beside our own backends."""
    really = metadata.entry_points

    def install(*names: str) -> None:
        more = [metadata.EntryPoint(name, f"no_module_of_{name}:Backend", BACKEND_GROUP) for name in names]
        monkeypatch.setattr(metadata, "entry_points", lambda **about: [*really(**about), *more])
        look_again()

    return install


def faults_of(**overrides: object) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(overrides)
    return {fault.path.removeprefix(PREFIX): fault.message for fault in caught.value.faults}


def in_environment(monkeypatch: pytest.MonkeyPatch, name: str) -> Settings:
    monkeypatch.setenv("ENV_FOR_DYNACONF", name)
    return load_settings(SERVERS)


def test_defaults_of_localdev(tmp_path: Path) -> None:
    settings = load_settings()
    home = tmp_path / "share" / "ccat-workflow-manager"
    assert settings.environment == "localdev"
    assert settings.hpc_backend == "local"
    assert settings.data_dir == home
    assert settings.pipeline_base_dir == home / "pipelines"
    assert settings.sif_cache_dir == home / "sif-cache"
    assert settings.database_url == ""
    assert settings.redis_url == ""
    assert settings.processing_location_id == 1
    assert settings.backends == {}
    assert settings.container_runtime == "auto"
    assert (settings.api_host, settings.api_port, settings.auth_required) == ("127.0.0.1", 8000, False)


def test_defaults_of_staging(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = in_environment(monkeypatch, "staging")
    assert settings.hpc_backend == "kubernetes"
    assert settings.pipeline_base_dir == Path("/data/pipelines")
    assert settings.sif_cache_dir == Path("/data/sif-cache")
    assert settings.for_backend("kubernetes") == {"k8s_namespace": "ccat-workflows-staging"}
    assert settings.for_backend("slurm") == {}
    assert settings.auth_required is True


def test_defaults_of_production(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = in_environment(monkeypatch, "Production")
    assert settings.environment == "production"
    assert settings.hpc_backend == "slurm"
    assert settings.for_backend("slurm") == {"partition": "science"}
    assert settings.for_backend("kubernetes") == {}
    assert settings.auth_required is True


def test_site_file_wins_over_defaults_environment_over_both_and_overrides_over_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = tmp_path / "site.toml"
    site.write_text(
        "[default]\nAPI_PORT = 1\nWORKERS = 3\nlog_limit_mb = 4\n[localdev]\nWORKERS = 5\n[staging]\nWORKERS = 6\n"
    )
    monkeypatch.setenv(PREFIX + "SETTINGS_FILE", str(site))
    monkeypatch.setenv(PREFIX + "LOG_LIMIT_MB", "7")
    settings = load_settings({"api_port": 9, "data_dir": None})
    assert (settings.workers, settings.log_limit_mb, settings.api_port) == (5, 7, 9)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("API_PORT = 1\n", "'API_PORT' in"),
        ("[developement]\nAPI_PORT = 1\n", "'developement' in"),
        ("[default\n", "is not TOML"),
    ],
)
def test_a_site_file_that_dynaconf_would_ignore_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, complaint: str
) -> None:
    site = tmp_path / "site.toml"
    site.write_text(content)
    monkeypatch.setenv(PREFIX + "SETTINGS_FILE", str(site))
    assert complaint in faults_of()["SETTINGS_FILE"]


def test_a_missing_site_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(PREFIX + "SETTINGS_FILE", str(tmp_path / "absent.toml"))
    assert "No such file" in faults_of()["SETTINGS_FILE"]


def test_an_unknown_name_in_the_site_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    site = tmp_path / "site.toml"
    site.write_text("[default]\nWORKER = 3\nCOLOUR = 'red'\n")
    monkeypatch.setenv(PREFIX + "SETTINGS_FILE", str(site))
    faults = faults_of()
    assert faults["WORKER"] == f"is not a setting; did you mean {PREFIX}WORKERS?"
    assert faults["COLOUR"] == "is not a setting, nor does it begin with the name of a backend"


def test_all_faults_are_reported_at_once_with_value_and_what_is_allowed(given: Callable[..., None]) -> None:
    given(
        API_PORT="http",
        WORKERS="0",
        CONTAINER_RUNTIME="docker",
        AUTH_REQUIRED="maybe",
        HPC_BAKEND="local",
        log_level="INFO",
    )
    faults = faults_of(lease_seconds="nan", noop_failure_rate=2, data_dir="a\0b")
    assert faults == {
        "API_PORT": "'http' is not allowed; allowed: a whole number, from 0 to 65535",
        "WORKERS": "'0' is not allowed; allowed: a whole number, from 1 to 256",
        "CONTAINER_RUNTIME": "'docker' is not allowed; allowed: auto, apptainer, singularity, none",
        "AUTH_REQUIRED": "'maybe' is not allowed; allowed: true or false",
        "HPC_BAKEND": f"is not a setting; did you mean {PREFIX}HPC_BACKEND?",
        "log_level": f"is not a setting; did you mean {PREFIX}LOG_LEVEL?",
        "LEASE_SECONDS": "'nan' is not allowed; allowed: a number, 1 or more",
        "NOOP_FAILURE_RATE": "'2' is not allowed; allowed: a number, from 0 to 1",
        "DATA_DIR": r"'a\x00b' is not allowed; allowed: a path",
    }


def test_an_unknown_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV_FOR_DYNACONF", "prod")
    assert faults_of() == {"ENV_FOR_DYNACONF": "'prod' is not allowed; allowed: localdev, staging, production"}


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_servers_must_be_named_and_containers_used_outside_localdev(
    monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    monkeypatch.setenv("ENV_FOR_DYNACONF", environment)
    assert set(faults_of(container_runtime="none")) == {
        "DATABASE_URL", "REDIS_URL", "API_HOSTS", "CONTAINER_RUNTIME",
    }  # fmt: skip


def test_redis_needs_a_password_or_a_protected_way_outside_localdev(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENV_FOR_DYNACONF", "production")
    assert set(faults_of(**{**SERVERS, "REDIS_URL": "redis://cache:6379/0"})) == {"REDIS_URL"}
    for url in ("rediss://cache/0", "unix:///run/valkey.sock", "redis://:vKq3-xW81@cache/0"):
        assert load_settings({**SERVERS, "REDIS_URL": url}).redis_url == url


@pytest.mark.parametrize("environment", ["localdev", "staging", "production"])
def test_each_environment_starts_from_its_section_and_the_documented_secrets(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: str
) -> None:
    """What docs/installation.md asks for: nothing in localdev, elsewhere the servers, names, the key of cookies."""
    monkeypatch.setenv("ENV_FOR_DYNACONF", environment)
    key = tmp_path / "session-key"
    key.write_text("nwqTqvcZPnE1kwXoPz0XcG1cXjMhXcT0f5RkbbkS")
    secrets = {} if environment == "localdev" else {**SERVERS, "SESSION_KEY_FILE": str(key)}
    settings = load_settings(secrets, serves_api=True)
    assert settings.auth_required == (environment != "localdev")
    for name in secrets:
        less = {each: value for each, value in secrets.items() if each != name}
        if name == "SESSION_KEY_FILE":  # without it people have no log-in, and tokens still work
            assert load_settings(less, serves_api=True).session_key_file == Path()
        else:
            assert set(faults_of(**less)) == {name}


def test_every_weakness_of_production_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, given: Callable[..., None], tmp_path: Path
) -> None:
    monkeypatch.setenv("ENV_FOR_DYNACONF", "production")
    (tmp_path / "short").write_text("x" * 31)
    given(
        COLOUR="red",
        API_PORT="http",
        API_PROXIES="10.0.0.1/8",
        AUTH_REQUIRED="false",
        API_HOST="192.0.2.1",
        CONTAINER_RUNTIME="none",
    )
    given(REDIS_URL="redis://:CHANGE-ME@cache", SESSION_KEY_FILE=str(tmp_path / "short"))
    given(OIDC_ISSUER="http://idp.example", OIDC_CLIENT_SECRET_FILE=str(tmp_path / "absent"), OIDC_ROLES="staff=king")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(serves_api=True)
    names = [fault.path.removeprefix(PREFIX) for fault in caught.value.faults]
    assert sorted(names) == sorted(
        ["COLOUR", "API_PORT", "API_HOST", "API_HOSTS", "API_PROXIES", "CONTAINER_RUNTIME", "DATABASE_URL", "REDIS_URL",
         "SESSION_KEY_FILE", "OIDC_ISSUER", "OIDC_CLIENT_ID", "OIDC_CLIENT_SECRET_FILE", "OIDC_ROLES"]
    )  # fmt: skip
    assert all(f"{PREFIX}{name}: " in caught.value.message for name in names)
    assert "CHANGE-ME" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "postgresql://ccat:postgres@db/ccat"),
        ("DATABASE_URL", "postgresql://ccat@db/ccat?password=short"),
        ("REDIS_URL", "redis://:Password@cache/0"),
        ("REDIS_URL", "rediss://:1234567@cache/0"),
        ("SESSION_KEY_FILE", "x" * 64),
    ],
)
def test_a_weak_secret_is_refused_outside_localdev(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str
) -> None:
    monkeypatch.setenv("ENV_FOR_DYNACONF", "staging")
    if name == "SESSION_KEY_FILE":
        (tmp_path / "key").write_text(value)
        value = str(tmp_path / "key")
    with pytest.raises(ConfigurationError) as caught:
        load_settings({**SERVERS, name: value}, serves_api=True)
    assert [fault.path for fault in caught.value.faults] == [PREFIX + name]
    assert value not in caught.value.message or name == "SESSION_KEY_FILE"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "somewhere.example"])
def test_only_loopback_may_go_without_authentication(host: str) -> None:
    assert set(faults_of(api_host=host)) == {"API_HOST"}
    assert load_settings({"api_host": host, "auth_required": True}).api_host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_authentication(host: str) -> None:
    assert load_settings({"api_host": host}).auth_required is False


def test_redis_url_is_built_from_its_parts() -> None:
    parts = {"redis_host": "cache.example", "redis_port": "6380", "redis_password": "p@ss/w:rd"}
    assert load_settings(parts).redis_url == "redis://:p%40ss%2Fw%3Ard@cache.example:6380/0"
    assert load_settings({"redis_host": "2001:db8::1"}).redis_url == "redis://[2001:db8::1]:6379/0"
    assert (
        load_settings(parts | {"redis_url": "unix:///run/valkey.sock?db=0"}).redis_url == "unix:///run/valkey.sock?db=0"
    )


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_database_url_names_our_driver(scheme: str) -> None:
    assert load_settings({"database_url": f"{scheme}://u@h/d"}).database_url == "postgresql+psycopg://u@h/d"


@pytest.mark.parametrize("value", ["1_000", "true", "@jinja {{this}}", "[1]", "{a=1}", "0123", "'quoted'"])
def test_text_is_never_taken_for_anything_else(given: Callable[..., None], value: str) -> None:
    given(REDIS_PASSWORD=value)
    assert load_settings().redis_password == value


def test_secrets_are_in_no_message_and_no_repr(plug_ins: Callable[..., None]) -> None:
    plug_ins("flux")
    settings = load_settings(
        {
            "database_url": "postgresql://me:hunter2@db/ccat?passfile=x&password=hunter2",
            "redis_url": "redis://:hunter2@cache/0",
            "redis_password": "hunter2",
            "flux_token": "hunter2",
        }
    )
    assert "hunter2" not in repr(settings)
    assert "me:***@db" in repr(settings)


@pytest.mark.parametrize(
    "bad",
    [
        "mysql://me:hunter2@db/x",
        "hunter2",
        "postgresql:/me:hunter2@db/x",
        *(f"postgresql://me:a{mark}hunter2@db/x" for mark in "/?#"),
    ],
)
def test_no_fault_shows_a_password(bad: str) -> None:
    fault = faults_of(database_url=bad)["DATABASE_URL"]
    assert "hunter2" not in fault
    assert "%2F" in fault


def test_what_libpq_says_of_a_url_is_not_shown() -> None:
    database = Database("postgresql://me:hunter2%zz@db/x")
    with pytest.raises(ServiceUnavailable) as error, database.begin("commit.gone"):
        pass
    assert "hunter2" not in "".join(traceback.format_exception(error.value))


def test_a_secret_may_be_in_a_file(given: Callable[..., None], tmp_path: Path) -> None:
    file = tmp_path / "database"
    file.write_text("postgresql://ccat:pa55@db/ccat\n")
    given(DATABASE_URL_FILE=str(file))
    assert load_settings().database_url == "postgresql+psycopg://ccat:pa55@db/ccat"
    given(DATABASE_URL="postgresql://db/other", REDIS_URL_FILE=str(tmp_path / "absent"), API_HOST_FILE=str(file))
    assert faults_of().keys() == {"DATABASE_URL_FILE", "REDIS_URL_FILE", "API_HOST_FILE"}


def test_masked_url_keeps_what_is_no_secret() -> None:
    assert masked_url("unix:///run/v.sock?db=0") == "unix:///run/v.sock?db=0"
    assert masked_url("redis://h:6379/0") == "redis://h:6379/0"


def test_settings_of_a_backend(given: Callable[..., None]) -> None:
    given(SLURM_SSH_HOST="login", SLURM_ARRAY_LIMIT="40", KUBERNETES_CONTEXT="lab", LOCAL_MAX_CPU="1.5")
    settings = load_settings()
    assert settings.for_backend("local") == {"max_cpu": 1.5}
    assert settings.for_backend("LOCAL") == settings.for_backend("local")
    assert settings.for_backend("slurm") == {"ssh_host": "login", "array_limit": 40}
    assert settings.for_backend("kubernetes") == {"context": "lab"}


def test_settings_of_a_plug_in(given: Callable[..., None], plug_ins: Callable[..., None]) -> None:
    plug_ins("flux", "slurm_rest")
    given(FLUX_MAX_JOBS="40", FLUX_ADAPTIVE="true", SLURM_REST_ACCOUNT="a", SLURM_REST_URL="http://slurm")
    settings = load_settings()
    assert settings.for_backend("flux") == {"max_jobs": 40, "adaptive": True}
    assert settings.for_backend("slurm_rest") == {"account": "a", "url": "http://slurm"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SLURM_NODELIST", ""),
        ("KUBERNETES_NODE_SELECT", "KUBERNETES_NODE_SELECTOR"),
        ("SLURM_SSHHOST", "SLURM_SSH_HOST"),
        ("KUBERNETES_NODE_AFFINITY", ""),
        ("K8S_NAMESPCE", "K8S_NAMESPACE"),
        ("PBS_QUEU", "PBS_QUEUE"),
        ("DASK_ADAPTIVE", ""),
        ("LOCAL_LOG_LIMIT_MB", ""),
    ],
)
def test_an_unknown_setting_of_our_own_backends_is_refused(name: str, meant: str) -> None:
    message = faults_of(**{name: "x"})[name]
    assert message.startswith("is not a setting")
    assert (f"did you mean {PREFIX}{meant}?" in message) if meant else ("did you mean" not in message)


@pytest.mark.parametrize("backend", ["local", "concurrent", "slurm", "pbs", "dask", "aws_batch", "radical_pilot"])
def test_the_state_directory_of_a_backend_can_be_set(given: Callable[..., None], backend: str) -> None:
    assert "state_dir" not in load_settings().for_backend(backend)
    given(**{f"{backend.upper()}_STATE_DIR": "/shared/state"})
    assert load_settings().for_backend(backend)["state_dir"] == "/shared/state"


def test_the_long_name_of_a_namespace_wins() -> None:
    assert KubernetesSettings().used_namespace == "ccat-workflows"
    assert KubernetesSettings(k8s_namespace="short").used_namespace == "short"
    assert KubernetesSettings(k8s_namespace="short", namespace="long").used_namespace == "long"


def test_a_mistyped_setting_of_a_backend_is_refused() -> None:
    assert "did you mean" in faults_of(local_max_cpus=3)["LOCAL_MAX_CPUS"]


@pytest.mark.parametrize(
    ("kind", "value"), [(int, True), (int, "1.5"), (int, "1_0"), (float, "inf"), (float, ""), (str, 3)]
)
def test_no_silent_conversion(kind: type, value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the value itself is all there is to say
        converted(kind, value)


def test_the_shipped_file_gives_a_default_for_every_setting_of_the_service() -> None:
    shipped = tomllib.loads(default_settings_file().read_text())
    assert set(shipped.pop("default")) == {spec.name for spec in specs_of(Settings)}
    assert set(shipped) == {"localdev", "staging", "production"}
    assert all(set(section) <= {spec.name for spec in specs()} for section in shipped.values())


@pytest.mark.parametrize("backend", OURS)
def test_a_backend_declares_its_settings_with_defaults(backend: str) -> None:
    declaration = declared()[backend]
    assert declaration is not None
    assert declaration is registered()[backend].load().settings
    assert parse(declaration, prefix_of(backend), {}, []) == declaration()


def test_the_links_at_the_top_of_the_checkout_lead_to_the_shipped_files() -> None:
    assert (REPOSITORY / "settings.toml").resolve() == default_settings_file().resolve()
    assert (REPOSITORY / "alembic").resolve() == migrations_dir().resolve()


def imported_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has after this code."""
    program = f"{code}\nimport sys; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_importing_settings_does_not_load_dynaconf() -> None:
    assert "dynaconf" not in imported_by("import ccat_workflow_manager.settings")


def test_reading_settings_imports_no_backend(given: Callable[..., None]) -> None:
    given(SLURM_PARTITION="science", KUBERNETES_CONTEXT="lab", AWS_BATCH_REGION="north", DASK_WORKERS="2")
    modules = imported_by("from ccat_workflow_manager.settings import load_settings; load_settings()")
    assert "ccat_workflow_manager.hpc.kubernetes.settings" in modules
    assert not {"kubernetes", "boto3", "botocore", "distributed", "radical"} & modules
    assert not {entry.module for entry in registered().values()} & modules
