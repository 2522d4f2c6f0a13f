"""Connections are taken many at a time; without descriptors they wait, and it is said once."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

import pytest

from node.http import acceptor as acceptors
from node.http.acceptor import ACCEPTED_PER_PASS, Acceptor


class Listening:
    """A listening socket whose accept does what a list says, then as the real one."""

    def __init__(self, real: socket.socket, script: list[int]) -> None:
        self.real, self.script, self.asked = real, script, 0

    def accept(self) -> Any:
        self.asked += 1
        if self.script:
            number = self.script.pop(0)
            raise OSError(number, os.strerror(number))
        return self.real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Taken(asyncio.Protocol):
    def __init__(self, made: list[asyncio.BaseTransport]) -> None:
        self.made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.append(transport)


async def connect_many(port: int, count: int) -> list[asyncio.StreamWriter]:
    return [(await asyncio.open_connection("127.0.0.1", port))[1] for _ in range(count)]


async def test_a_flood_is_taken_in_few_passes() -> None:
    made: list[asyncio.BaseTransport] = []
    listening = Listening(socket.create_server(("127.0.0.1", 0), backlog=256), [])
    writers = await connect_many(listening.getsockname()[1], 100)  # all wait in the kernel's queue
    acceptor = Acceptor(listening, lambda: Taken(made))  # type: ignore[arg-type]
    acceptor.open()
    passes = 0
    while len(made) < 100:
        passes += 1
        await asyncio.sleep(0)
    assert passes <= 10 * (100 // ACCEPTED_PER_PASS + 1)
    acceptor.close()
    acceptor.close()
    for each in (*writers, *made):
        each.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_without_descriptors_connections_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    monkeypatch.setattr(acceptors, "PAUSE_S", 0.001)
    made: list[asyncio.BaseTransport] = []
    listening = Listening(socket.create_server(("127.0.0.1", 0)), [number] * 5)
    acceptor = Acceptor(listening, lambda: Taken(made))  # type: ignore[arg-type]
    acceptor.open()
    writers = await connect_many(listening.getsockname()[1], 3)
    while len(made) < 3:
        await asyncio.sleep(0.001)
    assert acceptor.short_total == 5
    assert listening.asked <= 5 + 3 + 10, "it does not spin"
    assert capsys.readouterr().out.count("no connection can be taken") == 1
    acceptor.close()
    for each in (*writers, *made):
        each.close()  # type: ignore[attr-defined]


async def test_a_connection_that_was_reset_while_it_waited_costs_no_other() -> None:
    made: list[asyncio.BaseTransport] = []
    listening = Listening(
        socket.create_server(("127.0.0.1", 0)), [errno.ECONNABORTED, errno.EPROTO]
    )
    acceptor = Acceptor(listening, lambda: Taken(made))  # type: ignore[arg-type]
    acceptor.open()
    writers = await connect_many(listening.getsockname()[1], 1)
    while not made:
        await asyncio.sleep(0.001)
    assert acceptor.short_total == 0
    acceptor.close()
    for each in (*writers, *made):
        each.close()  # type: ignore[attr-defined]


async def test_a_closed_door_takes_none_while_it_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptors, "PAUSE_S", 0.001)
    listening = Listening(socket.create_server(("127.0.0.1", 0)), [errno.EMFILE])
    acceptor = Acceptor(listening, lambda: Taken([]))  # type: ignore[arg-type]
    acceptor.open()
    writers = await connect_many(listening.getsockname()[1], 1)
    while not acceptor.short_total:
        await asyncio.sleep(0)
    acceptor.close()
    assert listening.fileno() == -1
    writers[0].close()
