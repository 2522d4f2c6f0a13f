"""Who gets requests: what DNS and the probes said goes in, a list comes out."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from deploy import balancer
from deploy.balancer import Address, Balancer, Choice, Names, Tls, addresses_of, upstream

A, B, C = ("10.0.0.1", 8000), ("10.0.0.2", 8000), ("10.0.0.3", 8000)


def test_a_node_that_drains_leaves_at_once_and_a_silent_one_after_two_looks() -> None:
    choice = Choice()
    assert choice.choose({A: True, B: True, C: True}) == (A, B, C)
    assert choice.choose({A: False, B: None, C: True}) == (B, C)
    assert choice.choose({A: False, B: None, C: True}) == (C,)
    assert choice.choose({A: True, B: None, C: True}) == (A, C)
    assert choice.choose({A: True, B: True, C: True}) == (A, B, C)


def test_a_silent_newcomer_is_not_taken_and_one_that_dns_forgot_goes() -> None:
    choice = Choice()
    choice.choose({A: True})
    assert choice.choose({A: True, B: None}) == (A,)
    assert choice.choose({B: True}) == (B,)


def test_with_none_ready_all_are_asked() -> None:
    choice = Choice()
    assert choice.choose({A: False, B: False}) == (A, B)
    assert choice.choose({}) == ()
    assert "127.0.0.1:1" in upstream(())


def test_one_that_refuses_is_asked_rather_than_one_that_is_silent() -> None:
    choice = Choice()
    assert choice.choose({A: True, B: True, C: True}) == (A, B, C)
    # the leader was paused: never A alone
    assert choice.choose({A: None, B: False, C: False}) == (A, B, C)
    assert choice.choose({A: None, B: False, C: False}) == (B, C)
    assert choice.choose({A: None, B: None, C: None}) == (B, C)  # a hiccup of this machine
    assert choice.choose({A: None, B: None, C: None}) == (A, B, C)


def test_a_name_keeps_its_addresses_until_dns_says_that_it_has_none() -> None:
    names = Names()
    assert names.learn({"a": None}) == []
    assert names.learn({"a": (B, A), "b": (C,)}) == [A, B, C]
    assert names.learn({"a": None, "b": (A,)}) == [A, B]
    assert names.learn({"a": (), "b": None}) == [A]
    assert names.learn({"a": None, "b": None}) == [A]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (socket.EAI_NONAME, ()),
        (socket.EAI_NODATA, ()),
        (socket.EAI_AGAIN, None),
        (socket.EAI_FAIL, None),
        (socket.EAI_SYSTEM, None),
    ],
)
def test_only_a_definite_no_of_dns_is_nobody(
    monkeypatch: pytest.MonkeyPatch, number: int, said: tuple[()] | None
) -> None:
    def refuse(*_: object) -> None:
        raise socket.gaierror(number, "no")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert addresses_of("nodes:8000") == said


def test_nodes_are_looked_at_while_dns_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answer, asked = threading.Event(), 0
    ready: dict[Address, bool | None] = {A: True, B: True}

    def silent_since(name: str) -> tuple[Address, ...]:
        nonlocal asked
        asked += 1
        if asked > 1:
            answer.wait(20)
        return (A, B)

    monkeypatch.setattr(balancer, "DNS_WAIT_S", 0.1)
    monkeypatch.setattr(balancer, "addresses_of", silent_since)
    monkeypatch.setattr(balancer, "probe", ready.__getitem__)
    one = Balancer(["nodes:8000"], "8080", tmp_path)
    with ThreadPoolExecutor(4) as pool:
        try:
            while not one.look(pool):
                pass
            assert list(one.choice.chosen) == [A, B]
            ready[B] = False
            assert one.look(pool)
            assert list(one.choice.chosen) == [A]
            assert not one.look(pool)
            assert asked == 2  # the one that is not answered yet, and no more
        finally:
            answer.set()


def test_a_node_that_drains_is_seen_in_time_also_beside_a_silent_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """At worst it begins to drain just after it was asked: while its look waits for the
    silent one.
    """
    now, looks = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    def look(*_: object) -> bool:
        nonlocal now
        looks.append(now)
        now += balancer.PROBE_TIMEOUT_S
        return False

    class Nginx:
        def poll(self) -> int | None:
            return 0 if len(looks) > 5 else None

        returncode = 1

    one = Balancer(["nodes:8000"], "8080", tmp_path)
    one.nginx = Nginx()  # type: ignore[assignment]
    monkeypatch.setattr(one, "start", lambda: None)
    monkeypatch.setattr(one, "look", look)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(balancer, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now))
    assert one.serve() == 1
    compose = yaml.safe_load((Path(__file__).parents[3] / "docker-compose.yml").read_text())
    notice_s = float(compose["x-node-environment"]["ACORDO_DRAIN_NOTICE_S"])
    for before, after in itertools.pairwise(looks[1:]):
        # for nginx to take the new list
        assert after + balancer.PROBE_TIMEOUT_S - before <= notice_s - 0.5


def test_an_address_is_its_own_name() -> None:
    assert addresses_of("127.0.0.1:80") == (("127.0.0.1", 80),)


def test_each_node_has_a_group_of_the_others() -> None:
    text = upstream([A, B])
    assert r'"~(^| )10\.0\.0\.1:8000$" acordo_0;' in text
    assert "upstream acordo_0 {\n    server 10.0.0.2:8000 max_fails=0;\n}" in text
    assert "acordo_0" not in upstream([A])  # no others


def test_certificates_are_given_in_pairs_and_a_renewed_one_is_read_again(tmp_path: Path) -> None:
    for wrong in ({"nodes_ca": "a"}, {"key": "k"}, {"cert": "c; }", "key": "k"}):
        with pytest.raises(ValueError, match=r"ACORDO_BALANCER|only"):
            Tls(**wrong)
    pair = [tmp_path / "tls.crt", tmp_path / "tls.key"]
    for file in pair:
        file.write_text("")
    made = Balancer([], "8443", tmp_path, tls=Tls(cert=str(pair[0]), key=str(pair[1])))
    with ThreadPoolExecutor(1) as pool:
        assert not made.look(pool)
        os.utime(pair[0], (1, 1))
        assert made.look(pool), "nginx has to read it"
        assert not made.look(pool)
        pair[1].unlink()
        assert not made.look(pool), "half renewed: what it has goes on"
