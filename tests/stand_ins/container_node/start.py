"""The program that the server starts."""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    # Last, because nothing of ours may hide a module of the standard library.
    sys.path.append(str(Path(__file__).resolve().parents[3]))
    from tests.stand_ins.container_node import node

    return node.run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
