"""Collect what a person needs who looks for a fault of a cluster, without values and secrets.

It only reads, and goes on where a node does not answer: that is what is looked for.
"""

from __future__ import annotations

import asyncio
import io
import platform
import sys
import tarfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from acordo._bulk.masking import masked, masked_lines, masked_settings, variables_of
from acordo._client import Client
from acordo._errors import AcordoError

ASKED: Final = {
    "cluster.json": "/v1/cluster",
    "readyz.txt": "/readyz?verbose",
    "metrics.txt": "/metrics",
    "activity.json": "/v1/activity",
}
"""What each node is asked. None of it holds a value."""
NODES_MAX: Final = 64
LOG_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of the end of a log that are looked at."""
FOLDER: Final = "acordo-diagnosis"


class Diagnosis(NamedTuple):
    """A bundle, and who did not answer."""

    content: bytes
    """A .tar.gz."""
    files: tuple[str, ...]
    silent: tuple[str, ...]
    """URLs of nodes that did not answer something."""


async def diagnose(
    client: Client,
    *,
    settings: Sequence[Path],
    logs: Sequence[Path],
    lines: int,
    environ: Mapping[str, str],
    timeout_s: float,
) -> Diagnosis:
    """Ask every node that is known, read files of settings and the last lines of logs, and pack
    what they say. Raises OSError for a file that cannot be read.
    """
    files: dict[str, str] = {}
    urls = await _urls(client, timeout_s)
    silent = []
    for url, answers in zip(
        urls, await asyncio.gather(*(_asked(client, url, timeout_s) for url in urls)), strict=True
    ):
        files |= answers
        if any(text.startswith("no answer") for text in answers.values()):
            silent.append(url)
    files["environment.json"] = _json(masked_settings(environ))
    for number, path in enumerate(settings):
        variables = variables_of(path.read_text(encoding="utf-8", errors="replace"))
        files[f"settings/{number}-{path.name}.json"] = _json(masked_settings(variables))
    for number, path in enumerate(logs):
        files[f"logs/{number}-{path.name}"] = masked_lines(_last(path, lines))
    about = {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version.split()[0],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "asked": [masked(url) for url in urls],
        "silent": [masked(url) for url in silent],
    }
    files["about.json"] = _json(about)
    return Diagnosis(_packed(files), tuple(sorted(files)), tuple(silent))


async def _urls(client: Client, timeout_s: float) -> list[str]:
    """Return the URLs that were given, and those of the members that a node names."""
    found = list(client.urls)
    try:
        cluster = await client.cluster(timeout_s=timeout_s)
    except AcordoError:
        return found
    found += [each.url for each in cluster.members if each.url and each.url not in found]
    return found[:NODES_MAX]


async def _asked(client: Client, url: str, timeout_s: float) -> dict[str, str]:
    """Return what a node answers, by file. It is asked one thing after the other: it may be ill."""
    parts = urlsplit(url)
    place = f"{parts.hostname}-{parts.port}".replace(":", "_")
    found = {}
    for name, path in ASKED.items():
        status, body = await client.look(url, path, timeout_s=timeout_s)
        text = body.decode("utf-8", "replace")
        if status is None:
            text = f"no answer: {text}"
        elif status not in (200, 503):
            text = f"status {status}: {text[:1000]}"
        found[f"nodes/{place}/{name}"] = masked(text)
    return found


def _last(path: Path, lines: int) -> list[str]:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES_MAX))
        return [line.decode("utf-8", "replace") for line in deque(file, lines)]


def _packed(files: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as bundle:
        for name, text in sorted(files.items()):
            content = text.encode()
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            bundle.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _json(form: object) -> str:
    return msgspec.json.format(msgspec.json.encode(form)).decode() + "\n"
