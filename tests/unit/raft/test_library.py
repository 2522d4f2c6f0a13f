"""The library is exactly the one that was read, and the core never reaches its pickle."""

from __future__ import annotations

import hashlib
import inspect
import re
from pathlib import Path

import pysyncobj.journal
import pysyncobj.pickle
import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj
from pysyncobj.version import VERSION

from coordinator.raft.core import pysyncobj_library as library
from coordinator.raft.core.pysyncobj_library import Library
from tests.unit.raft.cluster import Cluster, virtual

REPLACED = {
    "_SyncObj__applyLogEntries": "9535cd907be28288",
    "_SyncObj__callErrCallback": "f50422a6e4b3c6e4",
    "_SyncObj__doApplyCommand": "f86202ccf7145ba5",
    "_SyncObj__generateRaftTimeout": "9d57b24dbf9cfd21",
    "_SyncObj__onBecomeLeader": "c1499a743ec39dbe",
    "_SyncObj__onLeaderChanged": "76a69628bd9faf21",
    "_SyncObj__onMessageReceived": "32a767d7ce8fca16",
    "_SyncObj__onNodeConnected": "c5e8069bd53619a2",
    "_SyncObj__onNodeDisconnected": "cdb2f323062f4676",
    "_SyncObj__onReadonlyNodeConnected": "246a51c7af5e6b14",
    "_SyncObj__onReadonlyNodeDisconnected": "db9d9f393e1d4a3a",
    "_SyncObj__sendAppendEntries": "adecba206832f7e4",
    "_SyncObj__tryLogCompaction": "f6eb29187c817f33",
    "_applyCommand": "9fb07f2baae49c3f",
    "_checkCommandsToApply": "4457e33fc328a601",
    "_onTick": "21027df5540dcf8a",
    "addNodeToCluster": "503be2059420c8bf",
    "removeNodeFromCluster": "0511ee69b7762347",
    "setCodeVersion": "38cdc78ed165e4fc",
    "transferLeadership": "1c0b0be581595855",
}
"""Source hashes (BLAKE2b-64) of what the core replaces."""

USED = {
    "_SyncObj__deleteEntriesFrom": "8700ed72d33af6e2",
    "_SyncObj__deleteEntriesTo": "083c88e3a8eadd47",
    "_SyncObj__setCurrentTerm": "1c96e3979ed7f037",
    "_SyncObj__setState": "2bba5768a721edd5",
    "__init__": "7e2a78401d46127d",
    "_getLeader": "28ae028f4bf4e4ce",
    "_isLeader": "494e3036c8eb61cc",
    "doTick": "af9bd15db396300c",
    "forceLogCompaction": "63973da9f3cab244",
}
"""Of what the core relies on as it is."""


def source_hash(name: str) -> str:
    source = inspect.getsource(getattr(SyncObj, name))
    return hashlib.blake2b(source.encode(), digest_size=8).hexdigest()


def test_the_release_is_the_one_that_was_read() -> None:
    assert VERSION == "0.3.17"


@pytest.mark.parametrize("name", sorted({**REPLACED, **USED}))
def test_no_function_that_the_core_replaces_or_uses_has_changed(name: str) -> None:
    assert source_hash(name) == {**REPLACED, **USED}[name]


def test_everything_replaced_is_listed() -> None:
    """A method that our class defines and the library has is a replaced one."""
    theirs = {name for name, value in vars(SyncObj).items() if inspect.isfunction(value)}
    assert {name for name in vars(Library).keys() & theirs if name != "__init__"} == set(REPLACED)


def test_every_private_name_that_is_read_exists() -> None:
    """A misspelt private name would be a new attribute, and silent."""
    source = inspect.getsource(pysyncobj.syncobj)
    used = set(re.findall(r"_SyncObj(__\w+)", inspect.getsource(library)))
    assert used
    for name in used:
        assert f"self.{name}" in source or f"def {name}" in source, name


def test_one_module_alone_touches_the_private_names() -> None:
    own = Path(inspect.getfile(Library))
    package = next(parent for parent in own.parents if parent.name == "coordinator")
    assert [path for path in package.rglob("*.py") if "_SyncObj__" in path.read_text()] == [own]


@virtual
async def test_nothing_is_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise AssertionError("pickle was used")

    for module in (pysyncobj.pickle, pysyncobj.journal):
        for name in ("loads", "dumps", "load", "dump"):
            monkeypatch.setattr(module, name, forbidden, raising=False)
    async with Cluster() as cluster:
        leader = await cluster.leader()
        for i in range(10):
            await leader.propose(b"%d" % i)
        leader._core.compaction.force()
        await leader.propose(b"last")
        other = next(n for n in "ABC" if n != leader.id)
        await leader.remove_member(other, timeout_s=10)
        await leader.propose(b"after")
