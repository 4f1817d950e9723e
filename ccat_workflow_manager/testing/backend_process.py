"""Calls new backend objects in this process: `python -m ... FACTORY`.

The first line of the input has their settings, as JSON. Each other line, `["METHOD", "ARGUMENT"]`, is a call of an
object of its own. Prints a line of JSON for each answer.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from typing import Any

from ccat_workflow_manager.hpc import registry
from ccat_workflow_manager.hpc.base import HPCBackend


def make(factory: str, config: dict[str, Any]) -> HPCBackend:
    """A backend from `module:callable`, or from the registry for a plain name."""
    if ":" not in factory:
        return registry.create(factory, **config)
    module, _, attribute = factory.partition(":")
    backend: HPCBackend = getattr(import_module(module), attribute)(**config)
    return backend


def call(backend: HPCBackend, method: str, argument: str) -> Any:
    match method:
        case "status":
            info = backend.get_status(argument)
            return {"status": info.status, "exit_code": info.exit_code}
        case "logs":
            return backend.get_logs(argument)
        case "find":
            return backend.find(argument)
        case _:
            return backend.cancel(argument)


def main() -> None:
    config = json.loads(sys.stdin.readline())
    for line in sys.stdin:
        backend = make(sys.argv[1], config)
        sys.stdout.write(json.dumps(call(backend, *json.loads(line))) + "\n")
        sys.stdout.flush()
        backend.close()


if __name__ == "__main__":
    main()
