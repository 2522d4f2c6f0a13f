"""Find cycles in a graph of transactions: Tarjan's components, then a shortest cycle of a given
kind.

It knows nothing about histories: nodes are integers, and the kinds of edges are bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

WW: Final = 1
WR: Final = 2
RW: Final = 4
PROCESS: Final = 8
REALTIME: Final = 16
KINDS: Final = {WW: "ww", WR: "wr", RW: "rw", PROCESS: "process", REALTIME: "realtime"}

EFFORT_MAX: Final = 500_000
"""Most edges followed in one search for a cycle. After that the search ends with the best cycle
found so far.
"""

LENGTHS: Final = (3, 6, 12, 1 << 30)
"""Length limits of successive searches, so that short cycles are found before longer ones."""

Graph: TypeAlias = dict[int, dict[int, int]]
"""node → successor → kinds of the edges between them, combined by bitwise or."""
Cycle: TypeAlias = list[tuple[int, int]]
"""(node, kind of its outgoing edge), in order. The last edge leads back to the first node."""


def add_edge(graph: Graph, a: int, b: int, kind: int) -> None:
    """Add an edge. An edge from a node to itself carries no information and is ignored."""
    if a != b:
        successors = graph.setdefault(a, {})
        successors[b] = successors.get(b, 0) | kind


def components(graph: Graph, allowed: int) -> list[list[int]]:
    """Return the strongly connected components of more than one node over the allowed kinds."""
    search = _Tarjan(graph, allowed)
    for root in graph:
        search.visit(root)
    return search.found


class _Tarjan:
    """Tarjan's search for components (1972), without recursion: histories are long."""

    def __init__(self, graph: Graph, allowed: int) -> None:
        self.found: list[list[int]] = []
        self._graph, self._allowed = graph, allowed
        self._index: dict[int, int] = {}
        self._low: dict[int, int] = {}
        self._stack: list[int] = []
        self._on_stack: set[int] = set()
        self._work: list[tuple[int, Iterator[int]]] = []

    def visit(self, root: int) -> None:
        """Find the components reachable from `root` that were not found before."""
        if root in self._index:
            return
        self._enter(root)
        while self._work:
            node, successors = self._work[-1]
            if not self._descend(node, successors):
                self._leave(node)

    def _enter(self, node: int) -> None:
        self._index[node] = self._low[node] = len(self._index)
        self._stack.append(node)
        self._on_stack.add(node)
        self._work.append((node, _successors(self._graph, node, self._allowed)))

    def _descend(self, node: int, successors: Iterator[int]) -> bool:
        """Enter the next successor that was not visited; return False if there is none."""
        for other in successors:
            if other not in self._index:
                self._enter(other)
                return True
            if other in self._on_stack:
                self._low[node] = min(self._low[node], self._index[other])
        return False

    def _leave(self, node: int) -> None:
        self._work.pop()
        if self._work:
            parent = self._work[-1][0]
            self._low[parent] = min(self._low[parent], self._low[node])
        if self._low[node] != self._index[node]:
            return
        component: list[int] = []
        while not component or component[-1] != node:
            component.append(self._stack.pop())
        self._on_stack.difference_update(component)
        if len(component) > 1:
            self.found.append(component)


def _successors(graph: Graph, node: int, allowed: int) -> Iterator[int]:
    return (b for b, kinds in graph.get(node, {}).items() if kinds & allowed)


@dataclass(frozen=True)
class Wish:
    """A kind of cycle: one edge of kind `first`, followed by edges of the kinds `rest`.

    `apart`: no two consecutive edges are of this kind, counting the last and the first as
    consecutive. `needed`: at least one edge is of this kind.
    """

    first: int
    rest: int
    apart: int = 0
    needed: int = 0


def cycle_through(graph: Graph, nodes: frozenset[int], wish: Wish) -> Cycle | None:
    """Return a shortest cycle of the wanted kind, or None.

    Once EFFORT_MAX is spent, it returns the shortest cycle found until then. Short cycles are
    searched first: a cycle of two transactions explains more than one of forty, and is cheaper to
    find.
    """
    best: Cycle | None = None
    effort = [EFFORT_MAX]
    for length_max in LENGTHS:
        for a in sorted(nodes):
            for b, kinds in graph.get(a, {}).items():
                kind = kinds & wish.first & -(kinds & wish.first)
                if b not in nodes or not kind:
                    continue
                longest = length_max if best is None else min(length_max, len(best) - 1)
                path = _path(graph, nodes, wish, (a, kind, b), longest - 1, effort)
                if path is not None:
                    best = [(a, kind), *path]
                if effort[0] <= 0 or (best is not None and len(best) == 2):
                    return best
        if best is not None:
            return best
    return None


def _path(  # noqa: PLR0917 - one search, called in one place
    graph: Graph,
    nodes: frozenset[int],
    wish: Wish,
    edge: tuple[int, int, int],
    length_max: int,
    effort: list[int],
) -> Cycle | None:
    """Search breadth first over states of (node, last edge was of kind `apart`, an edge of kind
    `needed` was used).
    """
    goal, before, start = edge
    origin = (start, bool(before & wish.apart), bool(before & wish.needed) or not wish.needed)
    came: dict[tuple[int, bool, bool], tuple[tuple[int, bool, bool], int] | None] = {origin: None}
    layer = [origin]
    for _ in range(length_max + 1):
        following = []
        for here in layer:
            node, last_apart, has = here
            if node == goal:
                if has and not (last_apart and before & wish.apart):
                    return _walk_back(came, here)
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
                        following.append(there)
        if not following or effort[0] <= 0:
            return None
        layer = following
    return None


def _walk_back(
    came: dict[tuple[int, bool, bool], tuple[tuple[int, bool, bool], int] | None],
    here: tuple[int, bool, bool],
) -> Cycle:
    path: Cycle = []
    while (step := came[here]) is not None:
        here, kind = step
        path.append((here[0], kind))
    path.reverse()
    return path
