"""Cut a byte stream into authenticated frames, after a handshake that proves who is at its other
end.

Sans I/O, as h11 is: bytes come in, events come out. It never decodes a frame's content, keeps at
most HANDSHAKE_BYTES_MAX of a peer that has proved nothing, and compares a MAC before it gives
anything on.

    dialer                                    listener
      hello(nonce, cluster, member, facts) ──►
                                           ◄──   hello(nonce, cluster, member, facts), proof
      proof                                ──►
                                           ◄──   an empty frame, or one that says why not
      frames                               ◄─►   frames

Facts are bytes that the owner gives and judges once the peer has proved itself (peer_identity.py);
proofs cover them.

With a shared secret a proof is a keyed BLAKE2b over both hellos and the prover's role, and each
direction of each connection has its own key and a counter that never repeats: a frame that is
replayed, reflected, reordered or left out fails. With TLS the certificates prove it, and with
neither nobody does (loopback only); proofs and MACs are then empty.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

from coordinator.raft.net.hello import (
    HANDSHAKE_BYTES_MAX,
    MAC_BYTES,
    NONCE_BYTES,
    VERSION_MAX,
    FrameError,
    Hello,
    Mode,
    decode_hello,
    derive_keys,
    encode_hello,
    hello_bytes,
)

FRAME_BYTES_MAX: Final = 64 << 20
REASON_BYTES_MAX: Final = 1024
"""Of what a refusal says."""

_LENGTH: Final = struct.Struct("!I")
_COUNTED: Final = struct.Struct("!QI")
_BUFFER_BYTES: Final = 64 << 10

Role: TypeAlias = Literal["dialer", "listener"]


class Reply(NamedTuple):
    """Bytes that are to be sent."""

    content: bytes


class Proved(NamedTuple):
    """The news that the peer is who it says, as far as anything proves it.

    `peer` and `facts` may be believed. Whoever does not want it closes; a listener says why first
    (`refusal`). Else the session goes on.
    """

    member: str


class Ready(NamedTuple):
    """The news that the handshake is complete, for both ends: frames may be sent."""

    member: str


Event: TypeAlias = Reply | Proved | Ready | memoryview
"""A memoryview is a frame's content, valid until the next event is asked for; an empty one is a
sign of life.
"""


class Session:
    """The protocol's state of one connection. `nonce` must never have been used before."""

    def __init__(
        self,
        role: Role,
        cluster: str,
        member: str,
        nonce: bytes,
        *,
        mode: Mode,
        key: bytes = b"",
        expect: str | None = None,
        facts: bytes = b"",
        frame_bytes_max: int = FRAME_BYTES_MAX,
    ) -> None:
        """`facts`: at most FACTS_BYTES_MAX bytes that go to the peer with the hello."""
        if (mode is Mode.SECRET) != bool(key) or len(nonce) != NONCE_BYTES:
            raise ValueError("a key belongs to mode SECRET alone, and a nonce has 32 bytes")
        self._role: Role = role
        self._cluster, self._member, self._expect = cluster, member, expect
        self._mode, self._key = mode, key
        self._frame_bytes_max = frame_bytes_max
        self._nonce, self._hello = nonce, encode_hello(mode, cluster, member, nonce, facts)
        self._mac_bytes = MAC_BYTES if mode is Mode.SECRET else 0
        self._state: Literal["hello", "proof", "proved", "confirm", "ready", "dead"] = "hello"
        self._proof_due = b""
        self.peer: str | None = None
        """Who the other end says it is; believe it after `Proved`."""
        self.facts = b""
        """What the other end says with it."""
        self.version = VERSION_MAX
        """What both speak, once the peer's hello has come."""
        self._send_mac, self._receive_mac = hashlib.blake2b(), hashlib.blake2b()
        self._sent = self._received = 0
        self._buffer = bytearray(HANDSHAKE_BYTES_MAX)
        self._filled = 0

    @property
    def ready(self) -> bool:
        """Say whether frames may be sent."""
        return self._state == "ready"

    @property
    def buffer_bytes(self) -> int:
        """Memory that is held for what the peer sends."""
        return len(self._buffer)

    def start(self) -> bytes:
        """Return what is to be sent first (the dialer's hello)."""
        return self._hello if self._role == "dialer" else b""

    def get_buffer(self) -> memoryview:
        """Return where the next bytes belong."""
        return memoryview(self._buffer)[self._filled :]

    def received(self, count: int) -> Iterator[Event]:
        """Take `count` bytes that were put into the buffer.

        Raises FrameError: the session is over then.
        """
        if self._state == "dead":
            raise FrameError("dead")
        self._filled += count
        try:
            yield from self._events()
        except FrameError:
            self._state = "dead"
            raise

    def frame(self, content: bytes) -> tuple[bytes, ...]:
        """Return the pieces to send, in order, for one frame.

        Raises ValueError if it is too long.
        """
        if len(content) > self._frame_bytes_max:
            raise ValueError(
                f"a frame of {len(content)} bytes; at most {self._frame_bytes_max} are allowed"
            )
        length = _LENGTH.pack(len(content))
        if not self._mac_bytes:
            return (length, content) if content else (length,)
        mac = _mac(self._send_mac, self._sent, content)
        self._sent += 1
        return (length, content, mac)

    def refusal(self, reason: str) -> bytes:
        """Return what tells a dialer that has just proved itself why it is not let in.

        The session is over then.
        """
        assert self._role == "listener"
        assert self._state == "proved"
        content = reason.encode()[:REASON_BYTES_MAX]
        frame = b"".join(self.frame(content or b"?"))
        self._state = "dead"
        return frame

    # ------------------------------------------------------------------------------------ handshake

    def _events(self) -> Iterator[Event]:
        while self._state in ("hello", "proof"):
            view = memoryview(self._buffer)[: self._filled]
            taken, events = (
                self._maybe_hello(view) if self._state == "hello" else self._maybe_proof(view)
            )
            # Before any event is given: its receiver may go on with this session at once, by
            # `proceed`, and would read the same bytes again.
            self._keep(taken, HANDSHAKE_BYTES_MAX)
            if not taken:
                return
            yield from events
        if self._state == "proved" and self._filled == len(self._buffer):
            raise FrameError("not_ours", "it sends before it is let in")
        if self._state in ("confirm", "ready"):
            yield from self._frames(0)

    def _maybe_hello(self, view: memoryview) -> tuple[int, list[Event]]:
        """Read the peer's hello (and, as dialer, the proof that comes with it), if it is there
        whole.
        """
        end = hello_bytes(view, self._mode)
        proof_bytes = self._mac_bytes if self._role == "dialer" else 0
        if end is None or len(view) < end + proof_bytes:
            return 0, []
        content = bytes(view[:end])
        hello = decode_hello(content)
        self.peer = self._recognise(hello)
        self.facts, self.version = hello.facts, hello.version
        return end + proof_bytes, self._on_hello(content, bytes(view[end : end + proof_bytes]))

    def _recognise(self, hello: Hello) -> str:
        """Return the member that a hello names. Raises FrameError: it is not whom we look for."""
        if hello.cluster != self._cluster.encode():
            name = hello.cluster.decode("utf-8", "replace")
            raise FrameError("foreign_cluster", f"it is of cluster {name!r}")
        # Our own hello may come back, from a mirror or by a route that ends here. The nonce gives a
        # mirror away, the id also one that makes a nonce of its own.
        if hello.nonce == self._nonce or hello.member == self._member.encode():
            raise FrameError("reflected", "it says that it is this very member")
        try:
            member = hello.member.decode()
        except UnicodeDecodeError:
            raise FrameError("not_ours") from None
        if self._expect not in (None, member):
            raise FrameError("wrong_member", f"it is {member!r}, not {self._expect!r}")
        return member

    def _on_hello(self, hello: bytes, proof: bytes) -> list[Event]:
        assert self.peer is not None
        if self._role == "dialer":
            mine, theirs = self._derive(self._hello + hello)
            if not hmac.compare_digest(proof, theirs):
                raise FrameError("bad_proof", "it does not know the secret")
            self._state = "confirm"
            # The proof goes also to a listener that we do not want: it is to learn who we are, and
            # to judge for itself.
            return [*([Reply(mine)] if mine else []), Proved(self.peer)]
        mine, self._proof_due = self._derive(hello + self._hello)
        self._state = "proof" if self._mac_bytes else "proved"
        reply = Reply(self._hello + mine)
        return [reply] if self._mac_bytes else [reply, Proved(self.peer)]

    def _maybe_proof(self, view: memoryview) -> tuple[int, list[Event]]:
        if len(view) < MAC_BYTES:
            return 0, []
        if not hmac.compare_digest(view[:MAC_BYTES], self._proof_due):
            raise FrameError("bad_proof", "it does not know the secret")
        self._state = "proved"
        assert self.peer is not None
        return MAC_BYTES, [Proved(self.peer)]

    def proceed(self) -> Iterator[Event]:
        """Let a dialer in that has proved itself. Frames that it sent already follow."""
        # The empty frame shows the dialer that it was let in. Without it a dialer that is refused
        # would believe for a moment that it was connected, and might count the peer in a quorum.
        assert self._state == "proved"
        assert self.peer is not None
        self._state = "ready"
        yield Reply(b"".join(self.frame(b"")))
        yield Ready(self.peer)
        yield from self.received(0)

    def _derive(self, transcript: bytes) -> tuple[bytes, bytes]:
        """Set this connection's keys; return our proof and the one that is due.

        Without a secret there are none: both are empty.
        """
        if not self._mac_bytes:
            return b"", b""
        keys = derive_keys(self._key, transcript)
        to_listener, to_dialer = _keyed_hash(keys.to_listener), _keyed_hash(keys.to_dialer)
        if self._role == "dialer":
            self._send_mac, self._receive_mac = to_listener, to_dialer
            return keys.dialer_proof, keys.listener_proof
        self._send_mac, self._receive_mac = to_dialer, to_listener
        return keys.listener_proof, keys.dialer_proof

    # --------------------------------------------------------------------------------------- frames

    def _frames(self, used: int) -> Iterator[Event]:
        """Give on every whole frame from `used` on, then make room for the next one."""
        head, tail = _LENGTH.size, self._mac_bytes
        needed = head + tail
        while self._filled - used >= head:
            (length,) = _LENGTH.unpack_from(self._buffer, used)
            if length > self._frame_bytes_max:
                raise FrameError(
                    "too_long",
                    f"a frame of {length} bytes; at most {self._frame_bytes_max} are allowed",
                )
            needed = head + length + tail
            if self._filled - used < needed:
                break
            begin = used + head
            content = memoryview(self._buffer)[begin : begin + length]
            if tail:
                mac = self._buffer[begin + length : begin + length + tail]
                if not hmac.compare_digest(mac, _mac(self._receive_mac, self._received, content)):
                    raise FrameError("bad_mac")
                self._received += 1
            if self._state == "confirm":
                if length:
                    why = bytes(content[:REASON_BYTES_MAX]).decode("utf-8", "replace")
                    raise FrameError("turned_away", why)
                self._state = "ready"
                assert self.peer is not None
                yield Ready(self.peer)
            yield content
            used += needed
            needed = head + tail
        self._keep(used, needed)

    def _keep(self, used: int, needed: int) -> None:
        """Move what is unread to the front of a buffer that fits what is needed next.

        Memory follows what has really arrived: an announced length alone at most doubles it.
        """
        left = self._filled - used
        fits = left < len(self._buffer) <= max(needed, _BUFFER_BYTES)
        if self._state not in ("confirm", "ready") or (fits and len(self._buffer) >= _BUFFER_BYTES):
            if used:
                self._buffer[:left] = self._buffer[used : self._filled]
        else:
            # Never resized in place: whoever reads into the old one may still hold it.
            buffer = bytearray(max(_BUFFER_BYTES, min(needed, 2 * left)))
            buffer[:left] = memoryview(self._buffer)[used : self._filled]
            self._buffer = buffer
        self._filled = left


def _keyed_hash(key: bytes) -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=MAC_BYTES, key=key)


def _mac(keyed: hashlib.blake2b, counter: int, content: bytes | memoryview) -> bytes:
    mac = keyed.copy()
    mac.update(_COUNTED.pack(counter, len(content)))
    mac.update(content)
    return mac.digest()
