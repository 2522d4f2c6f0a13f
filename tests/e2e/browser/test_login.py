"""Signing in and out in a real browser, at a node whose access is controlled."""

from __future__ import annotations

from playwright.async_api import Page, expect

from tests.unit.node.conftest import opened
from tests.unit.node.test_access import controlled


async def test_a_person_signs_in_reads_writes_and_signs_out(page: Page) -> None:
    async with opened(kind="replicated") as api:
        door = await controlled(api)
        await page.goto(f"{api.url}/#keys")
        await page.fill("#login-token", "acordo_wrong")
        await page.press("#login-token", "Enter")
        await expect(page.locator("#login-problem")).to_contain_text("Not signed in")
        await page.fill("#login-token", door.tokens["owner"])
        await page.press("#login-token", "Enter")
        await expect(page.locator("#signed-in")).to_contain_text("owner")
        await expect(page.locator("#login")).to_have_count(0)
        (kept,) = await page.context.cookies()
        assert kept["httpOnly"] and kept["sameSite"] == "Strict"
        assert await page.evaluate("document.cookie") == ""
        assert await page.evaluate("localStorage.length + sessionStorage.length") == 0
        script = "(path) => fetch(path, { method: 'PUT', body: 'by hand' }).then((a) => a.status)"
        assert await page.evaluate(script, "/v1/kv/a/1") == 200
        assert await page.evaluate(script, "/v1/kv/b/1") == 403
        await page.click("#sign-out")
        await expect(page.locator("#login-token")).to_be_visible()
        assert await page.evaluate(script, "/v1/kv/a/1") == 401
