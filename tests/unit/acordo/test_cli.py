"""The command line against an Acordo in memory: what it prints, and with which code it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import typer
from aiohttp import web
from typer.core import TyperGroup
from typer.testing import CliRunner

from acordo import Client
from acordo._bulk.checkpoints import DumpPoint, beside, checkpoint_of_dump
from acordo._cli import main as cli
from acordo._cli.shell import app, hoisted
from acordo._cli.text import printable
from kv.model import GENESIS_DIGEST, roll
from node.wire.page_tokens import PagePosition, token_of
from tests.unit.acordo.fake_cluster import FakeCluster, problem
from tests.unit.acordo.scripted import Play, Scripted, closed_port, http
from tests.unit.acordo.scripted import problem as problem_bytes
from tests.unit.node.conftest import opened

assert cli.COMMANDS  # importing it registers the commands


class Ran:
    def __init__(self, code: int, out: bytes, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)

    @property
    def lines(self) -> list[Any]:
        return [msgspec.json.decode(line) for line in self.out.splitlines()]


class Shell:
    def __init__(self, urls: list[str]) -> None:
        self.urls = urls

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        environment = {"ACORDO_URLS": ",".join(self.urls), "TERM": "dumb"}
        runner = CliRunner(env=environment)
        result = await asyncio.to_thread(runner.invoke, app, hoisted(arguments), input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout_bytes, result.stderr)


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    async with FakeCluster(3) as made:
        yield made


@pytest.fixture
def acordo(cluster: FakeCluster) -> Shell:
    return Shell(cluster.urls)


async def test_put_get_delete(acordo: Shell) -> None:
    assert (await acordo("put", "k", "v")).out == b"created at revision 1\n"
    assert (await acordo("put", "k", "-", stdin=b"\x00\xffraw")).out == b"written at revision 2\n"
    assert (await acordo("get", "k")).out == b"\x00\xffraw"
    found = (await acordo("get", "k", "--json")).json
    assert found["value"] == {"base64": "AP9yYXc="}
    assert (found["revision"], found["found"], found["level"]) == (2, True, "linearizable")
    assert (await acordo("delete", "k")).code == 0
    again = await acordo("delete", "k")
    assert (again.code, again.out) == (1, b"was absent at revision 4\n")
    missing = await acordo("get", "k")
    assert (missing.code, missing.out, missing.err) == (1, b"", "not found: k\n")
    assert (await acordo("--json", "get", "k")).json["found"] is False


async def test_values_from_files_and_binary_keys(
    acordo: Shell, tmp_path: Path, cluster: FakeCluster
) -> None:
    (tmp_path / "value").write_bytes(b"from a file")
    assert (await acordo("put", "base64:/wA=", "--file", str(tmp_path / "value"))).code == 0
    assert cluster.at(b"\xff\x00")[1] == b"from a file"
    assert (await acordo("put", "k", "--file", str(tmp_path / "none"))).code == 2
    assert (await acordo("put", "k")).code == 2
    assert (await acordo("put", "base64:???", "v")).code == 2


async def test_guards_leave_with_1_and_say_what_is_there(acordo: Shell) -> None:
    await acordo("put", "k", "v")
    assert (await acordo("cas", "k", "1", "w")).code == 0
    refused = await acordo("cas", "k", "1", "x")
    assert refused.code == 1
    assert "  k is at revision 2 now" in refused.err
    told = msgspec.json.decode((await acordo("cas", "k", "0", "x", "--json")).err)
    assert (told["error"], told["current"], told["maybe_applied"]) == (
        "PreconditionFailed",
        2,
        False,
    )
    assert (await acordo("put", "k", "v", "--if-absent")).code == 1
    assert (await acordo("put", "none", "v", "--if-exists")).code == 1
    assert (await acordo("put", "k", "v", "--if-exists", "--if-absent")).code == 2
    assert (await acordo("delete", "k", "--if-revision", "1")).code == 1


async def test_list_and_txn(acordo: Shell) -> None:
    done = await acordo(
        "txn", "--put", "a/1=x", "--put", "a/2=y=z", "--if-absent", "a/1", "--read", "a/1", "--json"
    )
    assert (done.json["revision"], done.json["branch"], done.json["reads"][0]["value"]) == (
        1,
        "then",
        None,
    )
    assert [line["key"] for line in (await acordo("list", "a/", "--json")).lines] == ["a/1", "a/2"]
    assert (await acordo("list", "a/", "-k", "--limit", "1")).out == b"a/1\n"
    assert b"y=z" in (await acordo("list")).out
    form = (
        b'{"guards": [{"key": "a/1", "revision": 1}], '
        b'"writes": [{"delete": "a/1"}], "reads": ["a/2"]}'
    )
    assert (await acordo("txn", "-", stdin=form)).out.startswith(b"then at revision 2\n")
    assert (await acordo("txn", "-", stdin=form)).code == 1
    assert (await acordo("txn", "-", stdin=b'{"guard": []}')).code == 2
    assert (await acordo("txn", "--put", "nothing")).code == 2


async def test_cluster_commands(acordo: Shell, cluster: FakeCluster) -> None:
    assert b"n1" in (await acordo("leader")).out
    shown = (await acordo("status")).out.decode()
    assert "n1 leads" in shown
    assert "follower" in shown
    assert (await acordo("transfer", "n2", "--json")).json == {"leader": "n2"}
    assert [m["id"] for m in (await acordo("members", "--json")).json] == ["n1", "n2", "n3"]
    cluster.leader = None
    assert (await acordo("status")).code == 1
    assert (await acordo("leader", "--timeout", "1.5")).code == 3


async def test_watch_and_operation(acordo: Shell, cluster: FakeCluster) -> None:
    async with Client(cluster.urls) as client:
        written = await client.put("w/1", "x")
        await client.delete("w/1")
    seen = await acordo("watch", "w/", "--after", "0", "--count", "2", "--json")
    assert [(e["event"], e["revision"], e["value"]) for e in seen.lines] == [
        ("put", 1, "x"),
        ("delete", 2, None),
    ]
    assert (await acordo("operation", written.op_id)).out == b"applied at revision 1\n"
    looked = await acordo("operation", "nobody's")
    assert looked.code == 4
    assert "--settle" in looked.err
    cancelled = await acordo("operation", "nobody's", "--settle", "--json")
    assert (cancelled.json["outcome"], cancelled.code) == ("expired", 0)
    cluster.floor = 5
    assert (await acordo("watch", "--after", "1")).code == 6


async def test_codes_of_failures(acordo: Shell, cluster: FakeCluster) -> None:
    cluster.trouble = lambda request: problem(
        503, "no_quorum", outcome="not_applied", detail="no quorum"
    )
    assert (await acordo("put", "k", "v", "--timeout", "1.5")).code == 3
    assert (await acordo("get", "k", "--timeout=1.5")).code == 3
    cluster.trouble = lambda request: problem(504, "outcome_unknown", outcome="unknown")
    unknown = await acordo("put", "k", "v", "--timeout", "1.5", "--op-id", "mine")
    assert unknown.code == 4
    assert "acordo operation mine" in unknown.err
    assert (
        await Shell([f"127.0.0.1:{await closed_port()}"])("put", "k", "v", "--timeout", "1.5")
    ).code == 5
    cluster.trouble = lambda request: problem(
        400, "bad_ttl", detail="[bold]no[/bold]", allowed="more than 0"
    )
    bad = await acordo("put", "k", "v")
    assert bad.code == 2
    assert "[bold]no[/bold]" in bad.err
    assert "allowed: more than 0" in bad.err
    assert (await acordo("get", "k", "--level", "strong")).code == 2
    assert (await acordo("get", "")).code == 2
    assert (await acordo("get")).code == 2
    assert (await acordo("get", "base64:???")).code == 2
    for wrong in ("nonsense://x", "http://", "http://[::1", "http://h:99999", "http://h?x", " "):
        ran = await acordo("get", "k", f"--url={wrong}")
        assert (ran.code, "URL" in ran.err) == (78, True), wrong


def test_what_comes_from_elsewhere_cannot_move_the_terminal() -> None:
    assert printable(b"a\x1b[2Jb\xff\n") == "a\\x1b[2Jb\\xff\\n"
    forms = (
        b"\x00",
        b"\\x00",
        b"\\\\x00",
        b"\x80",
        "\x80".encode(),
        "\u202e".encode(),
        b"\\u202e",
        b"\xff",
        b"\xc3\xbf",
    )
    # each shown form stands for one value
    assert len({printable(form) for form in forms}) == len(forms)
    assert printable("\u202egnp.exe") == "\\u202egnp.exe"
    assert len(printable("x" * 100)) == 60


async def test_what_list_shows_can_be_asked_for(acordo: Shell, cluster: FakeCluster) -> None:
    """NUL and the four characters of its escape are two keys, and the shown form is what an
    argument takes.
    """
    keys = [
        b"\x00",
        rb"\x00",
        b"base64:AA==",
        b"base64:???",
        b" padded ",
        b"\xff",
        b"\xe2\x80\xae",
        b"[red]",
        b"plain",
    ]
    async with Client(cluster.urls) as client:
        for key in keys:
            await client.put(key, key.hex())
    shown = (await acordo("list", "--keys-only")).out.decode().splitlines()
    assert len(set(shown)) == len(keys)
    for key, form in zip(sorted(keys), shown, strict=True):
        assert (await acordo("get", form)).out == key.hex().encode(), form
    assert "plain" in shown
    wrong = await acordo("get", "base64:???")
    assert (wrong.code, "base64:YmFzZTY0Oj8/Pw==" in wrong.err) == (2, True)
    assert (await acordo("get", "base64:YmFzZTY0Oj8/Pw==")).out == b"base64:???".hex().encode()


async def test_refusals_name_the_key(acordo: Shell) -> None:
    await acordo("put", "stock/7", "1")
    refused = await acordo(
        "txn", "--if-exists", "stock/7", "--if-absent", "stock/7", "--put", "log=x"
    )
    assert (refused.code, "stock/7 is at revision 1 now" in refused.err) == (1, True)
    told = msgspec.json.decode((await acordo("put", "stock/7", "2", "--if-absent", "--json")).err)
    assert told["key"] == "stock/7"


async def test_status_shows_urls_whole_and_what_is_not_known(
    cluster: FakeCluster, acordo: Shell
) -> None:
    cluster.leader = None
    ran = await acordo("status")
    assert all(url in ran.out.decode() for url in cluster.urls)
    assert b"this node knows no leader yet" in ran.out
    process = await asyncio.create_subprocess_exec(
        *("script", "-qec", f"stty cols 40; {sys.executable} -m acordo status", "/dev/null"),
        env={**os.environ, "ACORDO_URLS": cluster.urls[0]}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    # also on a narrow terminal
    assert all(url in out.decode() for url in cluster.urls), out.decode()


async def test_promoting_a_voter_changes_nothing_and_says_so(
    acordo: Shell, cluster: FakeCluster
) -> None:
    ran = await acordo("members", "promote", "n2")
    assert (ran.code, ran.out) == (0, b"n2 votes already: nothing to do\n")
    assert not any("promote" in request for request in cluster.requests)


async def test_silence_is_told() -> None:
    ran = await Shell([f"127.0.0.1:{await closed_port()}"])("get", "k", "--timeout", "2.5")
    assert (ran.code, "no node answers yet" in ran.err) == (5, True)
    assert ran.err.count("no node answers yet") == 1


def test_it_runs_as_a_module() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "acordo", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("acordo")


HELD: Final = {
    "get": ["k"], "put": ["k", "v"], "cas": ["k", "1", "v"], "delete": ["k"], "list": [],
    "txn": ["--put", "k=v"], "watch": [], "lock": ["l"], "elect": ["l"],
    "mirror": ["--to", "http://127.0.0.1:1"],
    "history": ["k"], "operation": ["x"], "load": ["FILE"], "dump": [], "backup": ["-"],
    "leader": [], "status": [], "transfer": [], "adopt": ["--gives-up", "0"],
    "diagnose": ["OUT"],
    "check perf": ["--seconds", "0.1"], "members": [], "limits": [],
    "members add": ["n9", "--raft-address", "127.0.0.1:1", "--member-url", "http://127.0.0.1:1"],
    "members promote": ["n2"], "members remove": ["n2"], "ledger verify": [], "ledger list": [],
    "dead list": [], "dead replay": ["--all"], "webhook add": ["w", "http://h.example/"],
    "webhook list": [], "webhook remove": ["w"], "webhook give": ["w", "p"],
    "lease grant": ["9"], "lease list": [],
    "access on": [], "access off": [], "access status": [], "token create": ["p", "-r", "admin"],
    "token list": [], "token revoke": ["t"], "role set": ["r", "--admin"], "role list": [],
    "role delete": ["r"], "role bind": ["c", "-r", "admin"],
    "lease keep-alive": ["1"], "lease show": ["1"], "lease revoke": ["1"],
}  # fmt: skip
"""Arguments of every command that asks a node."""


def all_commands() -> set[str]:
    found = set()
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        inner = getattr(command, "commands", {})
        found |= {f"{name} {each}" for each in inner} or {name}
        if inner and command.callback is not None:
            found.add(name)
    return found


def test_every_command_is_among_those_that_are_interrupted() -> None:
    asks_no_node = {
        "dev",
        "kill",
        "top",
        "verify",
        "restore",
        "cert init",
        "cert issue",
        "cert show",
    }
    groups = {"ledger", "dead", "webhook", "check"}
    assert set(HELD) >= set(all_commands()) - groups - asks_no_node


@pytest.mark.timeout(300)
async def test_ctrl_c_ends_every_command_with_130(cluster: FakeCluster, tmp_path: Path) -> None:
    """A real process and a real SIGINT each, sent when its request has arrived; the answer is a
    refusal.
    """
    (tmp_path / "in").write_bytes(b'{"key": "k", "value": "v"}\n' * 3)
    for command, arguments in HELD.items():
        files = {"FILE": tmp_path / "in", "OUT": tmp_path / "out.tar.gz"}
        given = [str(files.get(each, each)) for each in arguments]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "acordo", *command.split(), *given),
            env={**os.environ, "ACORDO_URLS": cluster.urls[0]},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

        def refuse(
            request: web.Request, process: asyncio.subprocess.Process = process
        ) -> web.StreamResponse:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            return problem(400, "bad", detail="heard at the same time")

        cluster.trouble = refuse
        _, err = await process.communicate()
        assert process.returncode == 130, (command, err.decode())
        assert b"Traceback" not in err, (command, err.decode())


@pytest.mark.parametrize(
    ("ends", "says"),
    [
        ("raise NotApplied('no quorum', reason='no_quorum')", "no quorum"),
        ("raise OutcomeUnknown('lost', op_id='x')", "lost"),
        ("return 1", ""),
        ("await asyncio.sleep(60)", "interrupted"),
        ("output.op_id = 'mine'; await asyncio.sleep(60)", "may yet be: acordo operation mine"),
    ],
)  # fmt: skip
def test_ctrl_c_wins_over_whatever_else_comes_of_it(ends: str, says: str) -> None:
    """It was pressed before the command had ended: 130, also when a refusal is heard at the same
    moment.
    """
    code = f"""
