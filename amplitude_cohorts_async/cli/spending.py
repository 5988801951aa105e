"""Which exports a command may spend, and what it says of those that it spent."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypeAlias, TypeVar

import attrs
import typer

from .. import CohortsClient
from ..errors import AmbiguousExportError, CohortsError
from ..jobs import OnUnknown as Unknown
from .common import Connection
from .render import moment
from .resume_hints import StartedJobs, announce, option_arguments, spent_text

__all__ = (
    "REUSE_SECONDS",
    "Fresh",
    "OnUnknown",
    "Reuse",
    "ReuseWithin",
    "Unknown",
    "months_rest",
    "say_what_was_spent",
    "spending_facts",
)

T = TypeVar("T")

REUSE_SECONDS = 3600.0
_USAGE_SECONDS = 10.0

Fresh: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--fresh", help="Request a new export; take up none that was requested before."
    ),
]
ReuseWithin: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="How old an export may be that is taken up; by default 3600.",
    ),
]
OnUnknown: TypeAlias = Annotated[
    Unknown | None,
    typer.Option(
        metavar="raise|spend",
        help="If an export may have been spent and nobody knows its id: fail, or spend "
        "another one. By default a terminal is asked.",
    ),
]


@attrs.frozen
class Reuse:
    """
    The options about exports that were requested before.

    Attributes:
        seconds: How old one may be that is taken up.
    """

    seconds: float
    on_unknown: Unknown | None

    @classmethod
    def of(
        cls, *, fresh: bool, within: float | None, on_unknown: Unknown | None
    ) -> Reuse:
        """Check the options."""
        if fresh and within is not None:
            raise typer.BadParameter("pass either --fresh or --reuse-within")

        if fresh:
            return cls(0.0, on_unknown)

        return cls(REUSE_SECONDS if within is None else within, on_unknown)

    @property
    def arguments(self) -> list[str]:
        """
        The options for the same command once more.

        Without --fresh, which would spend another export.
        """
        is_usual = self.seconds in {0.0, REUSE_SECONDS}

        return option_arguments(
            reuse_within=None if is_usual else f"{self.seconds:g}",
            on_unknown=self.on_unknown,
        )

    def again(self, jobs: StartedJobs) -> str | None:
        """Return how the same command goes on with what was spent, if it does."""
        within = timedelta(seconds=self.seconds or REUSE_SECONDS)
        since = jobs.since or datetime.now(UTC)
        but = "" if self.seconds else " without --fresh"

        return f"the same command{but}, before {moment(since + within)}"

    def asking(self, connection: Connection, work: Callable[[Unknown], T]) -> T:
        """Do *work*, and ask before another export is spent on what is unknown."""
        try:
            return work(self.on_unknown or "raise")
        except AmbiguousExportError as error:
            is_asked = self.on_unknown is None and not connection.as_json
            if not (is_asked and sys.stdin.isatty()):
                raise

            question = f"{error.doubt}. Spend another one?"
            if not typer.confirm(question, err=True):
                raise

        return work("spend")


async def months_rest(client: CohortsClient) -> int | None:
    """Return the exports left of the month; None if there is no limit, or no answer."""
    try:
        async with asyncio.timeout(_USAGE_SECONDS):
            return (await client.get_usage()).remaining
    except (CohortsError, TimeoutError, asyncio.CancelledError):
        # The file is here: whatever happens now, even Ctrl-C, ends the question only.
        return None


def say_what_was_spent(
    connection: Connection, spent: int, remaining: int | None
) -> None:
    """Print in a line on stderr what was spent, and what is left of the month."""
    if connection.announces:
        left = "" if remaining is None else f", {remaining:,} left of the month"
        announce(f"{spent_text(spent)}{left}")


def spending_facts(jobs: StartedJobs, remaining: int | None) -> dict[str, object]:
    """Return for JSON what was taken up, and what is left of the month."""
    adopted = jobs.adopted

    return {
        "adopted": None if adopted is None else adopted.requested_at,
        "remaining": remaining,
    }
