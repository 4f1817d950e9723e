"""The stand-in by hand: `python -m tests.stand_ins.aws_batch DIRECTORY [--port N]`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from threading import Event

from tests.stand_ins.aws_batch.server import StandIn


def main() -> int:
    parser = argparse.ArgumentParser(prog="aws_batch_stand_in", description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="a minute of the service takes so many minutes here")
    options = parser.parse_args()
    over = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    stand_in = StandIn(options.directory, options.scale, options.port).start()
    sys.stdout.write(f"AWS_ENDPOINT_URL={stand_in.url}  AWS_BATCH_JOB_QUEUE=main\n")
    sys.stdout.flush()
    over.wait()
    stand_in.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
