"""Uploads as tasks."""

from __future__ import annotations

from collections.abc import Sequence

from ... import CohortsClient
from ...models import IdType, UploadReport
from ._base import CohortsOperator, ids_from
from ._sdk import Context
from .hook import AmplitudeCohortsHook

__all__ = ("CohortUploadOperator",)


class CohortUploadOperator(CohortsOperator):
    """
    Creates a cohort of ids, or replaces the members of one.

    The journal is what makes a second try safe: it goes on where the first one ended,
    and sends nothing after the end. Where nobody can tell whether a cohort was created,
    the task fails and is not tried again. Its result is a dict of ``cohort_id``,
    ``total``, ``matched`` and ``adopted``.
    """

    template_fields: Sequence[str] = (
        *("name", "ids", "journal", "replace", "cohort_owner", "conn_id"),
    )

    def __init__(
        self,
        *,
        name: str,
        ids: str | Sequence[str],
        id_type: IdType | str,
        journal: str,
        replace: str | None = None,
        app_id: int | None = None,
        cohort_owner: str | None = None,
        published: bool = True,
        group: str | None = None,
        skip_invalid_ids: bool = True,
        max_removed: float = 0.5,
        conn_id: str = AmplitudeCohortsHook.default_conn_name,
        **kwargs: object,
    ) -> None:
        """
        Args not listed are those of ``CohortsClient.upload_cohort()``.

        Args:
            ids: The path of a file with one id a line, or ids.
            id_type: An `IdType`, or "user" or "amplitude".
            journal: A file of this run alone on storage that all workers share.
            published: As there. A cohort that is not published is in no list: if the
                answer that creates it is lost, nobody can tell.
            cohort_owner: The login email of the owner, which is ``owner`` there.
            conn_id: The connection.
            kwargs: As for every operator.
        """
        super().__init__(**kwargs)  # type: ignore[arg-type]  # Airflow names them
        self.name = name
        self.ids = ids
        self.id_type = IdType(id_type)
        self.journal = journal
        self.replace = replace
        self.app_id = app_id
        self.cohort_owner = cohort_owner
        self.published = published
        self.group = group
        self.skip_invalid_ids = skip_invalid_ids
        self.max_removed = max_removed
        self.conn_id = conn_id

    def go_on(self, context: Context) -> dict[str, object]:  # noqa: ARG002 - Airflow's
        """Upload, or go on with the upload of the journal."""
        report = self.write(self._upload)

        return {
            "cohort_id": report.cohort_id,
            "total": report.total,
            "matched": report.matched,
            "adopted": report.adopted,
        }

    async def _upload(self, client: CohortsClient) -> UploadReport:
        return await client.upload_cohort(
            self.name,
            ids_from(self.ids),
            id_type=self.id_type,
            app_id=self.app_id,
            owner=self.cohort_owner,
            published=self.published,
            group=self.group,
            replace=self.replace,
            skip_invalid_ids=self.skip_invalid_ids,
            max_removed=self.max_removed,
            journal=self.journal,
        )
