# Made by `make sync` from acordo/_recipes/view.py; do not edit.
"""A view of all keys under a prefix, kept in memory and up to date by their changes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Self

from acordo._errors import AcordoError, Pruned
from acordo._intents import Bytes, as_bytes
from acordo._results import Change, Found
from acordo._sync._client import SyncClient
from acordo._sync._recipes.background import Background, Flag

WAIT_S: Final = 2.0
"""Longest wait for a change: leaving the block may have to wait for its end."""
RETRY_S: Final = 0.2
LOOK_S: Final = 0.05


class View:
    """The keys under a prefix as of one revision, which moves on by itself while the block runs.

        with View(client, "config/") as view:
            print(view.keys.get(b"config/colour"))

    It is never wrong, but may be late: `revision` says as of when it is, and `reached` waits until
    it is as of a revision of yours.
    """

    def __init__(self, client: SyncClient, prefix: Bytes) -> None:
        self._client, self._prefix = client, as_bytes(prefix, "prefix")
        self._found: dict[bytes, Found | Change] = {}
        self._position = ""
        self._background: Background | None = None
        self.revision = 0
        """Everything up to here is in `keys`, and nothing after it."""

    @property
    def keys(self) -> Mapping[bytes, Found | Change]:
        """The keys with what is known of them: `value`, `revision`, `lease`, `expires_at`."""
        return MappingProxyType(self._found)

    def __enter__(self) -> Self:
        self._list()
        stopping = Flag()

        def run() -> None:
            self._follow(stopping)

        self._background = Background(run, stopping)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._background is not None:
            self._background.stop()

    def reached(self, revision: int, *, timeout_s: float | None = None) -> bool:
        """Wait until the view is as of a revision, at most so long; return whether it is."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.revision < revision:
            if deadline is not None and time.monotonic() >= deadline:
                return False
            Flag().wait(LOOK_S)
        return True

    def _list(self) -> None:
        found: dict[bytes, Found | Change] = {}
        revision = 0
        for page in self._client.pages(self._prefix):
            found |= {each.key: each for each in page.found}
            revision = page.revision
        self._found, self._position, self.revision = found, str(revision), revision

    def _follow(self, stopping: Flag) -> None:
        while not stopping.is_set():
            try:
                news = self._client.poll(self._prefix, after=self._position, wait_s=WAIT_S)
                # as one step for readers: a revision is never seen in part
                found = dict(self._found)
                for event in news.events:
                    if event.kind == "put":
                        found[event.key] = event
                    else:
                        found.pop(event.key, None)
                self._found = found if news.events else self._found
                self._position, self.revision = news.position, news.revision
            except Pruned:  # what was told is void, or too old: begin anew
                self._relist(stopping)
            except AcordoError:
                stopping.wait(RETRY_S)

    def _relist(self, stopping: Flag) -> None:
        try:
            self._list()
        except AcordoError:
            stopping.wait(RETRY_S)
