"""What a person can do with the page, and what it says when things go wrong."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable

import pytest
from aiohttp import web
from playwright.async_api import Page, Route, expect

from acordo import Client, put
from tests.unit.acordo.fake_cluster import FakeCluster, Trouble, problem


async def open_page(page: Page, cluster: FakeCluster, tab: str = "keys") -> None:
    await page.goto(f"{cluster.urls[0]}/#{tab}")
    await expect(page.locator("#fact-leader")).to_have_text(cluster.leader or "none known")


async def get(page: Page, key: str) -> None:
    await page.fill("#key", key)
    await page.press("#key", "Enter")


async def delete(page: Page) -> None:
    await page.click("#delete")
    await page.click("#ask-delete-yes")


async def style_of(page: Page, selector: str, name: str) -> str:
    script = (
        "([selector, name]) => "
        "getComputedStyle(document.querySelector(selector)).getPropertyValue(name)"
    )
    return str(await page.evaluate(script, [selector, name]))


def puts_get(answer: web.StreamResponse | str) -> Trouble:
    return lambda request: answer if request.method == "PUT" else None


REACHABLE = """async ([here, advertised, own]) =>
    (await import("/page/cluster.js")).reachableFrom(here, advertised, own)"""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_shows_who_leads_and_how_far_each_member_is_live(
    page: Page, cluster: FakeCluster
) -> None:
    await open_page(page, cluster, "overview")
    await expect(page.locator("#members li")).to_have_count(3)
    await expect(page.locator("li[data-member=n1] .badge")).to_have_text("leader")
    async with Client(cluster.urls) as client:
        for n in range(12):
            await client.put(f"k{n}", "v")
    await expect(page.locator("#fact-revision")).to_have_text("12")
    await expect(page.locator("li[data-member=n2] .figures")).to_contain_text("settled 12")
    cluster.leader = "n3"
    await expect(page.locator("#fact-leader")).to_have_text("n3")
    await expect(page.locator("li[data-member=n3]")).to_have_class("member leader")


async def test_tolerates_dead_members_no_leader_and_a_dead_node(
    page: Page, cluster: FakeCluster
) -> None:
    await open_page(page, cluster, "overview")
    cluster.dead.add("n3")
    await expect(page.locator("li[data-member=n3]")).to_have_class("member dead", timeout=1000)
    await expect(page.locator("#cluster-trouble")).to_contain_text("Not heard of: n3")
    await expect(page.locator("li[data-member=n3] .badge")).to_have_text("silent")
    await expect(page.locator("#glance-state")).to_have_text("Degraded")
    await expect(page.locator("#events li").first).to_contain_text("n3 gone")
    cluster.leader = None
    await expect(page.locator("#cluster-trouble")).to_contain_text("This node knows no leader yet")
    await expect(page.locator("#glance-state")).to_have_text("No leader")
    cluster.dead.add("n1")  # the node that serves the page: it goes on through another
    await expect(page.locator("#answered-by")).to_have_text("n1 is gone: answered by n2")
    assert "grayscale(1)" in await style_of(page, "header", "filter")
    link = page.get_by_role("link", name="its page")
    await expect(link).to_have_attribute("href", cluster.urls[1] + "/")
    cluster.dead.add("n2")
    await expect(page.locator("#cluster-trouble")).to_contain_text(
        "does not say how the cluster is"
    )
    await expect(page.locator("#glance-state")).to_have_text("No answer")
    await expect(page.locator("#members li")).to_have_count(3)
    # nothing of it is known to be so any more
    assert "grayscale(1)" in await style_of(page, "#members", "filter")
    cluster.dead.clear()
    cluster.leader = "n2"
    await expect(page.locator("#fact-leader")).to_have_text("n2")
    await expect(page.locator("#cluster-trouble")).to_be_hidden()
    await expect(page.locator("#answered-by")).to_have_text("answered by n1")


async def test_the_event_line_tells_a_fail_over_with_its_outage(
    page: Page, cluster: FakeCluster
) -> None:
    """Of a node's own figures, for nobody switched the probe on."""
    cluster.acknowledged = 1000
    await open_page(page, cluster, "overview")
    await expect(page.locator("#events-none")).to_be_visible()
    await expect(page.locator("#glance-failover")).to_have_text("none yet")
    cluster.dead.add("n1")
    now_ms = int(time.time() * 1000)
    cluster.leader, cluster.term = "n2", 2
    cluster.waits = [{"ended_ms": now_ms, "lasted_ms": 380, "writes": 3}]
    cluster.leaderships = [
        {"leader": "n2", "term": 2, "since_ms": now_ms, "former": "n1", "silent_ms": 300}
    ]
    told = "n1 gone · n2 leads, term 2 · writes stopped 0.38 s"
    await expect(page.locator("#events .story").last).to_have_text(told)
    await expect(page.locator("#glance-failover")).to_have_text("380 ms")


