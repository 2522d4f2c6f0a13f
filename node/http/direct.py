"""Serve the commonest requests as soon as they are received, without the connection's task.

aiohttp wakes a task for each connection's next request, which starts another task for its handler.
Here the handler begins at once, and runs in steps. Handler, request, answer and their rules are the
same either way: only who runs them differs. A request that comes before another one is answered
goes to the connection's task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http import StreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from node.http.steps import Steps

log = structlog.get_logger("acordo.node")


class DirectConnection(web.RequestHandler):
    """One HTTP connection that may serve a request without its task."""

    __slots__ = ("_may_be_direct", "_steps")

    def __init__(
        self, manager: web.Server, may_be_direct: Callable[[str, str], bool], **more: Any
    ) -> None:
        """`may_be_direct`: whether requests with this method and target are served without a
        task.
        """
        super().__init__(manager, **more)
        self._may_be_direct = may_be_direct
        self._steps: Steps | None = None
        """The request that is served without the task."""

    def data_received(self, data: bytes) -> None:
        """Parse received bytes and queue the requests in them; `serve_queued` is to be called."""
        # aiohttp wakes its task by the waiter, and does not miss it.
        waiter, self._waiter = self._waiter, None
        super().data_received(data)
        self._waiter = waiter

    def serve_queued(self) -> None:
        """Serve what is queued, unless another request is being worked on."""
        waiter = self._waiter
        if waiter is None or not self._messages or self._steps is not None or waiter.done():
            return
        if len(self._messages) == 1:
            message, payload = self._messages[0]
            if (
                isinstance(message, RawRequestMessage)
                and payload.is_eof()
                and not message.should_close
                and not message.upgrade
                and self._may_be_direct(message.method, message.path)
            ):
                self._serve_directly(message, payload)
                return
        waiter.set_result(None)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on if reading was paused. aiohttp would do it for each body, and parse nothing."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    @property
    def serves(self) -> bool:
        """Whether a request is being served without the task."""
        return self._steps is not None

    def give_up(self) -> None:
        """Cancel the request that is served without the task, if there is one."""
        if self._steps is not None:
            self._steps.cancel()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Close the connection when its request is answered, at the latest after `timeout` s."""
        await super().shutdown(timeout)
        self.give_up()

    def _serve_directly(self, message: RawRequestMessage, payload: StreamReader) -> None:
        """Take the only request and serve it; the connection's task goes on waiting meanwhile."""
        self._messages.popleft()
        manager, parser, task = self._manager, self._parser, self._task_handler
        assert manager is not None
        assert parser is not None
        assert task is not None
        parser.message_consumed()
        manager.requests_count += 1
        writer = StreamWriter(self, self._loop)
        request = manager.request_factory(message, payload, self, writer, task)
        self._steps = Steps(self._loop, self._answer(request, manager), self._answered)
        self._steps.start()

    async def _answer(self, request: web.BaseRequest, manager: web.Server) -> None:
        response, lost = await self._handle_request(request, None, manager.request_handler)
        self._keepalive = bool(response.keep_alive) and not lost

    def _answered(self, error: BaseException | None) -> None:
        """Go on as aiohttp does: serve the next request if it is there, wait for it, or close."""
        self._steps = None
        if error is not None and not isinstance(error, asyncio.CancelledError | ConnectionError):
            log.error("request failed outside its handler", error=repr(error))
        if self.transport is None:
            return
        if error is not None or self._close or self._force_close or not self._keepalive:
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        if self._messages and self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _process_keepalive(self) -> None:
        """Close the connection if it was idle for too long, which it is not while it serves."""
        if self._steps is None:
            super()._process_keepalive()
        else:
            self._keepalive_handle = None
