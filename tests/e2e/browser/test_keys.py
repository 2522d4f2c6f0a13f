"""What a person can do with keys, transactions and operations, against a real node over a store in
memory; in two languages, in the dark, on a phone, and as those who see little hear it.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from acordo import Client
from tests.e2e.browser.conftest import NewPage
from tests.unit.node.conftest import Api, opened

AXE = gzip.decompress((Path(__file__).parent / "axe-core-4.14.1.min.js.gz").read_bytes()).decode()
"""axe-core by Deque Systems, MPL-2.0 (https://github.com/dequelabs/axe-core)."""
WAIT_MS = 60_000
"""The viewer is large, and a busy machine takes its time to read it."""
VIOLATIONS = """async () => (await axe.run(document)).violations
    .map((v) => `${v.id}: ${v.nodes.map((n) => n.target.join(" ")).join(", ")}`)"""


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with opened(kind="replicated") as made:
        yield made


async def some_keys(client: Client) -> None:
    for n in range(3):
        await client.put(f"orders/2026/{n}", f'{{"n":{n}, "big":12345678901234567890}}')
    await client.put("orders/latest", "2")
    await client.put(b"bin/\xff\x00", b"\x00\xffA")
    await client.put("doc", '{"a":1,"b":[1,2]}')
    await client.put("doc", '{"a":2,"b":[1,2]}')


async def value_in(page: Page, form: str) -> str:
    await page.select_option("#value-form-of", form)
    return await page.input_value("#value")


async def test_tree_formats_history_and_a_conflict(page: Page, api: Api) -> None:
    async with Client(api.url) as client:
        await some_keys(client)
        await page.goto(api.url + "/#keys")
        await expect(page.locator("#list-state")).to_contain_text("2 folders and 1 keys")
        await page.get_by_role("button", name="orders/", exact=True).press("Enter")
        await page.get_by_role("button", name="orders/2026/", exact=True).press("Enter")
        await page.get_by_role("button", name="orders/2026/1", exact=True).press("Enter")
        await expect(page.locator("#state")).to_contain_text("Revision 2, 35 bytes")
        assert page.url.endswith("/#keys/key/orders/2026/1")
        # numbers stay as they are written, and what was only looked at is sent as it was
        assert await value_in(page, "json") == '{\n  "n": 1,\n  "big": 12345678901234567890\n}'
        assert (await value_in(page, "hex")).startswith("7b 22 6e 22 3a 31 2c 20")
        await page.click("#put")
        await expect(page.locator("#state")).to_contain_text("Written")
        found = await client.get("orders/2026/1")
        assert found is not None
        assert found.text == '{"n":1, "big":12345678901234567890}'

        await page.goto(api.url + "/#keys/key/doc")
        await expect(page.locator("#state")).to_contain_text("Revision 7")
        await page.click("#history > summary")
        await expect(page.locator("#versions > li")).to_have_count(2)
        await page.locator("#versions summary").first.click()
        await expect(page.locator("#versions .removed")).to_have_text('-  "a": 1,')
        await expect(page.locator("#versions .added")).to_have_text('+  "a": 2,')
        await page.locator("#versions summary").last.click()
        restore = page.get_by_role("button", name="Put this value into the field")
        await expect(restore).to_have_count(2)
        await restore.last.click()
        await expect(page.locator("#value")).to_have_value(re.compile("^7b 22 61 22 3a 31"))

        theirs = await client.put("doc", "theirs")
        await page.select_option("#value-form-of", "text")
        await page.fill("#value", "mine")
        await page.click("#put")
        await expect(page.locator(".conflict .removed")).to_have_text("-theirs")
        await expect(page.locator(".conflict .added")).to_have_text("+mine")
        await expect(page.locator(".conflict")).to_contain_text(f"at revision {theirs.revision}")
        await client.put("doc", "theirs again")  # it is never written over unseen
        await page.get_by_role("button", name="Write mine over it").click()
        await expect(page.locator(".conflict .removed")).to_have_text("-theirs again")
        await page.get_by_role("button", name="Write mine over it").click()
        await expect(page.locator("#state")).to_contain_text("Written")
        found = await client.get("doc")
        assert found is not None
        assert found.text == "mine"


async def test_odd_bytes_folders_and_leases(page: Page, api: Api) -> None:
    async with Client(api.url) as client:
        lease = (await client.grant_lease(600)).id
        await client.put(b"\xff\xfe/a\xe2\x80\xaeb", b"v\r\n")
        await client.put("leased", "1", lease=lease)
        await page.goto(api.url + "/#keys/in/%FF%FE/")
        await expect(page.locator("#prefix")).to_have_value("base64://4v")
        await page.locator("#rows button").click()
        await expect(page.locator("#state")).to_contain_text("3 bytes")
        assert await value_in(page, "hex") == "76 0d 0a"
        await page.fill("#value", "76 0D 0a\n00 fF")
        await page.click("#put")
        await expect(page.locator("#state")).to_contain_text("Written")
        found = await client.get(b"\xff\xfe/a\xe2\x80\xaeb")
        assert found is not None
        assert found.value == b"v\r\n\x00\xff"
        await page.fill("#value", "7")
        await page.click("#put")
        await expect(page.locator("#key-problem")).to_contain_text("hexadecimal")
        await page.goto(api.url + "/#keys/key/leased")
        await expect(page.locator("#lease-name")).to_have_text(lease)
        assert await value_in(page, "text") == "1"
        await page.fill("#value", "2")
        await page.click("#put")
        await expect(page.locator("#state")).to_contain_text("Written")
        found = await client.get("leased")
        assert found is not None
        assert (found.text, found.lease) == ("2", lease)


async def test_a_transaction_and_its_way(page: Page, api: Api) -> None:
    async with Client(api.url) as client:
        await client.put("a", "1")
        await client.put("old", "x")
        await page.goto(api.url + "/#txn")
        await page.click("#add-guard")
        await page.fill("#guards input >> nth=0", "a")
        await page.select_option("#guards select", "value")
        await page.fill("#guards input >> nth=1", "1")
        await page.click("#add-write")
        await page.fill("#writes input >> nth=0", "base64:AP8=")
        await page.fill("#writes input >> nth=1", "2")
        await page.click("#add-write")
        await page.select_option("#writes li:nth-child(2) select", "delete")
        await page.fill("#writes li:nth-child(2) input >> nth=0", "old")
        await page.click("#add-read")
        await page.fill("#reads input", "a")
        await page.click("#txn-run")
        await page.click("#ask-txn-no")
        assert await client.get("old") is not None
        await page.click("#txn-run")
        await page.click("#ask-txn-yes")
        await expect(page.locator("#txn-done")).to_contain_text("It took effect at revision 3")
        await expect(page.locator(".reads")).to_have_text("a = 1")
        found = await client.get(b"\x00\xff")
        assert found is not None
        assert await client.get("old") is None
        await page.click("#txn-done a")
        await expect(page.locator("#timeline li")).to_have_count(4)
        await expect(page.locator("#timeline")).to_contain_text("at revision 3")
        await expect(page.locator("#timeline")).to_contain_text("row 3 of term 1, written by n1")
        await client.put("a", "changed")
        await page.click('#tabs a[href="#txn"]')
        await page.click("#txn-run")
        await page.click("#ask-txn-yes")
        await expect(page.locator("#txn-problem")).to_contain_text("guard 0 does not hold")
        await page.goto(api.url + "/#operations/never")
        await page.get_by_role("button", name="Cancel it for good").click()
        await expect(page.locator("#operation-state")).to_contain_text("never will")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_portuguese_on_a_phone_and_what_axe_says(
    new_page: NewPage, api: Api, scheme: str
) -> None:
    async with Client(api.url) as client:
        await some_keys(client)
    page = await new_page(locale="pt-BR", color_scheme=scheme)
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.goto(api.url + "/#keys/key/doc")
    await expect(page.locator("#state")).to_contain_text("Revisão 7")
    await expect(page.locator("#list-state")).to_contain_text("2 pastas e 1 chaves")
    await page.click("#history > summary")
    await page.locator("#versions summary").first.click()
    await page.fill("#key", "orders/latest")
    await page.click("#put")  # a conflict: it was not read
    await expect(page.locator(".conflict")).to_contain_text("o que você ia gravar")
    for tab in ("keys", "txn", "operations", "feed", "backends", "overview"):
        await page.click(f'#tabs a[href="#{tab}"]')
        if tab == "txn":
            for button in ("guard", "write", "otherwise", "read"):
                await page.click(f"#add-{button}")
        await page.evaluate(AXE)
        assert await page.evaluate(VIOLATIONS) == [], tab
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab
    assert await page.evaluate("document.documentElement.lang") == "pt-BR"
    await page.click("#language")
    await expect(page.locator('#tabs a[href="#keys"]')).to_have_text("Keys")
    await page.reload()
    await expect(page.locator('#tabs a[href="#keys"]')).to_have_text("Keys")


async def test_the_api_is_shown_without_asking_anyone_else(page: Page, api: Api) -> None:
    await page.goto(api.url + "/#keys")
    await page.click('footer a[href="/docs"]')
    await page.locator("#viewer .opblock").first.wait_for(timeout=WAIT_MS)
    await page.locator(".opblock-summary-path", has_text="/v1/history/").first.click()
    await page.fill('tr[data-param-name="key"] input', "doc")
    await page.get_by_role("button", name="Execute").click()
    await expect(page.locator(".live-responses-table")).to_contain_text('"items": []')


async def test_changes_are_told_as_they_happen_and_a_write_shows_its_way(
    page: Page, api: Api
) -> None:
    async with Client(api.url) as client:
        await page.goto(api.url + "/#feed")
        await expect(page.locator("#feed-state")).to_contain_text("Watching")
        await client.put(b"bin/\xff", "<b>bold</b>")
        await client.delete(b"bin/\xff")
        rows = page.locator("#feed-rows tr")
        await expect(rows.first).to_contain_text("deleted")
        await expect(rows.last).to_contain_text("base64 YmluL/8=")
        await expect(rows.last).to_contain_text("<b>bold</b>")
        await page.click("#way-do")
        await expect(page.locator("#way li")).to_have_count(5)
        await expect(page.locator("#way-words")).to_contain_text("A watcher was told")
        await expect(rows.first).to_contain_text("demo/way")
    await page.click('#tabs a[href="#backends"]')
    await expect(page.locator("#checks li", has_text="quorum")).to_contain_text("ok")
    await expect(page.locator("#disks tr")).to_have_count(1)
