"""The handshake and the frames, against those who do not know the secret, who listen, and who sit
in between.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.raft.net.frames import Event, Proved, Ready, Reply, Session
from coordinator.raft.net.hello import (
    FACTS_BYTES_MAX,
    HANDSHAKE_BYTES_MAX,
    MAC_BYTES,
    NAME_BYTES_MAX,
    VERSION_MAX,
    FrameError,
    Mode,
    key_of_secret,
)

KEY = key_of_secret(b"a secret of some length")
FRAME_BYTES_MAX = 1 << 20


def session(role: Any, member: str, nonce: int = 0, **options: Any) -> Session:
    settings: dict[str, Any] = {
        "mode": Mode.SECRET,
        "key": KEY,
        "frame_bytes_max": FRAME_BYTES_MAX,
    } | options
    cluster = settings.pop("cluster", "c")
    if settings["mode"] is not Mode.SECRET:
        settings["key"] = b""
    return Session(
        role, cluster, member, (nonce or ord(member[-1])).to_bytes(32, "big"), **settings
    )


def feed(to: Session, content: bytes, step: int = 1 << 30, *, admit: bool = True) -> list[Any]:
    """Give bytes in pieces, as asyncio does: never more than the buffer takes. Return the events,
    frames as bytes.

    `admit`: let in a dialer that has proved itself.
    """
    events: list[Any] = []
    while content:
        buffer = to.get_buffer()
        count = min(len(buffer), len(content), step)
        assert count > 0, "asyncio refuses an empty buffer"
        buffer[:count] = content[:count]
        content = content[count:]
        came = to.received(count)
        for event in came:
            events.append(bytes(event) if isinstance(event, memoryview) else event)
            if isinstance(event, Proved) and not to.start():
                came_in = to.proceed() if admit else iter(())
                events.extend(bytes(e) if isinstance(e, memoryview) else e for e in came_in)
                break
    return events


def replies(events: list[Any]) -> bytes:
    return b"".join(event.content for event in events if isinstance(event, Reply))


def frames(events: list[Any]) -> list[bytes]:
    return [event for event in events if isinstance(event, bytes)]


def shake(dialer: Session, listener: Session, step: int = 1 << 30) -> list[tuple[str, bytes]]:
    """Run the handshake; return the transcript."""
    transcript = []
    to_listener, to_dialer = dialer.start(), listener.start()
    while to_listener or to_dialer:
        transcript += [("dialer", to_listener)] if to_listener else []
        answer = replies(feed(listener, to_listener, step))
        transcript += [("listener", answer)] if answer else []
        to_dialer, to_listener = to_dialer + answer, b""
        to_listener, to_dialer = replies(feed(dialer, to_dialer, step)), b""
    return transcript


def pair(**options: Any) -> tuple[Session, Session]:
    dialer, listener = (
        session("dialer", "n1", expect="n2", **options),
        session("listener", "n2", **options),
    )
    shake(dialer, listener)
    assert dialer.ready
    assert listener.ready
    return dialer, listener


def frame(of: Session, content: bytes) -> bytes:
    return b"".join(of.frame(content))


# ------------------------------------------------------------------------------------------ working


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("step", [1, 7, 1 << 30])
def test_both_ends_are_ready_and_know_each_other(mode: Mode, step: int) -> None:
    dialer, listener = (
        session("dialer", "n1", mode=mode, expect="n2"),
        session("listener", "n2", mode=mode),
    )
    assert [who for who, _ in shake(dialer, listener, step)] == (
        ["dialer", "listener", "dialer", "listener"]
        if mode is Mode.SECRET
        else ["dialer", "listener"]
    )
    assert (dialer.ready, listener.ready, dialer.peer, listener.peer) == (True, True, "n2", "n1")


@given(
    contents=st.lists(st.one_of(st.binary(max_size=200), st.integers(0, 300_000)), max_size=12),
    step=st.one_of(st.integers(1, 50), st.integers(1000, 200_000)),
    mode=st.sampled_from(list(Mode)),
)
@settings(max_examples=80, deadline=None)
def test_frames_arrive_whole_and_in_order(
    contents: list[bytes | int], step: int, mode: Mode
) -> None:
    sender, receiver = pair(mode=mode)
    rng = random.Random(1)
    plain = [
        content if isinstance(content, bytes) else rng.randbytes(content) for content in contents
    ]
    stream = b"".join(frame(sender, content) for content in plain)
    if len(stream) / step > 3000:
        step = len(stream) // 3000 + 1
    assert frames(feed(receiver, stream, step)) == plain
    assert frames(feed(sender, frame(receiver, b"back"))) == [b"back"]


def test_the_buffer_shrinks_again() -> None:
    sender, receiver = pair()
    small = receiver.buffer_bytes
    content = frame(sender, bytes(FRAME_BYTES_MAX))
    feed(receiver, content[:-1], 10_000)
    assert receiver.buffer_bytes > small
    feed(receiver, content[-1:])
    assert receiver.buffer_bytes == small == 64 << 10


def test_a_frame_that_is_too_long_is_not_sent() -> None:
    sender, _ = pair()
    with pytest.raises(ValueError, match="at most"):
        sender.frame(bytes(FRAME_BYTES_MAX + 1))


# ------------------------------------------------------------------------------------------ refused


def refused(reason: str, to: Session, content: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        feed(to, content)
    assert caught.value.reason == reason
    with pytest.raises(FrameError):
        feed(to, b"more")


def test_a_dialer_without_the_secret() -> None:
    other = key_of_secret(b"another secret of length")
    intruder, listener = session("dialer", "n1", key=other), session("listener", "n2")
    hello = replies(feed(listener, intruder.start()))
    refused("bad_proof", intruder, hello)
    refused("bad_proof", listener, bytes(MAC_BYTES))
    assert not listener.ready


def test_a_listener_without_the_secret() -> None:
    dialer, intruder = (
        session("dialer", "n1"),
        session("listener", "n2", key=key_of_secret(b"another secret of length")),
    )
    refused("bad_proof", dialer, replies(feed(intruder, dialer.start())))


def test_secrets_that_are_too_short_are_no_secrets() -> None:
    with pytest.raises(ValueError, match="at least 16"):
        key_of_secret(b"hunter2")


def test_a_recorded_connection_cannot_be_replayed() -> None:
    """To the listener, to the dialer, whole or in part: fresh nonces make every proof of before
    worthless.
    """
    dialer, listener = session("dialer", "n1"), session("listener", "n2")
    transcript = shake(dialer, listener)
    from_dialer = [content for who, content in transcript if who == "dialer"]
    from_listener = [content for who, content in transcript if who == "listener"]
    later = session("listener", "n2", nonce=99)
    feed(later, from_dialer[0])
    refused("bad_proof", later, from_dialer[1])
    again = session("dialer", "n1", nonce=98)
    again.start()
    refused("bad_proof", again, from_listener[0])


def test_frames_of_another_connection_are_worthless() -> None:
    old_sender, _ = pair()
    recorded = frame(old_sender, b"vote for me")
    dialer, listener = session("dialer", "n1", nonce=77), session("listener", "n2", nonce=78)
    shake(dialer, listener)
    refused("bad_mac", listener, recorded)


def test_a_frame_twice_out_of_order_or_left_out() -> None:
    for order in ([0, 0], [1], [1, 0], [0, 2]):
        sender, receiver = pair()
        sent = [frame(sender, b"frame %d" % number) for number in range(3)]
        assert frames(feed(receiver, sent[0])) == [b"frame 0"] if order[0] == 0 else True
        refused("bad_mac", receiver, sent[order[-1] if order[0] == 0 else order[0]])


def test_frames_cannot_be_reflected() -> None:
    """Each direction has its own key, although both count from 0."""
    dialer, listener = pair()
    refused("bad_mac", dialer, frame(dialer, b"mine"))
    dialer, listener = pair()
    refused("bad_mac", listener, frame(listener, b"mine"))


def test_a_hello_cannot_be_reflected() -> None:
    dialer = session("dialer", "n1")
    refused("reflected", dialer, dialer.start() + bytes(MAC_BYTES))
    listener = session("listener", "n2")
    refused("reflected", listener, session("dialer", "n2", nonce=5).start())


def test_the_oracle_of_a_second_connection() -> None:
    """An intruder lets a listener prove itself and gives that proof to the dialer, and the other
    way round.
    """
    dialer, listener = session("dialer", "n1"), session("listener", "n2")
    second = session("listener", "n2", nonce=51)
    answer = replies(feed(listener, dialer.start()))
    other = replies(feed(second, dialer.start()))
    assert answer != other
    hello = answer[: len(answer) - MAC_BYTES]
    refused("bad_proof", session("dialer", "n1"), hello + other[-MAC_BYTES:])
    refused("bad_proof", listener, answer[-MAC_BYTES:])


def test_every_flipped_bit_in_the_handshake_is_noticed() -> None:
    def played() -> tuple[bytes, bytes, bytes]:
        dialer, listener = session("dialer", "n1", expect="n2"), session("listener", "n2")
        hello = dialer.start()
        answer = replies(feed(listener, hello))
        return hello, answer, replies(feed(dialer, answer))

    hello, answer, proof = played()
    for target, content in (("hello", hello), ("answer", answer), ("proof", proof)):
        for offset in range(len(content)):
            damaged = content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]
            dialer, listener = session("dialer", "n1", expect="n2"), session("listener", "n2")
            with contextlib.suppress(FrameError):
                back = replies(feed(listener, damaged if target == "hello" else dialer.start()))
                last = replies(feed(dialer, damaged if target == "answer" else back))
                feed(listener, damaged if target == "proof" else last)
            assert not dialer.ready
            assert not listener.ready


def test_every_flipped_bit_in_a_frame_is_noticed() -> None:
    sender, _ = pair()
    content = frame(sender, b"a command")
    for offset in range(len(content)):
        _, receiver = pair()
        damaged = content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]
        try:
            assert feed(receiver, damaged) == [], "at most it waits for more"
        except FrameError as exc:
            assert exc.reason in ("bad_mac", "too_long")  # noqa: PT017  one of the two, whichever byte it was


def test_an_announced_length_costs_nothing() -> None:
    sender, receiver = pair()
    refused("too_long", receiver, (FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    _, receiver = pair()
    feed(receiver, FRAME_BYTES_MAX.to_bytes(4, "big") + b"x" * 1000)
    assert receiver.buffer_bytes <= 64 << 10, "memory follows what has really come"
    assert sender.ready


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        bytes(1000),
        b"ACRX",
        b"ACRF" + bytes(1000),
    ],
)
def test_garbage_is_refused_at_once(garbage: bytes) -> None:
    listener = session("listener", "n2")
    with pytest.raises(FrameError):
        feed(listener, garbage)
    assert listener.buffer_bytes == HANDSHAKE_BYTES_MAX


@given(
    noise=st.binary(max_size=2000),
    prefix=st.sampled_from([b"", b"ACRF", b"ACRF\x01", b"ACRF\x01\x01\x01\x02"]),
)
@settings(max_examples=200)
def test_noise_costs_a_fixed_buffer_and_one_kind_of_error(noise: bytes, prefix: bytes) -> None:
    listener = session("listener", "n2")
    try:
        feed(listener, prefix + noise)
    except FrameError as exc:
        assert exc.reason  # noqa: PT017
    assert listener.buffer_bytes == HANDSHAKE_BYTES_MAX
    assert not listener.ready


def test_who_is_not_meant_is_told_apart() -> None:
    listener = session("listener", "n2")
    refused("foreign_cluster", listener, session("dialer", "n1", cluster="other").start())
    refused("mode", session("listener", "n2"), session("dialer", "n1", mode=Mode.OPEN).start())
    hello = session("dialer", "n1").start()
    refused("version", session("listener", "n2"), hello[:4] + b"\x01" + hello[5:])
    refused(
        "version",
        session("listener", "n2"),
        hello[:4] + b"\x09" + hello[5:10] + b"\x09" + hello[11:],
    )
    dialer, impostor = session("dialer", "n1", expect="n2"), session("listener", "n3")
    refused("wrong_member", dialer, replies(feed(impostor, dialer.start())))


def test_ids_are_bounded() -> None:
    with pytest.raises(ValueError, match="at most"):
        session("dialer", "n" * (NAME_BYTES_MAX + 1))
    with pytest.raises(ValueError, match="at most"):
        session("dialer", "n1", cluster="c" * (NAME_BYTES_MAX + 1))
    longest = "n" * NAME_BYTES_MAX
    dialer, listener = (
        session("dialer", longest, nonce=1),
        session("listener", "m" * NAME_BYTES_MAX, nonce=2),
    )
    shake(dialer, listener)
    assert dialer.ready


def test_a_key_belongs_to_its_mode() -> None:
    with pytest.raises(ValueError, match="a key belongs to mode SECRET"):
        Session("dialer", "c", "n1", bytes(32), mode=Mode.OPEN, key=KEY)
    with pytest.raises(ValueError, match="a nonce has 32 bytes"):
        Session("dialer", "c", "n1", b"short", mode=Mode.SECRET, key=KEY)


OTHER = key_of_secret(b"another secret of some length")


@pytest.mark.parametrize(
    ("dials", "listens"),
    [
        ({"key": KEY, "also": (OTHER,)}, {"key": OTHER}),
        ({"key": KEY, "also": (OTHER,)}, {"key": OTHER, "also": (KEY,)}),
        ({"key": OTHER}, {"key": OTHER, "also": (KEY,)}),
        ({"key": OTHER, "also": (KEY,)}, {"key": OTHER}),
    ],
)
def test_a_connection_rests_on_the_key_that_the_listener_proves(
    dials: dict[str, Any], listens: dict[str, Any]
) -> None:
    dialer, listener = session("dialer", "n1", **dials), session("listener", "n2", **listens)
    shake(dialer, listener)
    assert dialer.ready and listener.ready
    assert dialer.key == listener.key == OTHER
    for sender, receiver in ((dialer, listener), (listener, dialer)):
        assert feed(receiver, b"".join(sender.frame(b"x"))) == [b"x"]


def test_a_dialer_may_use_no_key_but_the_listeners_first() -> None:
    """Whoever knows only what is about to be forgotten cannot begin a connection here."""
    refused("bad_proof", session("dialer", "n1", key=OTHER), opening_of(key=KEY, also=(OTHER,)))


def opening_of(**options: Any) -> bytes:
    """Return what a listener says to the hello of n1."""
    return replies(feed(session("listener", "n2", **options), session("dialer", "n1").start()))


def test_nothing_is_given_on_before_the_peer_is_proved() -> None:
    """A dialer's frame before its proof is read as the proof, and is none."""
    listener = session("listener", "n2")
    dialer = session("dialer", "n1")
    events: list[Event] = feed(listener, dialer.start())
    assert not any(isinstance(event, (Ready, bytes)) for event in events)
    refused("bad_proof", listener, b"\x00\x00\x00\x04code" + bytes(64))


