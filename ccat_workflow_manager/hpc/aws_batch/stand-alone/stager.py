"""Runs inside a job that shares no filesystem with the worker: its attempt comes from S3, the results go there.

It needs Python 3.11 and nothing else. It travels in the command of the job, so it is short; its one argument is JSON:
`endpoint`, `region`, `bucket`, `prefix`, `table` (the key of a list of [job name, job script]), `environment`.
"""

import contextlib
import ctypes
import hashlib
import hmac
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

NOT_STARTED = 75
TRIES = 5


def credentials() -> tuple[str, str, str]:
    env = os.environ
    if "AWS_ACCESS_KEY_ID" in env:
        return env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env.get("AWS_SESSION_TOKEN", "")
    relative = env.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    url = "http://169.254.170.2" + relative if relative else env["AWS_CONTAINER_CREDENTIALS_FULL_URI"]
    with urllib.request.urlopen(url, timeout=10) as answer:
        found = json.load(answer)
    return found["AccessKeyId"], found["SecretAccessKey"], found.get("Token", "")


def sign(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class S3:
    def __init__(self, config: dict[str, Any]) -> None:
        self.c = config

    def request(self, method: str, key: str, body: Any = None, size: int = 0, **more: str) -> Any:
        key_id, secret, token = credentials()
        url = urllib.parse.urlsplit(self.c["endpoint"])
        path = "/" + urllib.parse.quote(self.c["bucket"] + "/" + key)
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        headers = {"host": url.netloc, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-date": now}
        headers.update({name.replace("_", "-"): value for name, value in more.items()})
        if token:
            headers["x-amz-security-token"] = token
        names = ";".join(sorted(headers))
        lines = [method, path, "", *(n + ":" + headers[n] for n in sorted(headers)), "", names, "UNSIGNED-PAYLOAD"]
        scope = "/".join([now[:8], self.c["region"], "s3", "aws4_request"])
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        signing = ("AWS4" + secret).encode()
        for part in scope.split("/"):
            signing = sign(signing, part)
        signature = sign(signing, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{digest}").hex()
        key = f"Credential={key_id}/{scope}"
        headers["Authorization"] = f"AWS4-HMAC-SHA256 {key}, SignedHeaders={names}, Signature={signature}"
        if body is not None:
            headers["Content-Length"] = str(size)
        request = urllib.request.Request(f"{url.scheme}://{url.netloc}{path}", body, headers, method=method)
        return urllib.request.urlopen(request, timeout=60)

    def patiently(self, do: Callable[[], Any]) -> Any:
        for left in reversed(range(TRIES)):
            try:
                return do()
            except urllib.error.HTTPError as error:
                if (error.code < 500 and error.code != 429) or not left:
                    raise
            except OSError:
                if not left:
                    raise
            time.sleep(2 ** (TRIES - left - 1))
        raise AssertionError("the last try has raised")

    def get(self, key: str) -> bytes:
        with self.request("GET", key) as answer:
            data: bytes = answer.read()
        return data

    def fetch(self, key: str, file: Any) -> None:
        file.seek(0)
        file.truncate()
        with self.request("GET", key) as answer:
            while True:
                block = answer.read(1 << 20)
                if not block:
                    break
                file.write(block)

    def put(self, key: str, path: str) -> None:
        with open(path, "rb") as file:
            self.request("PUT", key, file, os.path.getsize(path)).close()

    def claim(self, key: str, owner: str) -> str:
        try:
            self.request("PUT", key, owner.encode(), len(owner), if_none_match="*").close()
        except urllib.error.HTTPError as error:
            if error.code not in (409, 412):
                raise
            return self.get(key).decode()
        return owner


def opened(directory: str, name: str) -> int:
    parent = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=parent)
    finally:
        os.close(parent)


def follow(directory: str, over: threading.Event) -> None:
    """Copy what the command prints to the log of the container. The command may replace its logs by anything."""
    seen = {"stdout.log": 0, "stderr.log": 0}
    last = False
    while not last:
        last = over.wait(1)
        for name in list(seen):
            with contextlib.suppress(OSError), open(opened(directory, name), "rb") as file:
                if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    file.seek(seen[name])
                    shutil.copyfileobj(file, sys.stdout.buffer)
                    seen[name] = file.tell()
        sys.stdout.buffer.flush()


def environment() -> dict[str, str]:
    """The environment of the image without the keys of the role, which this process alone needs."""
    return {n: v for n, v in os.environ.items() if not n.startswith("AWS_") or n.startswith("AWS_BATCH_")}


def main() -> int:
    # The command must not read the keys in /proc, where this process has the same user (PR_SET_DUMPABLE).
    ctypes.CDLL(None).prctl(4, 0)
    config = json.loads(sys.argv[1])
    s3 = S3(config)
    table = json.loads(s3.patiently(lambda: s3.get(config["table"])))
    job_name, script, log_name = table[int(os.environ.get("AWS_BATCH_JOB_ARRAY_INDEX", "0"))]
    base = config["prefix"] + job_name + "/"
    me = os.environ["AWS_BATCH_JOB_ID"].split(":")[0]
    owner = s3.patiently(lambda: s3.claim(base + "claim", me))
    if owner != me:
        sys.stderr.write(f"the attempt belongs to job {owner}, not to {me}\n")
        return NOT_STARTED
    attempt = os.path.dirname(script)
    with tempfile.TemporaryFile() as file:
        s3.patiently(lambda: s3.fetch(base + "in.tar.gz", file))
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:gz") as tar:
            # The worker has packed it; Python 3.14 would refuse links that lead out of the attempt, to its inputs.
            tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
            tar.extractall("/")
    for name in ("exit.json", "exit.part"):
        if os.path.exists(script[:-2] + name):
            os.unlink(script[:-2] + name)
    over = threading.Event()
    logs = os.path.join(attempt, log_name)
    follower = threading.Thread(target=follow, args=(logs, over), daemon=True)
    # Without /proc/self/fd, which is closed to it now, Python would try a thousand million descriptors.
    process = subprocess.Popen(
        ["/bin/sh", script], env=config["environment"] or environment(), cwd="/", close_fds=False
    )
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    follower.start()
    code = process.wait()
    over.set()
    follower.join(30)
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file:
        with tarfile.open(file.name, "w:gz", compresslevel=1) as tar:
            # The record last: where it is, everything else is.
            for name in ("output.partial", log_name, os.path.basename(script)[:-2] + "exit.json"):
                if os.path.exists(os.path.join(attempt, name)):
                    tar.add(os.path.join(attempt, name), name)
        s3.patiently(lambda: s3.put(base + "out.tar.gz", file.name))
    return code if code >= 0 else 128 - code


sys.exit(main())
