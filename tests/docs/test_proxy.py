"""The server block of the page for operators, in a real nginx, before a manager of the section `production`."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from ccat_workflow_manager.client import ApiRefused, Client
from tests.docs.test_docs import blocks
from tests.docs.test_installation import PAGE, SEARCH_PATH
from tests.support.certificates import loopback_certificate
from tests.support.fixtures_service import Service, running_service, sh, variables
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.needs("postgresql", "valkey", "nginx")

NAME = "ccat.example.org"
PERSON, FORGED = "127.0.0.2", "192.0.2.66"
BIG = 8 * 1024 * 1024
BODY_LIMIT = 32 * 1024 * 1024
"""BODY_LIMIT_MB."""


class ThroughTheProxy(httpx.HTTPTransport):
    """Finds the name of the site at the port of the proxy, from the address of a person, and trusts its certificate."""

    def __init__(self, port: int, certificate: Path) -> None:
        super().__init__(verify=ssl.create_default_context(cafile=str(certificate)), local_address=PERSON)
        self._port = port

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url.copy_with(host="127.0.0.1", port=self._port)
        extensions = {**request.extensions, "sni_hostname": request.url.host}
        there = httpx.Request(
            request.method, url, headers=request.headers, stream=request.stream, extensions=extensions
        )
        return super().handle_request(there)


@dataclass
class Site:
    service: Service
    directory: Path
    port: int
    token: str

    def transport(self) -> ThroughTheProxy:
        return ThroughTheProxy(self.port, self.directory / "server.crt")

    def browser(self) -> httpx.Client:
        """One that logs in as a page does. It claims to be somebody else."""
        headers = {"Origin": f"https://{NAME}", "Sec-Fetch-Site": "same-origin", "X-Forwarded-For": FORGED}
        return httpx.Client(base_url=f"https://{NAME}", headers=headers, transport=self.transport(), timeout=PATIENCE)

    def program(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(
            base_url=f"https://{NAME}/api/v1", headers=headers, transport=self.transport(), timeout=PATIENCE
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def answers(url: str) -> bool:
    try:
        return httpx.get(url, verify=False, timeout=PATIENCE).status_code < 500
    except httpx.TransportError:
        return False


def block_of_the_page(directory: Path, port: int, manager: int) -> str:
    """The block as it stands on the page, but for ports and the places of the certificate."""
    certificate, key = loopback_certificate(directory, NAME)
    [block] = blocks(PAGE, "nginx")
    for pattern, there in (
        (r"listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        (r"http://127\.0\.0\.1:8000;", f"http://127.0.0.1:{manager};"),
        (r"ssl_certificate /\S+;", f"ssl_certificate {certificate};"),
        (r"ssl_certificate_key /\S+;", f"ssl_certificate_key {key};"),
    ):
        block, count = re.subn(pattern, there, block)
        assert count == 1, pattern
    return block


def start_nginx(directory: Path, block: str, reaper: Reaper) -> subprocess.Popen[bytes]:
    """nginx as a process of this test: it writes below the directory only."""
    temporary = "".join(
        f"{each}_temp_path {directory}/{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi")
    )
    (directory / "nginx.conf").write_text(
        f"daemon off; user root; pid {directory}/pid; events {{}}\n"
        f"http {{ access_log off; scgi_temp_path {directory}/scgi; {temporary}\n{block}}}"
    )
    program = shutil.which("nginx", path=SEARCH_PATH)
    assert program is not None
    argv: list[str | Path] = [program, "-p", directory, "-e", directory / "error.log", "-c", directory / "nginx.conf"]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    reaper.watch(process.pid)
    return process


@pytest.fixture(scope="module")
def site(reaper: Reaper) -> Iterator[Site]:
    with running_service(reaper, LOG_LIMIT_MB="64") as service:
        directory = service.directory / "proxy"
        directory.mkdir()
        (directory / "session-key").write_text("nwqTqvcZPnE1kwXoPz0XcG1cXjMhXcT0f5RkbbkS")
        port, manager = free_port(), free_port()
        service.start_another(
            "manager", "--no-loops", ENV_FOR_DYNACONF="production",
            **variables(
                API_PORT=str(manager), API_HOSTS=NAME, API_PROXIES="127.0.0.1", CONTAINER_RUNTIME="auto",
                DATABASE_URL=service.postgres.url, REDIS_URL=service.valkey.url, HPC_BACKEND="local",
                SESSION_KEY_FILE=str(directory / "session-key"), PIPELINE_BASE_DIR=str(service.data_dir / "pipelines"),
                SIF_CACHE_DIR=str(service.data_dir / "sif-cache"),
            ),
        )  # fmt: skip
        nginx = start_nginx(directory, block_of_the_page(directory, port, manager), reaper)
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{manager}/readyz"), 60, f"the manager: {service.log_file}")
            wait_until(lambda: answers(f"https://127.0.0.1:{port}/healthz"), 60, "nginx")
            token = service.call("POST", "/tokens", json={"name": "of the proxy", "role": "admin"})["token"]
            yield Site(service, directory, port, token)
        finally:
            nginx.terminate()
            nginx.wait(PATIENCE)


def test_a_person_logs_in_and_the_audit_has_their_address(site: Site) -> None:
    with site.browser() as browser:
        page = {"Accept": "text/html"}
        assert browser.get("/runs", headers=page).headers["location"].startswith("/login?")
        form = {"token": site.token, "next": "/runs"}
        answer = browser.post("/login", data=form)
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
        assert "; Secure" in answer.headers["set-cookie"]
        assert browser.get("/runs", headers=page).status_code == 200
        spec = {"name": "clicked", "steps": [{"name": "only", "command": ["true"]}]}
        assert browser.post("/api/v1/runs", json={"spec": spec}).status_code == 202
        changes = browser.get("/api/v1/audit").json()["items"][:2]
        assert [(each["action"], each["address"]) for each in changes] == [("create_run", PERSON), ("log_in", PERSON)]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "https://evil.example"}, 403), ({"Host": "evil.example"}, 421)],
)
def test_pages_and_names_of_others_are_refused(site: Site, headers: dict[str, str], status: int) -> None:
    with site.program() as program:
        assert program.post("/runs", json={}, headers=headers).status_code == status


def test_logs_and_events_arrive_while_the_program_runs(site: Site) -> None:
    """Without buffers: the program ends only when its first line and the event of its start have come through."""
    gate = site.directory / "gate"
    wanted = {"Accept": "text/event-stream"}
    with site.program() as program, program.stream("GET", "/events", headers=wanted) as events:
        lines = events.iter_lines()
        assert next(lines).startswith(":")
        run_id = site.service.submit(sh(f"echo first; while [ ! -e {gate} ]; do sleep 0.1; done; echo last"))
        assert any(run_id in line for line in lines)
        step = site.service.wait_running(run_id)["id"]
        with program.stream("GET", f"/step-runs/{step}/log", params={"follow": "true"}) as log:
            said = log.iter_lines()
            assert "data: first" in said
            gate.touch()
            assert "data: last" in said


def test_long_logs_and_parts_of_products_come_whole(site: Site, tmp_path: Path) -> None:
    text = f'head -c {BIG} /dev/urandom >"$WORKFLOW_OUTPUT_DIR/big"; head -c {BIG} /dev/zero | tr "\\0" x'
    run_id = site.service.submit(sh(text))
    assert site.service.wait(run_id)["status"] == "COMPLETED"
    with Client(f"https://{NAME}", site.token, transport=site.transport()) as client, site.program() as program:
        run = client.runs.get(run_id)
        assert program.get(f"/step-runs/{run.step_run('only').id}/log").text == "x" * BIG
        [product] = client.runs.products(run)
        client.products.download(product, tmp_path)
        content = next(tmp_path.rglob("big")).read_bytes()
        assert sha256(content).hexdigest() == product["sha256"]
        part = program.get(f"/products/{product['id']}/content", headers={"Range": f"bytes={BIG - 10}-"})
        assert (part.status_code, part.content) == (206, content[-10:])


@pytest.mark.parametrize(
    ("size", "times", "kind"),
    [(BODY_LIMIT + 1, 10, "application/problem+json"), (2 * BODY_LIMIT + 1, 1, "text/html")],
)
def test_a_body_over_the_limit_is_refused(site: Site, size: int, times: int, kind: str) -> None:
    """By the service, whose answer must not get lost, and what is far too large by the proxy."""
    with site.program() as program:
        for _ in range(times):
            answer = program.post("/runs", content=b" " * size, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.headers["content-type"]) == (413, kind)


def test_the_client_is_told_that_a_body_is_too_large(site: Site) -> None:
    with (
        Client(f"https://{NAME}", site.token, transport=site.transport()) as client,
        pytest.raises(ApiRefused, match="BODY_LIMIT_MB") as caught,
    ):
        client.pipelines.apply({"name": "large", "steps": [], "description": "x" * BODY_LIMIT})
    assert caught.value.status == 413


def test_addresses_of_products_lead_through_the_proxy(site: Site) -> None:
    executor = {"image": "any", "command": ["touch", "/workflow/output/made"]}
    task: dict[str, Any] = {
        "name": "addressed", "executors": [executor],
        "outputs": [{"path": "/workflow/output/made", "url": "products:"}],
    }  # fmt: skip
    with site.program() as program:
        there = f"https://{NAME}/ga4gh/tes/v1/tasks"
        task_id = program.post(there, json=task).json()["id"]
        assert site.service.wait(task_id)["status"] == "COMPLETED"
        [log] = program.get(f"{there}/{task_id}", params={"view": "FULL"}).json()["logs"]
        [output] = log["outputs"]
        assert output["url"].startswith(f"https://{NAME}/api/v1/")
        assert program.get(output["url"]).status_code == 200
