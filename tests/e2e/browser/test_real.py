"""The page as a real node serves it, while the leader is killed."""

from __future__ import annotations

from playwright.async_api import Page, expect

from acordo import Client
from tests.e2e.conftest import Start, until

WAIT_MS = 60_000


async def test_page_of_a_real_cluster(page: Page, start: Start) -> None:
    async with start(control=True) as cluster:
        urls = {node.id: node.url for node in cluster.nodes.values()}
        leader = await cluster.leader()
        assert leader is not None
        home = next(name for name in urls if name != leader)
        await page.goto(urls[home] + "/#keys")
        await expect(page.locator("#fact-leader")).to_have_text(leader)
        await expect(page.locator("#members li")).to_have_count(3)
        await page.fill("#key", "from the page/ä")
        await page.press("#key", "Enter")
        await expect(page.locator("#state")).to_contain_text("Absent (linearizable")
        await page.fill("#value", "hello")
        await page.press("#value", "Control+Enter")
        await expect(page.locator("#state")).to_contain_text("Created at revision")
        async with Client(urls[leader]) as client:
            found = await client.get("from the page/ä")
            assert found is not None
            assert found.text == "hello"
            theirs = await client.put("from the page/ä", "theirs")
        await page.fill("#value", "mine")
        await page.click("#put")
        await expect(page.locator("#key-problem")).to_contain_text("HTTP 412")
        await page.get_by_role("button", name="Get what is there now").click()
        await expect(page.locator("#guard-what")).to_have_text(f"at revision {theirs.revision}")
        await expect(page.locator("#value")).to_have_value("theirs")

        await page.goto(urls[home] + "/#overview")
        await page.get_by_role("button", name="Do it: Kill the leader").click()
        await expect(page.locator("#probe")).to_be_checked()

        async def another_leads() -> bool:
            return await page.locator("#fact-leader").text_content() not in (leader, "none known")

        await until(another_leads, "the page shows the new leader")
        # A stop of writes of less than 0.2 s is none that the probe tells.
        for told in (f"{leader} gone", "leads, term"):
            await expect(page.locator("#events")).to_contain_text(told, timeout=WAIT_MS)
        await expect(page.locator("#glance-failover")).to_contain_text(" ms", timeout=WAIT_MS)
        await page.uncheck("#probe")
        await page.goto(urls[home] + "/#keys")
        await page.fill("#value", "after the kill")
        await page.click("#put")
        await expect(page.locator("#state")).to_contain_text("Written at revision", timeout=WAIT_MS)
        await page.fill("#prefix", "from the page/")
        await page.press("#prefix", "Enter")
        # The rows of the root, the probe's folder among them, stand there until the answer comes.
        await expect(page.locator("#rows tr").filter(has_text="after the kill")).to_have_count(1)
        await page.click("#delete")
        await page.click("#ask-delete-yes")
        await expect(page.locator("#state")).to_contain_text("Deleted at revision")
