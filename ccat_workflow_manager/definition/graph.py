"""Steps and what they wait for, as positions in a list: order and cycles."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush


def topological_order(upstreams: Sequence[Sequence[int]]) -> list[int]:
    """Everything after what it waits for, otherwise in the order given. What lies on or behind a cycle is left out."""
    left = [len(set(waits_for)) for waits_for in upstreams]
    downstream: list[list[int]] = [[] for _ in upstreams]
    for node, waits_for in enumerate(upstreams):
        for upstream in set(waits_for):
            downstream[upstream].append(node)
    ready = [node for node, count in enumerate(left) if count == 0]
    heapify(ready)
    order = []
    while ready:
        node = heappop(ready)
        order.append(node)
        for after in downstream[node]:
            left[after] -= 1
            if left[after] == 0:
                heappush(ready, after)
    return order


def cycles(upstreams: Sequence[Sequence[int]], most: int = 20) -> list[list[int]]:
    """Cycles that share no node, each beginning with its first node; at most so many."""
    found: list[list[int]] = []
    edges = [set(waits_for) for waits_for in upstreams]
    while len(found) < most:
        stuck = set(range(len(edges))) - set(topological_order([sorted(waits_for) for waits_for in edges]))
        if not stuck:
            break
        path = [min(stuck)]
        while (after := min(edges[path[-1]] & stuck)) not in path:
            path.append(after)
        cycle = path[path.index(after) :]
        first = cycle.index(min(cycle))
        cycle = cycle[first:] + cycle[:first]
        found.append(cycle)
        for node in cycle:
            edges[node] = set()
    return found
