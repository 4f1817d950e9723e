"""The same run anywhere, by changing one line: same statuses, exit codes, reasons, logs, products, attempts."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import Any

import httpx
import pytest

from tests.flow.sites import SITES, Ground, parameters
from tests.parts import found
from tests.support.fixtures_service import Process, Service, running_service, variables
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_for, wait_until

SH = ["/bin/sh", "-c"]
ONCE = {"max_attempts": 1}
MAKE = (
    'mkdir -p "$WORKFLOW_OUTPUT_DIR/science"; printf %s "$WORKFLOW_KEY" > "$WORKFLOW_OUTPUT_DIR/science/value.txt"; '
    'echo "made $WORKFLOW_KEY"; echo careful >&2'
)
PIPELINE: list[dict[str, Any]] = [
    {"name": "make", "foreach": ["a", "b", "c"], "command": [*SH, MAKE]},
    {"name": "gather", "depends_on": ["make"],
     "command": [*SH, 'cat "$WORKFLOW_UPSTREAM_DIR"/make/*/science/value.txt > "$WORKFLOW_OUTPUT_DIR/all.txt"']},
    {"name": "flaky", "retry": {"max_attempts": 2, "backoff_seconds": 0, "on": ["program_failed"]},
     "command": [*SH, 'echo "attempt $WORKFLOW_ATTEMPT"; test "$WORKFLOW_ATTEMPT" = 2 || exit 9; '
                      'echo fine > "$WORKFLOW_OUTPUT_DIR/result"']},
    {"name": "broken", "retry": ONCE, "command": [*SH, "echo broken >&2; exit 3"]},
    {"name": "behind", "depends_on": ["broken"], "command": ["true"]},
    {"name": "scripted", "files": {"lib/say.sh": {"text": 'cd "$WORKFLOW_CODE_DIR/lib" && echo "$1 from $(ls)"'}},
     "command": ["/bin/sh", "/workflow/code/lib/say.sh", "hello"]},
    {"name": "killed", "retry": ONCE, "command": [*SH, "kill -9 $$"]},
    {"name": "missing", "retry": ONCE, "command": ["/no/such/program"]},
    {"name": "endless", "command": [*SH, "echo started; exec sleep 1000"]},
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What became of one step run, without what differs from run to run: ids, times, words."""

    status: str
    reason: str | None = None
    exit_code: int | None = None
    attempts: tuple[tuple[int, str | None, int | None, int | None], ...] = ((1, None, 0, None),)
    """Number, reason, exit code and signal of each."""
    stdout: str = ""
    stderr: str = ""
    products: tuple[tuple[str, str, int, str], ...] = ()
    """Name, type, size and checksum of each."""


def product(name: str, kind: str, content: str) -> tuple[str, str, int, str]:
    return name, kind, len(content), sha256(content.encode()).hexdigest()


EXPECTED: dict[str, Outcome] = {
    **{
        f"make/{key}": Outcome(
            "COMPLETED", None, 0, stdout=f"made {key}\n", stderr="careful\n",
            products=(product("science/value.txt", "SCIENCE", key),),
        )
        for key in "abc"
    },
    "gather/main": Outcome("COMPLETED", None, 0, products=(product("all.txt", "INTERMEDIATE", "abc"),)),
    "flaky/main": Outcome(
        "COMPLETED", None, 0, ((1, "program_failed", 9, None), (2, None, 0, None)), "attempt 2\n",
        products=(product("result", "INTERMEDIATE", "fine\n"),),
    ),
    "broken/main": Outcome("FAILED", "program_failed", 3, ((1, "program_failed", 3, None),), stderr="broken\n"),
    "behind/main": Outcome("SKIPPED", "upstream_failed", None, ()),
    "scripted/main": Outcome("COMPLETED", None, 0, stdout="hello from say.sh\n"),
    "killed/main": Outcome("FAILED", "killed_by_signal", 137, ((1, "killed_by_signal", 137, 9),)),
    "missing/main": Outcome("FAILED", "command_not_found", 127, ((1, "command_not_found", 127, None),),
                            stderr="/no/such/program: not found\n"),
    "endless/main": Outcome("CANCELLED", "cancelled", None, ((1, "cancelled", None, None),), "started\n"),
}  # fmt: skip


