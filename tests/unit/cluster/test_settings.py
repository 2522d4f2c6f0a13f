"""Settings: where they come from, what is refused and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.local.closing import is_closed_here
from cluster.settings.loading import hide_password, load, redacted, table
from cluster.settings.node import NodeSettings
from cluster.settings.runner import RunnerSettings
from cluster.settings.values import MemberSetting
from kv.addresses import host_of, is_loopback
from kv.errors import BadRequest


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("ACORDO_")]:
        monkeypatch.delenv(name)


def node(*argv: str) -> NodeSettings:
    return load(NodeSettings, argv, prog="node")


def refused(*argv: str) -> str:
    with pytest.raises(BadRequest) as caught:
        node(*argv)
    assert caught.value.code == "bad_settings"
    return f"{caught.value.detail} {caught.value.allowed or ''}"


def test_defaults_are_one_node_on_loopback() -> None:
    settings = node()
    assert settings.url == "http://127.0.0.1:8001"
    assert settings.first_members == (MemberSetting("n1", "127.0.0.1:9001"),)
    assert settings.kind == "replicated"
    assert settings.own_file == Path("data/n1/store.sqlite")


def test_flags_win_over_environment_over_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "acordo.env"
    file.write_text("ACORDO_HTTP_PORT=1001\nACORDO_NODE_ID=filed\nACORDO_LOG_LEVEL=debug\n")
    monkeypatch.setenv("ACORDO_CONFIG", str(file))
    monkeypatch.setenv("ACORDO_HTTP_PORT", "1002")
    monkeypatch.setenv("ACORDO_NODE_ID", "environed")
    settings = node("--http-port", "1003")
    assert (settings.http_port, settings.node_id, settings.log_level) == (
        1003,
        "environed",
        "debug",
    )


def test_members_are_read_with_observers() -> None:
    settings = node("--members", "n1=127.0.0.1:9001, n2=[::1]:9002,n3=host:9/observer")
    assert [str(m) for m in settings.members] == [
        "n1=127.0.0.1:9001",
        "n2=[::1]:9002",
        "n3=host:9/observer",
    ]
    assert [m.voter for m in settings.members] == [True, True, False]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ("--fsync", "sometimes"),
            "--fsync='sometimes' is not allowed; allowed: always, interval, off",
        ),
        (
            ("--http-port", "0"),
            "--http-port='0' is not allowed; allowed: a whole number, 1 to 65535",
        ),
        (("--http-port", "many"), "allowed: a whole number, 1 to 65535"),
        (("--request-timeout-s", "-1"), "allowed: seconds, 0.1 to 300"),
        (("--request-timeout-s", "nan"), "allowed: seconds, 0.1 to 300"),
        (("--node-id", "a b"), "allowed: 1 to 64 letters"),
        (("--members", "n1"), "allowed: ID=HOST:PORT"),
        (("--members", "n1=h:1,n1=h:2"), "allowed: ID=HOST:PORT"),
        (("--members", "n1=h:1/voter"), "allowed: ID=HOST:PORT"),
        (
            ("--members", "n1=127.0.0.1:1"),
            "members give n1 the address 127.0.0.1:1, not 127.0.0.1:9001",
        ),
        (("--store", "mysql://h/d"), "allowed: replicated, postgresql://USER"),
        (("--store", "sqlite:////a/store"), "`acordo dump` with version 0.1"),
        (("--store", "sqlite:////a/store"), "no nodes share a file any more"),
        (("--store", "replicatd"), "allowed: replicated"),
        (("--store", "replicated", "--fsync", "off"), "fsync=off may lose acknowledged writes"),
        (("--store", "replicated", "--fsync", "interval"), "say unsafe_fsync=true"),
        (("--cache", "disk://"), "allowed: memory://"),
        (("--broadcast", "kafka://h"), "allowed: local://"),
        (("--advertised-url", "node1:80"), "allowed: http(s)://HOST[:PORT]"),
        (("--raft-address", "here"), "allowed: HOST:PORT"),
        (("--raft-listen", "0.0.0.0:9001"), "only loopback is allowed"),
        (("--tls-cert-file", "a.pem"), "together or not at all"),
        (("--colour", "red"), "unrecognized arguments: --colour red"),
        (("--config", "/nowhere/at/all"), "/nowhere/at/all is not there"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(argv: tuple[str, ...], said: str) -> None:
    assert said in refused(*argv)


def test_the_kind_of_store_and_what_it_takes_to_sync_it_less() -> None:
    assert node("--store", "replicated").kind == "replicated"
    assert node("--store", "replicated", "--data-dir", "/x").own_file == Path("/x/store.sqlite")
    assert node("--store", "postgresql://u@h/d", "--fsync", "off").kind == "shared"
    assert node("--store", "replicated", "--fsync", "off", "--unsafe-fsync", "true").fsync == "off"


def test_a_wrong_value_of_the_environment_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACORDO_LOG_LEVEL", "loud")
    assert (
        "ACORDO_LOG_LEVEL='loud' is not allowed; allowed: debug, info, warning, error" in refused()
    )


def test_every_wrong_value_is_said_at_once() -> None:
    assert refused("--fsync", "x", "--http-port", "y").count("is not allowed") == 2


def test_an_unknown_variable_is_refused_with_the_nearest_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACORDO_HTTP_PROT", "80")
    assert (
        "ACORDO_HTTP_PROT (in the environment) is no setting: did you mean ACORDO_HTTP_PORT?"
        in refused()
    )
    monkeypatch.delenv("ACORDO_HTTP_PROT")
    monkeypatch.setenv("ACORDO_NOSUCH", "1")
    assert "ACORDO_NOSUCH (in the environment) is no setting: known are ACORDO_STORE" in refused()
    monkeypatch.delenv("ACORDO_NOSUCH")
    file = tmp_path / "f.env"
    file.write_text("ACORDO_ZZZZZZZZZZZZZZZZ=1\n")
    assert f"(in {file}) is no setting: known are ACORDO_STORE" in refused("--config", str(file))


def test_variables_of_tests_and_of_the_client_are_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACORDO_TEST_COCKROACH_URL", "cockroachdb://h")
    monkeypatch.setenv("ACORDO_URL", "http://h")
    node()


def test_a_secret_opens_other_addresses(tmp_path: Path) -> None:
    settings = node("--raft-listen", "0.0.0.0:9001", "--secret-file", str(tmp_path / "secret"))
    assert settings.raft_bind == "0.0.0.0:9001"
    assert settings.guarded


def test_passwords_are_never_shown() -> None:
    settings = node(
        "--store",
        "postgresql://u:hunter2@h1,h2/d",
        "--cache",
        "redis://:hunter2@h",
        "--broadcast",
        "amqp://a:hunter2@h/v?x=1",
    )
    shown = redacted(settings)
    assert "hunter2" not in str(shown)
    assert shown["ACORDO_STORE"] == "postgresql://u:***@h1,h2/d"
    assert hide_password("redis://h?password=hunter2&db=1") == "redis://h?password=***&db=1"
    assert "hunter2" not in refused("--store", "mysql://u:hunter2@h/d")


@pytest.mark.parametrize(
    "password",
    ["hun/ter", "hun#ter", "hun?ter", "h@unter", "h:un/t@e#r", "hun%2Fter", "hunter", "h//un"],
)
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:{}@h/d",
        "amqp://u:{}@h1,h2/v",
        "redis://:{}@h",
        "postgresql://u:{}@h/d?sslmode=off",
    ],
)
def test_a_password_is_hidden_whatever_it_holds(url: str, password: str) -> None:
    shown = hide_password(url.format(password))
    assert shown == url.format("***")


def test_what_is_no_login_is_shown() -> None:
    for text in (
        "file:///a@b/c",
        "http://h:80/x@y",
        "redis://h",
        "memory://",
        "n1=127.0.0.1:9001",
        "a:b@c",
        "postgresql://u@h/d",
    ):
        shown = hide_password(text)
        # better hidden than shown
        assert shown == text or (shown.endswith("@y") and "***" in shown)
    assert (
        hide_password("postgresql://u:p@h/d?sslpassword=hunter2&x=1")
        == "postgresql://u:***@h/d?sslpassword=***&x=1"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "node1", ""])
def test_http_is_open_only_by_name(host: str) -> None:
    assert "http_open" in refused("--http-host", host)
    assert node("--http-host", host, "--http-open", "true").http_host == host
    # The runner gives its nodes certificates, unless somebody says that the cluster is open.
    assert is_closed_here(load(RunnerSettings, ["--host", host], prog="up"))
    given = load(RunnerSettings, ["--host", host, "--http-open", "true"], prog="up")
    assert not is_closed_here(given)
    assert given.handed_on() == {"ACORDO_HTTP_OPEN": "true"}  # its nodes would refuse too
    assert node("--http-host", "::1").url == "http://[::1]:8001"


def test_names_are_names() -> None:
    assert node("--http-names", "A.example, b.example.").http_names == ("a.example", "b.example")
    assert node("--http-names", "*").http_names == ("*",)
    assert "http_names" in refused("--http-names", "http://a.example").lower().replace("-", "_")


def test_the_runner_hands_on_only_what_was_given() -> None:
    settings = load(RunnerSettings, ["--log-level", "debug", "--requests-max", "7"], prog="up")
    assert settings.handed_on() == {"ACORDO_LOG_LEVEL": "debug", "ACORDO_REQUESTS_MAX": "7"}


def test_loopback_is_told_from_the_rest() -> None:
    here = ("127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1")
    there = ("0.0.0.0:1", "10.0.0.1:1", "node1:1", "[::]:1")
    assert all(is_loopback(host_of(address)) for address in here)
    assert not any(is_loopback(host_of(address)) for address in there)


def test_every_setting_says_what_is_allowed() -> None:
    for cls in (NodeSettings, RunnerSettings):
        for row in table(cls).splitlines()[2:]:
            assert all(cell.strip() for cell in row.strip("|").split("|")), row