async def test_says_why_the_node_is_not_ready_and_what_a_person_can_do(
    page: Page, cluster: FakeCluster
) -> None:
    await open_page(page, cluster, "overview")
    cluster.unready = [
        {"check": "member", "code": "disk_lost", "why": "replace it by one with a new id"}
    ]
    await expect(page.locator("#cluster-trouble")).to_have_text(
        "n1 is not ready: replace it by one with a new id."
    )
    cluster.refusal = "the store is behind"
    await expect(page.locator("#cluster-trouble")).to_contain_text("acordo adopt")


async def test_says_when_machines_differ(page: Page, cluster: FakeCluster) -> None:
    cluster.digests["n2"] = "ff" * 32
    await open_page(page, cluster, "overview")
    await expect(page.locator("li[data-member=n2] .digest")).to_contain_text("DIFFERS")


async def test_put_get_delete_by_keyboard(page: Page, cluster: FakeCluster) -> None:
    await open_page(page, cluster)
    await get(page, "orders/17 ä?")
    await expect(page.locator("#state")).to_contain_text("Absent")
    await expect(page.locator("#guard-what")).to_have_text("absent")
    await page.fill("#value", "two loaves")
    await page.press("#value", "Control+Enter")
    await expect(page.locator("#state")).to_have_text("Created at revision 1.")
    assert cluster.at("orders/17 ä?".encode())[1] == b"two loaves"
    await page.fill("#value", "")
    await get(page, "orders/17 ä?")
    await expect(page.locator("#value")).to_have_value("two loaves")
    await expect(page.locator("#state")).to_contain_text("Revision 1, 10 bytes")
    await page.focus("#delete")
    await page.keyboard.press("Enter")
    await expect(page.locator("#ask-delete-key")).to_have_text("orders/17 ä?")
    await page.keyboard.press("Enter")  # the button that keeps it has the focus
    await expect(page.locator("#ask-delete")).to_be_hidden()
    assert cluster.at("orders/17 ä?".encode())[1] == b"two loaves"
    await page.focus("#delete")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("#state")).to_have_text("Deleted at revision 2.")
    assert cluster.at("orders/17 ä?".encode())[1] is None


async def test_compare_and_set_protects_what_others_wrote(page: Page, cluster: FakeCluster) -> None:
    await open_page(page, cluster)
    async with Client(cluster.urls) as client:
        await client.put("k", "mine")
        await get(page, "k")
        await expect(page.locator("#guard-what")).to_have_text("at revision 1")
        await client.put("k", "theirs")
        await page.fill("#value", "overwritten")
        await page.click("#put")
        await expect(page.locator("#key-problem")).to_contain_text("HTTP 412")
        await delete(page)
        await expect(page.locator("#key-problem")).to_contain_text("HTTP 412")
        assert cluster.at(b"k")[1] == b"theirs"
        await page.get_by_role("button", name="Get what is there now", exact=True).click()
        await expect(page.locator("#value")).to_have_value("theirs")
        await page.fill("#value", "on purpose")
        await page.click("#put")
        await expect(page.locator("#state")).to_contain_text("Written at revision")
        assert cluster.at(b"k")[1] == b"on purpose"
        await client.put("k", "theirs again")
        await page.uncheck("#guard")
        await page.fill("#value", "whatever")
        await page.click("#put")
        await expect(page.locator("#key-problem")).to_be_hidden()
        await until(lambda: cluster.at(b"k")[1] == b"whatever")


