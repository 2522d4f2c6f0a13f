"""Find free ports of this machine, and refuse ports that are in use.

A port that is free now may be taken a moment later, so whoever listens on one must still report a
failure with the port's number.
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
"""Range below the ports that Linux assigns by itself (net.ipv4.ip_local_port_range) and above those
that clusters start at by default.
"""


def free_port() -> int:
    """Return a loopback port that is free now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Return `count` different loopback ports that are free now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def lasting_port() -> int:
    """Return a loopback port that is free now and that the kernel does not assign by itself.

    A server that is killed and started again needs the same port. If that port were in the kernel's
    range for ephemeral ports, another process might have got it in the meantime.
    """
    while True:
        port = random.randrange(*LASTING_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def free_base_port(nodes: int, first: int) -> int:
    """Return a base port, at least `first`, whose HTTP and Raft ports are free for all nodes.

    Raises BadRequest("port_in_use") if there is none.
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
    """Raise BadRequest("port_in_use") if the port is in use.

    `of` is the directory of a cluster that already has its ports. Its members know each other by
    them, so the error does not suggest other ports.
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
