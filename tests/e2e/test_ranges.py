"""Numbers of versions, guards that compare, ranges and histories, through three processes of both
kinds of store.
"""

from __future__ import annotations

import pytest

from acordo import (
    Client,
    NotApplied,
    absent,
    compare,
    delete_prefix,
    exists,
    nested,
    put,
    touch,
)
from acordo._results import Change
from tests.e2e.conftest import Start

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("start", ["replicated", "shared"], indirect=True)
async def test_ranges_and_numbers(start: Start) -> None:
    async with start() as cluster:
        urls = [node.url for node in cluster.nodes.values()]
        async with Client(urls, timeout_s=30, spread=True) as client:
            first = await client.put("r/a", "1")
            for n in range(2, 5):
                await client.put("r/a", str(n))
            made = await client.txn(writes=[put("r/b", "x"), put("s", "y")])
            for _ in urls:
                found = await client.get("r/a")
                assert found is not None
                assert (found.create_revision, found.version) == (first.revision, 4)

            held = await client.txn(
                guards=[
                    compare("r/a", "version", "=", 4),
                    compare("r/", "version", ">", 0, end="r0"),
                    compare("r/b", "value", "<", "y"),
                    compare("never", "create_revision", "=", 0),
                ],
                writes=[delete_prefix("r/"), put("t", "z")],
                otherwise=[],
            )
            assert held.branch == "then"
            assert [each.key async for each in client.list("")] == [b"s", b"t"]
            then = [each.key async for each in client.list("r/", end="s", revision=made.revision)]
            assert then == [b"r/a", b"r/b"]
            for _ in urls:
                assert await client.get("r/a") is None

            again = await client.put("r/a", "5")
            told = [each async for each in client.history("r/a", limit=2)]
            assert [(each.kind, each.version) for each in told] == [
                ("put", 1), ("delete", 0), ("put", 4), ("put", 3), ("put", 2), ("put", 1),
            ]  # fmt: skip
            assert (told[0].create_revision, told[0].revision) == (again.revision, again.revision)
            seen: list[Change] = []
            async for event in client.watch("r/", after=made.revision):
                assert isinstance(event, Change)
                seen.append(event)
                if event.revision == again.revision:
                    break
            assert [(each.kind, each.key, each.version) for each in seen] == [
                ("delete", b"r/a", 0), ("delete", b"r/b", 0), ("put", b"r/a", 1),
            ]  # fmt: skip
            lease = (await client.grant_lease(60)).id
            await client.txn(writes=[put("n/a", "1", lease=lease), put("n/b", "2")])
            done = await client.txn(
                writes=[
                    touch("n/a", keep_lease=True),
                    nested(
                        [compare("n/a", "lease", "=", lease), absent("n/c")],
                        [put("n/c", "3"), nested([exists("n/c")], [], [touch("n/b", lease=lease)])],
                    ),
                ]
            )
            assert done.taken == (True, False)
            kept = [each async for each in client.list("n/")]
            shown = [(each.key, each.value, each.version, each.lease) for each in kept]
            assert shown == [
                (b"n/a", b"1", 2, lease), (b"n/b", b"2", 2, lease), (b"n/c", b"3", 1, None),
            ]  # fmt: skip
            assert await client.count("n/") == await client.count("n/a", end="n/d") == 3
            by_count = client.list("n/", sort="version", descending=True, limit=2)
            assert [each.key async for each in by_count] == [b"n/a", b"n/b", b"n/c"]
            async for event in client.watch("n/b", after=done.revision - 1):
                assert isinstance(event, Change)
                assert (event.value, event.lease) == (b"2", lease)
                break
            with pytest.raises(NotApplied):
                await client.txn(writes=[touch("n/never")])