# --- a deployment with a worker per site ------------------------------------------------------------------------------


@dataclass
class World:
    """One deployment, to which workers and managers are added as tests want them."""

    service: Service
    ground: Ground
    workers: dict[str, Process] = field(default_factory=dict)

    def worker(self, backend: str) -> None:
        """Let there be a worker that serves this backend and no other."""
        if backend not in self.workers:
            environment = SITES[backend].environment(self.ground)
            self.workers[backend] = self.service.start_another("worker", "--backend", backend, **environment)

        def is_there() -> bool:
            assert self.workers[backend].poll() is None, self.service.log()
            listed = self.service.call("GET", "/workers")["items"]
            return any(worker["backends"] == [backend] for worker in listed)

        wait_until(is_there, 90, f"the worker of {backend}")

    def manager(self, **settings: str) -> httpx.Client:
        """A client of one more manager, with these settings."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        process = self.service.start_another("manager", "--no-loops", **variables(API_PORT=str(port), **settings))
        client = self.ground.stack.enter_context(
            httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, auth=self.service.client.auth)
        )

        def answers() -> bool:
            assert process.poll() is None, self.service.log()
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until(answers, 90, "one more manager")
        return client


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, reaper: Reaper, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A deployment whose own worker serves the backends that need nothing."""
    settings = {"WORKERS": "1", "FOLLOW_SECONDS": "1", "LEASE_SECONDS": "10"}
    # Without breakers, since the same steps fail on one site after the other.
    with ExitStack() as stack, running_service(reaper, BREAKER_FAILURES="0", **settings) as service:
        yield World(service, Ground(request.getfixturevalue, reaper, tmp_path_factory.mktemp("sites"), stack))


# --- four ways to choose ----------------------------------------------------------------------------------------------


def spec(backend: str | None = None) -> dict[str, Any]:
    """The pipeline; `backend` names it in every step."""
    resources = {"cpu": 0.1, "memory_gb": 0.25, "time_hours": 1}
    chosen = {} if backend is None else {"backend": backend}
    return {"name": "flow", "steps": [{"resources": resources, **chosen, **step} for step in PIPELINE]}


def by_setting(world: World, backend: str) -> httpx.Response:
    file = world.ground.directory / f"{backend}.toml"
    file.write_text(f'[default]\nHPC_BACKEND = "{backend}"\n')
    client = world.manager(SETTINGS_FILE=str(file))
    return client.post("/api/v1/runs", json={"spec": spec()})


def by_environment(world: World, backend: str) -> httpx.Response:
    client = world.manager(HPC_BACKEND=backend)
    return client.post("/api/v1/runs", json={"spec": spec()})


def by_run(world: World, backend: str) -> httpx.Response:
    return world.service.client.post("/runs", json={"spec": spec(), "backend": backend})


def by_step(world: World, backend: str) -> httpx.Response:
    return world.service.client.post("/runs", json={"spec": spec(backend)})


WAYS: list[Callable[[World, str], httpx.Response]] = [by_setting, by_environment, by_run, by_step]
ALL_WAYS = "local"
"""The backend that is chosen in all ways; how a backend is chosen does not depend on which one it is."""


def test_a_step_whose_site_has_no_worker_waits_and_says_so(world: World) -> None:
    steps = [{"name": "only", "backend": "pbs", "command": ["true"], "resources": {"cpu": 0.1, "memory_gb": 0.25}}]
    run_id = world.service.call("POST", "/runs", json={"spec": {"name": "flow", "steps": steps}})["id"]
    world.service.wait_step(run_id, "only", lambda step: step["waiting_for"] == "no worker serves the backend pbs")
    world.service.call("POST", f"/runs/{run_id}/cancel")
    assert world.service.wait(run_id)["status"] == "CANCELLED"


@pytest.mark.parametrize("backend", parameters())
def test_one_pipeline_ends_alike_on_every_backend(world: World, backend: str) -> None:
    world.worker(backend)
    runs = {}
    for way in WAYS if backend == ALL_WAYS else [by_run]:
        answer = way(world, backend)
        assert answer.status_code == 202, answer.text
        runs[way.__name__] = answer.json()["id"]
    service = world.service
    for run_id in runs.values():
        cancel_when_running(service, run_id, SITES[backend].patience_seconds)
    for chosen, run_id in runs.items():
        run = service.wait(run_id, SITES[backend].patience_seconds)
        wrong = differences(outcomes(service, run))
        assert not wrong, "\n".join([chosen, *wrong])
        assert run["status"] == "FAILED"
        assert {step["backend"] for step in run["step_runs"]} == {backend}


