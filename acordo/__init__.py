"""The client of Acordo, a distributed key-value store.

    from acordo.client import Client
    from acordo.errors import OutcomeUnknown

    async with Client(["http://127.0.0.1:8001", "http://127.0.0.1:8002"]) as client:
        written = await client.put("greeting", "hello")
        found = await client.get("greeting")  # None: absent
        # PreconditionFailed: it changed meanwhile
        await client.cas("greeting", "hi", if_revision=written.revision)
        async for event in client.watch("gre", after=written.revision):  # reconnects by itself
            print(event.kind, event.key, event.value, event.revision)

Guards and writes of transactions and batches are made by `acordo.wire` (put, delete, absent,
exists, at_revision, equals); what comes back is in `acordo.results`, what goes wrong in
`acordo.errors`.
"""
