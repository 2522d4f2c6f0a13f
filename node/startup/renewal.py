"""Take over certificates and keys that were changed on disk, without a restart, and tell when
certificates end.

Files that cannot be used are refused as a whole: what was read before goes on, and the log,
/readyz and /metrics say so until they can be used.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kv.errors import BadRequest

LOOK_EVERY_S: Final = 2.0
"""How often the files are looked at; SIGHUP makes it look at once."""

_log = structlog.get_logger("acordo.node")


class Renewable:
    """Files that are read together, and what takes them over when one of them has changed."""

    def __init__(self, name: str, files: Sequence[Path], renew: Callable[[], None]) -> None:
        """`renew` reads the files again and raises BadRequest, changing nothing, if they cannot be
        used.
        """
        self.name, self.files, self._renew = name, tuple(files), renew
        self._seen = self._state()
        self.trouble: str | None = None
        """Why what is on disk is not used; None: it is."""
        self.renewed_total = 0

    def look(self, *, asked: bool = False) -> None:
        """Take the files over if one has changed, or if they could not be used before; always when
        `asked`.
        """
        found = self._state()
        if found == self._seen and self.trouble is None and not asked:
            return
        fresh, self._seen = found != self._seen or asked, found
        try:
            self._renew()
        except BadRequest as exc:
            self.trouble = exc.detail
            if fresh:
                _log.error(
                    "changed files cannot be used, the earlier ones go on",
                    files=self.name, reason=exc.detail,
                )  # fmt: skip
            return
        self.trouble = None
        self.renewed_total += 1
        _log.info("changed files taken over", files=self.name)

    def _state(self) -> tuple[object, ...]:
        """Return what changes whenever a file is written, replaced or linked anew."""
        return tuple(_state_of(file) for file in self.files)


class Renewal(Collector):
    """Everything of a node that is renewed while it runs."""

    def __init__(self) -> None:
        self._parts: list[Renewable] = []
        self._certificates: dict[Path, float | None] = {}
        """When each certificate ends, in seconds since 1970; None: it cannot be read."""

    def add(self, part: Renewable, certificates: Iterable[Path | None] = ()) -> None:
        """Renew `part`, and tell when its `certificates` end."""
        self._parts.append(part)
        self._certificates |= dict.fromkeys(file for file in certificates if file is not None)
        self._read_ends()

    async def run(self) -> None:
        """Look at the files for ever."""
        loop, hung_up = asyncio.get_running_loop(), asyncio.Event()
        loop.add_signal_handler(signal.SIGHUP, hung_up.set)
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await hung_up.wait()
            except TimeoutError:
                pass
            self.look(asked=hung_up.is_set())
            hung_up.clear()

    def look(self, *, asked: bool = False) -> None:
        """Look at every file once."""
        before = sum(part.renewed_total for part in self._parts)
        for part in self._parts:
            part.look(asked=asked)
        if sum(part.renewed_total for part in self._parts) != before:
            self._read_ends()

    def trouble(self) -> str | None:
        """Describe files that could not be taken over, and certificates that have ended; None: all
        is well.
        """
        said = [f"{part.name}: {part.trouble}" for part in self._parts if part.trouble]
        now = time.time()
        said += [
            f"{file} has ended"
            for file, end in self._certificates.items()
            if end is not None and end <= now
        ]
        return "; ".join(said) or None

    def collect(self) -> Iterable[Metric]:
        """Yield when each certificate ends, and how the renewals went."""
        expires = GaugeMetricFamily(
            "acordo_certificate_expires_seconds",
            "Seconds until the first certificate in this file ends; below 0: it has.",
            labels=("file",),
        )
        now = time.time()
        for file, end in self._certificates.items():
            if end is not None:
                expires.add_metric((str(file),), end - now)
        refused = GaugeMetricFamily(
            "acordo_renewal_refused",
            "1 while changed files cannot be used and the earlier ones go on.",
            labels=("files",),
        )
        renewed = CounterMetricFamily(
            "acordo_renewals", "Times that changed files were taken over.", labels=("files",)
        )
        for part in self._parts:
            refused.add_metric((part.name,), float(part.trouble is not None))
            renewed.add_metric((part.name,), part.renewed_total)
        yield from (expires, refused, renewed)

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: the files are known only at a scrape."""
        return ()

    def _read_ends(self) -> None:
        self._certificates = {file: ends_at(file) for file in self._certificates}


def ends_at(file: Path) -> float | None:
    """Return when the first of a file's certificates ends, in seconds since 1970; None: it has
    none.
    """
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        return None
    return min(each.not_valid_after_utc.timestamp() for each in found)


def _state_of(file: Path) -> object:
    try:
        found = file.stat()
    except OSError as exc:
        return exc.errno
    return found.st_ino, found.st_size, found.st_mtime_ns
