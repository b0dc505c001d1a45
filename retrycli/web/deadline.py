"""Close connections whose requests do not arrive in time, or whose answers nobody reads, so that neither can fill a
server.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0  # for the headers and the body of a request together; also without progress in reading


class DeadlineProtocol(H11Protocol):
    """An HTTP connection that is closed if a request is not complete `REQUEST_SECONDS` after it began, or if the client
    reads nothing of an answer for that long. If an answer is complete before its request is, the rest of the request is
    not parsed, and the connection ends.
    """

    _timer: asyncio.TimerHandle | None = None
    _reader: asyncio.TimerHandle | None = None
    _is_answered = False  # before the end of the request

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Handle a part of a request."""
        if not self._is_answered:
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """Go on with the next request, a part of which may have arrived already."""
        super().on_response_complete()
        if self.transport.is_closing():  # the client must read the rest of the answer
            self._expect_less_than(self.transport.get_write_buffer_size())
        elif self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY:
            # Read on: to close a socket with unread data would destroy the answer on its way to the client.
            self._is_answered = True
            self.transport.write_eof()
        if self.conn.trailing_data[0] or self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop()
        self._forget_reader()

    def pause_writing(self) -> None:
        """Stop answering until the client has read, and see to it that it reads."""
        super().pause_writing()
        self._expect_less_than(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Go on answering."""
        super().resume_writing()
        if not self.transport.is_closing():  # the rest of the last answer must be read, too
            self._forget_reader()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection as soon as the client has read the last answer."""
        super().timeout_keep_alive_handler()
        self._expect_less_than(self.transport.get_write_buffer_size())

    def _forget_reader(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _expect_less_than(self, size: int) -> None:
        self._forget_reader()

        def look() -> None:
            if (left := self.transport.get_write_buffer_size()) >= size:
                self.transport.abort()
            else:
                self._expect_less_than(left)

        self._reader = self.loop.call_later(REQUEST_SECONDS, look)

    def _watch(self) -> None:
        if self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