async def test_a_key_that_was_not_read_is_only_created(page: Page, cluster: FakeCluster) -> None:
    await open_page(page, cluster)
    async with Client(cluster.urls) as client:
        await client.put("taken", "theirs")
    for key, told in (("new", "Created at revision 2"), ("taken", "HTTP 412")):
        await page.fill("#key", key)
        await expect(page.locator("#guard-what")).to_have_text("absent: it was not read")
        await page.fill("#value", "mine")
        await page.click("#put")
        await expect(page.locator("#state" if key == "new" else "#key-problem")).to_contain_text(
            told
        )
    assert cluster.at(b"taken")[1] == b"theirs"
    await page.fill("#key", "other")
    await page.click("#delete")
    await expect(page.locator("#key-problem")).to_contain_text("not read yet")


HOSTILE = (
    b"nk/a\nb",
    b"nk/a\r\nb",
    b"nk/\xe2\x80\xaegnp.exe",
    b"nk/nul\x00",
    b"nk/tab\t",
    b"nk/\xef\xbb\xbfbom",
    b"nk/\\n",
)


async def test_acts_on_the_key_that_was_clicked(page: Page, cluster: FakeCluster) -> None:
    """A control strips ends of lines: what it cannot hold byte for byte is edited as base64."""
    async with Client(cluster.urls) as client:
        for key in (*HOSTILE, b"nk/ab"):
            await client.put(key, key)
    await open_page(page, cluster)
    for key in HOSTILE:
        await page.fill("#prefix", "nk/")
        await page.click("#list-form button")
        await expect(
            page.locator(f'tr[data-key="{base64.b64encode(key).decode()}"]')
        ).to_be_visible()
        await page.click(f'tr[data-key="{base64.b64encode(key).decode()}"] button')
        await expect(page.locator("#state")).to_contain_text(f"{len(key)} bytes")
        await page.click("#put")  # nothing typed: nothing changed
        await expect(page.locator("#state")).to_contain_text("Written")
        assert cluster.at(key)[1] == key
        await delete(page)
        await expect(page.locator("#state")).to_contain_text("Deleted")
        assert cluster.at(key)[1] is None
    assert cluster.at(b"nk/ab")[1] == b"nk/ab"


@pytest.mark.parametrize(
    "value",
    [b"a\r\nb\r\n", b"a\rb", b"\xef\xbb\xbfbom", b"a\x00b", b"\xe2\x80\xaeabc", b"two\nlines\t"],
)
async def test_unchanged_bytes_are_sent_unchanged(
    page: Page, cluster: FakeCluster, value: bytes
) -> None:
    async with Client(cluster.urls) as client:
        await client.put("k", value)
    await open_page(page, cluster)
    await get(page, "k")
    form = "text" if value == b"two\nlines\t" else "base64"
    await expect(page.locator("#value-form-of")).to_have_value(form)
    await page.click("#put")
    await expect(page.locator("#state")).to_contain_text("Written")
    assert cluster.at(b"k")[1] == value
    if form == "base64":  # and it is not changed behind one's back by being shown as text
        await page.select_option("#value-form-of", "text")
        await expect(page.locator("#key-problem")).to_contain_text("without changing it")
        await expect(page.locator("#value-form-of")).to_have_value("base64")


