"""What a router takes and answers, as models for its OpenAPI description."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
)

from .problems import Problem

__all__ = (
    "CohortInfo",
    "ExportOrder",
    "ExportState",
    "FileFormat",
    "PlanInfo",
    "PlannedExportInfo",
    "State",
    "UsageInfo",
)

FileFormat = Literal["csv", "csv.gz", "parquet"]

State = Literal[
    "queued",
    "attempted",
    "requested",
    "ready",
    "saved",
    "refused",
    "gone",
    "failed",
    "parked",
    "cancelled",
]


def _each_once(names: list[str]) -> list[str]:
    """Return names as a record keeps them: of them its file's name is made."""
    return list(dict.fromkeys(names))


_Name = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
_Names = Annotated[list[_Name], Field(max_length=100), AfterValidator(_each_once)]


class ExportOrder(BaseModel):
    """
    Which export to start.

    Attributes:
        properties: As for ``CohortsClient.export()``; each name once.
        format: Of the file; "parquet" needs its extra on the server.
    """

    cohort_id: _Name
    properties: bool | _Names = False
    format: FileFormat = "csv"


class ExportState(BaseModel):
    """
    An export in the job store.

    Attributes:
        id: Its name in the addresses of the router.
        state: "queued" (nothing is spent), "attempted" (its request may have been
            sent), "requested", "ready" (the service has its file), "saved" (so have
            we), "refused" (nothing was spent, and none will be), "gone", "failed",
            "parked" or "cancelled" (nothing was spent).
        is_over: Whether it stays in this state.
        is_own: Whether a router of this folder began it, and goes on with it. One of
            another program is only shown.
        has_file: Whether this router serves its file.
        file: The address of the file on this server, when it is saved.
        location: Where the file is, if it goes to a bucket.
        received: Bytes of the file received so far.
        size: Bytes of the file, when it is saved.
        revision: Counts the changes of its record.
        token: With it the export goes on, by ``CohortsClient.resume_export()``.
        problem: Why it failed, or why its last step is tried again.
    """

    id: str
    cohort_id: str
    properties: bool | list[str] = False
    format: str | None = None
    state: State
    is_over: bool
    is_own: bool = True
    has_file: bool = False
    file: str | None = None
    location: str | None = None
    received: int | None = None
    size: int | None = None
    sha256: str | None = None
    requested_at: datetime | None = None
    updated_at: datetime | None = None
    saved_at: datetime | None = None
    revision: int = 0
    token: str | None = None
    problem: Problem | None = None


class _Copied(BaseModel):
    """A value of the client, with the fields that are shown."""

    model_config: ClassVar[ConfigDict] = ConfigDict(from_attributes=True)

    @classmethod
    def of(cls, value: object) -> Self:
        """Return a copy of the value's attributes."""
        return cls.model_validate(value)


class CohortInfo(_Copied):
    """A cohort of the list; see `Cohort`."""

    id: str
    name: str | None
    description: str | None
    size: int | None
    type: str | None
    owners: list[str]
    last_computed: datetime | None
    last_modified: datetime | None


class UsageInfo(_Copied):
    """This month's exports; see `Usage`."""

    limit: int | None
    used: int
    remaining: int | None
    resets_at: datetime | None


class PlannedExportInfo(_Copied):
    """The plan for one cohort; see `PlannedExport`."""

    cohort_id: str
    name: str | None
    size: int | None
    starts_in: float | None
    ends_in: float | None
    skipped: str | None


class PlanInfo(_Copied):
    """What some exports would take; see `ExportPlan`."""

    needed: int
    left_after: int | None
    ends_in: float
    usage: UsageInfo
    exports: list[PlannedExportInfo]
    unknown: list[str]
