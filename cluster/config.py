"""Say every setting of a node and of the local runner: flags before environment before file before
default.

A wrong value or an unknown name is refused with what is allowed. It never guesses, and never prints
a password.
"""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kv.errors import BadRequest

PREFIX: Final = "ACORDO_"
NOT_OURS: Final = (
    "ACORDO_TEST_",
    "ACORDO_CONFIG",
    "ACORDO_URL",
    "ACORDO_WORKER_",
    "ACORDO_WEBHOOK_",
    "ACORDO_AUTOSCALER_",
)
"""Names that a node or runner passes over: test switches, the settings file itself, the client's
and the workers'.
"""
NODES_MAX: Final = 9
RAFT_PORT_OFFSET: Final = 1000
"""The runner gives a node with HTTP port p the Raft port p + this."""

ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9._-]{0,252}[a-z0-9_])?")
STORES: Final = ("sqlite", "postgresql", "cockroachdb")
CACHES: Final = ("memory", "redis", "rediss", "redis+sentinel")
BROADCASTS: Final = ("local", "amqp", "amqps")

_S = TypeVar("_S", bound="_Settings")


class MemberSetting(NamedTuple):
    """One member as the settings name it."""

    id: str
    raft_address: str
    voter: bool = True

    def __str__(self) -> str:
        return f"{self.id}={self.raft_address}" + ("" if self.voter else "/observer")


# ----------------------------------------------------------------------------------- kinds of value


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.9g}".removesuffix(".0")
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError("no host:port")
    return text


def _members(given: object) -> object:
    if not isinstance(given, str):
        return given
    members: list[MemberSetting] = []
    for part in filter(None, (p.strip() for p in given.split(","))):
        name, equals, address = part.partition("=")
        address, slash, role = address.partition("/")
        if not (equals and ID.fullmatch(name)) or (slash and role != "observer"):
            raise ValueError(f"{part!r} is no member")
        members.append(MemberSetting(name, _address(address), not slash))
    if len({m.id for m in members}) < len(members) or len({m.raft_address for m in members}) < len(
        members
    ):
        raise ValueError("a member or an address is named twice")
    return tuple(members)


def _names(given: object) -> object:
    if not isinstance(given, str):
        return given
    names = tuple(filter(None, (name.strip().lower().rstrip(".") for name in given.split(","))))
    if not all(name == "*" or _NAME.fullmatch(name) for name in names):
        raise ValueError("no name of a machine (without scheme and port)")
    return names


def _id(given: str) -> str:
    if not ID.fullmatch(given):
        raise ValueError("no id")
    return given


def _name(given: str) -> str:
    return _id(given) if given else given


def _scheme(*allowed: str) -> BeforeValidator:
    def check(given: str) -> str:
        if given and urlsplit(given).scheme not in allowed:
            raise ValueError("unknown scheme")
        return given

    return BeforeValidator(check)


def _http_url(given: str) -> str:
    parts = urlsplit(given)
    if given and not (parts.scheme in ("http", "https") and parts.hostname):
        raise ValueError("no http URL")
    return given.rstrip("/")


def _setting(default: Any, text: str, allowed: str, **limits: Any) -> Any:
    return Field(
        default,
        description=text,
        json_schema_extra={"allowed": allowed},
        validate_default=False,
        **limits,
    )


def _seconds(default: float, text: str, low: float, high: float) -> Any:
    return _setting(default, text, f"seconds, {_text(low)} to {_text(high)}", ge=low, le=high)


def _count(default: int, text: str, low: int, high: int) -> Any:
    return _setting(default, text, f"a whole number, {low} to {high}", ge=low, le=high)


# ----------------------------------------------------------------------------------------- settings