async def test_hidden_characters_are_shown_escaped(page: Page, cluster: FakeCluster) -> None:
    async with Client(cluster.urls) as client:
        await client.put("a\u202eb\nc", "v\u0000\u2066w")
        await client.put("a\\u{202e}b\\nc", "plain")
    await open_page(page, cluster)
    await page.click("#list-form button")
    buttons = page.locator("#rows button")
    await expect(buttons.nth(0)).to_have_text("a\\u{202e}b\\nc")
    await expect(page.locator("#rows tr").nth(0).locator(".escape")).to_have_count(0)
    await expect(buttons.nth(1)).to_have_text("a\\u{202e}b\\nc")
    await expect(buttons.nth(1).locator(".escape")).to_have_count(2)  # and so unlike the plain text
    await expect(page.locator("#rows tr").nth(1).locator(".preview")).to_have_text(
        "v\\u{0}\\u{2066}w"
    )
    await buttons.nth(1).click()
    await expect(page.locator("#key-shown")).to_have_text("This is a\\u{202e}b\\nc")


async def test_the_former_value_does_not_stay_under_another_key(
    page: Page, cluster: FakeCluster
) -> None:
    async with Client(cluster.urls) as client:
        await client.put("k", "former")
        cluster.expires_ms[b"k"] = cluster.log_time_ms + 500_000
    await open_page(page, cluster)
    await get(page, "k")
    await expect(page.locator("#value")).to_have_value("former")
    await page.fill("#key", "another")
    await expect(page.locator("#value")).to_have_value("")
    await expect(page.locator("#ttl")).to_have_value("")
    await get(page, "k")
    await expect(page.locator("#value")).to_have_value("former")
    await page.fill("#value", "edited")
    await get(page, "absent")
    await expect(page.locator("#state")).to_contain_text("Absent")
    await expect(page.locator("#value")).to_have_value("")


async def test_what_comes_late_is_not_shown_under_another_key(
    page: Page, cluster: FakeCluster
) -> None:
    async with Client(cluster.urls) as client:
        await client.put("slow", "slow's")
    await open_page(page, cluster)
    gate = asyncio.Event()

    async def held(route: Route) -> None:
        await gate.wait()
        await route.continue_()

    await page.route("**/v1/kv/slow", held)
    await get(page, "slow")
    await page.fill("#key", "other")
    gate.set()
    await expect(page.locator("#state")).to_contain_text("changed meanwhile")
    await expect(page.locator("#value")).to_have_value("")


async def test_a_ttl_is_kept(page: Page, cluster: FakeCluster) -> None:
    async with Client(cluster.urls) as client:
        await client.put("lock", "v")
    cluster.expires_ms[b"lock"] = cluster.log_time_ms + 500_000
    await open_page(page, cluster)
    await get(page, "lock")
    await expect(page.locator("#state")).to_contain_text("expires in ")
    await page.fill("#value", "w")
    await page.click("#put")
    await expect(page.locator("#state")).to_contain_text("Written")
    await page.fill("#ttl", "")  # on purpose: for ever
    await page.click("#put")
    await until(lambda: len(cluster.ttls) == 3)
    assert 300 < float(cluster.ttls[1]) < 502
    assert cluster.ttls[2] == ""


async def test_counts_acknowledged_writes_and_not_what_is_caught_up(
    page: Page, cluster: FakeCluster
) -> None:
    await open_page(page, cluster, "overview")
    await expect(page.locator("#fact-rate")).to_have_text("0.0/s")
    cluster.revision = 25_000  # a restarted node catches up
    await expect(page.locator("#fact-revision")).to_have_text("25,000")
    await expect(page.locator("#fact-rate")).to_have_text("0.0/s")
    assert cluster.acknowledged is not None
    cluster.acknowledged += 5000
    await expect(page.locator("#fact-rate")).not_to_have_text("0.0/s")
    cluster.acknowledged = None
    await expect(page.locator("#fact-rate")).to_have_text("–")


