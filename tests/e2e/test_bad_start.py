"""What must be mended is named, refused, and kept as it is; nothing restarts in a loop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # ships no types
import pytest

from acordo import Client
from backends.replicated.schema import SHARED_APPLICATION_ID
from cluster.directory import locked
from cluster.local.process import EX_CONFIG, ROOT
from cluster.local.supervision import NodeFailed
from cluster.ports import free_base_port
from cluster.services.process import wait_until
from kv.errors import BadRequest
from tests.e2e.conftest import Start
from tests.services import fresh_database


async def broken(start: Start, **more: object) -> str:
    """Start what cannot start; return what was said of it."""
    with pytest.raises(NodeFailed) as caught:
        async with start(**more):
            pass
    return caught.value.detail


async def filled(start: Start, **more: object) -> None:
    async with (
        start(**more) as cluster,
        Client([n.url for n in cluster.nodes.values()], timeout_s=30) as client,
    ):
        for number in range(10):
            await client.put(f"k{number}", b"v" * 1000)


async def test_a_node_directory_of_another_cluster_is_refused(start: Start, tmp_path: Path) -> None:
    await filled(start)
    path = tmp_path / "data" / "n2" / "node.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"cluster_id": "another"}))
    said = await broken(start)
    assert "n2 cannot start" in said
    assert "belongs to cluster another" in said


async def test_a_node_directory_of_a_newer_version_is_refused(start: Start, tmp_path: Path) -> None:
    await filled(start)
    path = tmp_path / "data" / "n3" / "node.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"format": 99}))
    said = await broken(start)
    assert str(path) in said
    assert "newer version" in said


async def test_a_corrupt_journal_is_named_refused_and_kept(start: Start, tmp_path: Path) -> None:
    await filled(start)
    journals = [
        p
        for p in (tmp_path / "data" / "n1").rglob("*journal*")
        if p.is_file() and p.stat().st_size > 200
    ]
    assert journals, "no journal was written"
    journal = max(journals, key=lambda p: p.stat().st_size)
    content = bytearray(journal.read_bytes())
    content[len(content) // 3] ^= 0xFF  # in the middle: no torn tail that a crash may leave
    journal.write_bytes(content)
    said = await broken(start)
    assert "n1 cannot start" in said
    assert journal.name in said
    assert journal.read_bytes() == content


async def test_a_store_of_another_cluster_is_refused_and_kept(start: Start, tmp_path: Path) -> None:
    """Two clusters on one store would each acknowledge what the other overwrites."""
    url = fresh_database()
    await filled(start, store=url)
    connection = await asyncpg.connect(url)
    owner = await connection.fetchval("SELECT cluster FROM acordo_identity")
    assert owner == json.loads((tmp_path / "data" / "n1" / "node.json").read_bytes())["cluster_id"]
    await connection.execute("UPDATE acordo_identity SET cluster = 'theirs'")
    said = await broken(start, store=url)
    assert "is the store of cluster 'theirs'" in said
    assert await connection.fetchval("SELECT cluster FROM acordo_identity") == "theirs"
    await connection.close()


def shared_file(path: Path) -> str:
    """Make what nodes of version 0.1 shared; return its URL."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE ledger (seq INTEGER PRIMARY KEY)")
        database.execute(f"PRAGMA application_id = {SHARED_APPLICATION_ID}")
        database.commit()
    return f"sqlite:///{path}"


def directory_of_version_0_1(data: Path) -> str:
    """Make the directory of three nodes as version 0.1 left it; return its store's URL."""
    for number in (1, 2, 3):
        (data / f"n{number}" / "raft").mkdir(parents=True)
        (data / f"n{number}" / "raft" / "journal.0000000001").write_bytes(b"entries")
        node = {"format": 1, "cluster_id": "old", "node_id": f"n{number}"}
        (data / f"n{number}" / "node.json").write_text(json.dumps(node))
    cluster = {"format": 1, "cluster_id": "old", "nodes": 3, "base_port": 21000}
    (data / "cluster.json").write_text(json.dumps(cluster))
    return shared_file(data / "store.sqlite")


async def test_a_directory_of_version_0_1_is_refused_with_the_way_over(
    start: Start, tmp_path: Path
) -> None:
    """The runner's, and that of a node alone: nothing in them is touched."""
    data = tmp_path / "data"
    directory_of_version_0_1(data)
    before = content_of(data)
    with pytest.raises(BadRequest) as caught:
        async with start():
            pass
    assert (caught.value.code, str(data) in caught.value.detail) == ("other_store", True)
    said = run_node("--data-dir", str(data / "n1"), **free_ports())
    for words in (caught.value.allowed or "", said.stderr):
        assert "`acordo dump` there, with version 0.1" in words
        assert "`acordo load`" in words
        assert "expiries are kept, op_ids and history are not" in words
    assert said.returncode == EX_CONFIG
    assert str(data / "n1") in said.stderr
    assert content_of(data) == before


