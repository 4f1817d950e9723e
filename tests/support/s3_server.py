"""A second S3, beside that of moto: `rclone serve s3`, which comes in a wheel. Its buckets are directories."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import PATIENCE, wait_until

KEY, SECRET = "testing", "testing"


@dataclass(frozen=True, slots=True)
class S3Server:
    url: str
    directory: Path


@contextmanager
def rclone_s3(directory: Path) -> Iterator[S3Server]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = str(Path(sys.executable).with_name("rclone"))
    log = directory.with_suffix(".log")
    # Without the cache of directories a file that a test writes is an object at once.
    options = ["--addr", address, "--auth-key", f"{KEY},{SECRET}", "--config", "", "--dir-cache-time", "0"]
    with log.open("wb") as stream:
        process = subprocess.Popen([program, "serve", "s3", *options, str(directory)], stdout=stream, stderr=stream)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            host, port = address.split(":")
            return probe.connect_ex((host, int(port))) == 0

    try:
        wait_until(answers, 30, f"rclone; its log: {log}")
        yield S3Server(f"http://{address}", directory)
    finally:
        process.terminate()
        process.wait(PATIENCE)
