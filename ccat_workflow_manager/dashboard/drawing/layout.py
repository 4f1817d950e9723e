"""A layered layout of directed acyclic graphs, from left to right. Steps are few, because keys are counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LANE = 14
"""The height of a free lane, in which a long edge passes a layer."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where nodes and lanes are, and which of them each edge passes."""

    place: dict[str, tuple[float, float]]
    routes: dict[tuple[str, str], list[str]]
    lanes: frozenset[str]
    width: float
    height: float


@dataclass(slots=True)
class _Graph:
    """Nodes and lanes by layer. `up` and `down` join neighbours of adjacent layers only."""

    layer: dict[str, int]
    up: dict[str, list[str]]
    down: dict[str, list[str]] = field(default_factory=dict)
    routes: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    lanes: set[str] = field(default_factory=set)


def layered(upstream: Mapping[str, Sequence[str]], w: int, h: int, dx: int = 58, dy: int = 18) -> Layout:
    """The places of all nodes.

    Longest paths give the layers; a long edge gets a free lane in each layer that it crosses, so it never runs through
    a node; barycentres give the order; means of the neighbours give the places.
    """
    graph = _with_lanes(upstream, _layers(upstream))
    rows = _ordered(graph)
    tall = {node: LANE if node in graph.lanes else h for node in graph.up}
    y = _heights(graph, rows, tall, dy)
    least = min(y.values(), default=0.0)
    place = {node: (float(graph.layer[node] * (w + dx)), y[node] - least) for node in graph.up}
    width = max(graph.layer.values(), default=0) * (w + dx) + w
    height = max((place[node][1] + tall[node] for node in graph.up), default=float(h))
    return Layout(place, graph.routes, frozenset(graph.lanes), width, height)


def _layers(upstream: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The length of the longest path to each node. Nodes come after those that they depend on, as in a run."""
    layer: dict[str, int] = {}
    left = list(upstream)
    while left:
        ready = [node for node in left if all(before in layer for before in upstream[node])]
        if not ready:
            raise ValueError("the graph has a cycle")
        for node in ready:
            layer[node] = 1 + max((layer[before] for before in upstream[node]), default=-1)
        left = [node for node in left if node not in layer]
    return layer


def _with_lanes(upstream: Mapping[str, Sequence[str]], layer: dict[str, int]) -> _Graph:
    graph = _Graph(layer, {node: list(before) for node, before in upstream.items()})
    for node, befores in upstream.items():
        for before in befores:
            chain = [before]
            for level in range(layer[before] + 1, layer[node]):
                lane = f"{before}>{node}#{level}"
                graph.lanes.add(lane)
                layer[lane], graph.up[lane] = level, [chain[-1]]
                chain.append(lane)
            if len(chain) > 1:
                graph.up[node] = [chain[-1] if one == before else one for one in graph.up[node]]
            graph.routes[before, node] = [*chain, node]
    graph.down = {node: [] for node in graph.up}
    for node, befores in graph.up.items():
        for before in befores:
            graph.down[before].append(node)
    return graph


def _ordered(graph: _Graph) -> list[list[str]]:
    """The nodes of each layer, in an order with few crossings."""
    rows = [
        [n for n in graph.up if graph.layer[n] == level] for level in range(1 + max(graph.layer.values(), default=0))
    ]
    order = {node: i for row in rows for i, node in enumerate(row)}
    for sweep in range(8):
        near = graph.up if sweep % 2 == 0 else graph.down

        def weight(node: str, near: dict[str, list[str]] = near) -> tuple[float, bool, int]:
            mean = sum(order[m] for m in near[node]) / len(near[node]) if near[node] else float(order[node])
            return mean, node in graph.lanes, order[node]

        for row in rows if sweep % 2 == 0 else reversed(rows):
            row.sort(key=weight)
            order.update({node: i for i, node in enumerate(row)})
    return rows


def _heights(graph: _Graph, rows: list[list[str]], tall: Mapping[str, int], dy: int) -> dict[str, float]:
    """The upper edge of each node: near the mean of its neighbours, never over the one above it."""
    y: dict[str, float] = {}
    for row in rows:
        top = 0.0
        for node in row:
            y[node], top = top, top + tall[node] + dy
    for sweep in range(12):
        near = graph.up if sweep % 2 == 0 else graph.down
        for row in rows if sweep % 2 == 0 else reversed(rows):
            want = {
                n: sum(y[m] + tall[m] / 2 for m in near[n]) / len(near[n]) - tall[n] / 2 if near[n] else y[n]
                for n in row
            }
            top = float("-inf")
            for node in row:
                y[node] = max(want[node], top)
                top = y[node] + tall[node] + dy
            shift = sum(want[node] - y[node] for node in row) / len(row)
            for node in row:
                y[node] += shift
    return y
