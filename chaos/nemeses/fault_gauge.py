"""Export the active faults to Prometheus; the dashboard draws them as windows.

This is one gauge on an HTTP port. For the stack in containers it listens on the gateway of the
engine's own bridge, where containers reach this machine. If the port or address is not available,
the windows are missing, but the run continues.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, start_http_server

PORT: Final = 9102


class Windows:
    """The gauge of active faults. It is not served until `shown` is entered."""

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
        """Serve the gauge; yield None, or the reason why it cannot be served."""
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
        """Mark a fault as active while the context is open."""
        active = self._active.labels(nemesis, ", ".join(whom))
        active.set(1)
        try:
            yield
        finally:
            active.set(0)


WINDOWS: Final = Windows()
"""The gauge of this process."""
