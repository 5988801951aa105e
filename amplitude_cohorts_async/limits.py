"""
The limits of one app, as values.

The numbers of `DOCUMENTED` are the vendor's, from "Limits and considerations" at
https://amplitude.com/docs/apis/analytics/behavioral-cohorts :

- "The concurrency limit is 5 requests across cohort downloads and the
  Dashboard REST API."
- "Cohort Download limits single cohort requests to 60 requests per 10 minutes
  per app, and 4 parallel requests per minute per app."

The last one can be read as four *started* in any minute or as four *running*;
the default keeps both for the requests of exports. Jobs that run at the service
afterwards are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import attrs

from .errors import ConfigurationError

__all__ = ("DOCUMENTED", "LEAVE_ROOM", "UNLIMITED", "Kind", "Limits", "Rate")

Kind = Literal["export", "poll", "file", "write", "other"]
"""
The kind of a request: "export" requests one cohort and counts in every window and
in the monthly quota; "poll" asks for a job's status; "file" for its file; "write"
uploads or changes a cohort; "other" is any other, the Dashboard REST API included.
"""

_Validator: TypeAlias = "Callable[[object, attrs.Attribute[Any], Any], None]"


def _checked(is_valid: Callable[[object], bool], advice: str) -> _Validator:
    def check(instance: object, field: attrs.Attribute[Any], value: object) -> None:
        if not is_valid(value):
            name = f"{type(instance).__name__}.{field.name}"
            raise ConfigurationError(f"{name} is {value!r}; give {advice}")

    return check


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_seconds(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


_at_least_one = _checked(lambda n: _is_whole(n, 1), "a whole number, 1 or more")
_not_negative = _checked(lambda n: _is_whole(n, 0), "a whole number, 0 or more")
_seconds = _checked(_are_seconds, "seconds, zero or more")
_positive_seconds = _checked(
    lambda s: s != 0 and _are_seconds(s), "seconds, more than zero"
)
_rate = _checked(
    lambda rate: isinstance(rate, Rate | None), "a rate, as in Rate(3, per=1), or None"
)


@attrs.frozen
class Rate:
    """At most *count* starts in any *per* seconds."""

    count: int = attrs.field(validator=_at_least_one)
    per: float = attrs.field(kw_only=True, validator=_positive_seconds)


def _as_rates(value: Rate | Iterable[Rate]) -> tuple[Rate, ...]:
    rates = (value,) if isinstance(value, Rate) else tuple(value)

    for rate in rates:
        if not isinstance(rate, Rate):
            raise ConfigurationError(
                f"Limits.exports holds {rate!r}; "
                "give rates, as in exports=[Rate(4, per=60)]"
            )

    return rates


def _pace() -> Rate | None:
    return Rate(3, per=1.0)


@attrs.frozen(kw_only=True)
class Limits:
    """
    The limits of one app, and how to keep them.

    The vendor documents no rate of polls or writes. Those below are ours, so that
    neither fills the slots that exports, files and people's dashboards share: a
    burst of so many, then an even pace. They are kept within each process, and need
    the event loop's own clock.

    Attributes:
        in_flight: Requests at the same time, of all kinds. Lower it when others use
            the app: people with dashboards, processes without this package.
        exports: Rates of export requests; all of them hold, in any window, however
            the service counts. Empty for no limit.
        polls: Pace of status requests; None for no limit.
        writes: Pace of uploads and changes of cohorts; None for no limit.
        guard_month: Whether to read the month's usage, and to refuse an export
            before it is sent when the monthly quota is exhausted.
        monthly_reserve: Export requests of the month to leave for others.
        clock_margin: Seconds added to each window for differences between the
            clocks of the service's own machines.
        release_delay: Seconds a slot stays taken after an attempt that was cancelled
            or failed, because the service may still be busy with it.
        max_wait: Seconds; a longer wait for a window or a pause raises
            `QuotaWaitError` at once. None waits.
    """

    in_flight: int = attrs.field(default=5, validator=_at_least_one)
    exports: tuple[Rate, ...] = attrs.field(
        default=(Rate(4, per=60.0), Rate(60, per=600.0)),
        converter=_as_rates,
    )
    polls: Rate | None = attrs.field(factory=_pace, validator=_rate)
    writes: Rate | None = attrs.field(factory=_pace, validator=_rate)
    guard_month: bool = True
    monthly_reserve: int = attrs.field(default=0, validator=_not_negative)
    clock_margin: float = attrs.field(default=0.25, validator=_seconds)
    release_delay: float = attrs.field(default=1.0, validator=_seconds)
    max_wait: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_seconds)
    )

    def share(self, processes: int) -> Limits:
        """
        Return the share of each process, if so many keep the limits independently.

        Raise `ConfigurationError` if there is not one place for each.
        """
        least = min([self.in_flight, *(rate.count for rate in self.exports)])

        if not _is_whole(processes, 1) or processes > least:
            raise ConfigurationError(
                f"{processes!r} processes cannot share limits with {least} places; "
                f"share among 1 to {least}"
            )

        return attrs.evolve(
            self,
            in_flight=self.in_flight // processes,
            exports=[
                Rate(rate.count // processes, per=rate.per) for rate in self.exports
            ],
            polls=_slower(self.polls, processes),
            writes=_slower(self.writes, processes),
        )


def _slower(rate: Rate | None, times: int) -> Rate | None:
    return None if rate is None else Rate(rate.count, per=rate.per * times)


DOCUMENTED = Limits()
"""
As the vendor documents: 5 requests at once, 60 exports in 10 minutes, and "4 parallel
requests per minute", read as 4 exports. The pace of polls and writes is our own.
"""

LEAVE_ROOM = Limits(in_flight=4)
"""As documented, but one of the five slots stays free for people's dashboards."""

UNLIMITED = Limits(
    in_flight=1_000,
    exports=(),
    polls=None,
    writes=None,
    guard_month=False,
    clock_margin=0.0,
    release_delay=0.0,
)
"""No waiting and no monthly count. For tests, never for the service."""
