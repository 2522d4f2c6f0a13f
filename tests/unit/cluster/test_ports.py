"""A service that is started again finds its port free."""

from __future__ import annotations

import socket
from pathlib import Path

from cluster.ports import lasting_port


def test_a_lasting_port_can_be_listened_on_and_is_handed_out_to_nobody() -> None:
    handed_out = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    for _ in range(20):
        port = lasting_port()
        assert not int(handed_out[0]) <= port <= int(handed_out[1])
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", port))