import asyncio, os, signal, types
from acordo._cli import interrupts
from acordo import NotApplied, OutcomeUnknown
from acordo._cli.shell import GlobalOptions, run

async def work(client, output):
    os.kill(os.getpid(), signal.SIGINT)
    {ends}

interrupts.listen()
try:
    run(types.SimpleNamespace(obj=GlobalOptions(("http://127.0.0.1:1",), False, 60.0)), work)
except BaseException as exc:
    os._exit(exc.exit_code)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, says in ran.stderr) == (130, True), ran.stderr
    assert ran.stderr.count("interrupted") <= 1


def test_shared_options_may_stand_anywhere() -> None:
    assert hoisted(["get", "k", "--json", "-u", "a"]) == ["--json", "-u", "a", "get", "k"]
    assert hoisted(["put", "k", "--", "--json"]) == ["put", "k", "--", "--json"]


async def test_load_and_dump(acordo: Shell, cluster: FakeCluster, tmp_path: Path) -> None:
    lines = b"".join(b'{"key": "k%d", "value": "v%d"}\n' % (n, n) for n in range(250))
    (tmp_path / "in").write_bytes(lines)
    assert (await acordo("load", str(tmp_path / "in"))).out == b"250 lines loaded, 0 left out\n"
    assert (await acordo("load", "-", "--json", stdin=lines)).json["lines"] == 250
    assert (await acordo("dump", str(tmp_path / "out"), "--json")).json["keys"] == 250
    assert (await acordo("dump")).out == (tmp_path / "out").read_bytes()
    assert (await acordo("dump", "--prefix", "k24")).out.count(b"\n") == 11
    bad = await acordo("load", "-", stdin=b"nonsense\n" + lines)
    assert bad.code == 2
    assert "line 1" in bad.err
    skipped = await acordo("load", "-", "--keep-going", stdin=b"nonsense\n" + lines)
    assert skipped.code == 1
    assert b"250 lines loaded, 1 left out" in skipped.out
    assert (await acordo("load", str(tmp_path / "none"))).code == 2


