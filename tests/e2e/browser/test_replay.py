"""The replay in the report of a chaos run, as a reader moves through its time."""

from __future__ import annotations

from playwright.async_api import Page, expect

from chaos.records.history import Fault
from chaos.report import replay
from tests.unit.chaos.test_report import S, a_failover


async def test_a_run_is_replayed(page: Page) -> None:
    history = a_failover()
    history.faults[:] = [
        Fault("kill", "start", 4 * S, targets=("</script><b>",)),
        Fault("kill", "healed", 7 * S, targets=("</script><b>",)),
    ]
    run = replay.figures(history)
    assert sum(run["writes"]) == 80
    assert run["outages"] == [{"from": 3.91, "to": 6.01}]
    await page.set_content(f"<!doctype html>{replay.section(history)}")
    now = page.locator("#replay-now")
    await expect(now).to_contain_text("0.00 s · n1 leads, term 3")
    await page.fill("#replay-time", "5")
    await expect(page.locator("#replay-faults")).to_have_text("kill </script><b>")
    await expect(page.locator("#replay-stopped")).to_contain_text("stopped for 1.09 s of 2.10 s")
    await page.fill("#replay-time", "8")
    await expect(now).to_contain_text("8.00 s · n2 leads, term 4")
    await expect(page.locator("#replay-faults")).to_have_text("no fault")
    await expect(page.locator("#replay-stopped")).to_be_empty()
    await page.click("#replay-play")
    await expect(page.locator("#replay-play")).to_have_text("Play")  # it came to its end
    await expect(now).to_contain_text("9.91 s")
