"""Options that commands share, and how a function becomes a command."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import cached_property, wraps
from ipaddress import ip_address
from typing import Annotated, TypeVar, get_type_hints
from urllib.parse import urlsplit

import attrs
import typer

from .. import CohortsClient
from ..events import Event, EventHook
from ..limiters import SqliteLimiter
from ..limits import Limits
from ..policies import Polling
from . import render
from .keys import ENVIRONMENT, ClientSettings, project_hash, resolve_settings
from .log_lines import logged_on_stderr, silence_psycopg, tell_event
from .progress import ProgressDisplay
from .resume_hints import option_arguments
from .running import reported, run
from .stores import chosen_job_store, machine_limiter

__all__ = (
    "FORMATS",
    "Connection",
    "Output",
    "command",
    "is_loopback",
    "is_on_this_machine",
)

FORMATS = ("csv", "csv.gz", "parquet")
"""The formats of files, which names end in."""

T = TypeVar("T")

_EMULATED = Polling(initial_delay=1.0, interval=1.0)
"""
For a service on this machine, as `emulate` is: its jobs take a second or so.

Amplitude's take 30 to 60, and each poll takes one of five slots.
"""


@attrs.frozen(kw_only=True)
class Output:
    """The options of every command."""

    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, errors included.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = (
        False
    )

    def print(self, name: str, value: T, show: Callable[[T], None]) -> None:
        """Print *value* on stdout: as JSON under its *name*, or with *show*."""
        if self.as_json:
            render.document(name, value)
        else:
            show(value)

    def note(self, text: str) -> None:
        """Print *text* on stderr, if it is a terminal."""
        if not self.quiet and sys.stderr.isatty():
            sys.stderr.write(f"{text}\n")


@attrs.frozen(kw_only=True)
class Connection(Output):
    """
    The options of every command that talks to Amplitude.

    There is no option for a key: other users of the machine can read the
    arguments of a process.
    """

    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Keys and region of this profile, and nothing of the environment's; "
            "see `profiles`.",
        ),
    ] = None
    region: Annotated[
        str | None,
        typer.Option(metavar="us|eu", help="Overrides AMPLITUDE_REGION."),
    ] = None
    base_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Overrides AMPLITUDE_BASE_URL."),
    ] = None
    proxy: Annotated[
        str | None,
        typer.Option(
            metavar="URL|env",
            help="An HTTP proxy; env for those of HTTPS_PROXY and HTTP_PROXY, with "
            "NO_PROXY.",
        ),
    ] = None
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Print each request, wait and retry as a line."
        ),
    ] = False
    secret_key_stdin: Annotated[
        bool,
        typer.Option(
            "--secret-key-stdin",
            help="Read the secret key from the first line of stdin.",
        ),
    ] = False
    jobs: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            help="Where exports are recorded; overrides AMPLITUDE_JOBS.",
        ),
    ] = None
    no_jobs: Annotated[
        bool, typer.Option("--no-jobs", help="Record exports in memory only.")
    ] = False

    @property
    def arguments(self) -> list[str]:
        """The options with which another command reaches the same service."""
        return option_arguments(
            profile=self.profile,
            region=self.region,
            base_url=self.base_url,
            proxy=self.proxy,
            jobs=self.jobs,
            no_jobs=self.no_jobs,
        )

    @property
    def is_recorded(self) -> bool:
        """Whether the record of an export outlives the command."""
        return not self.no_jobs

    @property
    def announces(self) -> bool:
        """Whether to name an export that was requested, in a line on stderr."""
        return not (self.quiet or self.as_json)

    @cached_property
    def keys(self) -> ClientSettings:
        """Keys and region; read once, because they may come from stdin or a command."""
        return resolve_settings(
            self.profile,
            region=self.region,
            base_url=self.base_url,
            secret_key_stdin=self.secret_key_stdin,
        )

    @property
    def project_hash(self) -> str:
        """What stands for the project in names of files."""
        return project_hash(self.profile, region=self.region, base_url=self.base_url)

    def run(
        self,
        work: Callable[[CohortsClient], Coroutine[object, object, T]],
        *,
        hook: EventHook | None = None,
        file_mode: int | None = None,
        **more: object,
    ) -> T:
        """
        Do *work* with a client, and show its progress on a terminal.

        Args:
            more: Keywords of the client, which precede those of the options.
        """
        overrides = self._overrides() | more
        limiter = machine_limiter()

        async def connected(display: ProgressDisplay) -> T:
            """Do the work with a client that shows its events."""

            def on_event(event: Event) -> None:
                """Pass an event to the display and to *hook*."""
                display(event)
                if self.verbose:
                    tell_event(event)
                if hook is not None:
                    hook(event)

            async with (
                _closed(limiter),
                CohortsClient.from_env(
                    hook=on_event, file_mode=file_mode, limiter=limiter, **overrides
                ) as client,
            ):
                return await work(client)

        silence_psycopg()
        is_told = self.announces and sys.stderr.isatty()

        with (
            logged_on_stderr(verbose=self.verbose)
            if is_told or self.verbose
            else nullcontext(),
            # Lines and bars would write over each other.
            ProgressDisplay(quiet=self.quiet or self.verbose) as display,
        ):
            return run(connected(display))

    def client(
        self, limits: Limits, *, hook: EventHook | None = None
    ) -> Callable[[], AbstractAsyncContextManager[CohortsClient]]:
        """Return what makes a client that keeps these limits, without a display."""
        overrides = self._overrides()

        @asynccontextmanager
        async def make() -> AsyncGenerator[CohortsClient]:
            """Make it, and close all that was made for it."""
            limiter = machine_limiter(limits)
            kept: dict[str, object] = {"limiter": limiter}
            if limiter is None:
                kept = {"limits": limits}

            async with (
                _closed(limiter),
                CohortsClient.from_env(hook=hook, **kept, **overrides) as client,
            ):
                yield client

        return make

    @property
    def project_label(self) -> str:
        """Which project the keys are of, for people: where it is, and what it is called."""
        keys = self.keys
        names = [keys.base_url or keys.region]

        if keys.source == ENVIRONMENT:
            app_id: object = os.environ.get("AMPLITUDE_APP_ID")
        else:
            names.append(keys.source)
            app_id = keys.keywords.get("app_id")

        return ", ".join([*names, f"project {app_id}"] if app_id else names)

    @property
    def can_upload(self) -> bool:
        """Whether the keys come with the project's number and an owner, for a cohort."""
        return all(map(self.setting, ("app_id", "owner")))

    def setting(self, name: str) -> str | None:
        """Return "app_id" or "owner"; what one source has, the other does not add to."""
        keywords = self.keys.keywords

        if name in keywords:
            return None if keywords[name] is None else str(keywords[name])

        return os.environ.get(f"AMPLITUDE_{name.upper()}") or None

    def _overrides(self) -> dict[str, object]:
        overrides: dict[str, object] = {}

        if (jobs := chosen_job_store(self.jobs, no_jobs=self.no_jobs)) is not None:
            overrides["jobs"] = jobs

        overrides |= self.keys.keywords

        if self.proxy is not None:
            overrides["proxy"] = _without_password(self.proxy)

        if is_on_this_machine(self.keys.base_url):
            overrides["polling"] = _EMULATED

        return overrides


