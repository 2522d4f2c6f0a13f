"""Run tests of the client in both of its forms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Self

import pytest

from acordo import SyncClient
from acordo._sync._watch import Watch

_END = object()


class InThreads:
    """A SyncClient with the face of a Client: each call runs in a thread."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._client = SyncClient(*arguments, **named)

    async def __aenter__(self) -> Self:
        self._client.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._client.close()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found
        if name in ITERATES:
            return lambda *a, **k: _iterated(lambda: found(*a, **k))
        return lambda *a, **k: asyncio.to_thread(found, *a, **k)


ITERATES = {
    *("list", "pages", "keys", "history", "watch", "leases"),
    *("ledger", "backup", "inspect", "children"),
}


class WatchInThreads:
    """A watch of the synchronous client, in threads."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._watch = Watch(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._watch, name)
        return (lambda: _iterated(found)) if callable(found) else found


def _iterated(make: Callable[[], Iterator[Any]]) -> AsyncIterator[Any]:
    source = make()  # a call that is refused at once is refused here too

    async def items() -> AsyncIterator[Any]:
        while (item := await asyncio.to_thread(next, source, _END)) is not _END:
            yield item

    return items()


@pytest.fixture(params=["async", "sync"])
def both_forms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the module's `Client` be each form of it."""
    if request.param == "sync":
        monkeypatch.setattr(request.module, "Client", InThreads)
        monkeypatch.setattr(request.module, "Watch", WatchInThreads, raising=False)
    form: str = request.param
    return form
