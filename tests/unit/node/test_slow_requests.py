"""Slow requests are logged by route, and not more of them than somebody reads."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from node.http.request_metrics import SLOW_LINES_MAX, SLOW_WINDOW_S, RequestMetrics


async def test_a_request_that_took_longer_is_logged_without_its_key() -> None:
    timing = RequestMetrics(slow_s=0.5).timing("/v1/kv/{key}", "GET")
    with capture_logs() as logs:
        timing.note(200, 0.5)
        timing.note(200, None)  # a stream
        timing.note(504, 0.7512)
    assert logs == [
        {
            "event": "slow request",
            "log_level": "warning",
            "method": "GET",
            "route": "/v1/kv/{key}",
            "status": 504,
            "seconds": 0.751,
            "not_logged_before": 0,
        }
    ]


async def test_what_is_too_much_to_log_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, now = asyncio.get_running_loop(), 1000.0
    monkeypatch.setattr(loop, "time", lambda: now)
    metrics = RequestMetrics(slow_s=0.5)
    with capture_logs() as logs:
        for _ in range(SLOW_LINES_MAX):
            metrics.timing("/v1/txn", "POST").note(200, 1.0)
            metrics.timing("/v1/batch", "POST").note(200, 1.0)
        now += SLOW_WINDOW_S
        metrics.timing("/v1/txn", "POST").note(200, 1.0)
    assert len(logs) == SLOW_LINES_MAX + 1
    assert logs[-1]["not_logged_before"] == SLOW_LINES_MAX