class _Settings(BaseSettings):
    """What a node and the runner have in common; the runner hands these on to its nodes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    store: Annotated[str, _scheme(*STORES)] = _setting(
        "",
        "where versions and ledger are kept; empty: one SQLite file, in the runner's data directory or the node's",
        "sqlite:///PATH, postgresql://USER:PASSWORD@HOST[,HOST]/DATABASE, cockroachdb://…",
    )
    cache: Annotated[str, _scheme(*CACHES)] = _setting(
        "memory://",
        "shared cache behind each node's own",
        "memory://, redis://HOST, rediss://HOST, redis+sentinel://H1,H2,H3/MASTER",
    )
    broadcast: Annotated[str, _scheme(*BROADCASTS)] = _setting(
        "local://",
        "where committed changes are told",
        "local://, amqp://USER:PASSWORD@H1,H2,H3/VHOST, amqps://…",
    )
    fsync: Literal["always", "interval", "off"] = _setting(
        "always", "when Raft's log and votes reach the disk", "always, interval, off"
    )
    secret_file: Path | None = _setting(
        None,
        "shared secret that members prove to each other: they are authenticated, not encrypted (docs/security.md)",
        "path of a file",
    )
    tls_cert_file: Path | None = _setting(
        None,
        "certificate for mutual TLS between members, in place of a secret",
        "path of a PEM file",
    )
    tls_key_file: Path | None = _setting(None, "its key", "path of a PEM file")
    tls_ca_file: Path | None = _setting(
        None, "who signs the members' certificates", "path of a PEM file"
    )
    http_names: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = _setting(
        (),
        "further names that lead browsers to a node, beside addresses, names without a dot and the advertised one",
        "NAME,NAME,… or *",
    )
    http_open: bool = _setting(
        False,
        "let HTTP listen beyond loopback: whoever reaches it may read and write, for clients prove nothing",
        "true, false",
    )
    election_timeout_s: float = _seconds(
        0.3,
        "silence after which a follower may stand for leader; it does within twice that",
        0.05,
        60,
    )
    request_timeout_s: float = _seconds(
        10, "longest that a request is worked on, if it names no shorter time", 0.1, 300
    )
    body_timeout_s: float = _seconds(
        10, "longest that a request's body may take to arrive", 0.1, 300
    )
    store_timeout_s: float = _seconds(5, "longest wait for one answer of the store", 0.1, 300)
    drain_notice_s: float = _seconds(
        0,
        "how long a stopping node serves on while it already calls itself unready: balancers see it leave",
        0,
        60,
    )
    drain_timeout_s: float = _seconds(
        15, "longest that a stopping node goes on with what it holds", 0, 600
    )
    requests_max: int = _count(
        1024, "requests that a node admits at a time; beyond: 503", 1, 100_000
    )
    connections_max: int = _count(
        8192,
        "open connections of a node; beyond, the longest idle one is closed or a new one refused",
        1,
        1_000_000,
    )
    watchers_max: int = _count(512, "open watches of a node; beyond: 503", 1, 100_000)
    memory_cache_bytes: int = _count(64 << 20, "size of each node's own cache", 1 << 20, 1 << 40)
    history_retention_s: float = _seconds(
        3600, "time for which superseded versions stay readable", 1, 366 * 86400
    )
    history_retention_revisions: int = _count(
        100_000, "revisions for which they do, if that is longer", 0, 2**53 - 1
    )
    operation_retention_s: float = _seconds(
        86400, "time for which an op_id's outcome can be looked up", 60, 366 * 86400
    )
    sweep_interval_s: float = _seconds(
        1, "longest that a key whose time to live is over waits to be noticed", 0.05, 3600
    )
    log_format: Literal["auto", "json", "console"] = _setting(
        "auto",
        "how log lines look; auto: for people on a terminal, else JSON",
        "auto, json, console",
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting(
        "info", "least severe lines that are logged", "debug, info, warning, error"
    )

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        given = [f is not None for f in (self.tls_cert_file, self.tls_key_file, self.tls_ca_file)]
        if any(given) and not all(given):
            raise ValueError(
                "tls_cert_file, tls_key_file and tls_ca_file are given together or not at all"
            )
        if all(given) and self.secret_file is not None:
            raise ValueError("give either secret_file or the three tls_…_file, not both")
        return self


class NodeSettings(_Settings):
    """What `python -m node` runs with."""

    node_id: Annotated[str, BeforeValidator(_id)] = _setting(
        "n1",
        "this node's name in the cluster",
        "1 to 64 letters, digits and . _ -, a letter or digit first",
    )
    cluster_id: str = _setting(
        "", "name of the cluster; a data directory of another one is refused", "any text"
    )
    http_host: str = _setting(
        "127.0.0.1", "address that HTTP listens on", "an address of this machine, 0.0.0.0 for all"
    )
    http_port: int = _count(8001, "port that HTTP listens on", 1, 65535)
    advertised_url: Annotated[str, BeforeValidator(_http_url)] = _setting(
        "",
        "URL under which clients reach this node; empty: of http_host and http_port",
        "http(s)://HOST[:PORT]",
    )
    raft_address: Annotated[str, BeforeValidator(_address)] = _setting(
        "127.0.0.1:9001", "where the other members reach this one", "HOST:PORT"
    )
    raft_listen: str = _setting("", "where it listens for them; empty: raft_address", "HOST:PORT")
    members: Annotated[tuple[MemberSetting, ...], NoDecode, BeforeValidator(_members)] = _setting(
        (),
        "first members of the cluster, the same on each of them; empty: this node alone",
        "ID=HOST:PORT,ID=HOST:PORT,… each followed by /observer if it does not vote",
    )
    raft_routes: Annotated[tuple[MemberSetting, ...], NoDecode, BeforeValidator(_members)] = (
        _setting(
            (),
            "where this node dials members that it does not reach at the address they have for all others (a proxy, NAT)",
            "ID=HOST:PORT,ID=HOST:PORT,…",
        )
    )
    data_dir: Path = _setting(Path("data/n1"), "this node's own directory", "path of a directory")
    stop_with_stdin: bool = _setting(
        False, "stop when standard input ends (the runner is gone)", "true, false"
    )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        own = [m for m in self.members if m.id == self.node_id]
        if self.members and own and own[0].raft_address != self.raft_address:
            raise ValueError(
                f"members give {self.node_id} the address {own[0].raft_address}, not {self.raft_address}"
            )
        if self.raft_listen:
            _address(self.raft_listen)
        if not self.guarded and not is_loopback(self.raft_bind):
            raise ValueError(
                f"Raft would listen on {self.raft_bind}: without secret_file or tls_…_file only loopback is allowed"
            )
        _refuse_open(self.http_host, self.http_open)
        return self

    @property
    def url(self) -> str:
        host = f"[{self.http_host}]" if ":" in self.http_host else self.http_host
        return self.advertised_url or f"http://{host}:{self.http_port}"

    @property
    def raft_bind(self) -> str:
        return self.raft_listen or self.raft_address

    @property
    def guarded(self) -> bool:
        """Say whether strangers on the Raft port are kept out."""
        return self.secret_file is not None or self.tls_cert_file is not None

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{(self.data_dir / 'store.sqlite').absolute()}"

    @property
    def first_members(self) -> tuple[MemberSetting, ...]:
        return self.members or (MemberSetting(self.node_id, self.raft_address),)


class RunnerSettings(_Settings):
    """What `python -m cluster up` runs with."""

    nodes: int = _count(3, "voting nodes to start", 1, NODES_MAX)
    base_port: int = _count(
        8001,
        "HTTP port of the first node; the next ones follow",
        1,
        65535 - RAFT_PORT_OFFSET - NODES_MAX,
    )
    host: str = _setting(
        "127.0.0.1", "address that every node's HTTP listens on", "an address of this machine"
    )
    data: Path = _setting(Path("data"), "directory of the cluster", "path of a directory")
    cluster_id: str = _setting(
        "",
        "name of the cluster that a new directory is made for, as a store restored from a backup names it",
        "any text",
    )
    ready_timeout_s: float = _seconds(
        60,
        "without a ready quorum for so long, the runner says what is missing, and waits on",
        1,
        3600,
    )
    liveness_timeout_s: float = _seconds(
        3, "silence of /livez after which a node is killed and started again", 0.5, 600
    )

    @model_validator(mode="after")
    def _is_closed(self) -> Self:
        _refuse_open(self.host, self.http_open)
        return self

    @property
    def store_url(self) -> str:
        return self.store or f"sqlite:///{(self.data / 'store.sqlite').absolute()}"

    def handed_on(self) -> dict[str, str]:
        """Return what the nodes are given as it is, as environment variables: every setting not
        left at its default.
        """
        return {
            PREFIX + name.upper(): _text(getattr(self, name))
            for name in _Settings.model_fields
            if name in self.model_fields_set and getattr(self, name) is not None
        }


class WorkerSettings(_Settings):
    """What `python -m cluster worker` runs with; what it has in common with a node it takes from
    the same file.
    """

    urls: str = _setting(
        "http://127.0.0.1:8001", "nodes of the cluster", "URLs with a comma between them"
    )
    worker_name: Annotated[str, BeforeValidator(_name)] = _setting(
        "",
        "this worker's name; empty: of its machine and process",
        "1 to 64 letters, digits and . _ -",
    )
    worker_prefetch: int = _count(32, "asynchronous writes that a worker has in hand", 1, 1000)
    worker_metrics_port: int = _count(0, "port of its metrics; 0: none", 0, 65535)
    worker_metrics_host: str = _setting(
        "127.0.0.1", "address that its metrics listen on", "an address of this machine"
    )
    webhook_attempts_max: int = _count(
        8, "attempts of a delivery; then it is a dead letter", 1, 100
    )
    webhook_backoff_s: float = _seconds(
        0.5, "pause after the first failed attempt; doubled each time", 0.01, 60
    )
    webhook_backoff_max_s: float = _seconds(60, "longest pause between attempts", 0.01, 3600)
    webhook_timeout_s: float = _seconds(
        10, "longest that one attempt of a delivery may take", 0.1, 60
    )
    webhook_lease_s: float = _seconds(
        15, "silence after which another worker takes a subscription over", 2, 300
    )
    webhook_allow_private: bool = _setting(
        False, "deliver also to loopback, private and link-local addresses", "true, false"
    )


class AutoscalerSettings(_Settings):
    """What `python -m cluster autoscaler` runs with: observers only, never voters."""

    autoscaler_driver: Literal["docker", "local"] = _setting(
        "local", "how observers are started", "docker, local"
    )
    autoscaler_urls: str = _setting(
        "http://127.0.0.1:8001", "nodes of the cluster", "URLs with a comma between them"
    )
    autoscaler_prometheus: Annotated[str, BeforeValidator(_http_url)] = _setting(
        "http://127.0.0.1:9090", "where the figures come from", "http(s)://HOST[:PORT]"
    )
    autoscaler_listen: Annotated[str, BeforeValidator(_address)] = _setting(
        "127.0.0.1:9100", "where its own /metrics and its last /decisions are shown", "HOST:PORT"
    )
    autoscaler_project: str = _setting(
        "acordo", "compose project whose nodes it copies", "a project's name"
    )
    autoscaler_dir: Path = _setting(
        Path("data/observers"), "directory of local observers", "path of a directory"
    )
    autoscaler_observers_min: int = _count(0, "fewest observers", 0, 16)
    autoscaler_observers_max: int = _count(2, "most observers", 0, 16)
    autoscaler_period_s: float = _seconds(5, "time between two decisions", 0.1, 3600)
    autoscaler_cool_down_s: float = _seconds(60, "rest after a change", 0, 86400)
    autoscaler_in_flight_high: float = _setting(
        32, "mean requests in flight per node above which one is added", "> 0", gt=0
    )
    autoscaler_in_flight_low: float = _setting(8, "and below which one is removed", "≥ 0", ge=0)
    autoscaler_p99_high_s: float = _seconds(
        0.5, "99th percentile of answers above which one is added", 0.001, 60
    )
    autoscaler_p99_low_s: float = _seconds(0.1, "and below which one may be removed", 0, 60)
    autoscaler_cpu_high: float = _setting(
        0.8, "mean CPU per node, in cores, above which one is added", "> 0", gt=0
    )
    autoscaler_cpu_low: float = _setting(0.3, "and below which one may be removed", "≥ 0", ge=0)
    autoscaler_rounds_high: int = _count(2, "decisions in a row that must ask for one more", 1, 100)
    autoscaler_rounds_low: int = _count(6, "decisions in a row that must ask for one less", 1, 100)

    @model_validator(mode="after")
    def _bands_are_open(self) -> Self:
        if self.autoscaler_observers_min > self.autoscaler_observers_max:
            raise ValueError("autoscaler_observers_min is above autoscaler_observers_max")
        for name in ("in_flight", "p99", "cpu"):
            unit = "_s" if name == "p99" else ""
            low = getattr(self, f"autoscaler_{name}_low{unit}")
            high = getattr(self, f"autoscaler_{name}_high{unit}")
            if low >= high:
                raise ValueError(
                    f"autoscaler_{name}_low{unit} must be below autoscaler_{name}_high{unit}"
                )
        return self


def is_loopback(address: str) -> bool:
    """Say whether host:port can be reached from this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_open(host: str, is_open: bool) -> None:
    """Raise ValueError for an address that strangers may reach, unless that is wanted by name."""
    if not is_open and not is_loopback(f"{host}:0"):
        raise ValueError(
            f"HTTP would listen on {host or 'every address'}, and clients prove nothing: whoever reaches it may read"
            " and write. Say http_open=true if something else keeps strangers out"
        )


