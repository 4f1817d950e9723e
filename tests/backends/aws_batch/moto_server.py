"""A server of moto that runs the jobs of AWS Batch in containers of a private Docker daemon."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import boto3
import httpx

from tests.support.docker_daemon import SEARCH_PATH, DockerDaemon, RootFiles
from tests.support.fixtures_aws_batch import CREDENTIALS, REGION
from tests.support.reaper import Reaper
from tests.support.waiting import PATIENCE, wait_until

IMAGE = "ccat-busybox:1"


def busybox() -> bytes:
    """The files of an image: busybox, linked with nothing, under the names of all its programs."""
    program = shutil.which("busybox", path=SEARCH_PATH)
    assert program is not None
    names = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    files = RootFiles()
    files.copy(program, "bin/busybox")
    for name in set(names) - {"busybox"}:
        files.link(f"bin/{name}", "busybox")
    return files.close()


class Moto:
    """`moto_server`, with a queue in it."""

    def __init__(self, daemon: DockerDaemon, reaper: Reaper) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {"DOCKER_HOST": daemon.url, "MOTO_DOCKER_NETWORK_MODE": "none", "PATH": SEARCH_PATH}
        self.log = daemon.directory / "moto.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        reaper.watch(self._process.pid)
        wait_until(self._answers, 60, f"moto_server; its log: {self.log}")
        self._make_queue()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            return httpx.get(f"{self.url}/moto-api/data.json", timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    def _client(self, service: str) -> Any:
        return boto3.client(  # type: ignore[call-overload]
            service,
            region_name=REGION,
            endpoint_url=self.url,
            aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        )

    def _make_queue(self) -> None:
        ec2, batch = self._client("ec2"), self._client("batch")
        role = self._client("iam").create_role(RoleName="batch", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
        subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
        group = ec2.describe_security_groups()["SecurityGroups"][0]["GroupId"]
        environment = batch.create_compute_environment(
            computeEnvironmentName="machines",
            type="MANAGED",
            state="ENABLED",
            computeResources={
                "type": "FARGATE", "maxvCpus": 16, "subnets": [subnet], "securityGroupIds": [group],
            },
            serviceRole=role,
        )["computeEnvironmentArn"]  # fmt: skip
        batch.create_job_queue(
            jobQueueName="main",
            state="ENABLED",
            priority=1,
            computeEnvironmentOrder=[{"order": 1, "computeEnvironment": environment}],
        )

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)
