"""What each operation is for, and an example of each parameter and header. It holds words alone."""

from __future__ import annotations

from typing import Any, Final

TAGS: Final = {
    "keys": "Read, write and list keys. A key is 1 to 1024 bytes, a value up to 1 MiB.",
    "transactions": "Several operations at once, and what became of an operation.",
    "changes": "Follow what changes, or have it delivered.",
    "leases": "Keys that end together unless somebody keeps their lease alive.",
    "cluster": "Who leads, who is a member, and what an operator decides.",
    "data": "Check and back up everything.",
    "access": "Who may do what.",
    "health": "For load balancers, supervisors and Prometheus.",
    "original": "The original design's API.",
}

_SURE: Final = (
    " A refusal (4xx, 503) is definite: nothing was changed, and never will be. After 504 the "
    "outcome is unknown: look the op_id up, or send the same again with the same "
    "`Idempotency-Key`."
)
_ADMINS: Final = " Only admins may, where access is controlled."

OPERATIONS: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("/v1/kv/{key}", "GET"): (
        "keys",
        "Linearizable unless `consistency` says otherwise: it sees every write that was "
        "acknowledged before it began, through any node. With `revision` it shows the past. "
        "`curl http://127.0.0.1:8001/v1/kv/orders%2F17`",
    ),
    ("/v1/kv/{key}", "PUT"): (
        "keys",
        "The body is the value, byte for byte. `If-Match` makes it a compare-and-set, "
        "`If-None-Match: *` only creates; 412 tells the revision that is there." + _SURE,
    ),
    ("/v1/kv/{key}", "DELETE"): (
        "keys",
        "It can be repeated: deleting what is absent succeeds too. `If-Match` deletes only what "
        "was read." + _SURE,
    ),
    ("/v1/history/{key}", "GET"): (
        "keys",
        "How far back it goes is the retention of the cluster (`limits` of `/v1/cluster`). Values "
        "that are pruned are left out.",
    ),
    ("/v1/kv", "GET"): (
        "keys",
        "The first page says the revision; those after it, by `continue`, show the same one "
        "whatever is written meanwhile. `prefix=orders/&separator=/` shows one level as a "
        "directory does: the keys right under it, and in `prefixes` what the others begin with. "
        "410: the revision was pruned, list again.",
    ),
    ("/v1/leases", "POST"): (
        "leases",
        "The lease ends `ttl` seconds after it was last kept alive, and all keys that were put "
        "with it end with it, at one revision." + _SURE,
    ),
    ("/v1/leases", "GET"): ("leases", "By id, in pages." + _ADMINS),
    ("/v1/leases/{id}", "GET"): ("leases", "`left` counts down to the end of the lease."),
    ("/v1/leases/{id}", "DELETE"): (
        "leases",
        "Watchers see the deletions of all its keys at one revision." + _SURE,
    ),
    ("/v1/leases/{id}/keep-alive", "POST"): (
        "leases",
        "Send it well before `ttl` is over: every third of it, say. 404: it has ended.",
    ),
    ("/v1/keep-alive", "POST"): ("leases", "One request for all leases of a process."),
    ("/v1/txn", "POST"): (
        "transactions",
        "If all guards hold `writes` take effect, else `otherwise`; without `otherwise` it is "
        "refused (409, with the number of the guard). All of it has one revision." + _SURE,
    ),
    ("/v1/batch", "POST"): (
        "transactions",
        "For throughput: the operations are ordered together, and each ends on its own. Give each "
        "an op_id, by which it can be looked up.",
    ),
    ("/v1/async", "POST"): (
        "transactions",
        "202 says that RabbitMQ has it on disk. The outcome is at `operation`. 501: this cluster "
        "has no broker.",
    ),
    ("/v1/operations/{op_id}", "GET"): (
        "transactions",
        "`applied`, `refused` and `expired` are final. `unknown` with `not_ordered`: it may still "
        "be on its way.",
    ),
    ("/v1/operations/{op_id}", "POST"): (
        "transactions",
        "For who gives an operation up and has to know that it never takes effect: afterwards the "
        "outcome is `expired`, unless it was ordered before.",
    ),
    ("/v1/watch", "GET"): (
        "changes",
        "Events come in the order of revisions, none twice and none left out. Resume with the id "
        "of the last one (`Last-Event-ID`), as browsers' EventSource does; 410: what lies between "
        "is pruned, so list again. Clients without server-sent events ask with `poll`.",
    ),
    ("/v1/webhooks", "GET"): ("changes", "Without the secrets that sign what they deliver."),
    ("/v1/webhooks", "POST"): (
        "changes",
        "Workers deliver each change at least once, in the order of revisions, and sign it. Keep "
        "the secret: it is told once.",
    ),
    ("/v1/webhooks/{name}", "GET"): ("changes", "Up to where it has delivered, and for whom."),
    ("/v1/webhooks/{name}", "DELETE"): ("changes", "Nothing more is delivered."),
    ("/v1/webhooks/{name}/owner", "PUT"): (
        "changes",
        "For when somebody leaves: deliveries go on with the rights of the other." + _ADMINS,
    ),
    ("/v1/webhooks/{name}/sign", "POST"): (
        "changes",
        "The node judges what the owner may read at that moment, and the secret stays with it.",
    ),
    ("/v1/leader", "GET"): ("cluster", "Any node takes any request; the leader saves a hop."),
    ("/v1/cluster", "GET"): (
        "cluster",
        "As the answering node sees it: ask several to see whether they agree.",
    ),
    ("/v1/activity", "GET"): (
        "cluster",
        "For pages that ask often: leader, term, acknowledged writes and how long they took.",
    ),
    ("/v1/control", "GET"): ("cluster", "Only where a local runner started the node."),
    ("/v1/cluster/transfer", "POST"): (
        "cluster",
        "Planned maintenance: writes pause for some milliseconds only." + _ADMINS,
    ),
    ("/v1/cluster/members", "POST"): (
        "cluster",
        "It begins as an observer, and votes once it is promoted." + _ADMINS,
    ),
    ("/v1/cluster/members/{id}", "DELETE"): ("cluster", "Its id cannot come again." + _ADMINS),
    ("/v1/cluster/members/{id}/promote", "POST"): (
        "cluster",
        "Once it has the whole log." + _ADMINS,
    ),
    ("/v1/cluster/limits", "POST"): ("cluster", "All members decide by the same." + _ADMINS),
    ("/v1/cluster/adopt", "POST"): (
        "cluster",
        "For a shared store that was put back to an earlier state: what the store does not have is "
        "given up, and named." + _ADMINS,
    ),
    ("/v1/verify", "GET"): ("data", "It reads all of the store; clients are served on." + _ADMINS),
    ("/v1/backup", "GET"): ("data", "Streamed, and checked on the way." + _ADMINS),
    ("/v1/ledger", "GET"): (
        "data",
        "Each row's digest covers all before it, so anybody can recompute the chain." + _ADMINS,
    ),
    ("/kv", "GET"): ("original", "Kept as it was; `/v1/kv/{key}` is the same in raw bytes."),
    ("/kv", "PUT"): ("original", "Answers 200 whether it was created or not." + _SURE),
    ("/kv", "DELETE"): ("original", "404 when the key is absent." + _SURE),
    ("/health", "GET"): ("health", "What each check says, for people."),
    ("/livez", "GET"): ("health", "For supervisors: it never looks at what the node depends on."),
    ("/readyz", "GET"): ("health", "For load balancers. `verbose` tells every check."),
    ("/metrics", "GET"): ("health", "In Prometheus' text format."),
    ("/openapi.json", "GET"): ("health", "`/docs` shows it."),
    ("/v1/access", "GET"): ("access", "Everybody may ask for themselves."),
    ("/v1/access/enable", "POST"): ("access", "So nobody locks everybody out." + _ADMINS),
    ("/v1/access/disable", "POST"): ("access", "Tokens and roles are kept." + _ADMINS),
    ("/v1/access/tokens", "GET"): ("access", "By id, with their principals and roles." + _ADMINS),
    ("/v1/access/tokens", "POST"): ("access", "Keep it: it cannot be shown again." + _ADMINS),
    ("/v1/access/tokens/{id}", "DELETE"): ("access", "It ends at once, streams too." + _ADMINS),
    ("/v1/access/roles", "GET"): ("access", "With what each may read and write." + _ADMINS),
    ("/v1/access/roles/{name}", "PUT"): (
        "access",
        "Whoever has the role has the new rights at once." + _ADMINS,
    ),
    ("/v1/access/roles/{name}", "DELETE"): ("access", "Who had it loses its rights." + _ADMINS),
    ("/v1/access/certificates", "GET"): ("access", "With the roles of each." + _ADMINS),
    ("/v1/access/certificates/{name}", "PUT"): (
        "access",
        "The name is that of a certificate that clients show (mutual TLS)." + _ADMINS,
    ),
    ("/v1/access/certificates/{name}", "DELETE"): (
        "access",
        "The certificate stays valid, and has no rights." + _ADMINS,
    ),
    ("/v1/session", "POST"): ("access", "Sets a cookie that scripts cannot read."),
    ("/v1/session", "DELETE"): ("access", "The cookie is taken back."),
}