# ------------------------------------------------------------------------------------------ loading


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise BadRequest("bad_settings", message, allowed=f"see {self.prog} --help")


def load(cls: type[_S], argv: Sequence[str], *, prog: str) -> _S:
    """Return the settings that flags, environment and file say together. Raises
    BadRequest("bad_settings").
    """
    flags = _flags(cls, argv, prog)
    path = flags.pop("config", None) or os.environ.get(PREFIX + "CONFIG")
    in_file = _in_file(path) if path else {}
    complaints = _unknown(cls, os.environ, "the environment") + _unknown(cls, in_file, str(path))
    if complaints:
        raise BadRequest("bad_settings", "\n".join(complaints))
    given: dict[str, Any] = {"_env_file": path, **flags}  # strings: pydantic parses them
    try:
        return cls(**given)
    except ValidationError as exc:
        raise BadRequest("bad_settings", "\n".join(_explained(cls, exc, flags, in_file))) from exc


def redacted(settings: _Settings) -> dict[str, str]:
    """Return every setting in effect, as text fit to be shown: no password in it."""
    return {
        PREFIX + name.upper(): hide_password(_text(getattr(settings, name)))
        for name in type(settings).model_fields
    }


_LOGIN: Final = re.compile(r"(?s)(.*?://[^:/@?#]*):(.*)@")
"""Scheme, user and password. Who writes / ? # or @ into a password means them to belong to it,
whatever a URL says.
"""


