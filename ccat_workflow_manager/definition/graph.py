"""Steps and the steps they wait for, as positions in a list: order and cycles."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from heapq import heapify, heappop, heappush

_MOST_CYCLES = 20


def topological_order(upstreams: Sequence[Sequence[int]]) -> list[int]:
    """Each node after those it waits for, otherwise in the order given, without the nodes on or behind a cycle."""
    sorter = TopologicalSorter(dict(enumerate(upstreams)))
    with suppress(CycleError):  # the sorter still gives the nodes that no cycle blocks
        sorter.prepare()
    ready = list(sorter.get_ready())
    heapify(ready)
    order = []
    while ready:
        node = heappop(ready)
        order.append(node)
        sorter.done(node)
        for after in sorter.get_ready():
            heappush(ready, after)
    return order


def cycles(upstreams: Sequence[Sequence[int]]) -> list[list[int]]:
    """The first cycles that share no node, each from its first node on."""
    found: list[list[int]] = []
    edges = [set(waits_for) for waits_for in upstreams]
    while len(found) < _MOST_CYCLES:
        blocked = set(range(len(edges))) - set(topological_order([sorted(waits_for) for waits_for in edges]))
        if not blocked:
            break
        walk = [min(blocked)]
        while (after := min(edges[walk[-1]] & blocked)) not in walk:
            walk.append(after)
        cycle = walk[walk.index(after) :]
        first = cycle.index(min(cycle))
        cycle = cycle[first:] + cycle[:first]
        found.append(cycle)
        for node in cycle:
            edges[node] = set()
    return found