def _without_password(proxy: str) -> str:
    # Other users can read the arguments of a process.
    if "@" in proxy:
        raise typer.BadParameter(
            "other users can read a password among the arguments; set HTTPS_PROXY, and "
            "pass --proxy env"
        )

    return proxy


def is_on_this_machine(base_url: str | None) -> bool:
    """Whether an address is of this machine, as that of an emulator."""
    try:
        return is_loopback(urlsplit(base_url or "").hostname or "")
    except ValueError:  # the client refuses what is no address
        return False


def is_loopback(host: str) -> bool:
    """Whether a host can be reached from this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


@asynccontextmanager
async def _closed(limiter: SqliteLimiter | None) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        if limiter is not None:
            await limiter.aclose()


def command(function: Callable[..., None]) -> Callable[..., None]:
    """
    Return a function for typer that also has the options common to commands.

    The first parameter's annotation, `Output` or `Connection`, says which.
    """
    first, *own = inspect.signature(function, eval_str=True).parameters.values()
    shared = _parameters_of(first.annotation)

    @wraps(function)
    def flat(**arguments: object) -> None:
        values = {option.name: arguments.pop(option.name) for option in shared}
        options: Output = first.annotation(**values)

        with reported(as_json=options.as_json):
            function(options, **arguments)

    # typer reads these: the shared options as if each command declared them.
    both = [*own, *shared]
    flat.__annotations__ = {option.name: option.annotation for option in both}
    vars(flat)["__signature__"] = inspect.Signature(both)

    return flat


def _parameters_of(options: type[Output]) -> list[inspect.Parameter]:
    hints = get_type_hints(options, include_extras=True)

    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in attrs.fields(options)
    ]
