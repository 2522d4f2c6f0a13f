"""Plant faults by name, and take them out again.

A fault says which promise it breaks and what it puts in whose place: a method of a class, a
function or a class of a module. Nothing else of the product is changed for it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

Patch: TypeAlias = tuple[Any, str, Any]
"""A class or a module, the name of something in it, and what takes its place."""
Patches: TypeAlias = Iterator[Patch]
_MISSING: Final = object()


@dataclass(frozen=True)
class PlantedFault:
    """A mistake that somebody could make in the product."""

    name: str
    promise: str
    """What it breaks: INV-n, or a promise of Raft or of time."""
    patches: Callable[[], Patches]
    """Asked when it is planted, so that each finds what stands there then."""

    @property
    def about(self) -> str:
        """What the mistake is, in words."""
        return (self.patches.__doc__ or "").strip()


FAULTS: Final[dict[str, PlantedFault]] = {}
_planted: dict[str, list[Patch]] = {}
"""By fault, what stood where it stands now."""


def fault(promise: str, name: str = "") -> Callable[[Callable[[], Patches]], PlantedFault]:
    """Enter a fault, made by a generator of patches, under its name."""

    def enter(patches: Callable[[], Patches]) -> PlantedFault:
        entered = PlantedFault(name or patches.__name__, promise, patches)
        if entered.name in FAULTS:
            raise ValueError(f"two faults are called {entered.name!r}")
        FAULTS[entered.name] = entered
        return entered

    return enter


def subclass(promise: str, kind: type, owner: Any, attribute: str) -> PlantedFault:
    """Enter a class that stands in the place of the one it derives from, by what it is called."""

    def patches() -> Patches:
        yield owner, attribute, kind

    patches.__doc__ = kind.__doc__
    return fault(promise, re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower())(patches)


def plant(*names: str) -> None:
    """Plant faults for good, in this process."""
    for name in names:
        stood = _planted.setdefault(name, [])
        for owner, attribute, value in FAULTS[name].patches():
            stood.append((owner, attribute, vars(owner).get(attribute, _MISSING)))
            setattr(owner, attribute, value)


def uproot(*names: str) -> None:
    """Take planted faults out again: those planted last come first."""
    for name in reversed(names):
        for owner, attribute, value in reversed(_planted.pop(name)):
            if value is _MISSING:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, value)


@contextmanager
def planted(*names: str) -> Iterator[None]:
    """Plant faults for the length of a block."""
    if _planted:
        raise RuntimeError(f"planted already: {', '.join(_planted)}")
    plant(*names)
    try:
        yield
    finally:
        uproot(*names)


def is_planted(*names: str) -> bool:
    """Say whether any of these faults is planted now; without names: whether any is."""
    return any(name in _planted for name in names) if names else bool(_planted)
