"""The simulated network says for how long what arrives is late."""

from __future__ import annotations

import asyncio
import random

from tests.simulation.network import LATE_S, Connection, Network
from tests.simulation.run import on_a_loop


def test_it_is_disturbed_until_a_mended_lag_has_delivered_what_it_held() -> None:
    """A connection keeps its order: the words that arrive meanwhile are as old as the lag was."""

    async def story() -> list[bool]:
        network = Network(random.Random(1), lambda *_, **__: None, ghosts=False)
        connection = network.connections["a", "b"] = Connection(1)
        said = [network.disturbed]
        network.lag_s["a", "b"] = 2.0
        network._carry(connection, "a", "b", b"")
        network.lag_s.clear()
        said.append(network.disturbed)
        await asyncio.sleep(1.0)
        said.append(network.disturbed)
        await asyncio.sleep(1.0 - LATE_S / 2)
        said.append(network.disturbed)
        connection.open = False
        return said

    assert on_a_loop(story) == [False, True, True, False]
