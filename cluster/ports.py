"""Find ports of this machine that nobody listens on, and refuse those that somebody does.

A port that is free now may be taken a moment later: whoever listens on it must say so by name.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
from pathlib import Path
from typing import Final

from cluster.settings.runner import RAFT_PORT_OFFSET
from kv.errors import BadRequest

LASTING_PORTS: Final = (12_000, 30_000)
"""Below what Linux hands out by itself (net.ipv4.ip_local_port_range), and what clusters begin
at.
"""


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return so many loopback ports, all different, that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def lasting_port() -> int:
    """Return a loopback port that nobody listens on now, and that the kernel hands out to nobody.

    A server that is killed and started again needs the port that it had. If it is one of those that
    the kernel gives to whoever asks for any, another process may have it by then.
    """
    while True:
        port = random.randrange(*LASTING_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def free_base_port(nodes: int, first: int) -> int:
    """Return a base port from `first` on whose HTTP and Raft ports nobody listens on now.

    Raises BadRequest("port_in_use") where there is none.
    """
    for base in range(first, 65000 - RAFT_PORT_OFFSET, 10):
        try:
            for port in range(base, base + nodes):
                refuse_taken_port("127.0.0.1", port, "HTTP")
                refuse_taken_port("127.0.0.1", port + RAFT_PORT_OFFSET, "Raft")
        except BadRequest:
            continue
        return base
    raise BadRequest("port_in_use", "no free ports were found")


def refuse_taken_port(host: str, port: int, what: str, *, of: Path | None = None) -> None:
    """Raise BadRequest("port_in_use") if nobody can listen there now. `of`: a cluster's directory
    that has its ports already: its members know each other by them.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                allowed = "another --base-port"
                if of is not None:
                    allowed = (
                        f"that port, free: members of {of} keep theirs; `ss -ltnp sport = :{port}` "
                        "names its user"
                    )
                raise BadRequest(
                    "port_in_use", f"port {port} ({what}) is in use", allowed=allowed
                ) from exc
            raise BadRequest(
                "bad_address", f"{what} cannot listen on {host}:{port}: {exc.strerror}"
            ) from exc
