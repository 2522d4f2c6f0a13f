"""Can two leaders of one term arise when a voter lost its disk? Under rule R13, and under its earlier wording."""

# Abstract Raft votes, five voters, logs equal: can two leaders of one term arise under R13's wording (index confirmed) / with a committed Rejoin entry?
# State: per member (term, votedFor in term, has_entry); pending requests/grants as sets; X may be wiped once, counts again when allowed.
from collections import deque

M = "XCELD"
N = 5
MAJ = 3


def run(rule):
    # start: L leads term 6, all at term 6, voted L
    init = (
        tuple((6, "L", 0) for _ in M),
        frozenset(),
        frozenset(),
        "ok",
    )  # members, requests(cand,term,logentry), grants(cand,term,voter), X state
    seen = {init: None}
    q = deque([init])

    def idx(m):
        return M.index(m)

    while q:
        st = q.popleft()
        mem, req, gr, x = st
        lead = {}
        for c, t, v in gr:
            lead.setdefault((t, c), set()).add(v)
        L = {}
        for (t, c), vs in lead.items():
            if len(vs) >= MAJ:
                L.setdefault(t, set()).add(c)
        for t, cs in L.items():
            if len(cs) > 1:
                path = []
                s = st
                while seen[s] is not None:
                    s, a = seen[s]
                    path.append(a)
                return len(seen), path[::-1]
        nxt = []
        for i, m in enumerate(M):
            t, v, e = mem[i]
            # stand (only C and D, term <= 7), allowed to X never; L never
            if m in "CD" and t == 6:
                n = list(mem)
                n[i] = (7, m, e)
                nxt.append((f"{m} stands in 7", (tuple(n), req | {(m, 7, e)}, gr | {(m, 7, m)}, x)))
            for c, ct, ce in req:
                if m == c:
                    continue
                if m == "X" and x == "wiped":
                    continue
                if ct > t or (ct == t and v in (None, c)):
                    if ce >= e and (c, ct, m) not in gr:
                        n = list(mem)
                        n[i] = (ct, c, e)
                        nxt.append((f"{m} grants {c} in {ct}", (tuple(n), req, gr | {(c, ct, m)}, x)))
        if x == "ok" and not getattr(run, "done", False):
            n = list(mem)
            n[0] = (0, None, 0)
            if all(a != "w" for a in x):
                nxt.append(("X loses its disk", (tuple(n), req, gr, "wiped")))
        if x == "wiped":
            qm = [i for i in range(1, 5) if mem[i][0] == 6]  # still in L's term
            if mem[3][0] == 6 and len(qm) >= MAJ:  # L leads 6, quorum without X confirms
                n = list(mem)
                if rule == "entry":
                    from itertools import combinations

                    for Q in combinations(qm, MAJ):
                        if 3 not in Q:
                            continue
                        k = list(mem)
                        for i in Q:
                            k[i] = (k[i][0], k[i][1], 1)
                        k[0] = (6, None, 1)
                        nxt.append(
                            (f"Rejoin committed by {''.join(M[i] for i in Q)}; X counts", (tuple(k), req, gr, "ok2"))
                        )
                else:
                    n[0] = (6, None, 0)
                    nxt.append(
                        (f"index confirmed by {''.join(M[i] for i in qm)}; X counts", (tuple(n), req, gr, "ok2"))
                    )
        # 'ok2' behaves as ok for votes
        for a, s in nxt:
            if s not in seen:
                seen[s] = (st, a)
                q.append(s)
    return len(seen), None


import re

src = open(__file__).read()
if __name__ == "__main__":
    for rule in ("index", "entry"):
        print(rule, run(rule))
