"""What all commands share: options, and how a command is made of a function."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Annotated, TypeVar, get_type_hints

import attrs
import typer

from .. import CohortsClient
from ..events import Event, EventHook
from . import render
from .progress import ProgressDisplay
from .resume_hints import option_words
from .running import reported, run

__all__ = ("Connection", "Output", "command")

T = TypeVar("T")


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
        """Print *value* on stdout: under its *name* as JSON, or as *show* does."""
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
    The options of every command that asks the service.

    There is no option for a key: other users of the machine can read the
    arguments of a process.
    """

    region: Annotated[
        str | None,
        typer.Option(metavar="us|eu", help="Instead of AMPLITUDE_REGION."),
    ] = None
    base_url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Instead of AMPLITUDE_BASE_URL."),
    ] = None
    secret_key_stdin: Annotated[
        bool,
        typer.Option(
            "--secret-key-stdin",
            help="Read the secret key from the first line of stdin.",
        ),
    ] = False

    @property
    def arguments(self) -> list[str]:
        """The options that another command needs to ask the same service."""
        return option_words(region=self.region, base_url=self.base_url)

    def run(
        self,
        work: Callable[[CohortsClient], Coroutine[object, object, T]],
        *,
        hook: EventHook | None = None,
        file_mode: int | None = None,
    ) -> T:
        """
        Do *work* with a client, and show its progress on a terminal.

        Args:
            hook: Called with the client's events as well.

            file_mode: Of the files that the client makes.
        """
        overrides = self._overrides()

        async def connected(display: ProgressDisplay) -> T:
            """Do the work with a client that shows its events."""

            def on_event(event: Event) -> None:
                """Pass an event on to the display and the caller's hook."""
                display(event)
                if hook is not None:
                    hook(event)

            async with CohortsClient.from_env(
                hook=on_event, file_mode=file_mode, **overrides
            ) as client:
                return await work(client)

        with ProgressDisplay(quiet=self.quiet) as display:
            return run(connected(display))

    def _overrides(self) -> dict[str, object]:
        overrides: dict[str, object] = {}

        if self.region is not None:
            # An option on the command line is stronger than any variable.
            overrides |= {"region": self.region, "base_url": None}

        if self.base_url is not None:
            overrides["base_url"] = self.base_url

        if self.secret_key_stdin:
            overrides["secret_key"] = sys.stdin.readline().strip()

        return overrides


def command(function: Callable[..., None]) -> Callable[..., None]:
    """
    Return a function for typer, whose first argument's fields are options.

    Which ones, its annotation says: `Output` or `Connection`.
    """
    first, *own = inspect.signature(function, eval_str=True).parameters.values()
    shared = _parameters_of(first.annotation)

    @wraps(function)
    def flat(**given: object) -> None:
        kept = {each.name: given.pop(each.name) for each in shared}
        options: Output = first.annotation(**kept)

        with reported(as_json=options.as_json):
            function(options, **given)

    # What typer reads: the shared options as if each command had spelt them.
    both = [*own, *shared]
    flat.__annotations__ = {each.name: each.annotation for each in both}
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
