"""Run nginx in front of the nodes that DNS lists: `python -m deploy.balancer`.

This is the entry point of its container. Each second it asks each node whether it is ready, and
makes nginx reload the list only if that changed. It never sends a client's request itself, and
needs only the standard library.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

PERIOD_S: Final = 1.0
"""Time from the start of one look to the start of the next, including any wait for silent nodes."""
REST_S: Final = 0.1
"""Least pause between two looks."""
PROBE_TIMEOUT_S: Final = 1.0
DNS_WAIT_S: Final = 1.0
SILENT_MAX: Final = 2
"""Consecutive unanswered probes after which a node is left out. A node that answers 503 is left out
at once.
"""
NODES_MAX: Final = 64
PROBLEMS: Final = "urn:acordo:problem:"
NOBODY: Final = (socket.EAI_NONAME, socket.EAI_NODATA)
"""Errors of DNS for a name that does not exist. Docker's DNS server forwards the name of a service
without containers to the machine's server, which answers that there is no such name. If that server
does not answer, the error is EAI_AGAIN, which must not empty the list; then the probes find out
that no node answers.
"""

Address: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The time-outs of nginx, in its own notation. nginx.conf gives the reasons."""

    read: str = "2s"
    """Wait for the answer to a read before another node is tried."""
    again: str = "8s"
    """Wait for the answer of that other node."""
    write: str = "15s"
    watch: str = "20s"
    """Wait for a watch's next byte: ten heartbeats, because the first byte may wait for the ledger.
    `acordo` waits for four.
    """
    stream: str = "3600s"
    """Wait for the next byte of a stream of etcd's gateway: a lock may be held for long."""
    shutdown: str = "20s"
    """Time for an old worker to finish its requests after a reload."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What the balancer speaks HTTPS with, to nodes and to clients; empty: HTTP.

    Nodes are found by DNS and asked by address, so their certificates are verified for one name
    that all of them have.
    """

    nodes_ca: str = ""
    """Path of the certificates of who signs the nodes'."""
    nodes_name: str = ""
    """The name in each of them."""
    cert: str = ""
    """Path of what clients are shown, with those between it and its authority."""
    key: str = ""

    def __post_init__(self) -> None:
        if bool(self.nodes_ca) != bool(self.nodes_name) or bool(self.cert) != bool(self.key):
            raise ValueError(
                "ACORDO_BALANCER_NODES_CA goes with ACORDO_BALANCER_NODES_NAME, and "
                "ACORDO_BALANCER_CERT with ACORDO_BALANCER_KEY"
            )
        for path in (self.nodes_ca, self.nodes_name, self.cert, self.key):
            if not re.fullmatch(r"[A-Za-z0-9._/-]*", path):
                raise ValueError(f"{path!r} may have letters, digits and . _ - / only")

    def values(self, listen: str) -> dict[str, str]:
        """Return what stands for it in nginx.conf."""
        verified = [
            f"proxy_ssl_trusted_certificate {self.nodes_ca};",
            "proxy_ssl_verify on;",
            "proxy_ssl_verify_depth 3;",
            f"proxy_ssl_name {self.nodes_name};",
            "proxy_ssl_server_name on;",
            "proxy_ssl_protocols TLSv1.2 TLSv1.3;",
        ]
        shown = [
            f"ssl_certificate {self.cert};",
            f"ssl_certificate_key {self.key};",
            "ssl_protocols TLSv1.2 TLSv1.3;",
            "ssl_session_tickets off;",
        ]
        return {
            "scheme": "https" if self.nodes_ca else "http",
            "nodes_tls": "\n    ".join(verified) if self.nodes_ca else "",
            "listen": f"{listen} ssl" if self.cert else listen,
            "clients_tls": "\n        ".join(shown) if self.cert else "",
        }

    def context(self) -> ssl.SSLContext | None:
        """Return how nodes are probed; None: by HTTP. Raises OSError for files that are no good."""
        return ssl.create_default_context(cafile=self.nodes_ca) if self.nodes_ca else None

    def stamps(self) -> tuple[float, ...]:
        """Return when its files were changed. A renewed one is read again by nginx."""
        files = (self.nodes_ca, self.cert, self.key)
        return tuple(os.stat(file).st_mtime for file in files if file)


def addresses_of(name: str) -> tuple[Address, ...] | None:
    """Return the addresses of `host:port`.

    The result is empty if DNS says that there are none, and None if DNS does not answer.
    """
    host, _, port = name.rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
    except socket.gaierror as exc:
        return () if exc.errno in NOBODY else None
    return tuple(sorted({(str(info[4][0]), int(port)) for info in found}))


