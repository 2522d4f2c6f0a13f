"""The client of Acordo, a distributed key-value store.

    from acordo import Client, OutcomeUnknown, absent, put

    async with Client(["http://127.0.0.1:8001", "http://127.0.0.1:8002"]) as client:
        written = await client.put("greeting", "hello")
        found = await client.get("greeting")  # None: absent
        # PreconditionFailed: it changed meanwhile
        await client.cas("greeting", "hi", if_revision=written.revision)
        await client.txn(guards=[absent("lock")], writes=[put("lock", "mine", ttl_s=30)])
        async for event in client.watch("gre", after=written.revision):  # reconnects by itself
            print(event.kind, event.key, event.value, event.revision)

`SyncClient` is the same without async, for scripts and threads. `open()` and `close()` stand beside
`with`. `embedded()` runs a cluster of this machine while a block of a script or a test does.

Everything in `__all__` is public: both clients, the guards and writes of transactions and batches
(put, touch, delete, delete_range, delete_prefix, nested, absent, exists, at_revision, equals,
compare; intent_of_json reads them from the API's JSON), what calls return, and the errors that they
raise.
Modules that begin with an underscore are private and may change at any time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from acordo._base_client import new_op_id
    from acordo._client import Client
    from acordo._errors import (
        AcordoError,
        BadRequest,
        Mismatch,
        NotApplied,
        OutcomeUnknown,
        OutOfOrder,
        PreconditionFailed,
        Pruned,
        ReadFailed,
        Refused,
        TransactionRefused,
        Undone,
        Unreachable,
        Unsupported,
    )
    from acordo._intents import (
        Bytes,
        Delete,
        DeleteRange,
        Guard,
        Intent,
        Nested,
        Put,
        Write,
        absent,
        at_revision,
        compare,
        delete,
        delete_prefix,
        delete_range,
        equals,
        exists,
        nested,
        put,
        touch,
    )
    from acordo._local import Embedded, NotStarted, embedded
    from acordo._results import (
        Accepted,
        AccessRole,
        AccessRule,
        AccessState,
        AccessToken,
        Bookmark,
        Change,
        Changes,
        Child,
        Cluster,
        Event,
        Found,
        Item,
        Leader,
        Lease,
        LedgerRow,
        Level,
        Member,
        Operation,
        Page,
        Reading,
        Served,
        Signed,
        TransactionDone,
        Unready,
        Webhook,
        Written,
    )
    from acordo._sync._client import SyncClient
    from acordo._tls import client_tls
    from acordo._wire.forms import intent_of_json

__all__ = [
    "Accepted",
    "AccessRole",
    "AccessRule",
    "AccessState",
    "AccessToken",
    "AcordoError",
    "BadRequest",
    "Bookmark",
    "Bytes",
    "Change",
    "Changes",
    "Child",
    "Client",
    "Cluster",
    "Delete",
    "DeleteRange",
    "Embedded",
    "Event",
    "Found",
    "Guard",
    "Intent",
    "Item",
    "Leader",
    "Lease",
    "LedgerRow",
    "Level",
    "Member",
    "Mismatch",
    "Nested",
    "NotApplied",
    "NotStarted",
    "Operation",
    "OutOfOrder",
    "OutcomeUnknown",
    "Page",
    "PreconditionFailed",
    "Pruned",
    "Put",
    "ReadFailed",
    "Reading",
    "Refused",
    "Served",
    "Signed",
    "SyncClient",
    "TransactionDone",
    "TransactionRefused",
    "Undone",
    "Unreachable",
    "Unready",
    "Unsupported",
    "Webhook",
    "Write",
    "Written",
    "absent",
    "at_revision",
    "client_tls",
    "compare",
    "delete",
    "delete_prefix",
    "delete_range",
    "embedded",
    "equals",
    "exists",
    "intent_of_json",
    "nested",
    "new_op_id",
    "put",
    "touch",
]

_HOMES: Final = (
    "acordo._errors",
    "acordo._results",
    "acordo._intents",
    "acordo._wire.forms",
    "acordo._tls",
    "acordo._local",
    "acordo._client",
    "acordo._base_client",
    "acordo._sync._client",
)
"""The modules that define the public names; those that load fast come first."""

if not TYPE_CHECKING:  # a type checker would accept every name otherwise

    def __getattr__(name: str) -> object:
        """Load a public name when it is first used.

        Importing the client takes a third of a second, most of it aiohttp. The command line imports
        this package before it listens for Ctrl-C, and a Ctrl-C during that time would end in a
        traceback instead of exit code 130.
        """
        if name in __all__:
            for home in _HOMES:
                module = import_module(home)
                if name in vars(module):
                    value = globals()[name] = vars(module)[name]
                    return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