def hide_password(url: str) -> str:
    """Put *** for the password of a URL, and for those in its query; other text comes back as it
    is.
    """
    shown = _LOGIN.sub(lambda found: f"{found[1]}:***@", url, count=1)
    return (
        re.sub(r"(?i)([?&](?:[a-z_]*password|secret|token)=)[^&#]*", r"\1***", shown)
        if "://" in shown
        else shown
    )


def table(cls: type[_Settings]) -> str:
    """Return the settings as a Markdown table, for the README."""
    rows = ["| setting | default | meaning | allowed |", "|---|---|---|---|"]
    for name, field in cls.model_fields.items():
        default = _text(field.default) or "(empty)"
        rows.append(
            f"| `{PREFIX}{name.upper()}` | `{default}` | {field.description} | {_allowed(cls, name)} |"
        )
    return "\n".join(rows)


def _allowed(cls: type[_Settings], name: str) -> str:
    extra = cls.model_fields[name].json_schema_extra
    return str(extra["allowed"]) if isinstance(extra, dict) else ""


def _flags(cls: type[_Settings], argv: Sequence[str], prog: str) -> dict[str, str]:
    parser = _Parser(
        prog=prog,
        allow_abbrev=False,
        description=f"Each setting is a flag, a variable {PREFIX}NAME of the environment, or such a line in a file; "
        "the first of these that gives it wins.",
    )
    parser.add_argument("--config", metavar="FILE", help=f"file of lines {PREFIX}NAME=value")
    for name, field in cls.model_fields.items():
        text = f"{field.description}. Allowed: {_allowed(cls, name)}. Default: {_text(field.default) or 'empty'}"
        parser.add_argument(
            "--" + name.replace("_", "-"), dest=name, metavar="…", help=text.replace("%", "%%")
        )
    return {
        name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None
    }


