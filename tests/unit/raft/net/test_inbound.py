"""A port whose accepts fail: counted, and no busy loop."""

from __future__ import annotations

import asyncio
import errno
import socket

from coordinator.raft.net.inbound import ACCEPT_PAUSE_S, Listener
from tests.virtual import run


def test_accepts_that_fail_for_want_of_descriptors_are_counted_and_do_not_spin() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()
        refused: list[tuple[str, str, str]] = []

        class Exhausted:
            create_task = loop.create_task

            async def sock_accept(
                self, listening: socket.socket
            ) -> tuple[socket.socket, tuple[str, int]]:
                raise OSError(errno.EMFILE, "Too many open files")

        with socket.socket() as listening:
            listener = Listener(
                Exhausted(),  # type: ignore[arg-type]
                [listening],
                lambda accepted, host: None,
                lambda host, reason, detail: refused.append((host, reason, detail)),
                lambda task: None,
            )
            await asyncio.sleep(10 * ACCEPT_PAUSE_S - 0.01)
            for task in listener.tasks:
                task.cancel()
            await asyncio.wait(listener.tasks)
        assert refused == [("", "accept_failed", "[Errno 24] Too many open files")] * 10

    run(story)
