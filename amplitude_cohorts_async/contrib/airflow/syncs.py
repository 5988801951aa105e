"""Syncs as tasks."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

from ... import CohortsClient
from ...models import IdType, SyncReport
from ._base import CohortsOperator, ids_from, occurrence_of
from ._sdk import Context
from .hook import AmplitudeCohortsHook

__all__ = ("CohortSyncOperator",)


class CohortSyncOperator(CohortsOperator):
    """
    Makes a cohort's members equal to ids; spends one export for each run of the task.

    A retry, and a task that was cleared, find the members as they were exported, also
    after the guard refused. The journal lets them go on where the writes ended. Its
    result is a dict of ``cohort_id``, ``added``, ``removed``, ``kept`` and
    ``unnameable``.
    """

    template_fields: Sequence[str] = (
        *("cohort_id", "ids", "folder", "occurrence", "conn_id"),
    )

    def __init__(
        self,
        *,
        cohort_id: str,
        ids: str | Sequence[str],
        folder: str,
        id_type: IdType | str = IdType.USER_ID,
        max_removed: float = 0.5,
        count_group: str = "User",
        occurrence: str | None = None,
        on_unknown: Literal["raise", "spend"] = "raise",
        timeout: float = 1800.0,
        conn_id: str = AmplitudeCohortsHook.default_conn_name,
        **kwargs: object,
    ) -> None:
        """
        Args not listed are those of ``CohortsClient.sync_membership()``.

        Args:
            ids: The path of a file with one id a line, or ids.
            folder: Where the members and the journal are kept, on storage that all
                workers share; the members are removed at the end.
            id_type: An `IdType`, or "user" or "amplitude".
            occurrence: Names the export instead of `occurrence_of()`.
            timeout: Seconds to wait for the job, as for `CohortExportOperator`.
            conn_id: The connection.
            kwargs: As for every operator.
        """
        super().__init__(**kwargs)  # type: ignore[arg-type]  # Airflow names them
        self.cohort_id = cohort_id
        self.ids = ids
        self.folder = folder
        self.id_type = IdType(id_type)
        self.max_removed = max_removed
        self.count_group = count_group
        self.occurrence = occurrence
        self.on_unknown = on_unknown
        self.timeout = timeout
        self.conn_id = conn_id

    def go_on(self, context: Context) -> dict[str, object]:
        """Export the members, and write the difference."""
        occurrence = self.occurrence or occurrence_of(context)
        name = sha256(f"{self.cohort_id}\n{occurrence}".encode()).hexdigest()[:16]
        members = Path(self.folder, f"{name}.csv.gz")
        journal = members.with_name(f"{name}.journal")
        self.export_file(
            context,
            self.record(self.cohort_id, members, occurrence, self.on_unknown),
            self.timeout,
            may_overwrite=True,
        )

        async def sync(client: CohortsClient) -> SyncReport:
            """Write what differs from the members in the file."""
            return await client.sync_membership(
                self.cohort_id,
                ids_from(self.ids),
                id_type=self.id_type,
                current=members,
                max_removed=self.max_removed,
                count_group=self.count_group,
                journal=journal,
            )

        report = self.write(sync)
        members.unlink(missing_ok=True)

        return {
            "cohort_id": self.cohort_id,
            "added": len(report.add),
            "removed": len(report.remove),
            "kept": report.kept,
            "unnameable": report.unnameable,
        }
