"""Where deliveries may go, by address and by name."""

from __future__ import annotations

import pytest

from cluster.workers.addresses import forbidden
from cluster.workers.resolver import CheckedResolver, Forbidden


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254",
     "0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1",
     "240.0.0.1", "::1", "::", "fe80::1", "fe80::1%lo", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
     "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:db8::1", "2001::1", "no address",
     "192.0.0.192", "192.0.0.9", "168.63.129.16", "fec0::1", "3fff::1", "3fff:fff::1",
     "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.1", "100.100.100.200",
     "::ffff:168.63.129.16", "64:ff9b:1::1", "fd00:ec2::254", "::7f00:1", "5f00::1", "100::1",
     "2001:20::1", "2620:4f:8000::1", "2a00::5efe:7f00:1", "2a00::200:5efe:a00:1", "4000::1",
     "239.1.1.1"],
)  # fmt: skip
def test_inward_addresses_are_forbidden(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "8.8.8.8",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "168.63.129.17",
        "192.0.1.1",
        "2001:4860:4860::8888",
        "2a00:1450::1",
        "3ffe::1",
    ],
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert forbidden(address) is None


async def test_names_that_lead_inward_are_refused() -> None:
    with pytest.raises(Forbidden):
        await CheckedResolver(allow_private=False).resolve("localhost", 80)
    assert await CheckedResolver(allow_private=True).resolve("localhost", 80)