def _in_file(path: str) -> dict[str, str]:
    if not Path(path).is_file():
        raise BadRequest("bad_settings", f"the settings file {path} is not there")
    try:
        values = dotenv_values(path, interpolate=False)
    except (OSError, UnicodeDecodeError) as exc:
        raise BadRequest("bad_settings", f"the settings file {path} cannot be read: {exc}") from exc
    return {name: value or "" for name, value in values.items()}


def _unknown(cls: type[_Settings], names: Mapping[str, str], where: str) -> list[str]:
    known = [PREFIX + name.upper() for name in cls.model_fields]
    complaints = []
    for name in names:
        if not name.startswith(PREFIX) or name in known or name.startswith(NOT_OURS):
            continue
        near = difflib.get_close_matches(
            name.removeprefix(PREFIX),
            [each.removeprefix(PREFIX) for each in known],
            n=1,
            cutoff=0.7,
        )
        hint = f"did you mean {PREFIX}{near[0]}?" if near else f"known are {', '.join(known)}"
        complaints.append(f"{name} (in {where}) is no setting: {hint}")
    return complaints


def _explained(
    cls: type[_Settings], exc: ValidationError, flags: Mapping[str, str], in_file: Mapping[str, str]
) -> list[str]:
    lines = []
    for error in exc.errors():
        if not error["loc"]:
            lines.append(error["msg"].removeprefix("Value error, "))
            continue
        name = str(error["loc"][0])
        variable = PREFIX + name.upper()
        if name in flags:
            given, said = flags[name], "--" + name.replace("_", "-")
        elif variable in os.environ:
            given, said = os.environ[variable], variable
        else:
            given, said = in_file.get(variable, str(error["input"])), variable
        lines.append(
            f"{said}={hide_password(given)!r} is not allowed; allowed: {_allowed(cls, name)}"
        )
    return lines