@pytest.mark.parametrize("program", ["node", "cluster"])
def test_a_file_that_all_nodes_share_is_refused_by_name(program: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    url = directory_of_version_0_1(data)
    before = content_of(data)
    if program == "node":
        said = run_node("--store", url, "--data-dir", str(data / "n1"), **free_ports())
    else:
        said = run("cluster", "up", "--data", str(data), ACORDO_STORE=url)
    assert said.returncode == EX_CONFIG
    for words in (url, "no nodes share a file any more", "`acordo dump` with version 0.1",
                  "`acordo load`", "op_ids and history are not"):  # fmt: skip
        assert words in said.stderr, said.stderr
    assert content_of(data) == before


async def test_an_own_file_that_is_not_this_members_is_refused_by_name(
    start: Start, tmp_path: Path
) -> None:
    """Another application's, the shared store of version 0.1, and that of a newer version."""
    await filled(start)
    file = tmp_path / "data" / "n1" / "store.sqlite"
    shared = tmp_path / "shared.sqlite"
    shared_file(shared)
    other = tmp_path / "other.sqlite"
    with contextlib.closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE ledger (amount INTEGER)")
        database.commit()
    newer = tmp_path / "newer.sqlite"
    shutil.copy(file, newer)
    with contextlib.closing(sqlite3.connect(newer)) as database:
        database.execute("PRAGMA user_version = 99")
    for foreign in (shared, other, newer):
        for extra in ("-wal", "-shm"):
            file.with_name(file.name + extra).unlink(missing_ok=True)
        shutil.copy(foreign, file)
        content = file.read_bytes()
        said = await broken(start)
        assert "n1 cannot start" in said
        assert str(file) in said, said
        assert file.read_bytes() == content


def content_of(directory: Path) -> dict[str, bytes]:
    """Return every file of a directory but locks, logs and what names running processes."""
    return {
        str(path): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name not in {"lock", "node.log", "running.json"}
    }


async def test_a_taken_port_is_named_before_anything_starts(start: Start, tmp_path: Path) -> None:
    await filled(start)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = json.loads((tmp_path / "data" / "cluster.json").read_bytes())["base_port"] + 1001
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(BadRequest, match=rf"port {port} \(Raft of n2\) is in use"):
            async with start():
                pass


def run_node(*flags: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return run("node", *flags, **environ)


def run(program: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ACORDO_")}
    return subprocess.run(
        [sys.executable, "-m", program, *arguments],
        env=clean | environ, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_a_node_says_which_setting_is_wrong(tmp_path: Path) -> None:
    wrong = run_node("--fsync", "sometimes")
    assert wrong.returncode == EX_CONFIG
    assert "--fsync='sometimes' is not allowed; allowed: always, interval, off" in wrong.stderr
    unknown = run_node(ACORDO_FSINC="off")
    assert unknown.returncode == EX_CONFIG
    assert (
        "ACORDO_FSINC (in the environment) is no setting: did you mean ACORDO_FSYNC?"
        in unknown.stderr
    )


def test_a_node_says_which_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = run_node("--http-port", str(port), "--data-dir", str(tmp_path / "n1"))
    assert said.returncode == EX_CONFIG
    assert str(port) in said.stderr.splitlines()[-1]


def test_a_node_shows_its_settings_without_passwords() -> None:
    said = run_node("--print-config", "--store", "postgresql://u:hunter2@h/d")
    assert said.returncode == 0
    assert "hunter2" not in said.stdout
    assert '"ACORDO_STORE": "postgresql://u:***@h/d"' in said.stdout


@pytest.mark.parametrize("name", ["", "mine"])
def test_a_cluster_without_a_name_at_a_broker_is_warned(tmp_path: Path, name: str) -> None:
    """It ends at once, for its directory is in use; what it shares its names with is said
    before.
    """
    broker = "amqp://nobody@127.0.0.1:9/"
    with locked(tmp_path, "node"):
        named = ("--cluster-id", name) if name else ()
        said = run_node("--data-dir", str(tmp_path), "--broadcast", broker, *named, **free_ports())
    assert said.returncode != 0
    assert ("ACORDO_CLUSTER_ID" in said.stdout + said.stderr) is (name == "")


def test_a_missing_secret_file_is_named(tmp_path: Path) -> None:
    said = run_node("--secret-file", str(tmp_path / "nowhere"), "--data-dir", str(tmp_path / "n1"))
    assert said.returncode == EX_CONFIG
    assert str(tmp_path / "nowhere") in said.stderr


def test_a_store_server_that_does_not_answer_is_waited_for_and_named(tmp_path: Path) -> None:
    ports = free_ports()
    url = f"http://127.0.0.1:{ports['ACORDO_HTTP_PORT']}"
    log = tmp_path / "node.log"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ACORDO_")}
    store = ["--store", "postgresql://u:hunter2@127.0.0.1:1/d", "--data-dir", str(tmp_path / "n1")]
    with log.open("wb") as output:
        node = subprocess.Popen(
            [sys.executable, "-m", "node", *store],
            env=clean | ports,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: answer(f"{url}/livez")[0] == 200, "the node to live without its store")
        status, said = answer(f"{url}/readyz?verbose")
        assert status == 503
        assert "127.0.0.1" in said + log.read_text()
        assert "hunter2" not in said + log.read_text()
        assert node.poll() is None
    finally:
        node.terminate()
        assert node.wait(30) is not None


def says(url: str, what: str) -> bool:
    return what in answer(url)[1]


def answer(url: str) -> tuple[int, str]:
    """Return status and body; (0, "") when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=2) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read().decode()
    except OSError:
        return 0, ""


def test_a_store_or_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for name in ("store.sqlite", "store.sqlite.lock", "lock"):
        data = tmp_path / name.replace(".", "-")
        (data / name).mkdir(parents=True)
        said = run_node("--data-dir", str(data), **free_ports())
        last = said.stderr.splitlines()[-1]
        assert (said.returncode, f"{data}/{name}" in last) == (EX_CONFIG, True), said.stderr


def test_two_nodes_do_not_share_a_directory(tmp_path: Path) -> None:
    with locked(tmp_path, "node"):
        said = run_node("--data-dir", str(tmp_path), **free_ports())
    assert said.returncode == EX_CONFIG
    assert f"{tmp_path} is in use by another node (process {os.getpid()})" in said.stderr


def free_ports() -> dict[str, str]:
    port = free_base_port(1, 15400)
    return {"ACORDO_HTTP_PORT": str(port), "ACORDO_RAFT_ADDRESS": f"127.0.0.1:{port + 1000}"}


def test_two_nodes_that_were_given_different_first_lists_are_told_so_by_name(
    tmp_path: Path,
) -> None:
    port = free_base_port(4, 15600)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ACORDO_")}
    raft = {f"n{n}": f"127.0.0.1:{port + 1000 + n}" for n in (1, 2, 3)}
    urls = [f"http://127.0.0.1:{port + n}" for n in (1, 2)]
    with contextlib.ExitStack() as stack:
        for n, listed in ((1, ("n1", "n2")), (2, ("n1", "n2", "n3"))):
            settings = {
                "ACORDO_NODE_ID": f"n{n}",
                "ACORDO_HTTP_PORT": str(port + n),
                "ACORDO_RAFT_ADDRESS": raft[f"n{n}"],
                "ACORDO_MEMBERS": ",".join(f"{id}={raft[id]}" for id in listed),
                "ACORDO_DATA_DIR": str(tmp_path / f"n{n}"),
            }
            output = stack.enter_context((tmp_path / f"n{n}.log").open("wb"))
            node = subprocess.Popen(
                [sys.executable, "-m", "node"],
                env=clean | settings,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
            stack.callback(node.wait, 30)
            stack.callback(node.terminate)
        told = "were given different lists of the first members"
        for url in urls:
            wait_until(partial(says, f"{url}/v1/cluster", told), f"{url} to say so")
            conflict = json.loads(answer(f"{url}/v1/cluster")[1])["conflicts"][0]
            assert "n1" in conflict and "n2" in conflict
            status, said = answer(f"{url}/readyz?verbose")
            assert (status, told in said) == (503, True)


async def test_a_node_without_a_log_that_meets_a_cluster_which_began_otherwise_is_refused(
    start: Start, tmp_path: Path
) -> None:
    """It was told that it founds the cluster together with a node that has founded it alone."""
    async with start(nodes=1) as cluster:
        own = cluster.nodes["n1"]
        port = free_base_port(1, 12000 + os.getpid() % 900 * 10)
        address = f"127.0.0.1:{port + 1000}"
        refused = await asyncio.to_thread(
            run_node,
            **own.environ
            | {
                "ACORDO_NODE_ID": "n2",
                "ACORDO_HTTP_PORT": str(port + 1),
                "ACORDO_ADVERTISED_URL": f"http://127.0.0.1:{port + 1}",
                "ACORDO_RAFT_ADDRESS": address,
                "ACORDO_MEMBERS": f"n1={own.raft_address},n2={address}",
                "ACORDO_DATA_DIR": str(tmp_path / "n2"),
                "ACORDO_STOP_WITH_STDIN": "false",
            },
        )
        assert refused.returncode == EX_CONFIG
        assert (
            "n2 has no log, and its list of first members is not the one that n1's"
            in refused.stderr
        )
        assert "a list with itself as an observer" in refused.stderr
        async with Client([own.url]) as client:
            await client.put("k", b"the cluster goes on")
