"""Load a cluster that others run, of which only the URLs are known."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Final, Self

from typing_extensions import override

from acordo import AcordoError, Client
from chaos.targets.base import HEALTHY_WITHIN_S, PROBE_TIMEOUT_S, Target, majority_leader
from chaos.waiting import until

REACH_WITHIN_S: Final = 5.0


class UrlTarget(Target):
    """A cluster that others run: it can be loaded and judged, but not disturbed.

    `async with UrlTarget(urls)` raises AcordoError if a URL cannot be reached or is not an Acordo.
    """

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._urls = urls
        self.nodes: tuple[str, ...] = urls
        self._stack = contextlib.AsyncExitStack()
        self._clients: list[Client] = []

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            for url in self._urls:
                client = await stack.enter_async_context(
                    Client(url, retries=False, timeout_s=REACH_WITHIN_S)
                )
                await client.cluster()
                self._clients.append(client)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, exc, trace)

    @property
    @override
    def urls(self) -> tuple[str, ...]:
        return self._urls

    @property
    @override
    def looking_urls(self) -> tuple[str, ...]:
        return self._urls

    @property
    @override
    def abilities(self) -> frozenset[str]:
        return frozenset()

    @override
    async def leader(self) -> str | None:
        claims: list[str | None] = []
        for client in self._clients:
            with contextlib.suppress(AcordoError):
                claims.append((await client.cluster(timeout_s=PROBE_TIMEOUT_S)).leader)
        return majority_leader(claims, len(self.nodes))

    @override
    async def answers(self, node: str) -> bool:
        with contextlib.suppress(AcordoError):
            await self._clients[self.nodes.index(node)].cluster(timeout_s=PROBE_TIMEOUT_S)
            return True
        return False

    @override
    async def ready(self, node: str) -> bool:
        return await self.answers(node)

    @override
    async def healthy(self, within_s: float = HEALTHY_WITHIN_S) -> bool:
        async def whole() -> bool:
            return (
                all([await self.ready(n) for n in self.nodes]) and await self.leader() is not None
            )

        return await until(whole, within_s)
