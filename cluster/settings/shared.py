"""Define the settings that a node and the runner have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from cluster.settings.values import (
    BROADCASTS,
    CACHES,
    PREFIX,
    REPLICATED,
    count,
    names_of,
    scheme,
    seconds,
    setting,
    store_of,
)


class SharedSettings(BaseSettings):
    """Settings that a node and the runner have in common. The runner passes them to its nodes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    store: Annotated[str, BeforeValidator(store_of)] = setting(
        "",
        "where versions and ledger are kept; empty or replicated: every member keeps its own copy, "
        "in its directory; else the store that all members share",
        "replicated, postgresql://USER:PASSWORD@HOST[,HOST]/DATABASE, cockroachdb://…",
    )
    cache: Annotated[str, scheme(*CACHES)] = setting(
        "memory://",
        "shared cache behind each node's own",
        "memory://, redis://HOST, rediss://HOST, redis+sentinel://H1,H2,H3/MASTER",
    )
    broadcast: Annotated[str, scheme(*BROADCASTS)] = setting(
        "local://",
        "where committed changes are told",
        "local://, amqp://USER:PASSWORD@H1,H2,H3/VHOST, amqps://…",
    )
    fsync: Literal["always", "interval", "off"] = setting(
        "always", "when Raft's log and votes reach the disk", "always, interval, off"
    )
    unsafe_fsync: bool = setting(
        False,
        "allow another fsync than always where only the members' logs keep what is acknowledged "
        "(the replicated store): a power cut may then lose acknowledged writes",
        "true, false",
    )
    secret_file: Path | None = setting(
        None,
        "shared secret that members prove to each other: they are authenticated, not encrypted; "
        "further lines are accepted too, while it is exchanged (docs/security.md)",
        "path of a file",
    )
    tls_cert_file: Path | None = setting(
        None,
        "certificate for mutual TLS between members, in place of a secret",
        "path of a PEM file",
    )
    tls_key_file: Path | None = setting(None, "its key", "path of a PEM file")
    tls_ca_file: Path | None = setting(
        None, "who signs the members' certificates", "path of a PEM file"
    )
    http_tls_cert_file: Path | None = setting(
        None,
        "certificate of HTTPS, with those between it and its authority; empty: plain HTTP. Changed "
        "files are taken over without a restart (docs/security.md)",
        "path of a PEM file",
    )
    http_tls_key_file: Path | None = setting(None, "its key", "path of a PEM file")
    http_tls_client_ca_file: Path | None = setting(
        None,
        "who signs the certificates of clients; empty: no client is asked for one",
        "path of a PEM file",
    )
    http_tls_client_auth: Literal["required", "optional"] = setting(
        "required",
        "whether a client without a certificate is refused, where there is a client CA",
        "required, optional",
    )
    http_names: Annotated[tuple[str, ...], NoDecode, BeforeValidator(names_of)] = setting(
        (),
        "further names that lead browsers to a node, beside addresses, names without a dot and the "
        "advertised one",
        "NAME,NAME,… or *",
    )
    etcd: bool = setting(
        False,
        "serve clients of etcd's JSON gateway on the HTTP port too (docs/etcd.md); `make run` does",
        "true, false",
    )
    rescue_token_file: Path | None = setting(
        None,
        "a token that makes its bearer an admin at this node whatever the cluster says, for when "
        "no admin has one any more; mode 0600 (docs/security.md)",
        "path of a file of 32 characters or more",
    )
    http_open: bool = setting(
        False,
        "let HTTP listen beyond loopback without certificates and without controlled access: "
        "whoever reaches it may read and write",
        "true, false",
    )
    election_timeout_s: float = seconds(
        0.3,
        "silence after which a follower may stand for leader; it does within twice that",
        0.05,
        60,
    )
    slow_request_s: float = seconds(
        1, "requests that take longer are logged, by route and never by key", 0.001, 300
    )
    request_timeout_s: float = seconds(
        10, "longest that a request is worked on, if it names no shorter time", 0.1, 300
    )
    body_timeout_s: float = seconds(
        10, "longest that a request's body may take to arrive", 0.1, 300
    )
    store_timeout_s: float = seconds(5, "longest wait for one answer of the store", 0.1, 300)
    drain_notice_s: float = seconds(
        0,
        "how long a stopping node serves on while it already calls itself unready: balancers see "
        "it leave",
        0,
        60,
    )
    drain_timeout_s: float = seconds(
        15, "longest that a stopping node goes on with what it holds", 0, 600
    )
    requests_max: int = count(
        1024, "requests that a node admits at a time; beyond: 503", 1, 100_000
    )
    connections_max: int = count(
        8192,
        "open connections of a node; beyond, the longest idle one is closed or a new one refused",
        1,
        1_000_000,
    )
    watchers_max: int = count(512, "open watches of a node; beyond: 503", 1, 100_000)
    client_rate_max: float = seconds(
        0,
        "requests in a second of one client (a principal, or an address where nobody signs in); "
        "beyond: 429; 0: any number. Behind a balancer all clients have its address",
        0,
        1e6,
    )
    client_rate_burst: int = count(
        0, "requests of one client that may come at once; 0: what comes in two seconds", 0, 10**6
    )
    client_requests_max: int = count(
        0, "requests of one client in progress; beyond: 429; 0: any number", 0, 100_000
    )
    client_watchers_max: int = count(
        0, "streams of watches of one client; beyond: 429; 0: any number", 0, 100_000
    )
    client_connections_max: int = count(
        0, "connections of one address; beyond: 429; 0: any number", 0, 1_000_000
    )
    memory_cache_bytes: int = count(64 << 20, "size of each node's own cache", 1 << 20, 1 << 40)
    history_retention_s: float = seconds(
        3600, "time for which superseded versions stay readable", 1, 366 * 86400
    )
    history_retention_revisions: int = count(
        100_000, "revisions for which they do, if that is longer", 0, 2**53 - 1
    )
    operation_retention_s: float = seconds(
        86400, "time for which an op_id's outcome can be looked up", 60, 366 * 86400
    )
    sweep_interval_s: float = seconds(
        1, "longest that a key whose time to live is over waits to be noticed", 0.05, 3600
    )
    log_format: Literal["auto", "json", "console"] = setting(
        "auto",
        "how log lines look; auto: for people on a terminal, else JSON",
        "auto, json, console",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info", "least severe lines that are logged", "debug, info, warning, error"
    )

    @property
    def replicated(self) -> bool:
        """Return whether every member keeps its own copy of the store."""
        return self.store in {"", REPLICATED}

    @property
    def kind(self) -> Literal["shared", "replicated"]:
        """Return the kind of store."""
        return "replicated" if self.replicated else "shared"

    @model_validator(mode="after")
    def _logs_are_synced(self) -> Self:
        if self.replicated and self.fsync != "always" and not self.unsafe_fsync:
            raise ValueError(
                f"fsync={self.fsync} may lose acknowledged writes of the replicated store in a "
                "power cut; give fsync=always, or say unsafe_fsync=true if they may be lost"
            )
        return self

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        given = [f is not None for f in (self.tls_cert_file, self.tls_key_file, self.tls_ca_file)]
        if any(given) and not all(given):
            raise ValueError(
                "tls_cert_file, tls_key_file and tls_ca_file are given together or not at all"
            )
        if all(given) and self.secret_file is not None:
            raise ValueError("give either secret_file or the three tls_…_file, not both")
        if (self.http_tls_cert_file is None) != (self.http_tls_key_file is None):
            raise ValueError("http_tls_cert_file and http_tls_key_file are given together")
        if self.http_tls_client_ca_file is not None and self.http_tls_cert_file is None:
            raise ValueError("http_tls_client_ca_file takes http_tls_cert_file and its key")
        return self