def cancel_when_running(service: Service, run_id: str, seconds: float) -> None:
    """Cancel `endless` once it has said something."""

    def said() -> dict[str, Any] | None:
        step = service.step(run_id, "endless")
        text = service.client.get(f"/step-runs/{step['id']}/log?stream=stdout").text if step["attempt"] else ""
        return step if text == "started\n" else None

    try:
        step = wait_for(said, seconds, f"endless of {run_id} to start", interval=0.1)
    except AssertionError as error:
        raise AssertionError(f"{error}; {service.step(run_id, 'endless')}; the log: {service.log()}") from None
    service.call("POST", f"/step-runs/{step['id']}/cancel")


def differences(seen: Mapping[str, Outcome]) -> list[str]:
    """Every field that is not as expected."""
    assert set(seen) == set(EXPECTED)
    return [
        f"{step}.{name.name}: {getattr(seen[step], name.name)!r}, expected {getattr(expected, name.name)!r}"
        for step, expected in EXPECTED.items()
        for name in fields(Outcome)
        if getattr(seen[step], name.name) != getattr(expected, name.name)
    ]


def outcomes(service: Service, run: Mapping[str, Any]) -> dict[str, Outcome]:
    return {f"{step['step']}/{step['key']}": outcome(service, step) for step in run["step_runs"]}


def outcome(service: Service, step: Mapping[str, Any]) -> Outcome:
    url = f"/step-runs/{step['id']}"
    attempts = service.call("GET", url + "/attempts")["items"]
    products = service.call("GET", url + "/products")["items"]
    cancelled = step["status"] == "CANCELLED"
    logs = {
        # The shell says where in the job script it was; that is another one each time.
        stream: re.sub(r"(?m)^/\S+\.sh: \d+: ", "", service.client.get(f"{url}/log?stream={stream}").text)
        if attempts and not (cancelled and stream == "stderr")
        else ""
        for stream in ("stdout", "stderr")
    }
    return Outcome(
        status=step["status"],
        reason=step["reason"],
        # How a program ends that is asked to stop, and its last words, are its own business.
        exit_code=None if cancelled else step["exit_code"],
        attempts=tuple(
            (each["number"], each["reason"], *((None, None) if cancelled else (each["exit_code"], each["signal"])))
            for each in attempts
        ),
        products=tuple((each["name"], each["type"], each["size"], each["sha256"]) for each in products),
        **logs,
    )


# --- all at once ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_run_passes_through_all_sites_each_with_its_own_worker(world: World) -> None:
    there = [name for name, site in SITES.items() if all(found(part) for part in site.needs)]
    for backend in there:
        world.worker(backend)
    steps: list[dict[str, Any]] = []
    for number, backend in enumerate(there):
        before = f"s{number - 1}"
        fetch = f'cat "$WORKFLOW_UPSTREAM_DIR/{before}/main/trail";' if number else ""
        steps.append({
            "name": f"s{number}",
            "backend": backend,
            "depends_on": [before] if number else [],
            "command": [*SH, f'{{ {fetch} echo {backend}; }} > "$WORKFLOW_OUTPUT_DIR/trail"'],
            "resources": {"cpu": 0.1, "memory_gb": 0.25},
        })  # fmt: skip
    run_id = world.service.call("POST", "/runs", json={"spec": {"name": "flow", "steps": steps}})["id"]
    run = world.service.wait(run_id, 300)
    assert run["status"] == "COMPLETED", run
    last = world.service.attempt_dir(run_id, steps[-1]["name"]) / "output" / "trail"
    assert last.read_text().split() == there
    served = {worker["id"]: worker["backends"] for worker in world.service.call("GET", "/workers")["items"]}
    for step in run["step_runs"]:
        [attempt] = world.service.call("GET", f"/step-runs/{step['id']}/attempts")["items"]
        if step["backend"] not in ("local", "concurrent"):  # the deployment's own worker serves these two as well
            assert served[attempt["worker"]] == [step["backend"]]
