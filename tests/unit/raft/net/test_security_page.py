"""docs/security.md: its commands make certificates that members accept, and what it says of secrets
is so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from coordinator.raft.net.frames import Session
from coordinator.raft.net.hello import Mode, key_of_secret
from coordinator.raft.net.security import Certificates
from tests.unit.raft.net.members import Member, addresses, until

ROOT = Path(__file__).parents[4]
PAGE = (ROOT / "docs" / "security.md").read_text()


async def test_the_page_makes_certificates_that_members_take(tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    (commands,) = (block for block in blocks if "cert init members" in block)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        ["sh", "-euc", commands], cwd=tmp_path, env=os.environ | {"PATH": path}, check=True,
        capture_output=True,
    )  # fmt: skip
    made = tmp_path / "members"
    where = addresses("n1", "n2")
    one, two = (
        Member(
            name,
            where,
            security=Certificates(
                str(made / f"{name}.pem"),
                str(made / f"{name}.key"),
                str(made / "ca.pem"),
            ),
        )
        for name in ("n1", "n2")
    )
    await one.transport.start()
    await two.transport.start()
    await until(lambda: one.connected("n2") and two.connected("n1"))
    for member in (one, two):
        await member.transport.aclose()
        assert not member.fatal


def test_with_a_secret_what_is_said_can_be_read_on_the_way() -> None:
    """As the page says, and every place that speaks of the secret."""
    key = key_of_secret(b"a secret of some length")
    dialer = Session("dialer", "c", "n1", bytes(32), mode=Mode.SECRET, key=key)
    listener = Session("listener", "c", "n2", b"x" * 32, mode=Mode.SECRET, key=key)
    hello = dialer.start()
    listener.get_buffer()[: len(hello)] = hello
    answer = b"".join(event.content for event in listener.received(len(hello)))  # type: ignore[union-attr]
    dialer.get_buffer()[: len(answer)] = answer
    list(dialer.received(len(answer)))
    assert b"a value" in b"".join(dialer.frame(b"a value"))


def test_it_is_said_wherever_the_secret_is() -> None:
    for place in (
        "README.md",
        "docs/containers.md",
        "cluster/settings/shared.py",
        "cluster/local/runner.py",
        "cluster/stack/cli.py",
    ):
        said = (ROOT / place).read_text()
        assert "not encrypted" in said, place
        assert "docs/security.md" in said or "security.md" in said, place
