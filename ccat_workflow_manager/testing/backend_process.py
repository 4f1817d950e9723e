"""Call a new backend object in this process: `python -m ... FACTORY METHOD ARGUMENT`, with its settings on stdin.

Prints the answer as JSON.
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
    factory, method, argument = sys.argv[1:]
    backend = make(factory, json.load(sys.stdin))
    json.dump(call(backend, method, argument), sys.stdout)
    backend.close()


if __name__ == "__main__":
    main()