def test_a_newer_version_that_still_speaks_ours_is_met_in_the_middle() -> None:
    listener = session("listener", "n2")
    hello = session("dialer", "n1").start()
    feed(listener, hello[:4] + b"\x09" + hello[5:])
    assert (listener.peer, listener.version) == ("n1", VERSION_MAX)


@pytest.mark.parametrize("mode", list(Mode))
def test_facts_are_told_to_the_other_end_before_it_lets_anybody_in(mode: Mode) -> None:
    dialer = session("dialer", "n1", mode=mode, facts=b"from n1")
    listener = session("listener", "n2", mode=mode, facts=b"from n2")
    shake(dialer, listener)
    assert (dialer.facts, listener.facts) == (b"from n2", b"from n1")
    with pytest.raises(ValueError, match="at most"):
        session("dialer", "n1", facts=bytes(FACTS_BYTES_MAX + 1))


@pytest.mark.parametrize("mode", list(Mode))
def test_who_is_refused_hears_why_and_was_never_in(mode: Mode) -> None:
    dialer, listener = session("dialer", "n1", mode=mode), session("listener", "n2", mode=mode)
    events = feed(listener, dialer.start(), admit=False)
    events += feed(listener, replies(feed(dialer, replies(events))), admit=False)
    assert Proved("n1") in events
    assert not any(isinstance(event, Ready) for event in events)
    told = listener.refusal("removed: n1 was removed")
    with pytest.raises(FrameError, match="removed: n1 was removed") as caught:
        feed(dialer, told)
    assert caught.value.reason == "turned_away"
    assert not dialer.ready


def test_who_sends_without_end_before_it_is_let_in_is_refused() -> None:
    listener = session("listener", "n2", mode=Mode.OPEN)
    feed(listener, session("dialer", "n1", mode=Mode.OPEN).start(), admit=False)
    with pytest.raises(FrameError, match="before it is let in"):
        feed(listener, bytes(HANDSHAKE_BYTES_MAX), admit=False)
