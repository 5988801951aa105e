"""Exports as tasks: the steps of `CohortsClient.tick()`, deferred in between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ._base import CohortsOperator, occurrence_of
from ._sdk import Context
from .hook import AmplitudeCohortsHook

__all__ = ("CohortExportOperator", "occurrence_of")


class CohortExportOperator(CohortsOperator):
    """
    Exports a cohort to a file; spends one export for each run of the task.

    It defers while a window of the limits is full and while the job runs. Its result is
    a dict of ``path``, ``size``, ``sha256``, ``rows``, ``token`` and ``requested_at``.
    """

    template_fields: Sequence[str] = (
        *("cohort_id", "path", "properties", "format", "occurrence", "conn_id"),
    )

    def __init__(
        self,
        *,
        cohort_id: str,
        path: str,
        properties: bool | Sequence[str] = False,
        format: str | None = None,  # noqa: A002 - as everywhere
        occurrence: str | None = None,
        on_unknown: Literal["raise", "spend"] = "raise",
        timeout: float = 1800.0,
        conn_id: str = AmplitudeCohortsHook.default_conn_name,
        **kwargs: object,
    ) -> None:
        """
        Args:
            path: The target, an absolute path that every worker has, or an address of
                an object as in "s3://bucket/members.csv", with the extra ``cloud``
                and credentials on each worker.
            properties: As for ``CohortsClient.export()``.
            format: Needed when the name of the target does not end in it.
            occurrence: Names the export instead of `occurrence_of()`.
            on_unknown: As for ``CohortsClient.export()``.
            timeout: Seconds to wait for the job, which goes on after them; the next
                try goes on with it.
            conn_id: The connection.
            kwargs: As for every operator.
        """
        super().__init__(**kwargs)  # type: ignore[arg-type]  # Airflow names them
        self.cohort_id = cohort_id
        self.path = path
        self.properties = properties
        self.format = format
        self.occurrence = occurrence
        self.on_unknown = on_unknown
        self.timeout = timeout
        self.conn_id = conn_id

    def go_on(self, context: Context) -> dict[str, object]:
        """Make the steps that are due, and defer; return what the file is."""
        record = self.record(
            self.cohort_id,
            self.path,
            self.occurrence or occurrence_of(context),
            self.on_unknown,
            properties=self.properties,
            format=self.format,
        )

        return self.export_file(context, record, self.timeout)