@pytest.mark.parametrize(
    ("status", "code", "arguments", "leaves"),
    [
        (409, "not_a_voter", ["transfer", "nope"], 2),
        (409, "membership_refused", ["members", "remove", "nope"], 2),
        (409, "nothing_to_adopt", ["adopt", "--gives-up", "0"], 2),
        (409, "ask_leader", ["adopt", "--gives-up", "0"], 2),
        (404, "unknown_member", ["members", "promote", "nope"], 2),
        (409, "unsafe", ["members", "remove", "n2"], 3),
    ],
)
async def test_what_can_never_work_is_not_told_to_be_tried_again(
    status: int, code: str, arguments: list[str], leaves: int
) -> None:
    said = problem_bytes(
        status, code=code, detail="nope is none", allowed="n1, n2", advice="name another one"
    )
    async with Scripted(otherwise=Play(said)) as server:
        ran = await Shell([server.url])(*arguments)
        assert (ran.code, len(server.requests)) == (leaves, 1)
        assert "nope is none" in ran.err
        assert "name another one" in ran.err
        assert "retry freely" not in ran.err
        assert ("allowed: n1, n2" in ran.err) == (leaves == 2)


@pytest.mark.parametrize("arguments", [["put", "k", "v"], ["get", "k"], ["delete", "k"], ["list"]])
async def test_what_to_do_is_said_in_the_servers_words(arguments: list[str]) -> None:
    said = problem_bytes(
        503,
        code="store_refused",
        outcome="not_applied",
        detail="swapped",
        advice="an operator decides",
    )
    async with Scripted(otherwise=Play(said)) as server:
        ran = await Shell([server.url])(*arguments, "--timeout", "0.3")
        assert ran.code == 3
        assert "an operator decides" in ran.err
        assert "retry freely" not in ran.err


