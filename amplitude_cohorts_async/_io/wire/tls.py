"""
A TLS connection that is read straight from its socket.

asyncio decrypts from memory: it receives into a buffer, copies that into one of
OpenSSL's, and decrypts from there. Here OpenSSL reads the socket itself, which
saves each byte a copy, and lets a body be decrypted to where it is wanted.

It is made for connections on which much is received and little sent. What TLS
may ask for beyond that (to be written to before it can be read from) ends the
connection; whoever uses it has to be able to go on over another one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import cast

_TURN = 256 * 1024
"""
Bytes received before others have a turn: a fraction of a millisecond.
"""


async def secured(
    plain: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    server_hostname: str | None,
) -> TlsTransport:
    """
    Shake hands on a connection on which nothing was sent yet.

    Args:
        plain: Its transport, which ends here, whatever happens.

        protocol: Gets the new transport, and what it receives.

    Raises:
        ssl.SSLError: The other side cannot be trusted, or speaks no TLS.

        OSError: The connection broke.
    """
    raw = _taken_from(plain)

    try:
        tls = context.wrap_socket(
            raw, server_hostname=server_hostname, do_handshake_on_connect=False
        )
    except BaseException:
        raw.close()
        raise

    try:
        await _shake_hands(tls)
        transport = TlsTransport(tls, protocol, context)
    except BaseException:
        tls.close()
        raise

    protocol.connection_made(transport)
    transport.resume_reading()

    return transport


class TlsTransport(asyncio.Transport):
    """
    Reads for a protocol, and sends what it rarely has to say.
    """

    def __init__(
        self, tls: ssl.SSLSocket, protocol: asyncio.Protocol, context: ssl.SSLContext
    ) -> None:
        super().__init__(
            {
                "socket": tls,
                "ssl_object": tls,
                "sslcontext": context,
                "peername": tls.getpeername(),
                "sockname": tls.getsockname(),
                "peercert": tls.getpeercert(),
            }
        )
        self._loop = asyncio.get_running_loop()
        self._tls = tls
        # One frame less than recv_into(), for each record; it is typed as if it
        # had no buffer to read to.
        self._decrypt = cast("Callable[[int, memoryview], int]", tls.read)
        self._protocol: asyncio.BaseProtocol = protocol
        self._own = memoryview(bytearray(_TURN))
        self._unsent = bytearray()
        self._is_reading = False
        self._is_writing = False
        self._is_closing = False
        self._is_over = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """
        Let another protocol go on from here.
        """
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """
        Return the protocol of now.
        """
        return self._protocol

    def is_reading(self) -> bool:
        """
        Tell whether what comes is received.
        """
        return self._is_reading

    def pause_reading(self) -> None:
        """
        Leave what comes where it is.
        """
        if self._is_reading:
            self._is_reading = False
            self._loop.remove_reader(self._tls)

    def resume_reading(self) -> None:
        """
        Receive what comes.
        """
        if not self._is_reading and not self._is_closing:
            self._is_reading = True
            self._loop.add_reader(self._tls, self._read)
            self._read_held_back()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """
        Send something, as soon as that is possible.
        """
        if not self._is_closing:
            self._unsent += data

            if not self._is_writing:
                self._send()

    def can_write_eof(self) -> bool:
        """
        Tell that TLS knows no half-closed connections.
        """
        return False

    def is_closing(self) -> bool:
        """
        Tell whether it is closed, or will be.
        """
        return self._is_closing

    def close(self) -> None:
        """
        Send what is unsent, say good-bye, and end.
        """
        if not self._is_closing:
            self._is_closing = True
            self.pause_reading()

            if not self._is_writing:
                self._end(None, is_polite=True)

    def abort(self) -> None:
        """
        End at once.
        """
        self._end(None)

    def _read(self) -> None:
        if not self._is_reading:
            return

        try:
            end = self._pass_on()
        except Exception as error:
            self._end(error)
            raise

        if isinstance(end, EOFError):
            self.close()
        elif end is not None:
            self._end(end)
        else:
            self._read_held_back()

    def _pass_on(self) -> Exception | None:
        # Returns why nothing will follow; none of what came before is lost.
        protocol = self._protocol

        if isinstance(protocol, asyncio.BufferedProtocol):
            count, end = self._receive(memoryview(protocol.get_buffer(_TURN))[:_TURN])
            if count:
                protocol.buffer_updated(count)
        else:
            count, end = self._receive(self._own)
            if count and isinstance(protocol, asyncio.Protocol):
                protocol.data_received(bytes(self._own[:count]))

        if isinstance(end, EOFError) and isinstance(
            self._protocol, asyncio.Protocol | asyncio.BufferedProtocol
        ):
            self._protocol.eof_received()

        return end

    def _receive(self, room: memoryview) -> tuple[int, Exception | None]:
        # OpenSSL decrypts a record at a time, 16 KiB at most.
        count, size = 0, len(room)

        try:
            while count < size:
                received = self._decrypt(size - count, room[count:])

                if not received:
                    return count, EOFError()

                count += received
        except ssl.SSLWantReadError:
            pass
        except OSError as error:
            return count, error

        return count, None

    def _read_held_back(self) -> None:
        # No selector tells of a record of which OpenSSL holds the rest.
        if self._is_reading and self._tls.pending():
            self._loop.call_soon(self._read)

    def _send(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._tls.send(self._unsent)]
        except ssl.SSLWantWriteError:
            if not self._is_writing:
                self._is_writing = True
                self._loop.add_writer(self._tls, self._send)
        except OSError as error:
            self._end(error)
        else:
            self._stop_writing()

            if self._is_closing:
                self._end(None, is_polite=True)

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._tls)

    def _end(self, error: Exception | None, *, is_polite: bool = False) -> None:
        if self._is_over:
            return

        self._is_closing = self._is_over = True
        self.pause_reading()
        self._stop_writing()

        if is_polite:
            # Raises, because it would have to wait for the other's good-bye.
            with suppress(OSError, ValueError):
                self._tls.unwrap()

        self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._tls.close()


def _taken_from(plain: asyncio.Transport) -> socket.socket:
    # A second descriptor of the same connection, which outlives the first.
    try:
        theirs = plain.get_extra_info("socket")
        taken = socket.fromfd(theirs.fileno(), theirs.family, theirs.type)
    finally:
        plain.abort()

    taken.setblocking(False)

    return taken


async def _shake_hands(tls: ssl.SSLSocket) -> None:
    loop = asyncio.get_running_loop()

    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await _ready(tls, loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(tls, loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(
    tls: ssl.SSLSocket,
    watch: Callable[[ssl.SSLSocket, Callable[[], None]], None],
    leave: Callable[[ssl.SSLSocket], bool],
) -> None:
    ready = asyncio.Event()
    watch(tls, ready.set)

    try:
        await ready.wait()
    finally:
        leave(tls)
