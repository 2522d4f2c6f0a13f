"""Detect two processes that use the same member id.

Pure: time arrives as an argument. It never mistakes a restart for a second process: both are known
to be alive only if the first still sends after the second has proved itself under the same id.
"""

from __future__ import annotations

from typing import Final, Literal

ALIVE_AFTER_S: Final = 0.9
"""Data that arrives from the first process more than this many seconds after the second has proved
itself cannot have been in transit before, so the first process is alive too.
"""
SEEN_S: Final = 5.0
"""Both processes are refused until only one of them has connected for this many seconds."""
PROCESSES_MAX: Final = 16


class IdUse:
    """The processes that were seen under one member id.

    Each process draws an incarnation at its start and sends it with its hello; it is empty if the
    process sends none.
    """

    def __init__(self) -> None:
        self._seen: dict[bytes, float] = {}
        self._contended_s: float | None = None
        self.duplicated = False

    def came(
        self, incarnation: bytes, connected: bytes | None, now_s: float
    ) -> Literal["in", "wait", "refused"]:
        """Judge a process that has proved itself while the process `connected` (None: none) has the
        connection.

        "wait" means that it must connect again. After a restart, the old connection may still look
        alive; it ends before long, and then the new process is admitted. If the old connection
        stays alive, there are two processes.
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
        """Say whether it has just become known that two processes are alive, given the time at
        which the connected one was last heard.
        """
        if self._contended_s is None or last_received_s <= self._contended_s + ALIVE_AFTER_S:
            return False
        self._contended_s = None
        self.duplicated = True
        return True

    def postpone(self, now_s: float) -> None:
        """Restart the measurement at `now_s`: this process was stalled, so data that it reads now
        may have arrived long ago.
        """
        if self._contended_s is not None:
            self._contended_s = now_s

    def lost(self) -> None:
        """Note that the connected process is gone."""
        self._contended_s = None
