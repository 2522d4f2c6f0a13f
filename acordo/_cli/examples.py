"""List the examples that the help pages show. It runs none of them; a test runs all, in this order,
on a cluster.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Example(NamedTuple):
    """A command line as it is typed, and what it does."""

    line: str
    does: str
    code: int = 0
    """The exit code with which it ends on a new cluster of three members."""


EXAMPLES: Final[dict[str, tuple[Example, ...]]] = {
    "put": (
        Example("acordo put greeting hello", "set a key"),
        Example("acordo put session/7 ada --ttl 3600", "a key that is deleted after an hour"),
        Example("acordo put greeting hallo --if-exists", "only if the key is present"),
        Example("acordo put config/app --file app.json", "the value from a file"),
    ),
    "get": (
        Example("acordo get greeting", "the value, byte for byte"),
        Example("acordo get greeting --json", "with revision, expiry and who answered"),
        Example("acordo get greeting --at-revision 1", "as it was at a revision"),
        Example("acordo get greeting --level stale --max-age 5", "may be five seconds old"),
    ),
    "cas": (
        Example("acordo cas stock/7 0 3", "0: only if the key is absent"),
        Example("acordo cas stock/7 1 4", "only if it is at revision 1: refused", 1),
    ),
    "delete": (
        Example("acordo delete config/app", "delete a key"),
        Example("acordo delete config/app --if-exists", "refused if the key is absent", 1),
    ),
    "list": (
        Example("acordo list", "all keys, with their values and expiries"),
        Example("acordo list session/ --keys-only", "the keys under a prefix"),
        Example("acordo list --separator /", "what is right under a prefix, and the folders"),
        Example("acordo list --count", "how many there are"),
        Example("acordo list --sort revision --desc --limit 3", "the three changed last"),
    ),
    "txn": (
        Example(
            "acordo txn --if-value stock/7=3 --put stock/7=2 --put log/1=sold --read stock/7",
            "both writes at one revision, or none",
        ),
        Example("acordo txn --delete-prefix log/", "delete all keys under a prefix at once"),
    ),
    "history": (
        Example("acordo history greeting", "its versions, newest first"),
        Example("acordo history greeting --limit 1 --json", "the newest, for a program"),
    ),
    "operation": (
        Example("acordo put greeting hi --op-id mine-1", "a write with an op_id of its own"),
        Example("acordo operation mine-1", "how it ended"),
        Example("acordo operation lost-1 --settle", "give up one that nobody has ordered"),
    ),
    "watch": (
        Example("acordo watch stock/ --after 0 --count 2", "the first two changes under stock/"),
        Example("acordo watch stock/ --after 0 --count 1 --json", "the first, for a program"),
        Example(
            "acordo watch stock/ --after 0 --count 2 --state stock.position -- cat",
            "run a command for each, with the value as its input; a restart goes on",
        ),
    ),
    "lock": (
        Example(
            "acordo lock jobs/nightly -- sh -c 'echo token $ACORDO_FENCING_TOKEN'",
            "run a command while nobody else holds the lock",
        ),
        Example("acordo lock jobs/nightly --wait 0 -- true", "leaves with 1 if somebody has it"),
    ),
    "elect": (
        Example(
            "acordo elect service/leader --value n1 -- sh -c 'exit 0'",
            "run a command once elected",
        ),
    ),
    "lease grant": (Example("acordo lease grant 30 --id 5a", "a lease that lives 30 seconds"),),
    "lease keep-alive": (
        Example("acordo put workers/1 busy --lease 5a", "a key that ends with the lease"),
        Example("acordo lease keep-alive 5a", "another 30 seconds; with --keep until Ctrl-C"),
    ),
    "lease show": (Example("acordo lease show 5a --keys", "how long it lives, and its keys"),),
    "lease list": (Example("acordo lease list", "all leases"),),
    "lease revoke": (Example("acordo lease revoke 5a", "end it and delete its keys"),),
    "dev": (
        Example("acordo dev", "one node, until Ctrl-C; its data is deleted then"),
        Example("acordo dev --nodes 3 --open", "three, with the page in a browser"),
    ),
    "status": (
        Example("acordo status", "who leads, who is how far, what is wrong"),
        Example("acordo status --json", "all that a node says of the cluster"),
    ),
    "leader": (Example("acordo leader", "who leads, its URL and term"),),
    "top": (Example("acordo top --every 0.5", "live: twice a second, until q is pressed"),),
    "kill": (Example("acordo kill leader --data data", "and watch another one lead"),),
    "transfer": (Example("acordo transfer n2", "let n2 lead"),),
    "limits": (Example("acordo limits", "whether a node's retentions are the cluster's"),),
    "adopt": (
        Example("acordo adopt", "refused where no store was restored; says what is given up", 2),
    ),
    "check perf": (
        Example(
            "acordo check perf --rate 20 --seconds 0.5 --p99-ms 10000",
            "a load of half a second, with limits of your own",
        ),
    ),
    "members": (Example("acordo members", "the members, as `acordo status` shows them"),),
    "members add": (
        Example(
            "acordo members add n4 --raft-address 127.0.0.1:9004 "
            "--member-url http://127.0.0.1:8004",
            "add an observer",
        ),
    ),
    "members promote": (
        Example("acordo members promote n2", "let an observer vote; n2 does already"),
    ),
    "members remove": (Example("acordo members remove n4", "remove a member"),),
    "backup": (Example("acordo backup acordo.backup", "a backup, checked while it is written"),),
    "diagnose": (Example("acordo diagnose acordo.tar.gz", "what every node says, without values"),),
    "verify": (
        Example("acordo verify acordo.backup", "check a backup"),
        Example("acordo verify", "check every member of the running cluster"),
    ),
    "restore": (
        Example("acordo restore acordo.backup", "check it, and say how it is restored", 2),
    ),
    "dump": (
        Example("acordo dump keys.jsonl", "all keys, as of one revision"),
        Example("acordo dump --prefix stock/", "those under a prefix, to standard output"),
    ),
    "mirror": (
        Example(
            "acordo mirror --to http://10.1.0.11:8001,http://10.1.0.12:8001 --prefix stock/",
            "keep another cluster's keys as they are here, until Ctrl-C",
        ),
        Example(
            "acordo mirror --to http://10.1.0.11:8001 --prefix stock/ --once",
            "until it has what is here now",
        ),
    ),
    "load": (Example("acordo load keys.jsonl", "write every line of a file"),),
    "ledger list": (
        Example("acordo ledger list --limit 3", "rows of the ledger"),
        Example("acordo ledger list --key greeting", "what changed a key, and who did"),
    ),
    "ledger verify": (Example("acordo ledger verify", "recompute the chain of digests"),),
    "cert init": (Example("acordo cert init clients", "make an authority"),),
    "cert issue": (
        Example("acordo cert issue n1 -d clients --host 10.0.0.11", "a node's certificate"),
        Example("acordo cert issue ada -d clients --client", "a client's certificate"),
    ),
    "cert show": (Example("acordo cert show clients/n1.pem", "whom it names and when it ends"),),
    "role set": (
        Example("acordo role set app --read app/ --write app/", "keys that begin with app/"),
        Example("acordo role set auditor --read '' --metrics", "read all keys, and /metrics"),
    ),
    "role list": (Example("acordo role list", "the roles with their rules"),),
    "role bind": (
        Example("acordo role bind app.example --role app", "who shows this certificate"),
    ),
    "role delete": (Example("acordo role delete app", "who has it loses what it allows"),),
    "token create": (
        Example("acordo token create ada --role admin", "print a token: keep it"),
        Example("acordo token create app --role admin --ttl 86400", "one that ends after a day"),
    ),
    "token list": (Example("acordo token list", "ids, principals, roles, ends; no token itself"),),
    "token revoke": (Example("acordo token revoke ID", "by its id, as the list shows it"),),
    "access status": (Example("acordo access status", "whether access is controlled"),),
    "access on": (
        Example("acordo access on --token-file ada.token", "from now on a token is needed"),
    ),
    "access off": (
        Example("acordo access off --token-file ada.token", "everybody may do everything"),
    ),
    "webhook add": (
        Example(
            "acordo webhook add orders https://example.org/hook --prefix orders/",
            "send changes under orders/ to a URL; a worker delivers them",
        ),
    ),
    "webhook list": (Example("acordo webhook list", "the subscriptions"),),
    "webhook give": (Example("acordo webhook give orders ada", "let it be another principal's"),),
    "webhook remove": (Example("acordo webhook remove orders", "end a subscription"),),
    "dead list": (Example("acordo dead list", "what could not be delivered or submitted"),),
    "dead replay": (Example("acordo dead replay --all", "let all of it be tried again"),),
}
"""Command → its examples, in the order in which the test runs them."""
