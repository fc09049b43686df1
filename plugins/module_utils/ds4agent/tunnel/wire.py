"""Sockets on the event loop, without asyncio's transports.

A small request through the failover endpoint costs a handful of system calls; the tasks and futures with
which asyncio accepts and connects would cost more than all of them. The interface is the part of asyncio's
transports and protocols that the endpoint uses.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Protocol, Union
from weakref import WeakKeyDictionary

READ_BYTES = 256 << 10
#: One buffer for all wires of a loop: what came is used up before the next read. A new one each time would
#: cost the kernel its pages every time.
_BUFFERS: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()
#: What a user of a wire gets and gives.
Bytes = Union[bytes, memoryview]
#: Bytes queued towards a slow reader before the other side is told to wait, and when it may go on.
HIGH_WATER_BYTES = 256 << 10
LOW_WATER_BYTES = 64 << 10
ACCEPT_AT_ONCE = 64
#: How long a reader may take for what the kernel has before a connection is broken off.
LAST_READ_S = 0.1
#: Out of descriptors: leave the queue to the kernel for a moment.
ACCEPT_PAUSE_S = 0.2


class User(Protocol):
    """Who works with a wire; the names are asyncio's."""

    def data_received(self, data: memoryview) -> None:
        """Bytes have come; they are gone once this returns."""

    def eof_received(self) -> bool:
        """The other side sends no more; true keeps the wire open for writing."""

    def pause_writing(self) -> None:
        """Too much is queued."""

    def resume_writing(self) -> None:
        """The queue is short again."""

    def connection_lost(self) -> None:
        """The wire is gone; called once, and never from within a call of the user."""


class Wire:
    """One connected, non-blocking socket."""

    def __init__(self, sock: socket.socket, user: User) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = _BUFFERS.get(self._loop) or _BUFFERS.setdefault(
            self._loop, memoryview(bytearray(READ_BYTES))
        )
        self._sock = sock
        self._number = sock.fileno()  # asyncio describes a socket object in words each time it looks one up
        self._user = user
        self._queue = bytearray()
        self._reading = self._writing = False
        self._paused = self._ending = self._lost = self._eof = self._heard_eof = self._breaking = False
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def resume_reading(self) -> None:
        """Begin, or go on, to read."""
        if not (self._reading or self._ending or self._lost or self._heard_eof):
            self._reading = True
            self._loop.add_reader(self._number, self.read_now)

    def pause_reading(self) -> None:
        """Read no more for now."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._number)

    def read_now(self) -> None:
        """Take what has come, if anything."""
        if self._lost:
            return
        try:
            size = self._sock.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        if size:
            self._user.data_received(self._buffer[:size])
            return
        self.pause_reading()
        self._heard_eof = True
        if not self._user.eof_received():
            self.close()

    def write(self, data: Bytes) -> None:
        """Send now what the kernel takes, queue the rest."""
        if self._lost or self._ending or not data:
            return
        if not self._queue:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                self.abort()
                return
            if sent == len(data):
                return
            data = data[sent:]
        self._queue += data
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._number, self._write_on)
        if len(self._queue) > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._user.pause_writing()

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """`write` for several."""
        self.write(b"".join(pieces))

    def write_eof(self) -> None:
        """Send no more after what is queued."""
        self._eof = True
        if not self._queue and not self._lost:
            self._shut()

    def close(self) -> None:
        """End after what is queued has been sent."""
        if self._ending or self._lost:
            return
        self._ending = True
        self.pause_reading()
        if not self._queue:
            self._lose()

    @property
    def unread(self) -> bool:
        """Whether the other side closed with bytes of ours unread: their reset followed its end."""
        try:
            return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        except OSError:
            return False

    def abort(self) -> None:
        """End at once."""
        if not self._lost:
            self._queue.clear()
            self._lose()

    def reset(self) -> None:
        """End at once by a reset, which no client takes for the end of an answer."""
        if not self._lost:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.abort()

    def break_off(self) -> None:
        """End by a reset after what is queued has been sent, and leave its reader a moment for it."""
        if self._ending or self._lost:
            return
        self._ending = self._breaking = True
        self.pause_reading()
        if not self._queue:
            self._loop.call_later(LAST_READ_S, self.reset)

    def _write_on(self) -> None:
        try:
            sent = self._sock.send(self._queue)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        del self._queue[:sent]
        if not self._queue:
            self._stop_writing()
            if self._eof:
                self._shut()
            if self._breaking:
                self._loop.call_later(LAST_READ_S, self.reset)
            elif self._ending:
                self._lose()
                return
        if self._paused and len(self._queue) <= LOW_WATER_BYTES:
            self._paused = False
            self._user.resume_writing()

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._number)

    def _shut(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def _lose(self) -> None:
        self._lost = True
        self.pause_reading()
        self._stop_writing()
        self._sock.close()
        self._loop.call_soon(self._user.connection_lost)


class Listener:
    """A listening socket; `taken(sock)` is called for each connection."""

    def __init__(self, sock: socket.socket, taken: Callable[[socket.socket], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._taken = taken
        sock.setblocking(False)
        sock.listen(512)
        self._loop.add_reader(sock, self._accept)

    def close(self) -> None:
        """Takes no more."""
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _accept(self) -> None:
        for _turn in range(ACCEPT_AT_ONCE):
            try:
                sock, _address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._loop.remove_reader(self._sock)
                self._loop.call_later(ACCEPT_PAUSE_S, self._again)
                return
            sock.setblocking(False)
            self._taken(sock)

    def _again(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.add_reader(self._sock, self._accept)


def connect(port: int, done: Callable[[socket.socket | None], None]) -> None:
    """Connects to a port of 127.0.0.1; `done` gets the socket, or None. On loopback the kernel has mostly
    answered before the next line; then `done` is called before this returns."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)

    def finish() -> None:
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            sock.close()
            done(None)
        else:
            done(sock)

    def writable() -> None:
        loop.remove_writer(sock)
        finish()

    status = sock.connect_ex(("127.0.0.1", port))
    if status == 0:
        done(sock)
        return
    if status not in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
        sock.close()
        done(None)
        return
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    if poll.poll(0):
        finish()
    else:
        loop.add_writer(sock, writable)
