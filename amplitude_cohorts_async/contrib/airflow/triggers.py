"""
What waits in Airflow's triggerer, where a thousand tasks share a process.

A triggerer that starts again runs a trigger from its beginning, and two triggerers may
run the same one. So these only wait and look: they neither request an export nor
download a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from ... import CohortsClient
from ...errors import (
    CohortsError,
    JobStoreUnavailableError,
    LimiterUnavailableError,
    RateLimitedError,
    ServerError,
    TransportError,
)
from ._sdk import BaseTrigger, TriggerEvent
from .hook import AmplitudeCohortsHook

__all__ = (
    "FILE_LIFE",
    "CohortComputedTrigger",
    "CohortExportTrigger",
    "computed_at",
)

FILE_LIFE = timedelta(days=7)
"""How long a file is to be had, says the service; its job is taken to be, too."""

_MENDED_LATER = (
    JobStoreUnavailableError,
    LimiterUnavailableError,
    RateLimitedError,
    ServerError,
    TransportError,
)


class CohortExportTrigger(BaseTrigger):
    """
    Waits until a step of an export is due, and then for the job if there is one.

    Its event says what went wrong, if anything did: the task's next step raises it if no
    later one can mend it.
    """

    def __init__(self, *, conn_id: str, due_at: str, token: str | None = None) -> None:
        """
        Args:
            due_at: When the next step is due, as an aware ISO 8601 text.
            token: The export's, if it is spent.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.due_at = due_at
        self.token = token

    def serialize(self) -> tuple[str, dict[str, object]]:
        """Return what makes the same one."""
        return _path_of(self), {
            "conn_id": self.conn_id,
            "due_at": self.due_at,
            "token": self.token,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when the task can go on."""
        await asyncio.sleep(_seconds_until(self.due_at))
        error: str | None = None

        if self.token is not None:
            try:
                await self._wait_for_job(self.token)
            except CohortsError as problem:
                error = str(problem)

        yield _event({"error": error})

    async def _wait_for_job(self, token: str) -> None:
        async with await AmplitudeCohortsHook(self.conn_id).aclient() as client:
            # The task's own timeout ends earlier.
            await client.resume_export(token).wait(timeout=FILE_LIFE.total_seconds())


class CohortComputedTrigger(BaseTrigger):
    """Waits until a cohort was computed; each look reads the list of cohorts once."""

    def __init__(
        self, *, conn_id: str, cohort_id: str, since: str, poke_interval: float
    ) -> None:
        """
        Args:
            since: The earliest time that counts, as an aware ISO 8601 text.
            poke_interval: Seconds between two looks.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.cohort_id = cohort_id
        self.since = since
        self.poke_interval = poke_interval

    def serialize(self) -> tuple[str, dict[str, object]]:
        """Return what makes the same one."""
        return _path_of(self), {
            "conn_id": self.conn_id,
            "cohort_id": self.cohort_id,
            "since": self.since,
            "poke_interval": self.poke_interval,
        }

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield when it was computed, or what went wrong."""
        since = datetime.fromisoformat(self.since)

        while True:
            await asyncio.sleep(self.poke_interval)

            try:
                hook = AmplitudeCohortsHook(self.conn_id)
                async with await hook.aclient() as client:
                    found = await computed_at(client, self.cohort_id)
            except _MENDED_LATER as problem:
                self.log.warning("not known yet: %s", problem)
                continue
            except CohortsError as problem:
                yield _event({"error": f"{type(problem).__name__}: {problem}"})
                return

            if found is not None and found >= since:
                yield _event({"computed_at": found.isoformat()})
                return


async def computed_at(client: CohortsClient, cohort_id: str) -> datetime | None:
    """Return when a cohort was computed last; one request."""
    return (await client.get_cohort(cohort_id)).last_computed


def _event(payload: dict[str, object]) -> TriggerEvent:
    event: TriggerEvent = TriggerEvent(payload)  # type: ignore[no-untyped-call]
    return event


def _path_of(trigger: BaseTrigger) -> str:
    return f"{type(trigger).__module__}.{type(trigger).__qualname__}"


def _seconds_until(moment: str) -> float:
    left = datetime.fromisoformat(moment) - datetime.now(UTC)

    return max(0.0, left.total_seconds())
