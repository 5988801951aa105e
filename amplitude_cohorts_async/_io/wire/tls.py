"""
A TLS connection that is read straight from its socket.

asyncio decrypts from memory: it receives into a buffer, copies that into one of
OpenSSL's, and decrypts from there. Here OpenSSL reads the socket itself, which
saves each byte a copy, and lets a body be decrypted to where it is wanted.

It is made for connections on which much is received and little sent: it holds no
writer back. What TLS may ask for beyond that (to be written to before it can be
read from) ends the connection, as any error does; whoever uses it has to be able
to go on over another one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, cast

_TURN = 256 * 1024
"""
Bytes received before others have a turn: a quarter of a millisecond.
"""

_PARTING = 5.0
"""
Seconds in which what is unsent has to leave a connection that is closed.
"""


class _Records(Protocol):
    def read(self, size: int, room: memoryview, /) -> int: ...


async def secured(
    plain: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    server_hostname: str | None,
    session: ssl.SSLSession | None = None,
) -> TlsTransport:
    """
    Shake hands on a connection on which nothing was sent yet.

    Args:
        plain: Its transport, which ends here, whatever happens.

        protocol: Gets the new transport, and what it receives.

        session: Of an earlier connection to the same server, with the same
            context; spares both sides the certificate.

    Raises:
        ssl.SSLError: The other side cannot be trusted, or speaks no TLS.

        OSError: The connection broke.
    """
    raw = _taken_from(plain)

    try:
        # Told here, a connection that is gone already is still ours to close.
        raw.getpeername()
        tls = context.wrap_socket(
            raw,
            server_hostname=server_hostname,
            do_handshake_on_connect=False,
            session=session,
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
        # Selectors look for a number faster than for a socket.
        self._file = tls.fileno()
        # Whether the loop tells again of what a turn has left; uvloop does not if
        # the connection is reset behind it.
        self._tells_again = isinstance(self._loop, asyncio.BaseEventLoop)
        # What is below the socket's own read(), which takes two Python calls more
        # for each record: a fiftieth of everything.
        self._decrypt = cast("_Records", getattr(tls, "_sslobj", tls)).read
        self._protocol: asyncio.BaseProtocol = protocol
        self._is_resumed = bool(tls.session_reused)
        self._session: ssl.SSLSession | None = None
        self._own = memoryview(b"")
        self._unsent = bytearray()
        self._next_turn: asyncio.Handle | None = None
        self._reason: Exception | None = None
        self._is_reading = False
        self._is_writing = False
        self._is_closing = False
        # The protocol hears of the end now, or has.
        self._is_over = False

    @property
    def session(self) -> ssl.SSLSession | None:
        """
        What the next connection to this server may go on from; also after the end.
        """
        if self._session is None:
            session = self._tls.session

            # The ticket comes behind the handshake, and OpenSSL reads it in passing.
            if session is None or not session.has_ticket:
                return session

            # Each look copies it, and that costs more than resuming saves.
            self._session = session

        return self._session

    @property
    def is_resumed(self) -> bool:
        """
        Whether it went on from another connection's session.
        """
        return self._is_resumed

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
            self._loop.remove_reader(self._file)

    def resume_reading(self) -> None:
        """
        Receive what comes.
        """
        if not self._is_reading and not self._is_closing:
            self._is_reading = True
            self._loop.add_reader(self._file, self._read)

            if self._reason is not None or self._tls.pending():
                self._read_on()

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

            if self._is_writing:
                self._loop.call_later(_PARTING, self.abort)
            else:
                self._end(None, is_polite=True)

    def abort(self) -> None:
        """
        End at once.
        """
        self._end(None)

    def _read(self) -> None:
        # A turn. Whoever pauses in it hears the rest later: the end as well.
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None

        if not self._is_reading:
            return

        is_full = False

        try:
            if self._reason is None:
                is_full = self._pass_on()

            if self._reason is not None and self._is_reading:
                self._hear_of_the_end(self._reason)
        except Exception as error:
            self._end(error)
            raise

        # Selectors do not tell of a record of which OpenSSL holds the rest.
        is_due = self._tls.pending() or (is_full and not self._tells_again)

        if self._is_reading and is_due:
            self._read_on()

    def _read_on(self) -> None:
        if self._next_turn is None:
            self._next_turn = self._loop.call_soon(self._read)

    def _pass_on(self) -> bool:
        # Returns whether there may be more at once.
        protocol = self._protocol

        if isinstance(protocol, asyncio.BufferedProtocol):
            room = memoryview(protocol.get_buffer(_TURN))[:_TURN]
            count = self._receive(room)
            if count:
                protocol.buffer_updated(count)
        else:
            room = self._own = self._own or memoryview(bytearray(_TURN))
            count = self._receive(room)
            if count and isinstance(protocol, asyncio.Protocol):
                protocol.data_received(bytes(room[:count]))

        return count == len(room)

    def _receive(self, room: memoryview) -> int:
        # OpenSSL decrypts a record at a time, 16 KiB at most.
        count, size = 0, len(room)

        try:
            while count < size:
                received = self._decrypt(size - count, room[count:])

                if not received:
                    self._reason = EOFError()
                    break

                count += received
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLEOFError:
            # No good-bye: HTTP knows whether something is missing.
            self._reason = EOFError()
        except OSError as error:
            self._reason = error

        return count

    def _hear_of_the_end(self, reason: Exception) -> None:
        if not isinstance(reason, EOFError):
            self._end(reason)
            return

        if isinstance(self._protocol, asyncio.Protocol | asyncio.BufferedProtocol):
            self._protocol.eof_received()

        self.close()

    def _send(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self._tls.send(self._unsent)]
        except ssl.SSLWantWriteError:
            if not self._is_writing:
                self._is_writing = True
                self._loop.add_writer(self._file, self._send)
        except OSError as error:
            self._end(error)
        else:
            self._stop_writing()

            if self._is_closing:
                self._end(None, is_polite=True)

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._file)

    def _end(self, error: Exception | None, *, is_polite: bool = False) -> None:
        if self._is_over:
            return

        self._is_closing = self._is_over = True
        # It goes with the socket; a resumed one's is nobody's to go on from.
        self._session = None if self._is_resumed else self.session
        self.pause_reading()
        self._stop_writing()

        if is_polite:
            # It raises as a rule: the other's good-bye is not here yet.
            with suppress(OSError, ValueError):
                self._tls.unwrap()

        self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._tls.close()
            # Its session may be kept, but not all that it served.
            self._protocol = asyncio.Protocol()
            self._own = memoryview(b"")


def _taken_from(plain: asyncio.Transport) -> socket.socket:
    # A second descriptor of the same connection, which outlives the first.
    if plain.is_closing():
        raise ConnectionResetError("the connection is closed already")

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
            await _ready(tls.fileno(), loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _ready(tls.fileno(), loop.add_writer, loop.remove_writer)
        else:
            return


async def _ready(
    file: int,
    watch: Callable[[int, Callable[[], None]], None],
    leave: Callable[[int], bool],
) -> None:
    ready = asyncio.Event()
    watch(file, ready.set)

    try:
        await ready.wait()
    finally:
        leave(file)
