"""Decide from the nodes' answers whether a quorum is ready, and explain what is missing. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any, Final, NamedTuple

REMOVED: Final = "it is no member of the cluster any more"
JOINING: Final = "it is being added and is no member yet"
REASON_CHARS_MAX: Final = 300


class Readiness(NamedTuple):
    """The readiness of the nodes of one directory."""

    serving: bool
    """A leader is known, and a majority of the voters is ready."""
    leader: str | None
    missing: Mapping[str, str]
    """Why each other node is not ready, by id."""
    refusal: str = ""
    """Why the cluster refuses writes until an operator decides; empty if it does not."""


def judge_readiness(
    why: Mapping[str, str], seen: Mapping[str, Any], joining: Container[str] = ()
) -> Readiness:
    """Return which nodes are ready and whether they are a serving quorum.

    `why` maps each node to why it is not ready, or to an empty string; `seen` is one node's answer
    of `/v1/cluster`; `joining` holds the nodes that are being added.
    """
    members = {str(m.get("id")): bool(m.get("voter", True)) for m in seen.get("members", ())}
    missing = {}
    for node, reason in why.items():
        gone = members and node not in members and node != seen.get("node")
        if gone:
            what = JOINING if node in joining else REMOVED
            missing[node] = f"{what} ({one_line(reason)})" if reason else what
        elif reason:
            missing[node] = reason
    voters = [node for node, votes in members.items() if votes] or list(why)
    ready = sum(1 for node in voters if node in why and node not in missing)
    leader = seen.get("leader")
    serving = leader is not None and ready > len(voters) // 2
    refusal = str(seen.get("refusal") or "")
    return Readiness(serving, leader, missing, "" if mends_itself(refusal) else refusal)


def mends_itself(refusal: str) -> bool:
    """Return whether a member gets over a refusal by itself: its own store is being mended."""
    return refusal.startswith("own_store") and refusal != "own_store_undecided"


def way_out(refusal: str) -> str:
    """Return what an operator can do about a refusal."""
    if mends_itself(refusal):
        return "it mends its own store; ask another node meanwhile"
    if refusal == "own_store_undecided":
        return "the members' stores differ: decide which member is right, and replace the others"
    if refusal == "store_foreign":
        return (
            "the store is another cluster's and cannot be adopted: give this cluster the store "
            "it had"
        )
    return (
        "the store is not the one that was settled: put that back, or go on from this one with: "
        "acordo adopt"
    )


def advice(found: Readiness, data: str) -> Iterator[str]:
    """Yield lines on what an operator can do about the nodes that are missing."""
    where = "" if data == "data" else f" --data {data}"
    for node, reason in found.missing.items():
        yield f"{node} is missing: {one_line(reason)}"
        if reason.startswith(REMOVED):
            yield (
                f"  its directory stays; leave it out with: python -m cluster remove {node}{where}"
            )
        elif found.serving and not found.refusal and not reason.startswith(JOINING):
            yield (
                "  if it does not come back, give its place to a new member: python -m cluster "
                f"replace {node}{where}"
            )
    if found.refusal:
        yield f"writes are refused until somebody decides: {one_line(found.refusal)}"
        yield f"  {way_out(found.refusal)}"


def news(before: Readiness, now: Readiness) -> Iterator[str]:
    """Yield one line for each thing that changed between two looks."""
    for node in now.missing:
        why, why_before = one_line(now.missing[node]), one_line(before.missing.get(node, ""))
        again = why != why_before and (
            not now.serving or why.startswith(REMOVED) > why_before.startswith(REMOVED)
        )
        if node not in before.missing or again:
            yield f"{node} is not ready: {one_line(now.missing[node])}"
    for node in before.missing:
        if node not in now.missing:
            yield f"{node} is ready, or left out"
    if now.refusal and now.refusal != before.refusal:
        adopts = "acordo adopt" in way_out(now.refusal)
        way = " (acordo adopt)" if adopts else ""
        yield f"writes are refused until somebody decides{way}: {one_line(now.refusal)}"
    if before.serving and not now.serving:
        yield "no quorum is ready: writes wait"
    elif now.serving and now.leader != before.leader:
        yield f"{now.leader} leads"


def one_line(text: str) -> str:
    """Return a node's answer as one line of at most REASON_CHARS_MAX characters.

    If the answer lists failed checks, only those are kept.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    failed = [
        line.removeprefix("[-]")
        for line in lines
        if line.startswith("[-]") and "degraded" not in line
    ]
    return "; ".join(failed or lines)[:REASON_CHARS_MAX]
