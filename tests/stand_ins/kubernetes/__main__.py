"""The stand-in as a process of its own, which several workers share.

    python -m tests.stand_ins.kubernetes --directory D --image bb:1 --claim data=/some/directory

Prints the path of the kubeconfig when it answers, and ends with SIGTERM, or with the process that holds its standard
input when `--until-eof` is given. `RemoteServer(D)` is its face for Python.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from pathlib import Path

from tests.stand_ins.kubernetes.kubeconfig import replace
from tests.stand_ins.kubernetes.models import Image, Node
from tests.stand_ins.kubernetes.remote import FACE_FILE
from tests.stand_ins.kubernetes.server import ApiServer


def main() -> int:
    asked = _arguments()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if asked.until_eof:
        threading.Thread(target=_until_eof, args=(stopping,), daemon=True).start()
    server = ApiServer(
        asked.directory.resolve(),
        images=dict(_image(text) for text in asked.image),
        nodes=[_node(text) for text in asked.node] or [Node()],
        claims={name: Path(path) for name, _, path in (text.partition("=") for text in asked.claim)},
        namespaces=asked.namespace or ["default"],
        clock_scale=asked.clock_scale,
        version=asked.version,
        port=asked.port,
    )
    with server:
        face = {"url": server.url, "kubeconfig": str(server.kubeconfig), "token_file": str(server.token_file)}
        replace(server.directory / FACE_FILE, json.dumps({**face, "pid": os.getpid()}))
        sys.stdout.write(f"{server.kubeconfig}\n")
        sys.stdout.flush()
        stopping.wait()
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="kubernetes_stand_in", description="A stand-in for a Kubernetes cluster.")
    parser.add_argument("--directory", type=Path, required=True, help="where everything that it writes goes")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--image", action="append", default=[], help="NAME or NAME=DIRECTORY with its file system")
    parser.add_argument("--claim", action="append", default=[], help="NAME=DIRECTORY of a PersistentVolumeClaim")
    parser.add_argument("--node", action="append", default=[], help="NAME or NAME:cpu=4,memory=8Gi,nvidia.com/gpu=1")
    parser.add_argument("--namespace", action="append", default=[])
    parser.add_argument("--clock-scale", type=float, default=1.0)
    parser.add_argument("--version", default="1.37")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    return parser.parse_args()


def _image(text: str) -> tuple[str, Image]:
    name, _, root = text.partition("=")
    return name, Image(root=Path(root)) if root else Image()


def _node(text: str) -> Node:
    name, _, rest = text.partition(":")
    amounts = dict(part.split("=", 1) for part in rest.split(",") if part)
    node = Node(name)
    return Node(name, amounts.pop("cpu", node.cpu), amounts.pop("memory", node.memory), extended=amounts)


def _until_eof(stopping: threading.Event) -> None:
    while os.read(0, 4096):
        continue
    stopping.set()


if __name__ == "__main__":
    sys.exit(main())
