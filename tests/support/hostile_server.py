"""A server that streams more than anybody could store, in a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Self

from .ports import LOOPBACK

Answer = Callable[[], Iterable[bytes]]


class HostileServer:
    """Answers each path with the pieces that an iterable makes, while somebody reads."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}
        self._listener = socket.create_server((LOOPBACK, 0))
        self._connections: list[socket.socket] = []
        self.url = f"http://{LOOPBACK}:{self._listener.getsockname()[1]}"

    def on(self, path: str, answer: Answer) -> None:
        """Answer requests for *path* with these pieces, the head included."""
        self._answers[path] = answer

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake a thread that waits for a connection.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                serve = threading.Thread(
                    target=self._serve, args=[connection], daemon=True
                )
                serve.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as requests, suppress(OSError):
            while first := requests.readline():
                path = first.split()[1].decode().partition("?")[0]
                while requests.readline().strip():
                    pass
                for piece in self._answers[path]():
                    connection.sendall(piece)
