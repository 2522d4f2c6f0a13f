"""Look into a machine: whether two are in equal states, and whether one is in a state that can
never be.
"""

from __future__ import annotations

from coordinator.machine.machine import Machine
from kv.model import roll
from tests.planted.registry import is_planted


def fingerprint(machine: Machine, *, last: bool = True) -> tuple[object, ...]:
    """Return a value that is equal for machines in equal states.

    `last=False` leaves out `last` and the floor: a member that restored a snapshot has forgotten
    more of them.
    """
    return (
        machine.revision,
        machine.digest,
        machine.settled,
        machine.log_time_ms,
        machine.namespace,
        machine.founded,
        machine.limits,
        machine.undone,
        tuple(machine.pending.values()),
        tuple(machine.window.entries().items()),
        (machine.recent.floor, tuple(machine.recent.entries().items())) if last else None,
    )


def broken(machine: Machine) -> tuple[str, ...]:
    """Return what can never be and yet is, by name; empty for a sound machine."""
    found: list[str] = []
    pending = list(machine.pending.values())
    if [p.revision for p in pending] != list(
        range(machine.settled.revision + 1, machine.revision + 1)
    ):
        found.append("pending: not exactly settled + 1 … revision")
    digest = machine.settled.digest
    for entry in pending:
        digest = roll(digest, entry.intent.op_id, entry.body_hash)
        if entry.digest != digest:
            found.append(f"digest: revision {entry.revision} does not roll on from the one before")
            break
        if entry.body_hash != entry.intent.body_hash:
            found.append(
                f"body hash: revision {entry.revision} carries another one than its body's"
            )
            break
    if digest != machine.digest:
        found.append("digest: the machine's is not its newest pending intent's")
    if sum(p.size for p in pending) != machine.pending_bytes:
        found.append("pending_bytes: not the sum over pending")
    opened = sorted(p.revision for group in machine._open.values() for p in group)
    if opened != [p.revision for p in pending]:
        found.append("open: not the pending intents by op_id")
    if not is_planted("dedupe"):
        attempts = [(p.intent.op_id, p.body_hash) for p in pending]
        if len(set(attempts)) != len(attempts):
            found.append("INV-3: an (op_id, body) is pending twice")
    known = machine.window.entries()
    if len(known) > machine.limits.window_max:
        found.append("window: over its bound")
    if any(k.revision > machine.settled.revision for k in known.values()):
        found.append("window: knows an outcome that is not settled")
    last = machine.recent.entries()
    if len(last) > machine.limits.recent_max:
        found.append("last: over its bound")
    if any(revision > machine.revision for revision in last.values()):
        found.append("last: above the newest revision given")
    if machine.recent.floor > machine.revision:
        found.append("floor: above the newest revision given")
    floor = machine.recent.floor
    if not is_planted("touch", "judge_floor"):
        for entry in pending:
            if any(machine.recent.touched(key) < entry.revision for key in entry.intent.touched):
                found.append(
                    f"INV-5: a key of pending revision {entry.revision} is not touched there "
                    f"(floor {floor})"
                )
                break
    return tuple(found)
