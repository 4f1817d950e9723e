"""Answers why a step run or a run does not go on, or did not complete: the chain from the symptom to the root.

Of several things that keep a step run waiting, the root is the most serious one (`lifecycle.causes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from ccat_workflow_manager.db.queries import explain as queries
from ccat_workflow_manager.db.queries.explain import EdgesOf, Node
from ccat_workflow_manager.db.session import UnitOfWork
from ccat_workflow_manager.db.tolerance import Loss, losses_of
from ccat_workflow_manager.identity import Projects
from ccat_workflow_manager.lifecycle.causes import SEVERITY, Cause, Place, move_of, remedy_of, text_of
from ccat_workflow_manager.lifecycle.holds import pause_text
from ccat_workflow_manager.lifecycle.states import LIVE, RETRYABLE, RunStatus
from ccat_workflow_manager.lifecycle.waiting import utc_text

_SHOWN_CHAIN = 50
_BEHIND_OTHERS = frozenset({Cause.UPSTREAM, Cause.BLOCKED})
_OWN_WORDS = frozenset({Cause.FAILED, Cause.CANCELLED, Cause.SET_BY_HAND, Cause.BLOCKED})
_TIMED = frozenset({Cause.BACK_OFF, Cause.DEFERRED})


@dataclass(slots=True)
class Graph:
    """What is not met in a run, and for each such step run the one before it that keeps it from going on."""

    nodes: dict[UUID, Node] = field(default_factory=dict)
    before: dict[UUID, Node] = field(default_factory=dict)
    root: dict[UUID, Node] = field(default_factory=dict)

    def chain(self, step_run_id: UUID) -> list[Node]:
        """From this step run to the root."""
        node: Node | None = self.nodes[step_run_id]
        found: list[Node] = []
        while node is not None:
            found.append(node)
            node = self.before.get(node.id)
        return found

    def behind(self, root: UUID) -> int:
        """How many other step runs have this root."""
        return sum(1 for node_id, each in self.root.items() if each.id == root and node_id != root)


def graph_of(nodes: Sequence[Node], edges: Sequence[EdgesOf]) -> Graph:
    """Find the root of each node. The nodes are in the order of their positions, so those before it are known."""
    graph = Graph()
    upstream: dict[int, list[tuple[EdgesOf, bool]]] = {}
    for edge in edges:
        for position in edge.downstream_key:
            upstream.setdefault(position, []).append((edge, True))
        for position in edge.downstream_all:
            upstream.setdefault(position, []).append((edge, False))
    by_key: dict[tuple[int, str], Node] = {}
    worst: dict[tuple[int, bool], Node] = {}
    """The node of each step with the most serious root, among those that have ended and among those that have not."""

    def rank(node: Node) -> int:
        return SEVERITY[Cause(graph.root[node.id].cause)]

    for node in nodes:
        candidates: list[Node] = []
        if node.cause in _BEHIND_OTHERS:
            for edge, own_key in upstream.get(node.position, ()):
                own = by_key.get((edge.position, node.key))
                kinds = _kinds(node, soft=node.position in edge.soft)
                if own_key:
                    candidates += [own] if own is not None and _has_ended(own) in kinds else []
                else:
                    candidates += [worst[edge.position, kind] for kind in kinds if (edge.position, kind) in worst]
        graph.nodes[node.id] = node
        if candidates:
            graph.before[node.id] = chosen = min(candidates, key=rank)
            graph.root[node.id] = graph.root[chosen.id]
        else:
            graph.root[node.id] = node
        by_key[node.position, node.key] = node
        kind = node.position, _has_ended(node)
        if kind not in worst or rank(node) < rank(worst[kind]):
            worst[kind] = node
    return graph


def _has_ended(node: Node) -> bool:
    return node.status in RETRYABLE


def _kinds(node: Node, *, soft: bool) -> tuple[bool, ...]:
    """What can keep this one from going on: step runs that have ended (True), and those that have not (False)."""
    if node.cause == Cause.BLOCKED:
        return (True,)
    return (False,) if soft else (True, False)


# --- answers --------------------------------------------------------------------------------------------------------


def explain_step_run(unit: UnitOfWork, step_run_id: UUID, projects: Projects = None) -> dict[str, Any] | None:
    """Why this step run is as it is. None: it does not exist."""
    place = queries.place_of(unit, step_run_id)
    if place is None:
        return None
    graph = graph_of(*queries.graph(unit, place[0], step_run_id))
    chain = graph.chain(step_run_id)
    shown = chain if len(chain) <= _SHOWN_CHAIN else [*chain[: _SHOWN_CHAIN - 1], chain[-1]]
    facts = queries.facts(unit, list({step_run_id, chain[-1].id}))
    own, root = facts[step_run_id], _root(facts[chain[-1].id], place[0])
    links = [_link(node, before, root) for node, before in zip(shown, [*shown[1:], None], strict=True)]
    return {
        "step_run_id": str(step_run_id),
        "run_id": str(place[0]),
        "step": own["step"],
        "key": own["key"],
        "status": own["status"],
        "summary": "; ".join(link["text"] for link in links) + (f": {root['words']}" if root["words"] else ""),
        "chain": links,
        "root": root,
        "same_cause": queries.same_cause(unit, root["cause"], root["subject"], projects),
        "behind": graph.behind(chain[-1].id),
        "again": queries.again(unit, step_run_id),
    }


def explain_run(unit: UnitOfWork, run: Mapping[str, Any]) -> dict[str, Any]:
    """Why a run with this id and status does not go on or did not complete."""
    run_id, status = run["id"], run["status"]
    records = queries.run_groups(unit, run_id)
    facts = queries.facts(unit, [each["example"] for each in records])
    losses = losses_of(unit, run_id)
    groups = [_group_of_run(each, _place(run_id, facts[each["example"]]), losses) for each in records]
    groups.sort(key=partial(_order_in_run, status))
    first = next((each for each in groups if each["cause"] not in _BEHIND_OTHERS), None)
    root = None
    if first is not None:
        root = _root(facts[UUID(first["example"])], run_id)
    summary = f"the run is {status}"
    if root is not None:
        summary += f"; {root['step']}/{root['key']}: {root['text']}" + (f": {root['words']}" if root["words"] else "")
    return {"run_id": str(run_id), "status": status, "summary": summary, "root": root, "causes": groups}


def _order_in_run(status: str, group: Mapping[str, Any]) -> tuple[bool, int, int]:
    """The most serious first. What was cancelled does not keep a run from its end: what is left of it does."""
    cause = Cause(group["cause"])
    is_aside = group["tolerated"] or (cause is Cause.CANCELLED and status in (RunStatus.PENDING, RunStatus.RUNNING))
    return is_aside, SEVERITY[cause], -group["count"]


def explain_waiting(unit: UnitOfWork, projects: Projects, limit: int) -> dict[str, Any]:
    """What is unfinished in these projects, by cause."""
    items, total = [], 0
    for record in queries.waiting_groups(unit, projects, limit):
        total = int(record["total"])
        group = _group({**record, "reason": None})
        items.append({**group, "since": record["since_text"], "scheduler": record["scheduler"]})
    return {"items": items, "total": total}


def _place(run_id: UUID, facts: Mapping[str, Any]) -> Place:
    return Place(run_id, facts["step"], facts["key"])


def _group(record: Mapping[str, Any], place: Place | None = None) -> dict[str, Any]:
    cause, about = Cause(record["cause"]), record["subject"]
    return {
        "cause": cause,
        "subject": about,
        "reason": record["reason"],
        "text": text_of(cause, about),
        "move": move_of(cause, record["reason"]),
        "remedy": remedy_of(cause, about, record["reason"], place),
        "count": int(record["count"]),
        "example": None if record["example"] is None else str(record["example"]),
    }


def _group_of_run(record: Mapping[str, Any], place: Place, losses: Mapping[Loss, bool]) -> dict[str, Any]:
    """What failed names its step, and says whether the run can do without it."""
    found, position = _group(record, place), record["position"]
    tolerated = position is not None and losses.get((position, place.key), False)
    if position is not None:
        found["text"] = f"{place.step}: {found['text']}" + ("; the run tolerates the loss" if tolerated else "")
    return {**found, "tolerated": tolerated}


def _root(facts: Mapping[str, Any], run_id: UUID) -> dict[str, Any]:
    cause, about = Cause(facts["cause"]), facts["subject"]
    words, since = facts["waiting_for"], facts["since_text"]
    reason = facts["reason"]
    if cause is Cause.BREAKER:
        words, reason = facts["breaker_text"], str(facts["failure_signature"]).split(",")[0]
    elif cause is Cause.BACKEND_AWAY:
        words, since = facts["problem"], facts["problem_since"] or since
    elif cause is Cause.PAUSED:
        words = pause_text(facts["pause"])
    elif cause is Cause.ON_HOLD and facts["hold"] is not None:
        words, since = facts["hold"].text(), utc_text(facts["hold"].since)
    elif cause is Cause.QUOTA:
        words = facts["limit_text"]
    elif cause is Cause.FULL_PLACE:
        words, since = facts["full_text"], facts["full_since"] or since
    elif cause in _OWN_WORDS:
        words = facts["reason_text"]
    elif cause is Cause.DEAD_WORKER:
        words = f"worker {facts['lease_owner']}"
    elif cause is Cause.CANCELLING:
        words = words or f"requested by {facts['cancel_requested_by']}"
    return {
        "cause": cause,
        "subject": about,
        "text": text_of(cause, about),
        "words": words,
        "reason": reason,
        "scheduler": facts["waiting_for"] if facts["status"] in LIVE else None,
        "move": move_of(cause, reason),
        "since": since,
        "until": _until(cause, facts),
        "remedy": remedy_of(cause, about, reason, _place(run_id, facts)),
        "step_run_id": str(facts["id"]),
        "step": facts["step"],
        "key": facts["key"],
        "job_id": facts["job_id"],
        "attempt": facts["attempt"],
        "max_attempts": facts["max_attempts"],
    }


def _until(cause: Cause, facts: Mapping[str, Any]) -> str | None:
    """When it ends by itself, or is tried again; None: that is not known."""
    hold = facts["hold"]
    known = {
        Cause.BREAKER: facts["probe_at"],
        Cause.BACKEND_AWAY: facts["retry_at"],
        Cause.PAUSED: facts["paused_until"] and utc_text(facts["paused_until"]),
        Cause.ON_HOLD: hold and hold.until and utc_text(hold.until),
    }
    return facts["not_before"] if cause in _TIMED else known.get(cause)


def _link(node: Node, before: Node | None, root: Mapping[str, Any]) -> dict[str, Any]:
    name = f"{node.step}/{node.key}"
    if before is None:
        text = f"{name}: {root['text']}"
    elif node.cause == Cause.BLOCKED:
        text = f"{name} was skipped because of {before.step}/{before.key}"
    else:
        text = f"{name} waits for {before.step}/{before.key}"
    return {
        "step_run_id": str(node.id),
        "step": node.step,
        "key": node.key,
        "status": node.status,
        "cause": node.cause,
        "text": text,
    }
