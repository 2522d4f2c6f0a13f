"""The runner, against a stand-in for a node: what dies comes back, what is broken does not, all
stop in the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import msgspec
import pytest

from cluster.local import layout
from cluster.local import links as links_module
from cluster.local.control import ControlFile, ControlPort
from cluster.local.layout import running
from cluster.local.links import Links
from cluster.local.process import ROOT, NodeState
from cluster.local.runner import LocalCluster
from cluster.local.supervision import STEADY_S, NodeFailed, backoff_s, failures_after
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings
from cluster.settings.values import MemberSetting
from kv.errors import BadRequest

DUMMY = (sys.executable, "-m", "tests.unit.cluster.dummy_node")
FIRST_PORT = 20000 + os.getpid() % 500 * 20


def settings(tmp_path: Path, **more: object) -> RunnerSettings:
    given = {
        "nodes": 3,
        "base_port": free_base_port(3, FIRST_PORT),
        "data": tmp_path / "data",
        "liveness_timeout_s": 2,
    } | more
    return RunnerSettings(**given)  # type: ignore[arg-type]  # parsed by pydantic


async def until(condition: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"never: {what}") from None


async def test_all_start_and_stop_in_order(tmp_path: Path) -> None:
    async with LocalCluster(settings(tmp_path), command=DUMMY) as cluster:
        assert await cluster.wait_ready() == "n1"
        found = running(tmp_path / "data")
        assert found is not None
        assert [(n.id, n.pid) for n in found.nodes] == [
            (n.id, n.pid) for n in cluster.nodes.values()
        ]
        directories = [n.data_dir for n in cluster.nodes.values()]
    assert all((d / "stopped-cleanly").exists() for d in directories)
    assert running(tmp_path / "data") is None


async def test_what_is_killed_comes_back(tmp_path: Path) -> None:
    said: list[str] = []
    async with LocalCluster(settings(tmp_path), command=DUMMY, say=said.append) as cluster:
        await cluster.wait_ready()
        node = cluster.nodes["n2"]
        cluster.kill("n2")
        await until(lambda: node.starts == 2 and node.state is NodeState.ALIVE, "n2 is alive again")
        assert cluster.nodes["n1"].starts == 1
    assert any("n2 ended (signal SIGKILL): starting it again at once" in line for line in said)


async def test_what_is_silent_is_killed_and_comes_back(tmp_path: Path) -> None:
    said: list[str] = []
    async with LocalCluster(settings(tmp_path), command=DUMMY, say=said.append) as cluster:
        await cluster.wait_ready()
        node = cluster.nodes["n3"]
        cluster.kill("n3", signal.SIGSTOP)
        await until(lambda: node.starts == 2 and node.state is NodeState.ALIVE, "n3 is alive again")
    assert any("n3 has been silent for 2 s: killing it" in line for line in said)


async def test_what_is_broken_is_named_and_left_down(tmp_path: Path) -> None:
    made = settings(tmp_path)
    async with LocalCluster(made, command=DUMMY) as cluster:
        await cluster.wait_ready()
    (tmp_path / "data" / "n2" / "refuse").touch()
    with pytest.raises(NodeFailed, match="n2 cannot start: corrupt_journal: the journal is broken"):
        async with LocalCluster(made, command=DUMMY) as cluster:
            await cluster.wait_ready()
    assert cluster.nodes["n2"].starts == 1


async def test_a_quorum_serves_without_the_one_that_cannot_start(tmp_path: Path) -> None:
    """What serves is not stopped because another node is damaged, and it is said which, and why."""
    made = settings(tmp_path, liveness_timeout_s=60)
    async with LocalCluster(made, command=DUMMY) as cluster:
        await cluster.wait_ready()
    (tmp_path / "data" / "n2" / "refuse").touch()
    async with LocalCluster(made, command=DUMMY) as cluster:
        await until(lambda: cluster.nodes["n2"].state is NodeState.FAILED, "n2 has failed")
        found = await cluster.wait_serving()
        assert (found.serving, found.leader) == (True, "n1")
        assert found.missing == {"n2": "cannot start: corrupt_journal: the journal is broken"}
        assert not cluster.all_failed.is_set()
        assert [cluster.nodes[n].starts for n in ("n1", "n2", "n3")] == [1, 1, 1]


async def test_the_runner_follows_the_directory(tmp_path: Path) -> None:
    made = settings(tmp_path, base_port=free_base_port(4, FIRST_PORT))
    async with LocalCluster(made, command=DUMMY) as cluster:
        await cluster.wait_ready()
        file = layout.read_cluster(made.data)
        layout.keep_cluster(
            made.data,
            file.with_place(layout.Place("n4", 3)).with_place(layout.Place("n2", 1, "removed")),
        )
        await until(
            lambda: "n4" in cluster.nodes and cluster.nodes["n4"].state is NodeState.ALIVE,
            "n4 is alive",
        )
        await until(lambda: "n2" not in cluster.nodes, "n2 is stopped")
    assert (made.data / "n2" / "stopped-cleanly").exists()
    async with LocalCluster(made, command=DUMMY) as cluster:
        assert list(cluster.nodes) == ["n1", "n3", "n4"]


async def test_a_port_that_is_taken_does_not_make_the_directory(tmp_path: Path) -> None:
    """The advice, another port, must not lead into a refusal; a directory that has its ports is
    told another one.
    """
    made = settings(tmp_path)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", made.base_port))
        other.listen()
        with pytest.raises(BadRequest) as caught:
            async with LocalCluster(made, command=DUMMY):
                pass
        assert caught.value.allowed == "another --base-port"
        async with LocalCluster(
            settings(tmp_path, base_port=free_base_port(3, FIRST_PORT)), command=DUMMY
        ) as cluster:
            await cluster.wait_ready()
            port = cluster.file.base_port
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(BadRequest) as caught:
            async with LocalCluster(RunnerSettings(data=made.data), command=DUMMY):
                pass
        assert "--base-port" not in str(caught.value.allowed)
        assert "members of" in str(caught.value.allowed)


async def test_what_keeps_dying_is_started_with_back_off(tmp_path: Path) -> None:
    said: list[str] = []
    async with LocalCluster(settings(tmp_path), command=DUMMY, say=said.append) as cluster:
        await cluster.wait_ready()
        (tmp_path / "data" / "n1" / "die").touch()
        cluster.kill("n1")
        await until(lambda: cluster.nodes["n1"].starts >= 4, "n1 was tried again")
        (tmp_path / "data" / "n1" / "die").unlink()
        await until(lambda: cluster.nodes["n1"].state is NodeState.ALIVE, "n1 is alive again")
    pauses = [line.rpartition(" again ")[2] for line in said if line.startswith("n1 ended")]
    assert pauses[:3] == ["at once", "in 0.1 s", "in 0.2 s"]


def test_ctrl_c_ends_a_membership_command_without_a_traceback(tmp_path: Path) -> None:
    """It says that the same command goes on where it stopped."""
    code = (
        "import os, signal, sys, cluster.__main__ as m, cluster.local.membership as c\n"
        "async def wait(self): os.kill(os.getpid(), signal.SIGINT); await "
        "__import__('asyncio').sleep(60)\n"
        "import contextlib\n"
        "@contextlib.asynccontextmanager\n"
        "async def opened(*_): yield c.Membership.__new__(c.Membership)\n"
        "c.Membership.add, c.opened = wait, opened\n"
        "sys.exit(m.main(['add', '--data', sys.argv[1]]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, "goes on where it stopped" in ran.stderr) == (130, True), ran.stderr
    assert "Traceback" not in ran.stderr


async def test_a_node_is_kept_down_and_let_up(tmp_path: Path) -> None:
    async with LocalCluster(settings(tmp_path), command=DUMMY) as cluster:
        await cluster.wait_ready()
        await cluster.stop_node("n1", signal.SIGKILL)
        assert cluster.nodes["n1"].pid is None
        cluster.start_node("n1")
        await until(lambda: cluster.nodes["n1"].state is NodeState.ALIVE, "n1 is alive again")


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    made = settings(tmp_path)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", made.base_port + 1))
        other.listen()
        with pytest.raises(
            BadRequest, match=rf"port {made.base_port + 1} \(HTTP of n2\) is in use"
        ):
            async with LocalCluster(made, command=DUMMY):
                pass


async def test_two_runners_do_not_share_a_directory(tmp_path: Path) -> None:
    made = settings(tmp_path)
    async with LocalCluster(made, command=DUMMY) as cluster:
        await cluster.wait_ready()
        with pytest.raises(BadRequest, match="in use by another runner"):
            async with LocalCluster(made, command=DUMMY):
                pass


async def test_nodes_stop_when_the_runner_is_killed(tmp_path: Path) -> None:
    made = settings(tmp_path)
    code = (
        "import asyncio, sys; from pathlib import Path; from cluster.settings.runner import "
        "RunnerSettings;from cluster.local.runner import LocalCluster\n"
        "async def main():\n"
        f" async with LocalCluster(RunnerSettings(nodes=3, base_port={made.base_port}, "
        f"data=Path({str(made.data)!r})), command={DUMMY!r}) as c:\n"
        "  await c.wait_ready(); print('ready', flush=True); await asyncio.sleep(60)\n"
        "asyncio.run(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == b"ready\n"
        process.kill()
    await until(
        lambda: all((made.data / f"n{i}" / "stopped-cleanly").exists() for i in (1, 2, 3)),
        "the nodes stopped",
    )


def test_the_command_line_says_what_is_wrong(tmp_path: Path) -> None:
    def run(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cluster", *argv],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=60,
            check=False,
        )

    assert run().returncode == 2
    assert (
        "'upp' is no command; there are up, status, down, kill, add, remove, replace, config"
        in run("upp").stderr
    )
    wrong = run("up", "--nodes", "0")
    assert (wrong.returncode, wrong.stderr) == (
        78,
        "error: --nodes='0' is not allowed; allowed: a whole number, 1 to 9\n",
    )
    assert "no cluster runs in" in run("status", "--data", str(tmp_path)).stderr
    assert run("status", "--url", "http://127.0.0.1:1").returncode == 2
    for wrong_url in (("status", "--url", "nonsense"), ("worker", "--urls", "ftp://x")):
        said = run(*wrong_url)
        assert (said.returncode, "URL" in said.stderr, "Traceback" in said.stderr) == (
            78,
            True,
            False,
        ), said.stderr
    assert run("down", "--data", str(tmp_path)).returncode == 0
    assert (
        '"ACORDO_STORE": "postgresql://u:***@h/d"'
        in run("config", "--store", "postgresql://u:p@h/d").stdout
    )


def test_make_run_starts_an_existing_directory_as_it_was_made() -> None:
    """The directory remembers its shape: `make run` names none unless it is told to."""

    def told(*variables: str) -> str:
        command = ["make", "-n", "-o", ".venv/.ready", "run", *variables]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "--nodes" not in told() + told("DATA=d")
    assert "--base-port" not in told()
    assert "--nodes 5 --base-port 9001 --data data" in told("NODES=5", "BASE_PORT=9001")


def test_back_off_doubles_up_to_its_bound() -> None:
    assert [backoff_s(n) for n in (0, 1, 2, 3, 4)] == [0.0, 0.0, 0.1, 0.2, 0.4]
    assert backoff_s(10**9) == 8.0


def test_a_node_that_served_and_was_killed_is_started_at_once() -> None:
    """However often somebody kills it; one that dies by itself, or before it serves, is started
    later and later.
    """
    failures = 0
    for _ in range(50):
        failures = failures_after(failures, alive_s=1.0, served=True, code=-signal.SIGKILL)
        assert backoff_s(failures) == 0.0
    assert backoff_s(failures_after(7, alive_s=STEADY_S + 1, served=True, code=70)) == 0.0
    for served, code in (
        (False, -signal.SIGKILL),
        (True, 70),
        (False, 69),
        (True, -signal.SIGSEGV),
    ):
        failures = 1
        for _ in range(3):
            failures = failures_after(failures, alive_s=1.0, served=served, code=code)
        assert backoff_s(failures) == 0.4


async def test_up_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """`status` and `down` find what `up` started by its directory."""
    from cluster import __main__ as command

    made = settings(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", f"import cluster.local.runner as r; r.NODE = {DUMMY!r}\n"
        "import sys, cluster.__main__ as m; sys.exit(m.main(sys.argv[1:]))",
        "up", "--nodes", "3", "--base-port", str(made.base_port), "--data", str(made.data),
        stdout=asyncio.subprocess.PIPE, cwd=ROOT,
    )  # fmt: skip
    assert process.stdout is not None
    lines: list[str] = []
    while b"Ctrl-C" not in (line := await process.stdout.readline()):
        assert line, lines
        lines.append(line.decode())
    assert any(f"n1  http://127.0.0.1:{made.base_port}   leader" in line for line in lines), lines
    async with (
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{made.base_port}/livez") as response,
    ):
        assert response.status == 200
    assert await asyncio.to_thread(command.main, ["down", "--data", str(made.data)]) == 0
    assert await process.wait() == 0


async def test_the_control_port_disturbs_members_for_who_knows_its_token(tmp_path: Path) -> None:
    async with LocalCluster(settings(tmp_path), command=DUMMY, control=True) as cluster:
        await cluster.wait_ready()
        path = tmp_path / "data" / "control.json"
        assert path.stat().st_mode & 0o077 == 0
        port = msgspec.json.decode(path.read_bytes(), type=ControlFile)
        node, other = cluster.nodes["n1"], cluster.nodes["n2"]
        assert node.environ["ACORDO_CONTROL_FILE"] == str(path)
        own_page = {"Origin": node.url, "Authorization": f"Bearer {port.token}"}
        async with aiohttp.ClientSession(base_url=port.url, headers=own_page) as http:

            async def ask(path: str, **headers: str) -> int:
                async with http.post(path, headers=headers) as answer:
                    assert answer.status == 200 or (await answer.json())["detail"]
                    return answer.status

            before = node.pid
            assert await ask("/v1/members/n1/kill", Authorization="Bearer guessed") == 401
            assert await ask("/v1/members/n1/kill", Origin="http://evil.example") == 403
            assert await ask("/v1/members/n1/kill", Host=f"evil.example:{node.url[-5:]}") == 421
            assert await ask("/v1/members/n9/kill") == await ask("/v1/members/n1/burn") == 404
            assert await ask("/v1/members/n2/cut") == 409  # its links do not lead through here
            assert node.pid == before
            async with http.options("/v1/members/n1/kill") as allowed:
                assert allowed.headers["Access-Control-Allow-Origin"] == node.url

            assert await ask("/v1/members/leader/kill") == 200
            await until(lambda: node.pid not in (None, before), "the runner starts it again")
            assert await ask("/v1/members/n2/stop") == 200
            await until(lambda: other.pid is None, "it stays down")
            async with http.get("/v1/members") as found:
                listed = {each["id"]: each for each in (await found.json())["members"]}
            assert [listed[name]["down"] for name in ("n1", "n2", "n3")] == [False, True, False]
            assert await ask("/v1/members/n2/heal") == 200
            await until(lambda: other.pid is not None, "it runs again")
    assert not path.exists()


async def test_a_paused_member_is_not_killed_for_its_silence(tmp_path: Path) -> None:
    async with LocalCluster(
        settings(tmp_path, liveness_timeout_s=0.5), command=DUMMY, control=True
    ) as cluster:
        await cluster.wait_ready()
        node = cluster.nodes["n1"]
        pid, node.paused = node.pid, True
        assert cluster.nodes["n1"].signal(signal.SIGSTOP)
        cluster.kill("n2")
        starts = cluster.nodes["n2"].starts
        await until(lambda: cluster.nodes["n2"].starts > starts, "the other one is looked after")
        await asyncio.sleep(1.0)  # longer than the silence that it kills for
        assert node.pid == pid
        node.paused = False
        await until(lambda: node.pid not in (None, pid), "its silence counts again")


async def test_a_paused_member_that_is_killed_otherwise_is_looked_after_again(
    tmp_path: Path,
) -> None:
    async with LocalCluster(settings(tmp_path), command=DUMMY, control=True) as cluster:
        await cluster.wait_ready()
        node = cluster.nodes["n1"]
        starts, node.paused = node.starts, node.signal(signal.SIGSTOP)
        cluster.kill("n1")  # as `cluster kill` and an operator do, past the control port
        await until(lambda: node.starts > starts, "it starts again")
        assert not node.paused


async def test_what_is_cut_waits_and_goes_on_when_it_is_healed() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(100):
            writer.write(chunk)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, Links([MemberSetting("n1", address), MemberSetting("n2", address)]) as links:
        port = int(links.routes_of("n1").removeprefix("n2=127.0.0.1:"))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"one")
        assert await reader.read(3) == b"one"
        links.cut_off("n2")
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(3), 0.2)
        links.heal("n2")
        assert await reader.read(3) == b"two"
        writer.close()


async def test_attempts_to_connect_do_not_pile_up_behind_a_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(links_module, "DIAL_S", 0.05)
    members = [MemberSetting("n1", "127.0.0.1:1"), MemberSetting("n2", "127.0.0.1:1")]
    async with Links(members) as links:
        port = int(links.routes_of("n1").removeprefix("n2=127.0.0.1:"))
        assert [links.lead_to(name) for name in ("n1", "n2", "n3")] == [True, True, False]
        links.cut_off("n2")
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            async with asyncio.timeout(10):
                assert await reader.read() == b""
            writer.close()
        assert links.cut == {"n2"}


async def test_a_member_that_came_after_the_relays_is_not_said_to_be_cut(tmp_path: Path) -> None:
    members = [MemberSetting("n1", "127.0.0.1:1"), MemberSetting("n2", "127.0.0.1:1")]
    async with (
        Links(members) as links,
        LocalCluster(settings(tmp_path), command=DUMMY) as cluster,
        ControlPort(cluster, tmp_path / "control.json", links) as port,
        aiohttp.ClientSession() as http,
    ):
        token = msgspec.json.decode((tmp_path / "control.json").read_bytes(), type=ControlFile)
        http.headers["Authorization"] = f"Bearer {token.token}"
        for name, status in (("n2", 200), ("n3", 409)):
            url = f"http://127.0.0.1:{port.port}/v1/members/{name}/cut"
            async with http.post(url) as answer:
                assert answer.status == status
        assert links.cut == {"n2"}
