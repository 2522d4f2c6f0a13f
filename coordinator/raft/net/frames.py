"""Split a byte stream into authenticated frames, after a handshake that proves who is at the other
end.

Sans I/O, as h11 is: bytes come in, events come out. It never decodes a frame's content, holds at
most HANDSHAKE_BYTES_MAX bytes of a peer that has proved nothing, and verifies the MAC before it
passes a frame on.

    dialer                                    listener
      hello(nonce, cluster, member, facts) ──►
                                           ◄──   hello(nonce, cluster, member, facts), proof
      proof                                ──►
                                           ◄──   an empty frame, or one that says why not
      frames                               ◄─►   frames

Facts are bytes that the owner of each end supplies (peer_identity.py). The other owner judges them
once the peer has proved itself; the proofs cover them.

With a shared secret, a proof is a keyed BLAKE2b over both hellos and the prover's role. Each
direction of each connection has its own key, and a counter that never repeats, so a frame that is
replayed, reflected, reordered or left out fails verification. With TLS, the certificates prove the
identity; with neither, nothing does (loopback only). Proofs and MACs are empty in both cases.
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
"""Bytes of the reason in a refusal."""

_LENGTH: Final = struct.Struct("!I")
_COUNTED: Final = struct.Struct("!QI")
_BUFFER_BYTES: Final = 64 << 10

Role: TypeAlias = Literal["dialer", "listener"]


class Reply(NamedTuple):
    """Bytes to send to the peer."""

    content: bytes


class Proved(NamedTuple):
    """The event that the peer has proved its identity, as far as the mode proves anything.

    The session's `peer` and `facts` may now be believed. An owner that does not want this peer
    closes the connection, a listener after sending `refusal`; otherwise a listener calls `proceed`.
    """

    member: str


class Ready(NamedTuple):
    """The event that the handshake is complete at both ends, so frames may be sent."""

    member: str


Event: TypeAlias = Reply | Proved | Ready | memoryview
"""An event of a session. A memoryview is the content of a frame, valid until the next event is
requested; an empty one is a sign of life.
"""


class Session:
    """The protocol state of one connection. `nonce` must never have been used before."""

    def __init__(
        self,
        role: Role,
        cluster: str,
        member: str,
        nonce: bytes,
        *,
        mode: Mode,
        key: bytes = b"",
        also: tuple[bytes, ...] = (),
        expect: str | None = None,
        facts: bytes = b"",
        frame_bytes_max: int = FRAME_BYTES_MAX,
    ) -> None:
        """Prepare the hello; `facts` (at most FACTS_BYTES_MAX bytes) are sent with it.

        A listener proves itself by `key`. A dialer takes the one of `key` and `also` that the
        listener's proof was made with, and the whole connection rests on it: so members may change
        from one to another at different times.

        Raises ValueError for a missing or unexpected key, or a nonce of the wrong length.
        """
        if (mode is Mode.SECRET) != bool(key) or len(nonce) != NONCE_BYTES:
            raise ValueError("a key belongs to mode SECRET alone, and a nonce has 32 bytes")
        self._role: Role = role
        self._cluster, self._member, self._expect = cluster, member, expect
        self._mode, self._also = mode, also
        self.key = key
        """The key that the connection rests on, once the peer has proved itself."""
        self._frame_bytes_max = frame_bytes_max
        self._nonce, self._hello = nonce, encode_hello(mode, cluster, member, nonce, facts)
        self._mac_bytes = MAC_BYTES if mode is Mode.SECRET else 0
        self._state: Literal["hello", "proof", "proved", "confirm", "ready", "dead"] = "hello"
        self._proof_due = b""
        self.peer: str | None = None
        """The id that the other end claims; believe it only after `Proved`."""
        self.facts = b""
        """The facts in the other end's hello; believe them only after `Proved`."""
        self.version = VERSION_MAX
        """The protocol version that both ends use, once the peer's hello has arrived."""
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
        """Bytes of memory held for data from the peer."""
        return len(self._buffer)

    def start(self) -> bytes:
        """Return the bytes to send first: the dialer's hello, or nothing for a listener."""
        return self._hello if self._role == "dialer" else b""

    def get_buffer(self) -> memoryview:
        """Return the buffer for the next bytes."""
        return memoryview(self._buffer)[self._filled :]

    def received(self, count: int) -> Iterator[Event]:
        """Process `count` bytes that were put into the buffer, and yield the events.

        Raises FrameError, after which the session is over.
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
        """Return the pieces of one frame, to be sent in order.

        Raises ValueError if the content is too long.
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
        """Return the frame that tells a dialer, which has just proved itself, why it is refused.

        The session is over afterwards.
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
            # The bytes are consumed before an event is yielded: its receiver may call `proceed` at
            # once, which would otherwise read the same bytes again.
            self._keep(taken, HANDSHAKE_BYTES_MAX)
            if not taken:
                return
            yield from events
        if self._state == "proved" and self._filled == len(self._buffer):
            raise FrameError("not_ours", "it sends before it is let in")
        if self._state in ("confirm", "ready"):
            yield from self._frames(0)

    def _maybe_hello(self, view: memoryview) -> tuple[int, list[Event]]:
        """Read the peer's hello (and, as dialer, the proof that follows it) once it is complete.
        Return the bytes consumed, 0 if it is not, and the events.
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
        """Return the id of the member in a hello. Raises FrameError if it is not acceptable."""
        if hello.cluster != self._cluster.encode():
            name = hello.cluster.decode("utf-8", "replace")
            raise FrameError("foreign_cluster", f"it is of cluster {name!r}")
        # Our own hello may come back, from an attacker that reflects it or by a route that leads
        # here. The nonce reveals a reflection; the id also reveals a peer with its own nonce.
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
            for key in (self.key, *self._also):
                self.key = key
                mine, theirs = self._derive(self._hello + hello)
                if hmac.compare_digest(proof, theirs):
                    break
            else:
                raise FrameError("bad_proof", "it does not know the secret")
            self._state = "confirm"
            # The proof is sent even if we will refuse this listener, so that it learns who we are
            # and can judge us in turn.
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
        """Admit a dialer that has proved itself. Events of frames that it sent already follow."""
        # The empty frame shows the dialer that it was admitted. Without it, a dialer that is about
        # to be refused would believe for a moment that it was connected, and might count the peer
        # towards a quorum.
        assert self._state == "proved"
        assert self.peer is not None
        self._state = "ready"
        yield Reply(b"".join(self.frame(b"")))
        yield Ready(self.peer)
        yield from self.received(0)

    def _derive(self, transcript: bytes) -> tuple[bytes, bytes]:
        """Set this connection's keys; return our proof and the one expected from the peer.

        Without a secret there are no keys, and both proofs are empty.
        """
        if not self._mac_bytes:
            return b"", b""
        keys = derive_keys(self.key, transcript)
        to_listener, to_dialer = _keyed_hash(keys.to_listener), _keyed_hash(keys.to_dialer)
        if self._role == "dialer":
            self._send_mac, self._receive_mac = to_listener, to_dialer
            return keys.dialer_proof, keys.listener_proof
        self._send_mac, self._receive_mac = to_dialer, to_listener
        return keys.listener_proof, keys.dialer_proof

    # --------------------------------------------------------------------------------------- frames

    def _frames(self, used: int) -> Iterator[Event]:
        """Yield every complete frame from offset `used` on, then make room for the next one."""
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
        """Move the unread bytes to the front of a buffer that fits the `needed` bytes.

        The buffer grows only with bytes that have arrived: an announced length alone can at most
        double it.
        """
        left = self._filled - used
        fits = left < len(self._buffer) <= max(needed, _BUFFER_BYTES)
        if self._state not in ("confirm", "ready") or (fits and len(self._buffer) >= _BUFFER_BYTES):
            if used:
                self._buffer[:left] = self._buffer[used : self._filled]
        else:
            # The buffer is never resized in place, because the event loop may still hold the old
            # one for reading.
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