async def test_a_forgotten_operation_is_asked_for_once_and_not_sent_in_a_circle() -> None:
    said = problem_bytes(
        504, code="outcome_forgotten", outcome="unknown", detail="gone", advice="read the key"
    )
    async with Scripted(otherwise=Play(said)) as server:
        ran = await Shell([server.url])("operation", "~n1.aaa.1")
        assert (ran.code, len(server.requests)) == (4, 1)
        assert ran.err == "gone\n  read the key\n"


async def test_the_help_of_txn_shows_its_json_form_whole(acordo: Shell) -> None:
    """In help texts, [words] in brackets are markup unless escaped."""
    said = " ".join((await acordo("txn", "--help")).out.decode().split())
    assert '"otherwise": [...], "reads": [key]}' in said
    assert '[{"put": key, "value": v} | {"delete": key}]' in said


async def test_a_bad_line_behind_good_ones_is_not_said_to_have_changed_nothing(
    acordo: Shell, cluster: FakeCluster, tmp_path: Path
) -> None:
    """INV-4 in words: lines are in. The mended file goes on where the load stopped, and nothing is
    doubled.
    """
    path = tmp_path / "in"
    good = b"".join(b'{"key": "k%d", "value": "v%d"}\n' % (n, n) for n in range(1500))
    path.write_bytes(good + b"broken\n")
    stopped = await acordo("load", str(path))
    assert stopped.code == 2
    assert cluster.applied > 0
    assert "line 1501" in stopped.err
    assert "nothing was changed" not in stopped.err
    assert "lines may be in" in stopped.err
    assert "--keep-going" in stopped.err
    assert "the same command goes on once the line is mended" in stopped.err
    told = msgspec.json.decode((await acordo("load", str(path), "--json")).err.splitlines()[-1])
    assert (told["error"], told["maybe_applied"]) == ("Rejected", True)
    path.write_bytes(good + b'{"key": "last", "value": "v"}\n')
    done = (await acordo("load", str(path), "--json")).json
    assert done["resumed_at"] > 0
    assert (done["resumed_at"] + done["lines"], cluster.applied) == (1501, 1501)