@dataclass
class Names:
    """The last DNS answer for each name. Pure: new answers are passed in."""

    known: dict[str, tuple[Address, ...]] = field(default_factory=dict)

    def learn(self, said: Mapping[str, tuple[Address, ...] | None]) -> list[Address]:
        """Return every address, in order. A name for which DNS gives no answer now keeps its last
        addresses.
        """
        self.known |= {name: addresses for name, addresses in said.items() if addresses is not None}
        return sorted({a for name in said for a in self.known.get(name, ())})[:NODES_MAX]


def probe(address: Address, context: ssl.SSLContext | None = None, name: str = "") -> bool | None:
    """Return whether the node reports that it is ready; None if it does not answer, or cannot show
    a certificate of that name.
    """
    connection = http.client.HTTPConnection(*address, timeout=PROBE_TIMEOUT_S)
    try:
        if context is not None:
            plain = socket.create_connection(address, PROBE_TIMEOUT_S)
            connection.sock = context.wrap_socket(plain, server_hostname=name)
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@dataclass
class Choice:
    """The choice of nodes that get requests. Pure: the results of DNS and probes are passed in."""

    chosen: tuple[Address, ...] = ()
    silent: dict[Address, int] = field(default_factory=dict)

    def choose(self, said: Mapping[Address, bool | None]) -> tuple[Address, ...]:
        """Return the addresses to use, given the probe result of every address.

        If no node is ready, all that answer are used: the nodes' own answers explain best why they
        refuse.
        """
        self.silent = {a: self.silent.get(a, 0) + 1 for a, answer in said.items() if answer is None}
        heard = [
            a
            for a in said
            if a not in self.silent or (a in self.chosen and self.silent[a] < SILENT_MAX)
        ]
        ready = [a for a in heard if said[a] is not False] if any(said.values()) else []
        self.chosen = tuple(sorted(ready or heard or said))
        return self.chosen


def upstream(addresses: Iterable[Address]) -> str:
    """Return nginx's upstream groups: one of all nodes, and for each node one of all others.

    The latter serve a request whose first node was silent.
    """
    # Nothing listens on this address, so a request fails at once instead of waiting for a time-out.
    nodes = [f"{host}:{port}" for host, port in addresses] or ["127.0.0.1:1"]
    kept = ["    keepalive 64;", "    keepalive_timeout 60s;", "    keepalive_requests 100000;"]
    lines = _group("acordo", nodes, *kept)
    others = {node: [n for n in nodes if n != node] for node in nodes} if len(nodes) > 1 else {}
    choices = [
        f'    "~(^| ){re.escape(node)}$" acordo_{number};' for number, node in enumerate(others)
    ]
    lines += ["map $upstream_addr $elsewhere {", "    default acordo;", *choices, "}"]
    for number, group in enumerate(others.values()):
        lines += _group(f"acordo_{number}", group)
    return "\n".join([*lines, ""])


def _group(name: str, nodes: Iterable[str], *more: str) -> list[str]:
    """Return the lines of a group. max_fails=0 keeps nginx from emptying it during an election."""
    return [
        f"upstream {name} {{",
        *(f"    server {node} max_fails=0;" for node in nodes),
        *more,
        "}",
    ]


def configuration(values: Mapping[str, str]) -> str:
    """Return the whole configuration with every {{name}} filled in."""
    text = (Path(__file__).parent / "nginx" / "nginx.conf").read_text()
    for name, value in values.items():
        text = text.replace("{{" + name + "}}", value)
    return text


