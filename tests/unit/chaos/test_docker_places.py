"""A member that replaced another one has its place."""

from __future__ import annotations

import pytest

from chaos.targets.docker_stack import place_of


@pytest.mark.parametrize(
    ("member", "place"),
    [
        ("n1", "n1"),
        ("n2-2", "n2"),
        ("n3-11", "n3"),
        ("o19a0c3f5e21", "o19a0c3f5e21"),
        ("x-2", "x-2"),
        ("n1-b", "n1-b"),
    ],
)
def test_a_place(member: str, place: str) -> None:
    assert place_of(member) == place
