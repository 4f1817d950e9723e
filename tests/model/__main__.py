"""Walks the model further than the tests do: `python -m tests.model --crashes 2 --cancels 1`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields

from tests.model.explorer import explore
from tests.model.world import Budget, Rules, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    for name, default in Budget._field_defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="how often (default: %(default)s)")
    for each in fields(Rules):
        parser.add_argument(f"--no-{each.name}", dest=each.name, action="store_false", help="without this protection")
    parser.add_argument("--most", type=int, default=2_000_000, help="the bound: so many states (default: %(default)s)")
    options = vars(parser.parse_args())
    budget = Budget(**{name: options[name] for name in Budget._fields})
    walk = explore(
        World(budget=budget), Rules(**{each.name: options[each.name] for each in fields(Rules)}), options["most"]
    )
    print(
        f"{walk.worlds} states{'' if walk.complete else ', more are behind the bound'}: {walk.wrong or 'all is well'}"
    )
    print("".join(f"  {name}\n" for name in walk.path), end="")
    return 1 if walk.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