class Balancer:
    """An nginx process and its list of nodes, in a directory of its own."""

    def __init__(
        self,
        asked: list[str],
        listen: str,
        run: Path,
        workers: str = "2",
        *,
        times: Times | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.asked, self.run, self.tls = asked, run, tls or Tls()
        self.context, self.stamps = self.tls.context(), self.tls.stamps()
        self.names, self.choice = Names(), Choice()
        self.values = {"run": str(run), "workers": workers, "problems": PROBLEMS}
        self.values |= self.tls.values(listen)
        self.values |= asdict(times or Times())
        self.looking: dict[str, concurrent.futures.Future[tuple[Address, ...] | None]] = {}
        self.reloads = 0
        self.nginx: subprocess.Popen[bytes] | None = None

    def look(self, pool: concurrent.futures.Executor) -> bool:
        """Ask DNS and the nodes; return whether the list changed, or a certificate."""
        before, renewed = self.choice.chosen, self._renewed()
        addresses = self.names.learn(self._named(pool))
        ask: Callable[[Address], bool | None] = probe
        if self.context is not None:
            ask = partial(probe, context=self.context, name=self.tls.nodes_name)
        said = dict(zip(addresses, pool.map(ask, addresses), strict=True))
        return self.choice.choose(said) != before or renewed

    def _renewed(self) -> bool:
        """Return whether certificates were changed since the last look. While they cannot be read,
        what was read before goes on.
        """
        try:
            stamps = self.tls.stamps()
            if stamps == self.stamps:
                return False
            self.context = self.tls.context()
        except OSError as exc:
            print(f"certificates cannot be read again: {exc}", flush=True)
            return False
        self.stamps = stamps
        return True

    def _named(self, pool: concurrent.futures.Executor) -> dict[str, tuple[Address, ...] | None]:
        """Return the DNS answers that arrive within DNS_WAIT_S.

        The resolver may take longer, but the nodes must be probed in the meantime.
        """
        for name in self.asked:
            if name not in self.looking:
                self.looking[name] = pool.submit(addresses_of, name)
        done = concurrent.futures.wait(self.looking.values(), timeout=DNS_WAIT_S).done
        answers = {name: future.result() for name, future in self.looking.items() if future in done}
        self.looking = {name: future for name, future in self.looking.items() if future not in done}
        return {name: answers.get(name) for name in self.asked}

    def write(self) -> None:
        """Write nginx's configuration files."""
        self.run.mkdir(parents=True, exist_ok=True)
        for name, text in (
            ("upstream.conf", upstream(self.choice.chosen)),
            (
                "nginx.conf",
                configuration({**self.values, "generation": " ".join(self._shown()) or "nobody"}),
            ),
        ):
            new = self.run / (name + ".new")
            new.write_text(text)
            new.replace(self.run / name)

    def _shown(self) -> list[str]:
        return [f"{host}:{port}" for host, port in self.choice.chosen]

    def start(self) -> None:
        """Start nginx."""
        program = shutil.which("nginx") or "/usr/sbin/nginx"
        self.nginx = subprocess.Popen([program, "-e", "stderr", "-c", str(self.run / "nginx.conf")])

    def reload(self) -> None:
        """Make nginx reload the list. Its old workers finish the requests that they hold."""
        assert self.nginx is not None
        self.reloads += 1
        print(f"nodes: {' '.join(self._shown()) or 'none'}", flush=True)
        self.nginx.send_signal(signal.SIGHUP)

    def serve(self) -> int:
        """Run until a signal stops it, or until nginx ends; return the exit code."""
        stopping = False

        def stop(*_: object) -> None:
            nonlocal stopping
            stopping = True

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, stop)
        pool = concurrent.futures.ThreadPoolExecutor(16)
        self.look(pool)
        self.write()
        self.start()
        assert self.nginx is not None
        print(f"nodes: {' '.join(self._shown()) or 'none'}", flush=True)
        took_s = 0.0
        while self.nginx.poll() is None and not stopping:
            time.sleep(max(PERIOD_S - took_s, REST_S))
            began = time.monotonic()
            changed = self.look(pool)
            took_s = time.monotonic() - began
            if changed and not stopping:
                self.write()
                self.reload()
        # nginx must get its signal without delay, but a DNS look-up under way may take seconds to
        # end. So the pool is not waited for.
        pool.shutdown(wait=False, cancel_futures=True)
        if self.nginx.poll() is None:
            self.nginx.send_signal(signal.SIGQUIT)
            try:
                self.nginx.wait(timeout=float(os.environ.get("ACORDO_BALANCER_DRAIN_S", "8")))
            except subprocess.TimeoutExpired:
                self.nginx.terminate()  # SIGTERM ends its workers too; they would outlive a SIGKILL
                self.nginx.wait()
            return 0
        return self.nginx.returncode or 1


def main() -> int:
    """Run a balancer with the settings in the environment; return its exit code."""
    names = os.environ.get("ACORDO_BALANCER_NODES", "nodes:8000").split(",")
    return Balancer(
        names,
        os.environ.get("ACORDO_BALANCER_LISTEN", "8080"),
        Path(os.environ.get("ACORDO_BALANCER_DIR", "/tmp/nginx")),
        os.environ.get("ACORDO_BALANCER_WORKERS", "2"),
        tls=Tls(
            nodes_ca=os.environ.get("ACORDO_BALANCER_NODES_CA", ""),
            nodes_name=os.environ.get("ACORDO_BALANCER_NODES_NAME", ""),
            cert=os.environ.get("ACORDO_BALANCER_CERT", ""),
            key=os.environ.get("ACORDO_BALANCER_KEY", ""),
        ),
    ).serve()


if __name__ == "__main__":
    sys.exit(main())