async def test_ctrl_c_during_a_load_says_how_to_go_on_and_going_on_doubles_nothing(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    """A real process, a real SIGINT, in the middle of a load; then again with SIGKILL; then to the
    end.
    """
    path = tmp_path / "in.ndjson"
    path.write_bytes(b"".join(b'{"key": "k%d", "value": "v%d"}\n' % (n, n) for n in range(12_000)))
    environment = {**os.environ, "ACORDO_URLS": ",".join(cluster.urls)}

    async def start() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "acordo", "load", str(path)),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def cut(number: int, after: int) -> tuple[int, bytes]:
        batches = 0
        process = await start()

        def trouble(request: web.Request) -> web.StreamResponse | str | None:
            nonlocal batches
            batches += request.path == "/v1/batch"
            if batches == after:
                process.send_signal(number)
            if batches > after:  # so that it cannot end before it heard the signal
                return problem(503, "no_quorum", outcome="not_applied")
            return None

        cluster.trouble = trouble
        _, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, err

    code, err = await cut(signal.SIGINT, 8)
    assert code == 130
    assert b"run the same command again" in err
    assert err.count(b"interrupted") == 1
    assert (await cut(signal.SIGKILL, 8))[0] == -signal.SIGKILL
    cluster.trouble = lambda request: None
    process = await start()
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"went on after line" in out
    assert cluster.applied == 12_000
    assert all(cluster.at(b"k%d" % n)[1] == b"v%d" % n for n in range(12_000))
    assert sum(len(versions) for versions in cluster.history.values()) == 12_000