async def test_links_are_those_that_this_browser_reaches(page: Page, cluster: FakeCluster) -> None:
    """An advertised loopback address is of use on that machine alone."""
    await open_page(page, cluster)
    far = {"hostname": "far.example", "port": "8001"}
    for here, advertised, own, reached in (
        (
            {"hostname": "127.0.0.1", "port": "8001"},
            "http://127.0.0.1:8002",
            "http://127.0.0.1:8001",
            "http://127.0.0.1:8002/",
        ),
        (far, "http://n2.example:8002", "http://127.0.0.1:8001", "http://n2.example:8002/"),
        (far, "http://127.0.0.1:8002", "http://127.0.0.1:8001", "http://far.example:8002/"),
        (far | {"port": "80"}, "http://127.0.0.1:8002", "http://127.0.0.1:8001", None),
        (far, "javascript:alert(1)", "http://127.0.0.1:8001", None),
        (far, None, None, None),
    ):
        assert await page.evaluate(REACHABLE, [here, advertised, own]) == reached


async def test_unknown_outcomes_are_never_called_failed(page: Page, cluster: FakeCluster) -> None:
    """The answer is lost after the write took effect: trying again with the same op_id writes
    nothing twice.
    """
    await open_page(page, cluster)
    await page.uncheck("#guard")
    await page.fill("#key", "k")
    await page.fill("#value", "v")
    cluster.trouble = puts_get("drop")
    await page.click("#put")
    await expect(page.locator("#key-problem")).to_contain_text("Outcome unknown")
    cluster.trouble = puts_get(problem(503, "no_leader", outcome="not_applied"))
    await page.get_by_role("button", name="Try again", exact=True).click()
    await expect(page.locator("#key-problem")).to_contain_text("no_leader")
    await expect(page.get_by_role("button", name="Look it up")).to_be_visible()
    cluster.trouble = lambda request: None
    await page.get_by_role("button", name="Try again", exact=True).click()
    await expect(page.locator("#state")).to_have_text(
        "Created at revision 1 (an earlier attempt had done it)."
    )
    assert cluster.applied == 1


async def test_unknown_outcomes_can_be_looked_up(page: Page, cluster: FakeCluster) -> None:
    await open_page(page, cluster)
    await page.uncheck("#guard")
    await page.fill("#key", "k")
    lost: tuple[tuple[web.StreamResponse | str, str], ...] = (
        ("drop", "It was applied, at revision 1."),
        (
            problem(504, "outcome_unknown", outcome="unknown"),
            "It was not applied, and never will be",
        ),
    )
    for answer, told in lost:
        cluster.trouble = puts_get(answer)
        await page.click("#put")
        await page.get_by_role("button", name="Look it up", exact=True).click()
        if not isinstance(answer, str):  # never ordered: a person may give it up
            await expect(page.locator("#key-problem")).to_contain_text("Not applied so far")
            await page.get_by_role("button", name="Give it up", exact=True).click()
        await expect(page.locator("#state")).to_contain_text(told)


async def test_problems_are_readable(page: Page, cluster: FakeCluster) -> None:
    await open_page(page, cluster)
    bad = {"detail": "ttl is <b>negative</b>", "allowed": "more than 0", "advice": "fix it"}
    cluster.trouble = puts_get(problem(400, "bad_ttl", **bad))
    await page.uncheck("#guard")
    await page.fill("#key", "k")
    await page.fill("#ttl", "-1")
    await page.click("#put")
    box = page.locator("#key-problem")
    for text in ("ttl is <b>negative</b>", "allowed: more than 0", "fix it", "HTTP 400"):
        await expect(box).to_contain_text(text)
    await get(page, "..")
    await expect(box).to_contain_text("command line")
    assert cluster.applied == 0


