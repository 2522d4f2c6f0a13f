"""List where Acordo answers the corpus otherwise than etcd, by kind, each with the promise that
forces it. docs/etcd.md says the same in prose.

A difference that is not here fails the comparison, and so does one that is here and is none.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Kind(NamedTuple):
    """A kind of difference: the promise that forces it, and (case, step) of each. `shared`: only
    where one store is shared.
    """

    promise: str
    places: tuple[tuple[str, int], ...]
    shared: bool = False


KINDS: Final[dict[str, Kind]] = {
    "every ordered operation takes a revision, also one that changes nothing": Kind(
        "the ledger names every operation by its revision (DESIGN section 3)",
        (("revisions of what was refused", 3), ("revisions of deletes of nothing", 3)),
    ),
    "a watch from a future revision is cancelled": Kind(
        "a position that no quorum has given is refused, not waited for (a restore may have undone "
        "it)",
        (("watch: from the future", 3),),
    ),
    "on a shared store compaction is accepted, and history is kept as it is set": Kind(
        "there every member prunes one store, never past what one of them still needs",
        (("compaction", 4), ("compaction", 5), ("compaction", 7)),
        shared=True,
    ),
    "a key has at most 1,024 bytes": Kind(
        "every request's memory is bounded", (("a long key", 0), ("a long key", 1))
    ),
    "a value has at most 1 MiB": Kind("every request's memory is bounded", (("a large value", 0),)),
    "a transaction has at most 128 operations and comparisons together": Kind(
        "the work that one command makes on every member is bounded",
        (("txn: 100 compares and 100 puts", 0),),
    ),
    "transactions are nested at most four deep": Kind(
        "the work that one command makes on every member is bounded",
        (("txn: nested six deep", 0), ("txn: nested six deep", 1)),
    ),
    "ids of leases are positive": Kind(
        "a lease is a version under the system's keys, and its key is its id",
        (("lease: odd ids", 0), ("lease: odd ids", 1)),
    ),
    "a null in a list is refused, where etcd gives up the connection": Kind(
        "every failure is answered, and says whether something was changed",
        (("body 14 of a txn", 0), ("body 15 of a txn", 0)),
    ),
    "an unknown order is the default, where etcd itself ends": Kind(
        "no request ends a node", (("body 3 of a range", 0), ("body 3 of a range", 1))
    ),
    "a stream begins at once, and a broken first message is refused as any request": Kind(
        "a client learns within seconds whether its node is there",
        (("watch: an unknown request", 0), ("watch: a broken request", 0)),
    ),
    "a watch from a negative revision begins now, where etcd tells nothing": Kind(
        "a watch tells every change after its position (INV-6)", (("watch: negative start", 3),)
    ),
    "the oldest paths, /v3alpha, are served too": Kind(
        "what people have works by changing a URL", (("put on the older path", 2),)
    ),
    "users and roles are not spoken": Kind(
        "access is managed by /v1/access (docs/security.md)", (("authentication", 1),)
    ),
}


def expected(*, shared: bool) -> dict[tuple[str, int], str]:
    """Return the kind of each place where a difference is expected."""
    return {
        place: name
        for name, kind in KINDS.items()
        for place in kind.places
        if shared or not kind.shared
    }
