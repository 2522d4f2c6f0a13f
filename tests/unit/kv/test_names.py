"""Two clusters on one broker have no name in common, whatever they are called."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from kv.names import UNNAMED, channels


@given(st.text(max_size=80), st.text(max_size=80))
def test_no_two_clusters_share_a_name(one: str, other: str) -> None:
    assume({one or UNNAMED} != {other or UNNAMED})
    assert not set(channels(one).values()) & set(channels(other).values())


@given(st.text())
def test_names_fit_the_broker(cluster: str) -> None:
    for name in channels(cluster).values():
        assert len(name.encode("utf-8", "surrogatepass")) <= 255
        assert name.startswith("acordo.")


def test_a_cluster_without_an_id_has_the_plain_names() -> None:
    assert (
        channels("")
        == channels(UNNAMED)
        == {"changes": "acordo.changes", "async": "acordo.async", "dead": "acordo.dead"}
    )
    assert channels("c1")["changes"] == "acordo.c1.changes"