async def test_lists_by_prefix_with_pages_at_one_revision(page: Page, cluster: FakeCluster) -> None:
    async with Client(cluster.urls) as client:
        await client.batch([put(f"p/{n:02}", f"value {n}") for n in range(23)])
        await client.put("other", "x")
        await open_page(page, cluster)
        await page.select_option("#limit", "10")
        await page.fill("#prefix", "p/")
        await page.press("#prefix", "Enter")
        rows = page.locator("#rows tr")
        await expect(page.locator("#list-state")).to_have_text(
            "10 keys (page 1, as of revision 24)."
        )
        await expect(rows.first).to_contain_text("p/00")
        await client.put("p/00a", "late")
        await page.click("#next")
        await page.click("#next")
        await expect(page.locator("#list-state")).to_have_text(
            "3 keys (page 3, the last, as of revision 24)."
        )
        await expect(page.locator("#next")).to_be_disabled()
        await page.click("#previous")
        await expect(rows.first).to_contain_text("p/10")
        await page.get_by_role("button", name="p/12", exact=True).click()
        await expect(page.locator("#value")).to_have_value("value 12")
        await expect(page.locator("#key")).to_have_value("p/12")
        cluster.floor = 100
        await page.click("#next")
        await expect(page.locator("#list-problem")).to_contain_text("HTTP 410")
        cluster.floor = 0
        await page.get_by_role("button", name="List again from the start", exact=True).click()
        await expect(page.locator("#list-state")).to_contain_text("page 1")
        await page.fill("#prefix", "none/")
        await page.press("#prefix", "Enter")
        await expect(page.locator("#list-state")).to_contain_text("No keys")


async def test_bytes_that_are_no_text(page: Page, cluster: FakeCluster) -> None:
    async with Client(cluster.urls) as client:
        await client.put(b"\xff/bin", b"\x00\xff\xfe")
        await open_page(page, cluster)
        await page.select_option("#separator", "")
        await page.get_by_role("button", name="base64 /y9iaW4=", exact=True).click()
        await expect(page.locator("#value")).to_have_value("AP/+")
        await expect(page.locator("#value-form-of")).to_have_value("base64")
        await page.fill("#value", "AQID/w==")
        await page.click("#put")
        await expect(page.locator("#state")).to_contain_text("Written")
        assert cluster.at(b"\xff/bin")[1] == b"\x01\x02\x03\xff"
        await page.fill("#value", "not base64!")
        await page.click("#put")
        await expect(page.locator("#key-problem")).to_contain_text("not base64")
        await page.fill("#value", "aGk=")
        await page.select_option("#value-form-of", "text")
        await expect(page.locator("#value")).to_have_value("hi")


async def test_values_cannot_become_markup(page: Page, cluster: FakeCluster) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    async with Client(cluster.urls) as client:
        await client.put(evil, evil)
    await open_page(page, cluster)
    await page.click("#list-form button")
    await expect(page.locator("#rows tr")).to_contain_text("<img src=x")
    assert await page.locator("#rows img, #rows script").count() == 0


async def test_is_accessible(page: Page, cluster: FakeCluster) -> None:
    """Every control has a name, tab order follows the page, and problems are announced."""
    await open_page(page, cluster)
    unnamed = await page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea, button")]
            .filter((e) => !(e.labels?.length || e.getAttribute("aria-label")
                || e.textContent.trim()))
            .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    assert await page.evaluate("document.documentElement.lang") == "en"
    assert await page.locator("[role=alert]").count() == 8
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the content"
    seen = []
    for _ in range(50):
        await page.keyboard.press("Tab")
        seen.append(await page.evaluate("document.activeElement.id"))
    order = [
        name
        for name in seen
        if name in ("key", "get", "value", "guard", "put", "delete", "prefix", "limit")
    ]
    assert order[:8] == ["prefix", "limit", "key", "get", "value", "guard", "put", "delete"]


async def test_fits_a_narrow_screen(page: Page, cluster: FakeCluster) -> None:
    await page.set_viewport_size({"width": 360, "height": 740})
    await open_page(page, cluster)
    assert await page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
