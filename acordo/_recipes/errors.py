"""The errors of recipes."""

from __future__ import annotations

from acordo._errors import AcordoError


class NotHeld(AcordoError):
    """It is not held: it was not acquired, or was released."""

    advice = "acquire it first; nothing was changed"


class NotAcquired(NotHeld):
    """It was not acquired in time: others hold it."""

    advice = "try again later; nothing was changed"


class Lost(NotHeld):
    """It was held, and may be somebody else's by now: its lease has ended, or could not be kept
    alive in time.
    """

    advice = "stop what it protected; a guard or a fencing token refuses what comes too late"
