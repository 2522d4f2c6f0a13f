"""Notice two processes that use one member id.

Pure: time arrives as an argument. It never takes a restart for a second process: only who is heard
after another had proved itself under the same id shows that both are alive.
"""

from __future__ import annotations

from typing import Final, Literal

ALIVE_AFTER_S: Final = 0.9
"""What comes from the first process so long after the second has proved itself was not on its way
before: the first one is alive too.
"""
SEEN_S: Final = 5.0
"""Both are refused until only one of them has come for so long."""
PROCESSES_MAX: Final = 16


class IdUse:
    """The processes that were seen under one member id.

    Each draws an incarnation at its start, and says it with its hello; it is empty if the process
    does not say.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, float] = {}
        self._contended_s: float | None = None
        self.duplicated = False

    def came(
        self, incarnation: bytes, connected: bytes | None, now_s: float
    ) -> Literal["in", "wait", "refused"]:
        """Judge a process that has proved itself while `connected` (None: nobody) holds the
        connection.

        "wait": it is to come again. After a restart the old connection may be half-dead; it ends
        before long, and the new process is let in. If it lives on, there are two processes.
        """
        self._seen = {who: at for who, at in self._seen.items() if now_s - at < SEEN_S}
        if len(self._seen) < PROCESSES_MAX:
            self._seen[incarnation] = now_s
        if self.duplicated:
            self.duplicated = len(self._seen) > 1
            if self.duplicated:
                return "refused"
        if not incarnation or not connected or incarnation == connected:
            return "in"
        if self._contended_s is None:
            self._contended_s = now_s
        return "wait"

    def heard(self, last_received_s: float) -> bool:
        """Say whether it is now known that two are alive: the connected one was last heard then."""
        if self._contended_s is None or last_received_s <= self._contended_s + ALIVE_AFTER_S:
            return False
        self._contended_s = None
        self.duplicated = True
        return True

    def postpone(self, now_s: float) -> None:
        """Count from now: this process stood still, and what it reads may have waited meanwhile."""
        if self._contended_s is not None:
            self._contended_s = now_s

    def lost(self) -> None:
        """Note that the connected one is gone."""
        self._contended_s = None
