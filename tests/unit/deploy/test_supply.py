"""What is installed is what the locks name, file by file."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from deploy.audit import UNAVAILABLE, Report, read
from deploy.wheels import build, pinned

ROOT = Path(__file__).parents[3]
LOCKS = sorted(ROOT.glob("requirements*.lock")) + sorted(ROOT.glob("tests/*/requirements.lock"))


def packages(lock: Path) -> dict[str, list[str]]:
    """Return the hashes of every package of a lock."""
    text = lock.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {
        line.split("==")[0]: re.findall(r"--hash=sha256:([0-9a-f]{64})", line) for line in lines
    }


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.relative_to(ROOT)))
def test_a_lock_names_every_file_by_its_hash(lock: Path) -> None:
    found = packages(lock)
    assert found
    assert not [name for name, hashes in found.items() if not hashes]


def test_a_node_has_what_everything_has() -> None:
    everything, node = (
        packages(ROOT / "requirements.lock"),
        packages(ROOT / "requirements-run.lock"),
    )
    assert node.items() <= everything.items()


def test_whatever_installs_a_lock_asks_for_hashes() -> None:
    """Without the option, pip takes a lock in which one line has lost its hash."""
    for place in (".ci/venv", "Dockerfile", "docs/deploy.md", "deploy/wheels.py"):
        text = (ROOT / place).read_text()
        assert "--require-hashes" in text, place
        installs = re.findall(
            r"(?:pip\"?|wheel\") (?:install|wheel)[^&|`]*?(?:lock|requirements\[@\])", text
        )
        assert all("--require-hashes" in each for each in installs), (place, installs)


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "acordo_probe-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        about = "acordo_probe-1.0.dist-info/"
        made.writestr(
            about + "METADATA", "Metadata-Version: 2.1\nName: acordo-probe\nVersion: 1.0\n"
        )
        made.writestr(
            about + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(about + "RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert pinned(wheel) == f"acordo_probe==1.0 --hash=sha256:{digest}\n"
    lock = tmp_path / "lock"
    for hashed, code in ((digest, 0), ("0" * 64, 1)):
        lock.write_text(f"acordo-probe==1.0 --hash=sha256:{hashed}\n")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--target",
             str(tmp_path / f"into{code}"), "--require-hashes", "--find-links", str(tmp_path),
             "-r", str(lock)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode != 0) == bool(code), done.stderr
    lock.write_text(f"acordo-probe @ {wheel.as_uri()} --hash=sha256:{'0' * 64}\n")
    with pytest.raises(subprocess.CalledProcessError):
        build(tmp_path / "wheels", lock)


def test_an_audit_that_asked_nobody_has_not_passed() -> None:
    clean = {"name": "a", "version": "1", "vulns": []}
    known = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
    unknown = {"name": "c", "version": "4", "skip_reason": "not found"}
    assert read({"dependencies": [clean]}).code == 0
    assert read({"dependencies": [clean, unknown]}).code == UNAVAILABLE
    assert read({"dependencies": [clean, known, unknown]}).code == 1
    assert read({"dependencies": [known]}).vulnerable == ["b 2: CVE-1, mended in 3"]
    assert Report().code == UNAVAILABLE
