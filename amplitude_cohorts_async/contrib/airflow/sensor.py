"""Waits until a cohort was computed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from ... import CohortsClient
from ...errors import InvalidInputError
from ._base import failed
from ._sdk import AirflowFailException, BaseSensorOperator, Context
from .hook import AmplitudeCohortsHook
from .triggers import CohortComputedTrigger, computed_at

__all__ = ("CohortComputedSensor",)


class CohortComputedSensor(BaseSensorOperator):
    """
    Waits until a cohort was computed, by its ``lastComputed`` in the list of cohorts.

    Spends no export. An export itself may move that time.
    """

    template_fields: Sequence[str] = ("cohort_id", "since", "conn_id")

    def __init__(
        self,
        *,
        cohort_id: str,
        since: str = "{{ dag_run.run_after.isoformat() }}",
        deferrable: bool = True,
        poke_interval: timedelta | float = 300.0,
        conn_id: str = AmplitudeCohortsHook.default_conn_name,
        **kwargs: object,
    ) -> None:
        """
        Args:
            since: The earliest time that counts, in ISO 8601; by default when the run
                was due.
            deferrable: Whether to wait in the triggerer, or as ``mode`` says.
            poke_interval: Seconds between two looks, each of which reads the list.
            conn_id: The connection.
            kwargs: As for every sensor.
        """
        super().__init__(poke_interval=poke_interval, **kwargs)  # type: ignore[arg-type]
        self.cohort_id = cohort_id
        self.since = since
        self.deferrable = deferrable
        self.conn_id = conn_id

    def execute(self, context: Context) -> object:
        """Look once, and defer if it was not computed."""
        if not self.deferrable:
            return super().execute(context)

        if not self.poke(context):
            trigger = CohortComputedTrigger(
                conn_id=self.conn_id,
                cohort_id=self.cohort_id,
                since=self._since().isoformat(),
                poke_interval=self.poke_interval,
            )
            self.defer(
                trigger=trigger,
                method_name="resume",
                timeout=timedelta(seconds=self.timeout),
            )

        return None

    def poke(self, context: Context) -> bool:  # noqa: ARG002 - Airflow's
        """Whether it was computed since; one request."""
        since = self._since()
        client = AmplitudeCohortsHook(self.conn_id).client()
        found = asyncio.run(self._computed_at(client))

        return found is not None and found >= since

    def resume(self, context: Context, event: object = None) -> None:  # noqa: ARG002 - Airflow's
        """End, or fail with what the trigger met."""
        if isinstance(event, Mapping) and event.get("error"):
            raise AirflowFailException(event["error"])

    async def _computed_at(self, client: CohortsClient) -> datetime | None:
        async with client:
            return await computed_at(client, self.cohort_id)

    def _since(self) -> datetime:
        try:
            since = datetime.fromisoformat(self.since)
        except ValueError as error:
            raise failed(InvalidInputError(f"since= is no time: {error}")) from error

        return since if since.tzinfo else since.replace(tzinfo=UTC)
