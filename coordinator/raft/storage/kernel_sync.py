"""Have the kernel sync files while the event loop goes on, without a thread of this process.

A thread that waits for a sync has to win the interpreter's lock from a busy loop twice for each
sync; that takes more CPU, and longer, than a short sync itself. Linux syncs on request
(io_submit(2), IOCB_CMD_FDSYNC) and reports the end through a descriptor that the loop polls.

It never writes, and never retries. Where the kernel, the processor or a sandbox has no such calls,
`open_kernel_sync` returns None, and the files' own threads sync.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import platform
import sys
from collections.abc import Callable
from itertools import count
from typing import Final, NamedTuple, TypeAlias

AT_ONCE_MAX: Final = 64
"""Syncs that may be under way at once: one for each open file that is written now."""
FDATASYNC: Final = 3
"""IOCB_CMD_FDSYNC."""
TELL_DESCRIPTOR: Final = 1
"""IOCB_FLAG_RESFD."""


class _Calls(NamedTuple):
    """Numbers of the system calls, for which the C library has no functions."""

    setup: int
    destroy: int
    getevents: int
    submit: int


_CALLS: Final = {
    "x86_64": _Calls(206, 207, 208, 209),
    "aarch64": _Calls(0, 1, 4, 2),
}
Ended: TypeAlias = Callable[[int], None]
"""Called with 0 when a sync has succeeded, else with its errno."""


class _Request(ctypes.Structure):
    """The kernel's `struct iocb`, as both processors lay it out."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("key", ctypes.c_uint32),
        ("rw_flags", ctypes.c_int32),
        ("opcode", ctypes.c_uint16),
        ("priority", ctypes.c_int16),
        ("fd", ctypes.c_uint32),
        ("buffer", ctypes.c_uint64),
        ("bytes", ctypes.c_uint64),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("told", ctypes.c_uint32),
    )


class _Event(ctypes.Structure):
    """The kernel's `struct io_event`."""

    _fields_ = (
        ("data", ctypes.c_uint64),
        ("request", ctypes.c_uint64),
        ("result", ctypes.c_int64),
        ("result2", ctypes.c_int64),
    )


class _Time(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class KernelSync:
    """The syncs that the kernel does for one directory's files."""

    def __init__(self, calls: _Calls) -> None:
        """Set up a queue in the kernel. Raises OSError where it refuses."""
        self._calls = calls
        # What does not wait keeps the interpreter's lock: to win it back would cost more.
        self._quick = ctypes.PyDLL(None, use_errno=True).syscall
        self._slow = ctypes.CDLL(None, use_errno=True).syscall
        context = ctypes.c_ulong(0)
        self._check(self._quick(calls.setup, AT_ONCE_MAX, ctypes.byref(context)))
        self._context = ctypes.c_ulong(context.value)
        self._told = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._under_way: dict[int, Ended] = {}
        self._numbers = count(1)
        self._events = (_Event * AT_ONCE_MAX)()
        self._request = _Request(opcode=FDATASYNC, flags=TELL_DESCRIPTOR, told=self._told)
        self._requests = (ctypes.c_void_p * 1)(ctypes.addressof(self._request))

    def begin(self, fd: int, ended: Ended) -> None:
        """Begin to fdatasync a file; `ended` is called on the event loop, or by `wait_now`.

        Raises OSError if the kernel does not take it.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            loop.add_reader(self._told, self._on_told)
            self._loop = loop
        number = next(self._numbers)
        self._request.data, self._request.fd = number, fd
        self._check(self._quick(self._calls.submit, self._context, _ONE, self._requests))
        self._under_way[number] = ended

    def wait_now(self) -> None:
        """Block until one more sync has ended. There must be one under way."""
        self._take(self._slow(*self._ask(1), None))

    def close(self) -> None:
        """Wait for what is under way, and release everything."""
        while self._under_way:
            self.wait_now()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.remove_reader(self._told)
        self._slow(self._calls.destroy, self._context)
        os.close(self._told)

    def _on_told(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._told)
        self._take(self._quick(*self._ask(0), _NO_TIME))

    def _ask(self, least: int) -> tuple[int, ctypes.c_ulong, ctypes.c_long, ctypes.c_long, object]:
        wanted = ctypes.c_long(AT_ONCE_MAX)
        return self._calls.getevents, self._context, ctypes.c_long(least), wanted, self._events

    def _take(self, found: int) -> None:
        """Tell the ends of so many syncs. A call that a signal has interrupted found none."""
        if found < 0 and ctypes.get_errno() != errno.EINTR:
            self._check(found)
        for event in self._events[: max(0, found)]:
            self._under_way.pop(event.data)(-event.result)

    @staticmethod
    def _check(result: int) -> None:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


_ONE: Final = ctypes.c_long(1)
_NO_TIME: Final = ctypes.byref(_Time(0, 0))


def open_kernel_sync() -> KernelSync | None:
    """Return the kernel's syncs; None where they are not to be had.

    They are not used either under LD_PRELOAD: a library that stands between this process and its
    files does not see them.
    """
    calls = _CALLS.get(platform.machine())
    if sys.platform != "linux" or calls is None or os.environ.get("LD_PRELOAD"):
        return None
    try:
        return KernelSync(calls)
    except OSError:
        return None
