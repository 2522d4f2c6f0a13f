"""A headless Chromium, one page per test, against an Acordo in memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from playwright.async_api import Page, async_playwright

from tests.services import needs
from tests.unit.acordo.fake_cluster import FakeCluster

PAGE = Path(__file__).parents[3] / "node" / "page"
CHROMIUM = os.environ.get("ACORDO_TEST_CHROMIUM")
"""Another one than the distribution's."""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(3, page=PAGE) as made:
        yield made


NewPage: TypeAlias = Callable[..., Awaitable[Page]]


@pytest.fixture
async def page(new_page: NewPage) -> Page:
    """A blank page."""
    return await new_page()


@pytest.fixture
async def new_page() -> AsyncIterator[NewPage]:
    """Make blank pages, each in a context of its own (`locale`, `color_scheme`, …). The test fails
    if one logs an error, breaks its policy, or asks anyone but nodes of this machine.
    """
    if not CHROMIUM:
        needs("chromium")
    troubles: list[str] = []
    asked: set[str] = set()

    async def make(**options: Any) -> Page:
        context = await browser.new_context(viewport={"width": 1180, "height": 900}, **options)
        made = await context.new_page()
        made.set_default_timeout(20_000)
        made.on("pageerror", lambda error: troubles.append(f"error: {error}"))
        made.on(
            "console",
            lambda message: troubles.append(message.text) if _is_trouble(message.text) else None,
        )
        made.on(
            "request",
            lambda request: asked.add(request.url.split("/")[2] if "//" in request.url else ""),
        )
        return made

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM or "/usr/bin/chromium", args=FLAGS
        )
        yield make
        await browser.close()
    assert troubles == []
    assert {where.partition(":")[0] for where in asked} <= {"127.0.0.1", ""}


def _is_trouble(text: str) -> bool:
    """Say whether the browser complains of the page itself; a refused or failed request it logs is
    the test's doing.
    """
    return "Content Security Policy" in text or (
        "Failed to load resource" not in text
        and "net::ERR" not in text
        and "/v1/activity' from origin"
        not in text  # of a node that only begins: it knows no members
    )
