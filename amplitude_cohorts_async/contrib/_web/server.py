"""Serves the page: one process of uvicorn, on a socket that is there before it."""

from __future__ import annotations

import errno
import signal
import socket
import ssl
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import attrs
import uvicorn
from fastapi import FastAPI

from ...errors import ConfigurationError
from ..fastapi.exports import CohortExports
from .access import origins_of

__all__ = ("Address", "Tls", "serve_app")

_SIGNALS = [
    # Windows has no SIGHUP.
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]


@attrs.frozen
class Tls:
    """
    A server's certificate.

    Attributes:
        certificate: A file in PEM with its chain, and perhaps with the key.
        key: A file in PEM with the key; None if that is in the same one.
    """

    certificate: Path
    key: Path | None = None

    def check(self) -> None:
        """Raise `ConfigurationError` if no server can use it."""
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
                self.certificate, self.key
            )
        except OSError as error:
            key = "" if self.key is None else f" with the key in {self.key}"
            raise ConfigurationError(
                f"the certificate in {self.certificate}{key} cannot be used "
                f"({error.strerror or error}); give PEM files of a chain and its key"
            ) from None


@attrs.frozen
class Address:
    """
    Where the page is: a context manager that closes its socket.

    Attributes:
        url: For a browser.
        origins: All that the browser may call it.
    """

    url: str
    origins: frozenset[str]
    socket: socket.socket
    tls: Tls | None = None

    @classmethod
    def listen(
        cls, host: str, port: int, *, origin: str | None = None, tls: Tls | None = None
    ) -> Self:
        """
        Take the port.

        Args:
            origin: Of a proxy, through which alone the page is reached.
            tls: Whose certificate is for *host*.

        Raises:
            ConfigurationError: The port is in use, there is no such address, or the
                certificate cannot be used.
        """
        if tls is not None:
            tls.check()

        family = socket.AF_INET6 if ":" in host else socket.AF_INET

        try:
            taken = socket.create_server((host, port), family=family)
        except OSError as error:
            what = (
                f"port {port} of {host} is in use (address already in use); pass "
                f"another one, or 0 for a free one"
                if error.errno == errno.EADDRINUSE
                else f"{host}:{port} cannot be listened on: {error.strerror}"
            )
            raise ConfigurationError(what) from None

        if origin is not None:
            return cls(origin, frozenset({origin}), taken, tls)

        name = f"[{host}]" if family == socket.AF_INET6 else host
        at, used = taken.getsockname()[:2]
        scheme = "http" if tls is None else "https"
        names = {name, "localhost"} if ip_address(at).is_loopback else {name}
        (url,) = origins_of(scheme, {name}, used)

        return cls(url, origins_of(scheme, names, used), taken, tls)

    def with_token(self, token: str) -> str:
        """Return the address that lets a browser in; no server is sent a fragment."""
        return f"{self.url}/#token={token}"

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the port back."""
        self.socket.close()


class _Server(uvicorn.Server):
    """A server whose streams end with it, and which ends as if nothing had happened."""

    def __init__(
        self,
        config: uvicorn.Config,
        exports: CohortExports,
        announce: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._exports = exports
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer, and say where."""
        await super().startup(sockets)
        self._announce()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let the streams end, for which the server waits."""
        self._exports.stop()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """End on a signal, which does nothing more after that."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        try:
            for number in _SIGNALS:
                signal.signal(number, self.handle_exit)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


async def serve_app(
    app: FastAPI,
    exports: CohortExports,
    address: Address,
    *,
    announce: Callable[[], None] = lambda: None,
) -> None:
    """
    Serve the page until a signal comes.

    Args:
        announce: Called when it answers.
    """
    tls = address.tls
    config = uvicorn.Config(
        app,
        ssl_certfile=None if tls is None else tls.certificate,
        ssl_keyfile=None if tls is None else tls.key,
        # Here, where what goes wrong is an error and no line of a log.
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
    )

    async with exports.lifespan(app):
        with suppress(SystemExit):
            await _Server(config, exports, announce).serve(sockets=[address.socket])
