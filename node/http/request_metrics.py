"""Count and time the requests that this node serves, for Prometheus. Labels are route templates,
never keys.

Requests are counted in plain integers and turned into metric families at a scrape, so that a
request costs two dictionary look-ups and a bisection.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

BUCKETS_S: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)


SLOW_LINES_MAX: Final = 20
"""Most lines about slow requests in SLOW_WINDOW_S; those beyond are counted in the next one."""
SLOW_WINDOW_S: Final = 10.0

_log = structlog.get_logger("acordo.http")


class Named(Protocol):
    """A request that its client may have named."""

    @property
    def request_id(self) -> str | None:
        """The name; None: it gave none."""
        ...


class SlowRequests:
    """The log of requests that took longer than `over_s`: where they went, and for how long. Never
    a key: keys may be personal data, and a log outlives them.
    """

    def __init__(self, over_s: float) -> None:
        self.over_s = over_s
        self._began = -SLOW_WINDOW_S
        self._lines = self._left_out = 0

    def note(
        self, route: str, method: str, status: int, seconds: float, request_id: str | None = None
    ) -> None:
        """Log a request, unless there are too many of them."""
        now = asyncio.get_running_loop().time()
        if now - self._began >= SLOW_WINDOW_S:
            self._began, self._lines = now, 0
        if self._lines >= SLOW_LINES_MAX:
            self._left_out += 1
            return
        self._lines += 1
        left_out, self._left_out = self._left_out, 0
        _log.warning(
            "slow request",
            method=method,
            route=route,
            status=status,
            seconds=round(seconds, 3),
            **({} if request_id is None else {"request_id": request_id}),
            not_logged_before=left_out,
        )


class Timing:
    """Counters of one route and method: answers by status, and how long they took."""

    __slots__ = ("_method", "_route", "_slow", "_slow_s", "buckets", "statuses", "sum_s")

    def __init__(self, route: str, method: str, slow: SlowRequests) -> None:
        self._route, self._method = route, method
        self._slow, self._slow_s = slow, slow.over_s
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def note(self, status: int, seconds: float | None, of: Named | None = None) -> None:
        """Count an answer, of a request. `seconds` is None for a stream, whose duration says
        nothing.
        """
        self.statuses[status] = self.statuses.get(status, 0) + 1
        if seconds is None:
            return
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds
        if seconds > self._slow_s:
            request_id = None if of is None else of.request_id
            self._slow.note(self._route, self._method, status, seconds, request_id)


class RequestMetrics(Collector):
    """The request metrics of one node, and the further sources given to `add`."""

    def __init__(
        self, registry: CollectorRegistry | None = None, *, slow_s: float = float("inf")
    ) -> None:
        """`slow_s`: requests that take longer are logged."""
        self.registry = CollectorRegistry() if registry is None else registry
        self._slow = SlowRequests(slow_s)
        self._timings: dict[tuple[str, str], Timing] = {}
        self._sources: list[Callable[[], Iterable[Metric]]] = []
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(self)

    def timing(self, route: str, method: str) -> Timing:
        """Return the counters of a route and a method."""
        timing = self._timings.get((route, method))
        if timing is None:
            timing = Timing(route, method, self._slow)
            self._timings[route, method] = timing
        return timing

    def add(self, source: Callable[[], Iterable[Metric]]) -> None:
        """Collect `source` at every scrape too."""
        self._sources.append(source)

    def collect(self) -> Iterable[Metric]:
        """Yield every metric family."""
        requests = CounterMetricFamily(
            "acordo_http_requests", "Requests answered.", labels=("route", "method", "status")
        )
        seconds = HistogramMetricFamily(
            "acordo_http_request_seconds", "Time from head to answer.", labels=("route", "method")
        )
        for (route, method), timing in sorted(self._timings.items()):
            for status, count in sorted(timing.statuses.items()):
                requests.add_metric((route, method, str(status)), count)
            total, cumulated = 0, []
            for bound, count in zip((*BUCKETS_S, float("inf")), timing.buckets, strict=True):
                total += count
                cumulated.append(("+Inf" if bound == float("inf") else str(bound), total))
            seconds.add_metric((route, method), cumulated, timing.sum_s)
        yield requests
        yield seconds
        for source in self._sources:
            yield from source()

    def describe(self) -> Iterable[Metric]:
        """Yield nothing: the families are known only at a scrape."""
        return ()


def gauge(name: str, text: str, value: float, **labels: str) -> Metric:
    """Return a gauge with one value."""
    family = GaugeMetricFamily(name, text, labels=tuple(labels))
    family.add_metric(tuple(labels.values()), value)
    return family


def counter(name: str, text: str, value: float) -> Metric:
    """Return a counter with one value."""
    return CounterMetricFamily(name, text, value=value)
