"""The command ``emulate``: Amplitude's API on this machine, for any client."""

from __future__ import annotations

import errno
import shlex
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import CohortsError
from .common import Output
from .emulator_process import GENERATING
from .running import run

if TYPE_CHECKING:
    from ..testing import CohortsEmulator

__all__ = ("emulate",)


def emulate(
    output: Output,
    *,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            metavar="PORT", min=0, max=65_535, help="Port of the API; 0 for a free one."
        ),
    ] = 0,
    store_port: Annotated[
        int,
        typer.Option(
            metavar="PORT",
            min=0,
            max=65_535,
            help="Port of the store; 0 for a free one.",
        ),
    ] = 0,
    users: Annotated[
        int, typer.Option(metavar="N", min=0, help="Users in the largest cohort.")
    ] = 2_000_000,
    job_seconds: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Seconds from an export request until its file is ready.",
        ),
    ] = 1.0,
    link_seconds: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="Seconds that a link is valid."),
    ] = 60.0,
    no_limits: Annotated[
        bool, typer.Option("--no-limits", help="Accept any number of requests.")
    ] = False,
) -> None:
    """
    Run an emulator of Amplitude's API on this machine, until Ctrl-C.

    It prints the environment variables with which a client uses it.
    """
    # It loads a web server, which no other command needs.
    from ..testing import CohortsEmulator, Quotas  # noqa: PLC0415
    from ..testing.demo import add_demo_cohorts, serve  # noqa: PLC0415

    emulator = CohortsEmulator(
        host=host,
        port=port,
        store_port=store_port,
        job_seconds=job_seconds,
        link_seconds=link_seconds,
        quotas=Quotas.unlimited() if no_limits else None,
    )
    add_demo_cohorts(emulator, size=users)

    def announce(running: CohortsEmulator) -> None:
        output.print("emulator", _addresses(running), lambda _: _environment(running))
        sys.stdout.flush()
        output.note(f"Emulating Amplitude at {running.base_url}; Ctrl-C to stop.")

    output.note(GENERATING)

    # Ctrl-C is the only way to end it.
    with suppress(KeyboardInterrupt):
        try:
            run(serve(emulator, announce=announce))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise _in_use(host, port, store_port) from None


def _in_use(host: str, port: int, store_port: int) -> CohortsError:
    given = {"--port": port, "--store-port": store_port}
    taken = {option: number for option, number in given.items() if number}
    numbers = " or ".join(map(str, taken.values()))

    return CohortsError(
        f"port {numbers} of {host} is in use (address already in use); pass another "
        f"{' or '.join(taken)}, or 0 for a free one"
    )


def _addresses(emulator: CohortsEmulator) -> dict[str, object]:
    return {
        "base_url": emulator.base_url,
        "store_url": emulator.store_url,
        "environment": emulator.environment(),
        "cohorts": emulator.cohort_ids,
    }


def _environment(emulator: CohortsEmulator) -> None:
    for name, value in emulator.environment().items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")