PARAMETERS: Final[dict[str, Any]] = {
    "key": "orders/17", "prefix": "orders/", "start": "a", "end": "b", "separator": "/",
    "revision": 42, "limit": 100, "before": 42, "continue": "kgOSKqNw", "keys_only": True,
    "sort": "key", "order": "asc", "count_only": True, "min_mod_revision": 1,
    "max_mod_revision": 42, "min_create_revision": 1, "max_create_revision": 42,
    "consistency": "linearizable", "min_revision": 42, "max_age": 0.5, "ttl": 30,
    "lease": "00000000000000ab", "id": "n1", "keys": True, "op_id": "order-17-paid",
    "Idempotency-Key": "order-17-paid", "Acordo-Lifetime": 60, "If-Match": '"41"',
    "If-None-Match": "*", "after": 41, "Last-Event-ID": "42", "from": 1, "verbose": True,
    "exclude": "cache,broadcast", "name": "orders", "poll": 30, "since": 41,
    "Acordo-Timing": "true",
    "digest": "9f2c1d7e5ab04c38d1f00ae7c93b5d226c1f8a0b4e7d9361f5a2c8be03d7461a",
}  # fmt: skip

HEADERS: Final[dict[str, tuple[str, str]]] = {
    "Acordo-Node": ("Who answered.", "n1"),
    "Acordo-Revision": (
        "Everything up to here is in the answer, and of reads nothing after it: watch from here "
        "on.",
        "42",
    ),
    "Acordo-Leader": (
        "On answers to writes: URL of the leader, where a write takes one hop less.",
        "http://127.0.0.1:8001",
    ),
    "Acordo-Level": ("Read level that was served.", "linearizable"),
    "Acordo-Source": ("Where the answer comes from: memory, cache or store.", "memory"),
    "Acordo-Age": ("Seconds that a stale answer may be old, at most.", "0.120"),
    "Acordo-Expires": ("Log time at which the key ends, in ms since 1970.", "1796054400000"),
    "Acordo-Lease": ("The lease that the key ends with.", "00000000000000ab"),
    "Acordo-Create-Revision": ("The revision that made the key present.", "7"),
    "Acordo-Version": ("How often the key was put since then.", "4"),
    "Acordo-Op-Id": ("The operation, by which it can be looked up.", "order-17-paid"),
    "Acordo-Existed": ("Whether the key was present before.", "true"),
    "ETag": ("The revision of the key, in quotes.", '"42"'),
    "Retry-After": ("Seconds to wait before the next attempt.", "1"),
}
EVERY: Final = ("Acordo-Node", "Acordo-Revision")
"""Headers of every answer."""
READING: Final = (
    "ETag", "Acordo-Level", "Acordo-Source", "Acordo-Age", "Acordo-Expires", "Acordo-Lease",
    "Acordo-Create-Revision", "Acordo-Version",
)  # fmt: skip
WRITING: Final = ("ETag", "Acordo-Op-Id", "Acordo-Existed", "Acordo-Leader")
OF_OPERATIONS: Final = {
    ("/v1/kv/{key}", "GET"): READING,
    ("/v1/kv/{key}", "PUT"): WRITING,
    ("/v1/kv/{key}", "DELETE"): WRITING[1:],
    ("/v1/kv", "GET"): ("Acordo-Level", "Acordo-Source"),
    ("/v1/txn", "POST"): ("Acordo-Op-Id", "Acordo-Leader"),
}
"""The further headers of answers that succeed."""
