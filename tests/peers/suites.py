"""Run the suites that others wrote for etcd's gateway: `python -m tests.peers.suites --kinds
etcd,shared,replicated,nginx` (or `--url URL` for a server that runs already).

The suites of `etcd3gw` and `tooz` come in their wheels and run in an environment of their own,
against three Acordo nodes. A test that does not pass must be named in `tests/peers/not_passed.py`,
and one that is named there must not pass. Then the corpus is asked, and what is answered otherwise
than by etcd must be in `tests/peers/differences.py`. Exit code 1 otherwise. Bounded in time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from tests.peers.corpus import ENDS_ETCD, compared, recorded
from tests.peers.differences import expected
from tests.peers.local import acordo, behind_nginx, etcd
from tests.peers.not_passed import ON_ACORDO, SKIPPED_BY_THE_DRIVER

ROOT: Final = Path(__file__).parents[2]
ENVIRONMENT: Final = ROOT / "build" / "peers"
SUITES: Final = {
    "etcd3gw": ("etcd3gw.tests",),
    "tooz": ("tooz.tests.test_coordination", "tooz.tests.drivers.test_etcd3gw"),
}
SUITE_S: Final = 600
"""How long one suite may run; on etcd it takes 90 s."""
TEST_S: Final = 60


class Result(NamedTuple):
    """How the test `name` of a suite ended: passed, failed or skipped, and what it said."""

    name: str
    end: str
    said: str


def main(argv: list[str]) -> int:
    """Run the suites and print their counts and what was not expected."""
    parser = argparse.ArgumentParser(prog="python -m tests.peers.suites")
    parser.add_argument("--kinds", default="shared,replicated,nginx")
    parser.add_argument("--url", help="of an Acordo node that runs already")
    parser.add_argument("--suites", default=",".join(SUITES))
    options = parser.parse_args(argv)
    install()
    wrong: list[str] = []
    for target in ["url"] if options.url else options.kinds.split(","):
        with _running(target, options.url) as url:
            told = asked(target, url)  # first: the suites leave leases behind
            results = run(url, options.suites.split(","))
        counts = Counter(result.end for result in results)
        shown = ", ".join(f"{counts[end]} {end}" for end in ("passed", "failed", "skipped"))
        print(f"{options.url or target}: {shown}", flush=True)
        print(f"{options.url or target}: {told[-1]}", flush=True)
        wrong += [f"{target}: {line}" for line in told[:-1]]
        wrong += [f"{target}: {line}" for line in unexpected(results, etcd=target == "etcd")]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


def asked(target: str, url: str) -> list[str]:
    """Ask the corpus; return a line for each unexpected answer, and one that counts all. etcd
    answers what was recorded of it, except for the cases that end it.
    """
    cases = recorded()
    if target != "etcd":
        return compared(url, cases, expected(shared=target == "shared"))
    return compared(url, {name: cases[name] for name in cases if name not in ENDS_ETCD}, {})


@contextmanager
def _running(target: str, url: str | None) -> Iterator[str]:
    """Run what is tested until the block ends; yield its URL."""
    if url is not None:
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="acordo-peers-") as folder:
        if target == "etcd":
            with etcd(folder) as theirs:
                yield theirs
            return
        with acordo("shared" if target == "shared" else "replicated", folder) as urls:
            if target == "nginx":
                with behind_nginx(urls) as front:
                    yield front
            else:
                yield urls[0]


def install() -> None:
    """Make the environment of the suites, unless it is there."""
    lock = ROOT / "tests" / "peers" / "requirements.lock"
    ready = ENVIRONMENT / ".ready"
    if ready.exists() and ready.read_text() == lock.read_text():
        return
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    subprocess.run([ROOT / ".ci" / "venv", str(ENVIRONMENT), str(lock)], check=True, cwd=ROOT)
    ready.write_text(lock.read_text())


def run(url: str, suites: list[str]) -> list[Result]:
    """Run suites against a server, side by side: they wait most of the time."""
    parts = urlsplit(url)
    assert parts.port is not None
    # The suites know a host by the name localhost only.
    environment = os.environ | {
        "TOOZ_TEST_HTTP_URL": f"http://localhost:{parts.port}",
        "TOOZ_TEST_ETCD_PORT": str(parts.port),
        "TOOZ_TEST_URL": f"etcd3+http://localhost:{parts.port}",
    }
    with tempfile.TemporaryDirectory(prefix="acordo-suites-") as folder:
        started = [
            (suite, Path(folder, f"{suite}.xml"), _start(suite, Path(folder), environment))
            for suite in suites
        ]
        found: list[Result] = []
        for suite, report, process in started:
            try:
                process.wait(SUITE_S)
            finally:
                process.kill()
                process.wait()
            if not report.exists():
                output = Path(folder, f"{suite}.log").read_text()
                raise SystemExit(f"{suite} ended without a report:\n{output[-4000:]}")
            found += results_of(suite, report.read_text())
    return found


def _start(suite: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (folder / f"{suite}.log").open("wb") as log:
        return subprocess.Popen(
            [
                *(ENVIRONMENT / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *(f"--timeout={TEST_S}", f"--junitxml={folder / suite}.xml"),
                *("--pyargs", *SUITES[suite]),
            ],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def results_of(suite: str, report: str) -> list[Result]:
    """Return the results in a JUnit report."""
    found = []
    for case in ET.fromstring(report).iter("testcase"):
        name = f"{suite}: {case.get('classname', '').rsplit('.', 1)[-1]}.{case.get('name')}"
        end, said = "passed", ""
        for child in case:
            if child.tag in {"failure", "error"}:
                end = "failed"
            elif child.tag == "skipped":
                end = "skipped"
            said = (child.get("message") or "").strip()
        found.append(Result(name, end, said))
    return found


def unexpected(results: list[Result], *, etcd: bool = False) -> list[str]:
    """Return a line for each test that did not end as `not_passed` says."""
    lines = []
    for name, end, said in results:
        expected = "passed"
        if name in SKIPPED_BY_THE_DRIVER:
            expected = "skipped"
        elif name in ON_ACORDO and not etcd:
            expected = "failed"
        if end != expected:
            lines.append(f"{name} {end}, expected {expected}: {said[:300]}")
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
