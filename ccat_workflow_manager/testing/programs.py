"""The little programs that the contract suite runs as jobs: shell where that will do, else plain Python."""

from __future__ import annotations

WAIT_FOR_FILE = 'until [ -e "$1" ]; do sleep 0.02; done'
"""Shell: wait until the file named by the first argument exists."""

REPORT = """
import json, os, sys
report = {"arguments": sys.argv[2:], "environment": dict(os.environ), "directory": os.getcwd()}
with open(sys.argv[1] + ".part", "w", encoding="utf-8") as file:
    json.dump(report, file)
os.rename(sys.argv[1] + ".part", sys.argv[1])
"""
"""Python: write what arrived (arguments, environment, directory) as JSON into the file named by the first argument."""

BURN = """
import time
ballast = bytearray(64 * 1024 * 1024)
for position in range(0, len(ballast), 4096):
    ballast[position] = 1
end = time.process_time() + 0.4
while time.process_time() < end:
    pass
"""
"""Python: use 64 MB and 0.4 s of CPU."""

HOG = """
import time
ballast = []
while True:
    ballast.append(bytearray(b"x" * (8 * 1024 * 1024)))
    time.sleep(0.01 if len(ballast) < 64 else 1000)
"""
"""Python: take 512 MB, then hold it."""

FAMILY = """
echo $$ > "$1/shell.pid"
sleep 1000 &
echo $! > "$1/child.pid"
setsid sh -c 'trap "" TERM; echo $$ > "$1/daemon.pid"; while :; do sleep 1000; done' sh "$1" &
(setsid sh -c 'echo $$ > "$1/orphan.pid"; exec sleep 1000' sh "$1" &)
until [ -s "$1/daemon.pid" ] && [ -s "$1/orphan.pid" ]; do sleep 0.02; done
touch "$1/ready"
wait
"""
"""Shell: a family of processes (pid files in the directory named by the first argument): a child, a child in its own
session that ignores SIGTERM, and one in its own session whose parent is gone."""


def sh(script: str, *arguments: str) -> tuple[str, ...]:
    """The argument vector that runs a shell script with `$1`, `$2` ..."""
    return ("/bin/sh", "-c", script, "sh", *arguments)
