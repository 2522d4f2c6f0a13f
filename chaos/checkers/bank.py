"""Check bank transfers: every read of all accounts shows the same total, because transfers are
atomic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.records.history import ClientOperation


def check(
    operations: Iterable[ClientOperation], *, accounts: Iterable[str], total: int
) -> Judgement:
    """Check the operations `read` (result: account → balance); each must show one snapshot.

    Per anomaly, the first finding and the largest are reported.
    """
    names = frozenset(accounts)
    reads = [o for o in operations if o.op == "read" and o.outcome == "ok"]
    worst: dict[str, tuple[float, Finding]] = {}
    first: dict[str, Finding] = {}
    count = 0
    for o in reads:
        for size, found in _errors(o, names, total):
            count += 1
            first.setdefault(found.anomaly, found)
            if found.anomaly not in worst or size > worst[found.anomaly][0]:
                worst[found.anomaly] = (size, found)
    findings = list(first.values())
    findings += [found for name, (_, found) in worst.items() if found is not first[name]]
    if not reads:
        findings.append(
            Finding("nothing_read", "no read of the accounts succeeded", Verdict.UNKNOWN)
        )
    return Judgement("bank", tuple(findings), len(reads), {"reads": len(reads), "errors": count})


def _errors(
    o: ClientOperation, names: frozenset[str], total: int
) -> Iterable[tuple[float, Finding]]:
    answer: Mapping[str, object] = o.result if isinstance(o.result, dict) else {}
    for name in sorted(names - answer.keys()):
        yield (
            1.0,
            Finding("missing_account", f"a read lacks account {name!r}", key=name, operations=(o,)),
        )
    for name in sorted(answer.keys() - names):
        yield (
            1.0,
            Finding("unknown_account", f"a read has account {name!r}", key=name, operations=(o,)),
        )
    balances = {n: b for n, b in answer.items() if isinstance(b, int) and not isinstance(b, bool)}
    for name in sorted(answer.keys() - balances.keys()):
        yield (
            1.0,
            Finding(
                "no_balance", f"account {name!r} has {answer[name]!r}", key=name, operations=(o,)
            ),
        )
    for name, balance in balances.items():
        if balance < 0:
            yield (
                -balance,
                Finding("negative_balance", f"{name!r} has {balance}", key=name, operations=(o,)),
            )
    if (got := sum(balances.values())) != total:
        yield (
            abs(got - total),
            Finding("wrong_total", f"the accounts sum up to {got}, not {total}", operations=(o,)),
        )
