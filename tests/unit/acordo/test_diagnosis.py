"""`acordo diagnose`: what every node says of itself, and no value, token or secret in it."""

from __future__ import annotations

import io
import re
import stat
import tarfile
from pathlib import Path

import pytest

from acordo._bulk.masking import MASK, masked, masked_lines, masked_settings, variables_of
from acordo._cli import diagnosing
from tests.unit.acordo.scripted import closed_port
from tests.unit.acordo.test_cli import Shell
from tests.unit.node.conftest import opened

TOKEN = "acordo_0123456789ab_" + "T" * 43
SECRET = "hunter2-of-the-test"
VALUE = "what-only-the-owner-may-read"


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as bundle:
        return {
            each.name: (bundle.extractfile(each) or io.BytesIO()).read().decode()
            for each in bundle.getmembers()
        }


async def test_it_holds_what_nodes_say_and_neither_values_nor_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACORDO_TOKEN", TOKEN)
    monkeypatch.setenv("ACORDO_STORE", f"postgresql://acordo:{SECRET}@db/acordo?sslmode=require")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("ACORDO_TOKEN_FILE", "/etc/acordo/token")
    settings, log = tmp_path / "acordo.env", tmp_path / "n1.log"
    settings.write_text(
        f"ACORDO_BROADCAST=amqp://a:{SECRET}@mq/\nexport ACORDO_BACKUP_TO='s3://b'\nODD={SECRET}\n"
    )
    log.write_text(
        "an old line\n" * 50
        + f'{{"event":"a","authorization":"Bearer {TOKEN}","value":"{VALUE}","n":1}}\n'
        + f"dialing redis://:{SECRET}@cache and token={TOKEN} body='{VALUE} more'\n"
        + "the last line\n"
    )
    target = tmp_path / "bundle.tar.gz"
    target.touch(0o644)
    dead = f"http://127.0.0.1:{await closed_port()}"
    async with opened(kind="replicated") as api:
        for n in range(5):
            await api.ask("PUT", f"/v1/kv/key-{n}", data=f"{VALUE}-{n}")
        acordo = Shell([api.url, dead])
        done = await acordo(
            "diagnose", str(target), "--settings", str(settings), "--log", str(log), "--lines", "9",
            "--timeout", "3", "--json",
        )  # fmt: skip
        assert done.code == 0, done.err
        assert dead in done.json["silent"] and api.url not in done.json["silent"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    found = contents(target)
    everything = "\n".join(f"{name}\n{text}" for name, text in found.items())
    for secret in (TOKEN, "T" * 43, SECRET, VALUE):
        assert secret not in everything, secret
    assert not re.search("PRIVATE KEY", everything)
    (metrics,) = (text for name, text in found.items() if "metrics" in name and "HELP" in text)
    assert "acordo_" in metrics, "names of metrics are no tokens"
    (cluster,) = (text for name, text in found.items() if "cluster" in name and '"members"' in text)
    assert '"digest":' in cluster and '"version":' in cluster
    assert any("no answer" in text for text in found.values())
    environment = found["acordo-diagnosis/environment.json"]
    assert '"/etc/acordo/token"' in environment and "AWS" not in environment
    given = found["acordo-diagnosis/settings/0-acordo.env.json"]
    assert '"s3://b"' in given and "ODD" not in given and MASK in given
    lines = found["acordo-diagnosis/logs/0-n1.log"].splitlines()
    assert len(lines) == 9 and lines[-1] == "the last line"


async def test_a_file_that_cannot_be_read_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    async with opened() as api:
        done = await Shell([api.url])(
            "diagnose", str(tmp_path / "b"), "--log", str(tmp_path / "none")
        )
    assert done.code == 2 and "none" in done.err
    assert not (tmp_path / "b").exists() and diagnosing.FILE_MODE == 0o600


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Bearer {TOKEN}", f"Bearer {MASK}"),
        (f"x {TOKEN}y z", f"x {MASK} z"),
        ("postgresql://u:p@ss/word@h/d", f"postgresql://u:{MASK}@h/d"),
        ("https://h/hook?token=abc&x=1", f"https://h/hook?token={MASK}"),
        ('{"value":"a\\"b","n":1}', f'{{"value":{MASK},"n":1}}'),
        ("-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\nx", f"{MASK}\nx"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII", MASK),
        ("webhook_secret=abc, next", f"webhook_secret={MASK}, next"),
        (f"Authorization: Basic {SECRET}=", f"Authorization: {MASK}"),
        (f"Cookie: a={SECRET}; acordo_session={SECRET}", f"Cookie: {MASK}"),
        (f"Found(key=b'k', value=b'{SECRET} x')", f"Found(key=b'k', value={MASK})"),
        (f"values=[b'a', b'{SECRET}'] n=1", f"values={MASK} n=1"),
        (f'"{{\\"password\\": \\"{SECRET}\\"}}"', f'"{{\\"password\\": {MASK}}}"'),
        (f'cut off: "value": "{SECRET}', f'cut off: "value": {MASK}'),
        (f"password={SECRET},{SECRET}", f"password={MASK}"),
        (f"x-api-key: {SECRET}, credential={SECRET}", f"x-api-key: {MASK}, credential={MASK}"),
        (f"https://{SECRET}@h/x", f"https://{MASK}@h/x"),
        (f"https://h/x?X-Amz-Signature={SECRET}&a=b", f"https://h/x?X-Amz-Signature={MASK}"),
        ("MIISECRET\n-----END PRIVATE KEY-----\nx", f"{MASK}\nx"),
        ("acordo_webhook_dead_letters_total 3", "acordo_webhook_dead_letters_total 3"),
        ("http://h:8001/v1/kv", "http://h:8001/v1/kv"),
    ],
)
def test_secrets_are_masked_and_the_rest_stays(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_a_private_key_that_goes_over_lines_of_a_log_is_masked() -> None:
    key = ["-----BEGIN PRIVATE KEY-----\n", "MIISECRET+/0=\n", "-----END PRIVATE KEY-----\n"]
    assert masked_lines(["a\n", *key, "b\n"]) == f"a\n{MASK}\nb\n"


def test_of_settings_only_our_own_pass_and_paths_of_secrets_do() -> None:
    given = variables_of("# ACORDO_X=1\nACORDO_PAGE_KEY=k\nACORDO_SECRET_FILE=/s\nno line\nPATH=/x")
    assert masked_settings(given) == {"ACORDO_PAGE_KEY": MASK, "ACORDO_SECRET_FILE": "/s"}
