"""Judge a guard that compares what a key has with an operand.

Pure. It never looks for keys: a range is the caller's.
"""

from __future__ import annotations

from typing import TypeAlias

from kv.model import Compare, Reference, Version

Numbers: TypeAlias = tuple[int, int]
"""The create_revision and the version of a present key."""


def stands(guard: Compare, version: Version | None) -> bool:
    """Return whether the version of a present key stands in the guard's relation to its operand;
    None: there is no such key, all its numbers are 0, and no value compares with it.
    """
    match guard.target:
        case "value":
            if version is None:
                return False
            assert not isinstance(version.value, Reference)  # whoever reads the facts fetches it
            return _relates(version.value, guard)
        case "create":
            return _relates(0 if version is None else version.create_revision, guard)
        case "mod":
            return _relates(0 if version is None else version.revision, guard)
        case "version":
            return _relates(0 if version is None else version.version, guard)
        case "lease":
            return _relates(0 if version is None else version.lease, guard)


def _relates(found: object, guard: Compare) -> bool:
    operand = guard.operand
    match guard.relation:
        case "=":
            return found == operand
        case "!=":
            return found != operand
        case "<":
            return found < operand  # type: ignore[operator]  # both of one type
        case ">":
            return found > operand  # type: ignore[operator]  # both of one type
