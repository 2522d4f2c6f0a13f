"""Find cycles in a graph of transactions: components by Tarjan, then a shortest cycle of the kind asked for.

It knows nothing of histories: nodes are integers, edges carry kinds as bits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

WW: Final = 1
WR: Final = 2
RW: Final = 4
PROCESS: Final = 8
REALTIME: Final = 16
KINDS: Final = {WW: "ww", WR: "wr", RW: "rw", PROCESS: "process", REALTIME: "realtime"}

EFFORT_MAX: Final = 200_000
"""Edges followed in one search for a cycle: beyond it the search ends with the best one found so far."""

Graph: TypeAlias = dict[int, dict[int, int]]
"""node → successor → kinds of the edges between them, or-ed."""
Cycle: TypeAlias = list[tuple[int, int]]
"""(node, kind of the edge that leaves it), in order; the last edge leads back to the first node."""


def add_edge(graph: Graph, a: int, b: int, kind: int) -> None:
    """Add an edge; one from a node to itself says nothing and is left out."""
    if a != b:
        successors = graph.setdefault(a, {})
        successors[b] = successors.get(b, 0) | kind


def components(graph: Graph, allowed: int) -> list[list[int]]:
    """Return the strongly connected components of more than one node over the allowed kinds (Tarjan, no recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    on_stack: set[int] = set()
    stack: list[int] = []
    found: list[list[int]] = []
    for root in graph:
        if root in index:
            continue
        work: list[tuple[int, Iterator[int]]] = [(root, _successors(graph, root, allowed))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, successors = work[-1]
            for other in successors:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    on_stack.add(other)
                    work.append((other, _successors(graph, other, allowed)))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component: list[int] = []
                    while not component or component[-1] != node:
                        component.append(stack.pop())
                    on_stack.difference_update(component)
                    if len(component) > 1:
                        found.append(component)
    return found


def _successors(graph: Graph, node: int, allowed: int) -> Iterator[int]:
    return (b for b, kinds in graph.get(node, {}).items() if kinds & allowed)


@dataclass(frozen=True)
class Wish:
    """A kind of cycle: it begins with an edge of kind `first` and goes on over kinds `rest`.

    `apart`: no two edges of this kind in a row, the ends included. `needed`: at least one edge of this kind.
    """

    first: int
    rest: int
    apart: int = 0
    needed: int = 0


def cycle_through(graph: Graph, nodes: frozenset[int], wish: Wish) -> Cycle | None:
    """Return a shortest cycle of the kind wished for (the shortest found, once EFFORT_MAX is spent), or None."""
    best: Cycle | None = None
    effort = [EFFORT_MAX]
    for a in sorted(nodes):
        for b, kinds in graph.get(a, {}).items():
            kind = kinds & wish.first & -(kinds & wish.first)
            if b not in nodes or not kind:
                continue
            path = _path(graph, nodes, wish, (a, kind, b), effort)
            if path is not None and (best is None or len(path) + 1 < len(best)):
                best = [(a, kind), *path]
            if best is not None and (len(best) == 2 or effort[0] <= 0):
                return best
    return best


def _path(
    graph: Graph, nodes: frozenset[int], wish: Wish, edge: tuple[int, int, int], effort: list[int]
) -> Cycle | None:
    """Search breadth first over (node, was the last edge of kind `apart`, was one of kind `needed` there)."""
    goal, before, start = edge
    origin = (start, bool(before & wish.apart), bool(before & wish.needed) or not wish.needed)
    came: dict[tuple[int, bool, bool], tuple[tuple[int, bool, bool], int] | None] = {origin: None}
    queue = deque([origin])
    while queue and effort[0] > 0:
        here = queue.popleft()
        node, last_apart, has = here
        if node == goal and has and not (last_apart and before & wish.apart):
            return _walk_back(came, here)
        if node == goal:
            continue
        successors = graph.get(node, {})
        effort[0] -= len(successors)
        for other, kinds in successors.items():
            for kind in KINDS if other in nodes else ():
                if not kinds & wish.rest & kind or (last_apart and kind & wish.apart):
                    continue
                there = (other, bool(kind & wish.apart), has or bool(kind & wish.needed))
                if there not in came:
                    came[there] = (here, kind)
                    queue.append(there)
    return None


def _walk_back(
    came: dict[tuple[int, bool, bool], tuple[tuple[int, bool, bool], int] | None], here: tuple[int, bool, bool]
) -> Cycle:
    path: Cycle = []
    while (step := came[here]) is not None:
        here, kind = step
        path.append((here[0], kind))
    path.reverse()
    return path
