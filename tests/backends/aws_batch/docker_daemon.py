"""A private Docker daemon, without any network, and a server of moto that runs the jobs of AWS Batch with it."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import boto3
import docker
import httpx

from tests.support.fixtures_aws_batch import CREDENTIALS, REGION
from tests.support.reaper import Reaper
from tests.support.waiting import wait_until

IMAGE = "ccat-busybox:1"
MARK = "CCAT_WM_DOCKER"
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


class DockerDaemon:
    """`dockerd` with all that it keeps in one directory."""

    def __init__(self, directory: Path, reaper: Reaper) -> None:
        self.directory = directory
        self.url = f"unix://{directory}/docker.sock"
        reaper.remove(directory)
        reaper.kill_marked(f"{MARK}={directory}")
        argv = [
            "dockerd",
            f"--data-root={directory}/data",
            f"--exec-root={directory}/exec",
            f"--pidfile={directory}/pid",
            f"--host={self.url}",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            "--host-gateway-ip=127.0.0.1",  # moto gives every container a name for it, even without a network
        ]
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                argv, env={"PATH": _PATH, "HOME": str(directory), MARK: str(directory)}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers, 60, f"dockerd; its log: {self.log}")
        self.client = docker.DockerClient(base_url=self.url)
        self.client.api.import_image_from_data(_root_file_system(), repository=IMAGE.partition(":")[0], tag="1")

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            client = docker.DockerClient(base_url=self.url)
        except docker.errors.DockerException:
            return False
        client.close()
        return True

    def close(self) -> None:
        for container in self.client.containers.list(all=True):
            container.remove(force=True)
        self.client.close()
        self._process.terminate()
        self._process.wait(60)
        shutil.rmtree(self.directory, ignore_errors=True)


def _root_file_system() -> bytes:
    """busybox, linked with nothing, under the names of all its programs."""
    busybox = shutil.which("busybox", path=_PATH)
    assert busybox is not None
    names = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for directory in ("bin", "tmp", "proc", "sys", "dev", "etc"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
            tar.addfile(entry)
        tar.add(busybox, "bin/busybox")
        for name in set(names) - {"busybox"}:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return data.getvalue()


class Moto:
    """`moto_server`, with a queue in it."""

    def __init__(self, daemon: DockerDaemon, reaper: Reaper) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        environment = {"DOCKER_HOST": daemon.url, "MOTO_DOCKER_NETWORK_MODE": "none", "PATH": _PATH}
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
            return httpx.get(f"{self.url}/moto-api/data.json", timeout=5).status_code == 200
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
        self._process.wait(60)