def rows(count: int) -> list[dict[str, Any]]:
    made, digest, last = [], GENESIS_DIGEST, 0
    for seq in range(1, count + 1):
        body = []
        for n in range(seq % 3):  # some rows are empty, as after a take-over
            op_id, body_hash = f"op-{seq}-{n}", bytes([seq, n]) * 8
            digest = roll(digest, op_id, body_hash)
            body.append({"op_id": op_id, "body_hash": body_hash.hex(), "outcome": "applied"})
        row = {
            "seq": seq,
            "term": 1 + seq // 4,
            "committer": "n1",
            "first": last + 1,
            "last": last + len(body),
        }
        made.append({**row, "digest": digest.hex(), "log_time_ms": 0, "body": body})
        last += len(body)
    return made


async def test_ledger_verify_recomputes_the_chain(acordo: Shell, cluster: FakeCluster) -> None:
    """The digests of the test are rolled by the servers' own code."""
    cluster.rows = rows(20)
    cluster.revision = cluster.rows[-1]["last"]
    good = await acordo("ledger", "verify")
    assert (good.code, b"the chain holds" in good.out) == (0, True)
    assert (await acordo("ledger", "list", "--json", "--limit", "3")).lines[2]["seq"] == 3
    assert (await acordo("ledger", "verify", "--from", "7")).code == 0


