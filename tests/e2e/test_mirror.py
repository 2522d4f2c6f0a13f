"""Two clusters that run, and a mirror from one to the other, as it is typed."""

from __future__ import annotations

from typing import Final

import msgspec

import acordo
from acordo import Client, delete, put
from acordo._cli.examples import EXAMPLES
from tests.e2e.test_command_line import Person, check_json, documented

PLACE: Final = "http://10.1.0.11:8001"
"""Of the target, in the examples."""


async def test_a_second_cluster_is_kept_as_the_first(acordo_node: acordo.Embedded) -> None:
    (example,) = (each for each in EXAMPLES["mirror"] if "--once" in each.line)
    value = b"\xff\x00" * 1000
    person = Person(" ".join(acordo_node.urls))
    async with (
        acordo.embedded() as second,
        Client(acordo_node.urls) as source,
        Client(second.urls) as target,
    ):
        line = example.line.replace(PLACE, second.url)
        leased = (await source.grant_lease(30)).id
        await source.put("stock/hour", "1", ttl_s=3600)
        await source.put("stock/leased", "1", lease=leased)
        await source.put("stock/odd", value)
        ran = await person.type(line)
        assert ran.code == example.code, ran
        keys = {found.key: found async for found in target.list("stock/")}
        assert {key: found.value for key, found in keys.items()} == {
            b"stock/hour": b"1",
            b"stock/leased": b"1",
            b"stock/odd": value,
        }
        assert keys[b"stock/hour"].expires_ms is not None
        assert keys[b"stock/leased"].lease is None

        await source.revoke_lease(leased)
        await source.txn(writes=[put("stock/a", "1"), put("stock/b", "2"), delete("stock/hour")])
        await source.put("stock/large", b"\x01" * 1024 * 1024)
        assert check_json(await person.type(line, "--json"), documented()["mirror"]) >= 1
        keys = {found.key: found async for found in target.list("stock/")}
        assert {key: len(found.value) for key, found in keys.items()} == {
            b"stock/a": 1,
            b"stock/b": 1,
            b"stock/large": 1024 * 1024,
            b"stock/odd": len(value),
        }
        assert keys[b"stock/a"].revision == keys[b"stock/b"].revision
        held = await target.get("acordo-mirror/stock/")
        assert held is not None
        position = msgspec.json.decode(held.value)["position"]
        found = await source.poll("stock/", after=position, wait_s=0)
        assert found.events == (), "a node takes it for a position, and nothing came after it"
        again = await person.type(line.replace(second.url, acordo_node.url))
        assert (again.code, b"" if again.err else again.out) == (2, b"")
