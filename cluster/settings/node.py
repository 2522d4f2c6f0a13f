"""Define the settings of one node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, model_validator
from pydantic_settings import NoDecode

from cluster.settings.shared import SharedSettings
from cluster.settings.values import (
    MemberSetting,
    address,
    count,
    http_url,
    members_of,
    node_id_of,
    refuse_open,
    setting,
)
from kv.addresses import host_of, is_loopback


class NodeSettings(SharedSettings):
    """Settings of `python -m node`."""

    node_id: Annotated[str, BeforeValidator(node_id_of)] = setting(
        "n1",
        "this node's name in the cluster",
        "1 to 64 letters, digits and . _ -, a letter or digit first",
    )
    cluster_id: str = setting(
        "", "name of the cluster; a data directory of another one is refused", "any text"
    )
    http_host: str = setting(
        "127.0.0.1", "address that HTTP listens on", "an address of this machine, 0.0.0.0 for all"
    )
    http_port: int = count(8001, "port that HTTP listens on", 1, 65535)
    advertised_url: Annotated[str, BeforeValidator(http_url)] = setting(
        "",
        "URL under which clients reach this node; empty: of http_host and http_port",
        "http(s)://HOST[:PORT]",
    )
    raft_address: Annotated[str, BeforeValidator(address)] = setting(
        "127.0.0.1:9001", "where the other members reach this one", "HOST:PORT"
    )
    raft_listen: str = setting("", "where it listens for them; empty: raft_address", "HOST:PORT")
    members: Annotated[tuple[MemberSetting, ...], NoDecode, BeforeValidator(members_of)] = setting(
        (),
        "first members of the cluster, the same on each of them; empty: this node alone",
        "ID=HOST:PORT,ID=HOST:PORT,… each followed by /observer if it does not vote",
    )
    raft_routes: Annotated[tuple[MemberSetting, ...], NoDecode, BeforeValidator(members_of)] = (
        setting(
            (),
            "where this node dials members that it does not reach at the address they have for all "
            "others (a proxy, NAT)",
            "ID=HOST:PORT,ID=HOST:PORT,…",
        )
    )
    data_dir: Path = setting(Path("data/n1"), "this node's own directory", "path of a directory")
    control_file: Path | None = setting(
        None,
        "file in which a local runner names its control port; admins of this machine are told of "
        "it (`GET /v1/control`)",
        "path of a file",
    )
    stop_with_stdin: bool = setting(
        False, "stop when standard input ends (the runner is gone)", "true, false"
    )

    @model_validator(mode="after")
    def _is_sound(self) -> Self:
        own = [m for m in self.members if m.id == self.node_id]
        if self.members and own and own[0].raft_address != self.raft_address:
            raise ValueError(
                f"members give {self.node_id} the address {own[0].raft_address}, not "
                f"{self.raft_address}"
            )
        if self.raft_listen:
            address(self.raft_listen)
        if not self.guarded and not is_loopback(host_of(self.raft_bind)):
            raise ValueError(
                f"Raft would listen on {self.raft_bind}: without secret_file or tls_…_file only "
                "loopback is allowed"
            )
        refuse_open(self.http_host, self.http_open, https=self.http_tls_cert_file is not None)
        return self

    @property
    def url(self) -> str:
        """Return the URL at which clients reach this node."""
        host = f"[{self.http_host}]" if ":" in self.http_host else self.http_host
        scheme = "http" if self.http_tls_cert_file is None else "https"
        return self.advertised_url or f"{scheme}://{host}:{self.http_port}"

    @property
    def exposed(self) -> bool:
        """Return whether other machines reach HTTP."""
        return not is_loopback(self.http_host.strip("[]"))

    @property
    def closed(self) -> bool:
        """Return whether requests of other machines are refused while access is not controlled:
        they reach HTTP, prove nothing, and nobody said that something else keeps strangers out.
        """
        required = self.http_tls_client_auth == "required"
        proved = self.http_tls_client_ca_file is not None and required
        return self.exposed and not self.http_open and not proved

    @property
    def raft_bind(self) -> str:
        """Return the address at which it listens for the other members."""
        return self.raft_listen or self.raft_address

    @property
    def guarded(self) -> bool:
        """Return whether the Raft port authenticates members, by a secret or by certificates."""
        return self.secret_file is not None or self.tls_cert_file is not None

    @property
    def store_url(self) -> str:
        """Return the URL of the store that all members share."""
        assert not self.replicated
        return self.store

    @property
    def own_file(self) -> Path:
        """Return the file of this member's own copy of the replicated store."""
        return self.data_dir / "store.sqlite"

    @property
    def first_members(self) -> tuple[MemberSetting, ...]:
        """Return the first members of the cluster: the configured ones, or this node alone."""
        return self.members or (MemberSetting(self.node_id, self.raft_address),)
