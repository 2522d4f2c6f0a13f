"""The health checks of docker-compose.yml against what they check, run here as processes: each
fails, then holds.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trustme
import yaml  # type: ignore[import-untyped]  # ships no types

from cluster.local.layout import ClusterFile
from cluster.ports import free_port
from cluster.services.process import find, wait_until
from tests.services import needs

ROOT = Path(__file__).parents[3]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
NOWHERE = "http://127.0.0.1:9"


def settings_of(service: str) -> dict[str, str]:
    """Return the plain settings of a service: those that the compose file does not take from
    elsewhere.
    """
    return {
        k: v
        for k, v in SERVICES[service]["environment"].items()
        if k.startswith("ACORDO_") and "$" not in v
    }


def holds(service: str, port: str, here: int) -> bool:
    """Run the check of a service, with the port that stands for its own here."""
    how, *command = SERVICES[service]["healthcheck"]["test"]
    assert how == "CMD"
    assert any(port in word for word in command), command
    command = [word.replace(port, str(here)).replace("/app/", f"{ROOT}/") for word in command]
    return subprocess.run(command, capture_output=True, timeout=15, check=False).returncode == 0


@contextlib.contextmanager
def running(command: Sequence[str], settings: dict[str, str]) -> Iterator[None]:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("ACORDO_")} | settings
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
        assert process.poll() is None, process.returncode
    finally:
        process.terminate()
        process.wait(30)


def test_the_workers() -> None:
    port, settings = free_port(), settings_of("worker")
    settings |= {"ACORDO_WORKER_METRICS_PORT": str(port), "ACORDO_URLS": NOWHERE}
    assert not holds(
        "worker", SERVICES["worker"]["environment"]["ACORDO_WORKER_METRICS_PORT"], port
    )
    with running([sys.executable, "-m", "cluster", "worker"], settings):
        wait_until(lambda: holds("worker", "9101", port), "the worker is healthy", timeout_s=30)


def test_the_autoscalers(tmp_path: Path) -> None:
    port, settings = free_port(), settings_of("autoscaler")
    assert settings["ACORDO_AUTOSCALER_LISTEN"] == "0.0.0.0:9100"
    (tmp_path / "cluster.json").write_bytes(
        msgspec.json.encode(ClusterFile(1, "here", 3, 8001, store="replicated"))
    )
    settings |= {
        "ACORDO_AUTOSCALER_DRIVER": "local",  # what answers is the same, and needs no engine
        "ACORDO_AUTOSCALER_DIR": str(tmp_path / "observers"),
        "ACORDO_AUTOSCALER_LISTEN": f"127.0.0.1:{port}",
        "ACORDO_AUTOSCALER_URLS": NOWHERE,
        "ACORDO_AUTOSCALER_PROMETHEUS": NOWHERE,
    }
    assert not holds("autoscaler", "9100", port)
    with running([sys.executable, "-m", "cluster", "autoscaler"], settings):
        wait_until(
            lambda: holds("autoscaler", "9100", port), "the autoscaler is healthy", timeout_s=30
        )


def test_a_node_by_https_by_the_check_of_one_by_http(tmp_path: Path) -> None:
    """It trusts the node's own certificate, whatever it names, and no other."""
    authority = trustme.CA()
    for name in ("own", "other"):
        made = authority.issue_cert(f"{name}.example")
        made.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        made.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    port = free_port()
    serve = "import http.server as h, ssl, sys\n"
    serve += "class H(h.BaseHTTPRequestHandler):\n"
    serve += "    def do_GET(self): self.send_response(200); self.end_headers()\n"
    serve += "s = h.HTTPServer(('127.0.0.1', int(sys.argv[1])), H)\n"
    serve += "c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain(*sys.argv[2:])\n"
    serve += "s.socket = c.wrap_socket(s.socket, server_side=True); s.serve_forever()"
    files = [str(tmp_path / "own.pem"), str(tmp_path / "own.key")]
    check = ["bash", str(ROOT / "deploy" / "healthy.sh"), str(port), "/readyz"]

    def holds_for(certificate: str) -> bool:
        told = {"ACORDO_HTTP_PORT": str(port), "ACORDO_HTTP_TLS_CERT_FILE": certificate}
        done = subprocess.run(
            check, cwd=ROOT, env=os.environ | told, capture_output=True, timeout=15, check=False
        )
        return done.returncode == 0

    with running([sys.executable, "-c", serve, str(port), *files], {}):
        wait_until(lambda: holds_for(files[0]), "the node is healthy", timeout_s=30)
        assert not holds_for(str(tmp_path / "other.pem"))


def test_prometheus(tmp_path: Path) -> None:
    needs("prometheus")
    program = find("prometheus")
    port, config = free_port(), tmp_path / "prometheus.yml"
    config.write_text("{}")
    assert not holds("prometheus", "9090", port)
    command = [program, f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/d"]
    with running([*command, f"--web.listen-address=127.0.0.1:{port}"], {}):
        wait_until(lambda: holds("prometheus", "9090", port), "Prometheus is healthy", timeout_s=30)
