"""Fuzz the parsers by coverage: `python -m tests.fuzz --minutes 10 [--targets raft_frames,http]`.

Inputs that reached new code are kept in tests/fuzz/corpus, which the unit tests replay. An input
that a parser does not stand is written to build/fuzz/faults, and the exit code is 1.

It drives libFuzzer through atheris, which is installed apart from what the product needs
(requirements.lock). Each target runs in a process of its own, bounded in time and memory.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "build" / "fuzz"
PACKAGES: Final = BUILD / "packages"
CORPUS: Final = Path(__file__).parent / "corpus"
INPUT_BYTES_MAX: Final = 4096
MEMORY_MB_MAX: Final = 2048
ONE_INPUT_S: Final = 20
"""An input that takes longer is a fault: parsers are bounded in time."""
GRACE_S: Final = 120
KEPT_MAX: Final = 250
"""Inputs that are kept for each target."""
NAMES: Final = (
    "raft_frames", "raft_messages", "log_commands", "journal", "snapshot", "backup", "json_bodies",
    "etcd_bodies", "request_texts", "sse", "http",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Fuzz each target; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--minutes", type=float, default=10.0, help="for each target")
    parser.add_argument("--targets", default=",".join(NAMES))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.one:
        return drive(options.one, options.rest)
    targets = options.targets.split(",")
    if unknown := set(targets) - set(NAMES):
        parser.error(f"no target {sorted(unknown)}; there are {', '.join(NAMES)}")
    install()
    fallen = [name for name in targets if not fuzz(name, options.minutes)]
    print("\n".join(["", *(f"fault: {name}: see build/fuzz/faults" for name in fallen)]) or "")
    return 1 if fallen else 0


def install() -> None:
    """Install the fuzzer in build/fuzz, unless it is there."""
    lock = Path(__file__).with_name("requirements.lock")
    done = PACKAGES / f".{hashlib.blake2b(lock.read_bytes(), digest_size=8).hexdigest()}"
    if done.exists():
        return
    shutil.rmtree(PACKAGES, ignore_errors=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            PACKAGES,
            "-r",
            lock,
        ],
        check=True,
    )
    done.touch()


def fuzz(name: str, minutes: float) -> bool:
    """Fuzz one target and keep what it found; return whether it stood everything."""
    found, faults = BUILD / name, BUILD / "faults"
    shutil.rmtree(found, ignore_errors=True)
    for folder in (found, faults, CORPUS / name):
        folder.mkdir(parents=True, exist_ok=True)
    seconds = max(int(minutes * 60), 1)
    limits = [f"-max_total_time={seconds}", f"-max_len={INPUT_BYTES_MAX}",
              f"-rss_limit_mb={MEMORY_MB_MAX}", f"-timeout={ONE_INPUT_S}",
              f"-artifact_prefix={faults}/{name}-", "-print_final_stats=1"]  # fmt: skip
    ran = _child(name, [*limits, str(found), str(CORPUS / name)], seconds + GRACE_S)
    said = ran.stderr.splitlines()
    stats = [line for line in said if line.startswith("stat::number_of_executed_units")]
    covered = next((line for line in reversed(said) if " cov: " in line), "no coverage")
    print(f"{name}: {' '.join(stats)}; {covered.strip()}", flush=True)
    if ran.returncode:
        print(ran.stderr[-4000:], flush=True)
        return False
    keep(name, found)
    return True


def keep(name: str, found: Path) -> None:
    """Keep what reached new code, the smallest first, as far as there is room."""
    kept = CORPUS / name
    known = {path.name for path in kept.iterdir()}
    for path in sorted(found.iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        if len(known) < KEPT_MAX and path.name not in known:
            shutil.copy(path, kept)
            known.add(path.name)
    print(f"  {len(known)} inputs kept", flush=True)


def _child(name: str, flags: Sequence[str], within_s: float) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(PACKAGES)}
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--one", name, "--", *flags],
        cwd=ROOT, env=environment, timeout=within_s, text=True, capture_output=True, check=False,
    )  # fmt: skip


def drive(name: str, flags: Sequence[str]) -> int:
    """Be the process that fuzzes one target."""
    import atheris  # type: ignore[import-untyped]  # only in the child, from build/fuzz

    with atheris.instrument_imports(include=["acordo", "backends", "coordinator", "kv", "node"]):
        from tests.fuzz import targets  # instrumented as it is imported
        from tests.fuzz.http import HttpTarget, http_seeds

    if name == "http":
        feed, seeds = HttpTarget().feed, http_seeds()
    else:
        feed, seeds = (lambda data: targets.feed(name, data)), targets.TARGETS[name].seeds()
    # A seed is named after its content, so that it is written once.
    folder = Path(flags[-1])
    for seed in seeds:
        (folder / hashlib.sha1(seed, usedforsecurity=False).hexdigest()).write_bytes(seed)
    atheris.Setup(["fuzz", *flags], feed)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
