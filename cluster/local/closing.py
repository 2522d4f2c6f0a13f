"""Close a local cluster that other machines reach: give it HTTPS, an admin's token, and controlled
access, each made once.

It never replaces an authority or a token that is there, and leaves a cluster alone whose
certificates somebody gave, or of which somebody said that it is open.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import aiohttp

from acordo import Client, client_tls
from cluster.settings.runner import RunnerSettings
from cluster.tls import session
from kv.addresses import is_loopback
from kv.errors import BadRequest

ACORDO: Final = (sys.executable, "-m", "acordo")
COMMAND_TIMEOUT_S: Final = 60.0
_NAME: Final = re.compile(r"[A-Za-z0-9.:-]{1,253}")


def is_closed_here(settings: RunnerSettings) -> bool:
    """Return whether it is the runner's to close the cluster."""
    given = settings.http_open or settings.http_tls_cert_file is not None
    return not given and not is_loopback(settings.host.strip("[]"))


def authority(data: Path) -> Path:
    """Return the certificate that clients trust."""
    return data / "https" / "ca.pem"


def admin_token(data: Path) -> Path:
    """Return the file of the admin's token."""
    return data / "admin.token"


def with_certificates(settings: RunnerSettings, say: Callable[[str], None]) -> RunnerSettings:
    """Return the settings with certificates for HTTPS.

    The authority is made once. The nodes' certificate is made anew at each start: it names the
    addresses that the machine has now. Raises BadRequest("no_certificates").
    """
    data = settings.data.absolute()
    made = authority(data).parent
    if not authority(data).exists():
        _certificates("init", str(made), "--name", "acordo clients")
        say(f"made an authority for HTTPS; clients trust {authority(data)} (ACORDO_CA)")
    names = [word for name in names_of(settings) for word in ("--host", name)]
    _certificates("issue", "nodes", "--dir", str(made), "--replace", *names)
    files = {"http_tls_cert_file": made / "nodes.pem", "http_tls_key_file": made / "nodes.key"}
    return settings.model_copy(update=files)


def names_of(settings: RunnerSettings) -> list[str]:
    """Return under which names and addresses other machines reach the nodes."""
    host = settings.host.strip("[]")
    found = ["localhost", "127.0.0.1", socket.gethostname(), *settings.http_names]
    if host in ("0.0.0.0", "::", ""):
        found += ["::1", socket.getfqdn(), *_addresses()]
    else:
        found.append(host)
    return sorted({name for name in found if _NAME.fullmatch(name)})


def _addresses() -> list[str]:
    """Return the machine's own addresses, as far as it knows them."""
    found = []
    for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))  # sends nothing: it only chooses the way out
                found.append(str(probe.getsockname()[0]))
            about = socket.getaddrinfo(socket.gethostname(), None, family)
        except OSError:
            continue
        found += [str(each[4][0]).partition("%")[0] for each in about]
    return found


def _certificates(*words: str) -> None:
    try:
        done = subprocess.run(
            [*ACORDO, "cert", *words], capture_output=True, text=True, check=False,
            timeout=COMMAND_TIMEOUT_S,
        )  # fmt: skip
        code, why = done.returncode, done.stderr.strip() or done.stdout.strip()
    except subprocess.TimeoutExpired:
        code, why = 1, f"it took more than {COMMAND_TIMEOUT_S:.3g} s"
    if code:
        raise BadRequest(
            "no_certificates",
            f"acordo cert {words[0]}: {why}",
            allowed="a certificate of yours (http_tls_cert_file), or http_open=true if something "
            "else keeps strangers out",
        )


async def control_access(url: str, data: Path, say: Callable[[str], None]) -> None:
    """Make the admin's token and switch access control on, if that was not done before.

    Until then nodes refuse other machines, so a failure leaves the cluster closed. What was
    interrupted goes on at the next start. Raises BadRequest("access_open").
    """
    token = admin_token(data)
    if token.exists():
        return
    new = token.with_suffix(".new")
    if not (new.exists() and new.stat().st_size):
        said = await _acordo(url, data, "token", "create", "admin", "--role", "admin")
        _write_private(new, said)
    await _acordo(url, data, "--token-file", str(new), "access", "on")
    new.rename(token)
    say(f"access is controlled; the token of an admin is in {token} (ACORDO_TOKEN_FILE)")


def as_admin(timeout: aiohttp.ClientTimeout, data: Path | None) -> aiohttp.ClientSession:
    """Return a session that asks the nodes of a directory, with the admin's token and the authority
    that were made there, unless the environment names others. Raises BadRequest.
    """
    trusted = None if data is None else authority(data)
    return session(
        timeout,
        own=trusted if trusted is not None and trusted.exists() else None,
        token_file=None if data is None else admin_token(data),
    )


def admin_client(urls: Sequence[str], timeout_s: float, data: Path) -> Client:
    """Return a client that does the same."""
    token, trusted = admin_token(data), authority(data)
    named = os.environ.get("ACORDO_TOKEN") or os.environ.get("ACORDO_TOKEN_FILE")
    tls = client_tls(ca=trusted) if trusted.exists() and not os.environ.get("ACORDO_CA") else None
    ours = token.read_text().strip() if token.exists() and not named else None
    return Client(urls, timeout_s=timeout_s, tls=tls, token=ours)


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


async def _acordo(url: str, data: Path, *words: str) -> str:
    """Run the command line against a node; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *ACORDO, "--url", url, "--ca", str(authority(data)), *words,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            said, failed = await process.communicate()
        code = process.returncode
    except TimeoutError:
        code, failed = 1, f"it took more than {COMMAND_TIMEOUT_S:.3g} s".encode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if code:
        raise BadRequest(
            "access_open",
            f"access is not controlled yet, so nodes refuse other machines: {failed.decode()}",
            allowed="start again, or make the first token yourself (docs/security.md)",
        )
    return said.decode()
