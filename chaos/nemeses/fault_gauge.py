"""Tell Prometheus which faults hold at the moment: what the dashboard draws as windows.

One gauge on an HTTP port. For the stack in containers it listens where containers reach this
machine, the gateway of the engine's own bridge; a port or address that cannot be had costs the
windows and never the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, start_http_server

PORT: Final = 9102


class Windows:
    """The faults that hold at the moment. Nobody is told of them until they are `shown`."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._active = Gauge(
            "acordo_chaos_active",
            "1 while this fault is inflicted.",
            ("nemesis", "whom"),
            registry=self._registry,
        )

    @contextlib.contextmanager
    def shown(self, host: str, port: int = PORT) -> Iterator[str | None]:
        """Serve them; yield what keeps that from working, or None."""
        try:
            server, thread = start_http_server(port, host, registry=self._registry)
        except OSError as exc:
            yield f"{host}:{port}: {exc.strerror}"
            return
        try:
            yield None
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    @contextlib.contextmanager
    def window(self, nemesis: str, whom: tuple[str, ...] = ()) -> Iterator[None]:
        """Say that a fault holds, for as long as this is open."""
        active = self._active.labels(nemesis, ", ".join(whom))
        active.set(1)
        try:
            yield
        finally:
            active.set(0)


WINDOWS: Final = Windows()
"""Of this process."""