@pytest.mark.parametrize(
    ("row", "field", "value"),
    [
        (4, "digest", "ab" * 32),
        (4, "term", 0),
        (4, "first", 99),
        (4, "seq", 9),
        (4, "last", 99),
        (0, "first", 2),
        (4, "body", []),
        (4, "body", [{"op_id": "x", "body_hash": "zz"}]),
        (7, "body", [{"op_id": "another", "body_hash": "00"}, {"op_id": "x", "body_hash": "00"}]),
    ],
)
async def test_ledger_verify_finds_what_was_changed(
    acordo: Shell, cluster: FakeCluster, row: int, field: str, value: Any
) -> None:
    cluster.rows = rows(12)
    cluster.revision = cluster.rows[-1]["last"]
    cluster.rows[row][field] = value
    checked = await acordo("ledger", "verify", "--json")
    assert checked.code == 1
    assert checked.json["flaws"]


async def test_ledger_verify_compares_the_members(acordo: Shell, cluster: FakeCluster) -> None:
    cluster.rows = rows(6)
    cluster.revision = cluster.rows[-1]["last"]
    cluster.digests = {"n2": "cd" * 32}
    checked = await acordo("ledger", "verify", "--json")
    assert checked.code == 1
    assert checked.json["differing_members"] == ["n2"]


async def test_status_says_why_a_node_is_not_ready() -> None:
    view = {
        "node": "n1", "role": "leader", "term": 1, "leader": "n1", "quorum": True,
        "settled": 4, "members": [],
        "unready": [{"check": "store", "code": "store_away", "why": "sqlite: disk full"}],
    }  # fmt: skip
    async with Scripted(otherwise=Play(http(200, msgspec.json.encode(view)))) as server:
        ran = await Shell([server.url])("status")
    assert ran.code == 1
    assert b"n1 is not ready: store: sqlite: disk full (store_away)" in ran.out


async def test_status_says_how_a_members_own_store_is() -> None:
    view = {
        "node": "n1", "role": "follower", "term": 1, "leader": "n2", "quorum": True,
        "settled": 4, "members": [], "refusal": "own_store_set_aside", "fsync": "off",
        "store_kind": "replicated", "store_state": "set_aside", "store_detail": "it is torn",
        "unsafe_fsync": True,
        "unready": [{"check": "ledger", "code": "starting", "why": "it fetches another's state"}],
    }  # fmt: skip
    async with Scripted(otherwise=Play(http(200, msgspec.json.encode(view)))) as server:
        ran = await Shell([server.url])("status")
    assert ran.code == 1
    assert b"its own store is set_aside: it is torn" in ran.out
    assert b"fsync=off: a power cut may lose acknowledged writes" in ran.out
    assert b"it fetches another's state (starting)" in ran.out
    assert b"adopt" not in ran.out, "nobody has to decide anything"


async def test_a_dump_that_cannot_go_on_says_how_to_begin_anew(tmp_path: Path) -> None:
    """Its checkpoint is of a cluster that was restored since, or of another one."""
    async with opened() as api:
        async with Client(api.url) as client:
            await client.put("a", "1")
        target = tmp_path / "out.ndjson"
        token = token_of(PagePosition(1000, b"a"), b"", keys_only=False)
        point = DumpPoint(version=1, prefix="", revision=1000, token=token, offset=0, keys=0)
        checkpoint_of_dump(target).write_bytes(msgspec.json.encode(point))
        part = beside(target, "part")
        part.write_bytes(b"")
        refused = await Shell([api.url])("dump", str(target))
        assert (
            refused.code == 2
            and "--restart begins anew" in refused.err
            and "has not been given" in refused.err
        )
        assert (await Shell([api.url])("dump", str(target), "--restart")).code == 0
        assert target.read_bytes().count(b"\n") == 1
