"""The command ``serve``: exports of one project on a page, for who has its token."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import attrs
import typer

from .. import CohortsClient
from ..errors import ConfigurationError
from ..limits import Limits
from ..policies import Polling
from .common import Connection, is_loopback
from .emulator_process import GENERATING, emulator_process
from .running import run
from .stores import uploads_folder

if TYPE_CHECKING:
    from ..contrib._web import About
    from ..contrib._web.server import Tls

__all__ = ("serve",)

_PORT = 8321
_FOLDER = "cohort-exports"
_ANY = {"0.0.0.0", "::", ""}  # noqa: S104 - what is refused
_TOKEN = "AMPLITUDE_SERVE_TOKEN"  # noqa: S105 - its name
_SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 200
_HOST = re.compile(r"[a-z0-9._-]+|\[[0-9a-f:.]+\]")
_LONGEST_WAIT = 5.0
_DEMO_JOB_SECONDS = 3.0

Make = Callable[[], AbstractAsyncContextManager[CohortsClient]]


@attrs.frozen(kw_only=True)
class _Served:
    """What is served: whose client, to which folder, and what the page says of it."""

    client: Make
    directory: str
    about: About


def serve(
    connection: Connection,
    *,
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65_535, help="Port; 0 for a free one."),
    ] = _PORT,
    # Text: a path would make a folder of the address of a bucket.
    directory: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help=f"Where the files go, by default {_FOLDER}; they stay seven days.",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Exports of the month that are left to others; by default none.",
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"Read the token from its first line; overrides {_TOKEN}. By default "
            "there is a new one each time.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen on, by which browsers name it; another machine's "
            "need --certificate or --behind-proxy.",
        ),
    ] = "127.0.0.1",
    certificate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Serve TLS with this certificate (PEM)."),
    ] = None,
    private_key: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The certificate's key, if it is in a file of its own."
        ),
    ] = None,
    behind_proxy: Annotated[
        str | None,
        typer.Option(
            metavar="ORIGIN",
            help="The address of a proxy that adds TLS, as https://exports.example.com.",
        ),
    ] = None,
    demo: Annotated[
        bool,
        typer.Option(
            "--demo", help="Serve an emulator instead; needs no account, keeps nothing."
        ),
    ] = False,
) -> None:
    """
    Serve a page for exports, until Ctrl-C: cost, progress, files.

    It prints the address with which a browser is let in. Who has it can spend exports.
    """
    if private_key is not None and certificate is None:
        raise typer.BadParameter("--private-key needs --certificate, whose key it is")

    if demo:
        _check_demo(connection, directory, keep)
        connection.note(GENERATING)

    # It loads a web server, which no other command needs.
    from ..contrib._web import Access, make_app  # noqa: PLC0415
    from ..contrib._web.server import Address, Tls, serve_app  # noqa: PLC0415

    token, is_new = _token(token_file)
    tls = None if certificate is None else Tls(certificate, private_key)
    origin = _origin(host, behind_proxy, tls)
    address = Address.listen(host, port, origin=origin, tls=tls)
    chosen = (
        _demo()
        if demo
        else _live(connection, directory or _FOLDER, 0 if keep is None else keep)
    )

    def announce() -> None:
        connection.print(
            "serve",
            {
                "url": address.with_token(token) if is_new else address.url,
                "directory": served.directory,
            },
            _print_url,
        )
        sys.stdout.flush()
        connection.note("Open it in a browser; Ctrl-C to stop. What runs then goes on.")

    with address, chosen as served:
        app, exports = make_app(
            served.directory,
            client=served.client,
            access=Access(token=token, origins=address.origins),
            about=served.about,
            uploads=uploads_folder() if "://" in served.directory else None,
        )
        # Nothing else ends it.
        with suppress(KeyboardInterrupt):
            run(serve_app(app, exports, address, announce=announce))


def _print_url(shown: dict[str, str]) -> None:
    sys.stdout.write(f"{shown['url']}\n")


def _check_demo(
    connection: Connection, directory: str | None, keep: int | None
) -> None:
    """Refuse what an emulator has no use for."""
    given: dict[str, object] = {
        "--directory": directory,
        "--keep": keep,
        "--profile": connection.profile,
        "--region": connection.region,
        "--base-url": connection.base_url,
        "--proxy": connection.proxy,
        "--secret-key-stdin": connection.secret_key_stdin or None,
        "--jobs": connection.jobs,
        "--no-jobs": connection.no_jobs or None,
    }
    names = [name for name, value in given.items() if value is not None]

    if names:
        raise typer.BadParameter(
            f"--demo does not go with {', '.join(names)}: it has an emulator, a store "
            f"and a folder of its own"
        )


def _token(file: Path | None) -> tuple[str, bool]:
    """Return the token, and whether it is a new one."""
    if file is not None:
        try:
            lines = file.read_text("utf-8").splitlines()
        except UnicodeDecodeError:
            raise ConfigurationError(
                f"the token file {file} is no text in UTF-8; write one there, as "
                f"`openssl rand -hex 32` makes them"
            ) from None
        given, where = lines[0].strip() if lines else "", str(file)
    else:
        given, where = os.environ.get(_TOKEN, ""), _TOKEN
        if not given:
            return secrets.token_urlsafe(32), True

    if not _SHORTEST_TOKEN <= len(given) <= _LONGEST_TOKEN:
        raise ConfigurationError(
            f"the token in {where} has {len(given)} characters; it needs "
            f"{_SHORTEST_TOKEN} to {_LONGEST_TOKEN}, as `openssl rand -hex 32` makes them"
        )

    return given, False


def _origin(host: str, proxy: str | None, tls: Tls | None) -> str | None:
    """Return the origin of a proxy, checked; None if browsers come without one."""
    if proxy is None:
        if tls is None and not is_loopback(host):
            raise typer.BadParameter(
                f"{host} can be reached from other machines, without TLS; leave --host "
                f"out, pass a --certificate, or put a proxy with TLS in front and pass "
                f"--behind-proxy"
            )
        if host in _ANY:
            raise typer.BadParameter(
                f"{host} is no address that a browser can name; pass that of the "
                f"certificate"
            )
        return None

    if tls is not None:
        raise typer.BadParameter(
            "pass either --certificate or --behind-proxy: to its proxy the page speaks "
            "plain HTTP, and the proxy has the certificate"
        )

    return _proxy_origin(proxy)


def _proxy_origin(text: str) -> str:
    """Return the origin of a proxy as browsers write it."""
    # Without the text: it may have a password.
    refused = typer.BadParameter(
        "this is no origin of a proxy with TLS, as https://exports.example.com: give "
        "https, a host (in ASCII) and perhaps a port, and nothing else"
    )

    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise refused from None

    if ":" in host:
        host = f"[{host}]"
    is_whole = parts.scheme == "https" and _HOST.fullmatch(host) and port != 0
    rest = text.partition("://")[2].lower().removesuffix("/").removesuffix(":")
    if not is_whole or rest.removesuffix(f":{port}") != host:
        raise refused

    return f"https://{host}" if port in {None, 443} else f"https://{host}:{port}"


@contextmanager
def _live(connection: Connection, directory: str, keep: int) -> Generator[_Served]:
    from ..contrib._web import About, on_event  # noqa: PLC0415 - as above

    limits = Limits(max_wait=_LONGEST_WAIT, monthly_reserve=keep)
    make = connection.client(limits, hook=on_event)
    about = About(
        project=connection.project_label,
        is_live=True,
        keep=keep,
        can_upload=connection.can_upload,
    )

    yield _Served(client=make, directory=directory, about=about)


@contextmanager
def _demo() -> Generator[_Served]:
    """Run an emulator with a store and a folder of its own; all of it goes at the end."""
    from ..contrib._web import About, on_event  # noqa: PLC0415 - as above

    options = ("--demo", f"--job-seconds={_DEMO_JOB_SECONDS}")

    with (
        TemporaryDirectory(prefix="amplitude-cohorts-") as folder,
        emulator_process(*options) as emulator,
    ):
        keys = emulator.environment

        def make() -> CohortsClient:
            """Return a client of the emulator."""
            return CohortsClient(
                keys["AMPLITUDE_API_KEY"],
                keys["AMPLITUDE_SECRET_KEY"],
                base_url=emulator.base_url,
                app_id=int(keys["AMPLITUDE_APP_ID"]),
                owner=keys["AMPLITUDE_OWNER"],
                hook=on_event,
                jobs=str(Path(folder, "exports.db")),
                polling=Polling(initial_delay=1.0, interval=1.0),
                limits=Limits(max_wait=_LONGEST_WAIT),
            )

        yield _Served(
            client=make,
            directory=str(Path(folder, "files")),
            about=About(project="an emulator on this machine", is_live=False),
        )
