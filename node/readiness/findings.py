"""Decide whether this node should get traffic, and name the reasons if not. Pure: the state to
judge is passed in.

Ready means that, as far as this node can know, a write would succeed. A dead cache or broker is
shown but does not make the node unready (INV-7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from kv.errors import OWN_STORE_WAITS, store_refused
from kv.model import Head, LedgerRow
from kv.ports import Status


class ReadinessFinding(NamedTuple):
    """The result of one readiness check. `trouble`: what is wrong, None if nothing is; `code`: one
    of problems.KINDS or of UNFIT.
    """

    name: str
    required: bool
    trouble: str | None
    code: str = ""
    note: str = ""

    @property
    def counts(self) -> bool:
        """Return whether this finding alone makes the node unready."""
        return self.required and self.trouble is not None


UNFIT: Final = {
    "removed": "this member was taken out of the cluster: stop it, or add a new one under a new id",
    "disk_lost": (
        "what this member had acknowledged is not on its disk any more: "
        "replace it by one with a new id"
    ),
}
"""Permanent conditions of a member, and what the operator does about each."""
ADOPT: Final = (
    "give the cluster back the store it had, or give up what this one lacks with `acordo adopt`"
)

FOREIGN: Final = "it is another cluster's, and cannot be adopted: give the cluster the store it had"


def findings(
    status: Status, *, store_trouble: str | None, store_differs: str | None, leaving: bool
) -> list[ReadinessFinding]:
    """Return the findings about everything that a serving node requires, in the order in which an
    operator would look.

    `store_trouble`: why the store did not answer when it was last asked. `store_differs`: how the
    store differed from what this node knows to be settled.
    """
    led, refusal = status.leader is not None, status.refusal or store_differs
    unfit = None if status.unfit is None else UNFIT[status.unfit]
    away = store_trouble or status.store_trouble
    apart = f" ({status.conflicts[0]})" if status.conflicts else ""
    return [
        ReadinessFinding("drain", True, "the node is stopping" if leaving else None, "draining"),
        ReadinessFinding("member", True, unfit, status.unfit or ""),
        ReadinessFinding(
            "leader", True, None if led else f"no leader is known{apart}", "no_leader"
        ),
        ReadinessFinding(
            "quorum", True, None if status.quorum else f"no quorum answers{apart}", "no_quorum"
        ),
        ReadinessFinding("machine", True, _APART if status.diverged else None, "diverged"),
        ReadinessFinding("time", True, None if status.stamped else _UNSTAMPED, "starting"),
        ReadinessFinding("store", True, away, "store_away"),
        _ledger(refusal, status),
    ]


def _ledger(refusal: str | None, status: Status) -> ReadinessFinding:
    """Return the finding about whether what the store holds may be served."""
    if refusal is None:
        return ReadinessFinding("ledger", True, None, "store_refused")
    refused = store_refused(refusal)
    advice = FOREIGN if refusal == "store_foreign" else ADOPT
    if refusal in OWN_STORE_WAITS:
        advice = refused.detail
    elif refusal == "own_store_undecided":
        advice = UNDECIDED
    detail = f" ({status.store_detail})" if status.store_detail else ""
    return ReadinessFinding("ledger", True, f"{refusal}: {advice}{detail}", refused.reason)


def own_store_findings(status: Status) -> list[ReadinessFinding]:
    """Return what an operator wants to see of a member's own store, beside what it requires."""
    if status.store_kind == "shared":
        return []
    sound = status.store_state == "sound"
    trouble = None if sound else f"{status.store_state}: {status.store_detail}".rstrip(": ")
    unsafe = None if status.fsync == "always" else UNSAFE.format(status.fsync)
    return [
        ReadinessFinding("own_store", False, trouble, note=status.store_detail if sound else ""),
        ReadinessFinding("fsync", False, unsafe),
    ]


UNDECIDED: Final = (
    "the members' contents differ, and none has a majority: an operator decides which member is "
    "right, and replaces the others"
)
UNSAFE: Final = (
    "fsync={}: a power cut may lose acknowledged writes, for this member's log is not synced "
    "before they are acknowledged"
)
"""What an operator has chosen with unsafe_fsync (R15)."""


_APART: Final = (
    "this member's machine went another way than the leader's, and is built anew; if that "
    "lasts, replace the member"
)
_UNSTAMPED: Final = "no stamp of this leader's term is applied here yet"


def unready(found: Sequence[ReadinessFinding]) -> list[dict[str, str]]:
    """Return, as JSON, the findings that make a node unready."""
    return [
        {"check": f.name, "code": f.code or f.name, "why": f.trouble or ""}
        for f in found
        if f.counts
    ]


def differs(settled: Head, head: Head, ending: LedgerRow | None) -> str | None:
    """Describe how a store differs from what is settled here; None: it does not. `ending`: its
    newest row that ends at `settled.last`.

    A store that has already pruned that row is ahead of this node, which is no difference.
    """
    if head.last < settled.last:
        return f"the store ends at revision {head.last}, and {settled.last} is settled"
    if ending is not None and settled.last and ending.digest != settled.digest:
        return f"the store has another history at revision {settled.last}"
    return None
