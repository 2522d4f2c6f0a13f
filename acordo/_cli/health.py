"""Judge a cluster by what its nodes say: the health of each member, and what somebody has to know.
It asks nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import msgspec

from acordo._results import Cluster, Member

Weight: TypeAlias = Literal["alarm", "notice"]


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody has to know; an `alarm` costs service or safety now."""

    weight: Weight
    member: str | None
    """None: it is about the cluster."""
    what: str
    advice: str = ""


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """One member: what the cluster says of it, and what it says itself."""

    member: Member
    state: str
    """`ready`, `not ready` or `does not answer`."""
    why: str = ""
    version: str = ""
    feature_level: int | None = None
    store: str = ""


def healths(seen: Cluster, asked: Mapping[str, Cluster | str]) -> list[Health]:
    """Return the health of each member; `asked`: id → its own answer, or why there is none."""
    return [_health(each, asked.get(each.id, "its URL is not known")) for each in seen.members]


def _health(member: Member, said: Cluster | str) -> Health:
    if isinstance(said, str):
        return Health(member=member, state="does not answer", why=said)
    level = said.raw.get("feature_level_spoken")
    return Health(
        member=member,
        state="not ready" if said.unready else "ready",
        why="; ".join(f"{each.check}: {each.why}" for each in said.unready),
        version=str(said.raw.get("version") or ""),
        feature_level=level if isinstance(level, int) else None,
        store=str(said.raw.get("store_state") or ""),
    )


def alarms(seen: Cluster, members: Sequence[Health]) -> list[Alarm]:
    """Return what somebody has to know, the worst first."""
    found = [*_of_cluster(seen), *_of_members(members), *_notices(seen, members)]
    return sorted(found, key=lambda each: each.weight != "alarm")


def _of_cluster(seen: Cluster) -> list[Alarm]:
    found = []
    if not seen.leader:
        found.append(_alarm("this node knows no leader yet", "writes wait for one"))
    if not seen.quorum:
        found.append(_alarm("no quorum", "writes wait for a majority of the voters"))
    # `unready` says more of a member's own store
    if seen.refusal and not seen.refusal.startswith("own_store"):
        way = "" if seen.refusal == "store_foreign" else ", or go on from this one: acordo adopt"
        found.append(
            _alarm(
                f"writes are refused until somebody decides: {seen.refusal}",
                f"put the store back that was settled{way}",
            )
        )
    if seen.raw.get("unsafe_fsync"):
        found.append(
            _alarm(
                f"fsync={seen.raw.get('fsync')}: a power cut may lose acknowledged writes",
                "set ACORDO_FSYNC=always",
            )
        )
    for reason in seen.unready:
        what = f"{seen.node} is not ready: {reason.check}: {reason.why} ({reason.code})"
        found.append(Alarm(weight="alarm", member=seen.node, what=what))
    return found


def _of_members(members: Sequence[Health]) -> list[Alarm]:
    found = []
    for each in members:
        id = each.member.id
        if each.state == "does not answer":
            what = f"{id} does not answer: {each.why}"
            found.append(Alarm(weight="alarm", member=id, what=what, advice="is it running?"))
        elif each.member.role == "unknown":
            what = f"{id} was not heard by the others"
            found.append(Alarm(weight="alarm", member=id, what=what, advice="look at the network"))
    for revision in {each.member.settled for each in members if each.member.settled}:
        digests = {
            each.member.digest
            for each in members
            if each.member.settled == revision and each.member.digest
        }
        if len(digests) > 1:
            what = f"members differ at revision {revision}"
            found.append(_alarm(what, "acordo verify says which of them is wrong"))
    return found


def _notices(seen: Cluster, members: Sequence[Health]) -> list[Alarm]:
    found = []
    versions = sorted({each.version for each in members if each.version})
    if len(versions) > 1:
        found.append(_notice(f"members run versions {' and '.join(versions)}", "upgrade them all"))
    level = seen.raw.get("feature_level")
    spoken = {each.feature_level for each in members if each.feature_level is not None}
    if isinstance(level, int) and spoken and min(spoken) > level:
        found.append(
            _notice(
                f"the feature level is {level}: all members speak {min(spoken)}", "it will rise"
            )
        )
    differing = seen.raw.get("limits_differ")
    if isinstance(differing, list) and differing:
        names = ", ".join(map(str, differing))
        found.append(
            _notice(f"{seen.node} is set otherwise than the cluster: {names}", "acordo limits")
        )
    lag = seen.raw.get("broadcast_lag")
    if isinstance(lag, int) and lag > 0:
        found.append(_notice(f"the broker is {lag} revisions behind", "subscribers hear late"))
    voters = sum(each.member.voter for each in members)
    if members and voters < 3:
        found.append(
            _notice(f"{voters} voters: the loss of one stops writes", "acordo members add")
        )
    return found


def _alarm(what: str, advice: str) -> Alarm:
    return Alarm(weight="alarm", member=None, what=what, advice=advice)


def _notice(what: str, advice: str) -> Alarm:
    return Alarm(weight="notice", member=None, what=what, advice=advice)
