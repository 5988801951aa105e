"""How an emulator is set up, and what it assumes where the vendor is silent."""

from __future__ import annotations

from collections.abc import Callable, Container
from pathlib import Path
from typing import Literal

import attrs

from .clock import Clock
from .quotas import Quotas, RequestRecord

__all__ = ("Assumptions", "Compression", "KnownUsers", "Options", "Routes", "Seconds")

Routes = Literal["vendor", "openapi"]
Compression = Literal["gzip", "gzip-unlabelled"]
KnownUsers = Container[str] | Callable[[str], bool]
Seconds = float | Callable[[RequestRecord], float]


@attrs.frozen(kw_only=True)
class Assumptions:
    """
    What the vendor does not say: switch each, to test that code copes with both.

    Attributes:
        known_after: Seconds after its request from which a job is known; its
            status and file are 404 before.
        file_delay: Seconds that a file comes later than the status which says
            that its job is done.
        early_file_status: The status of a file that is not there yet.
        expired_job_status: The status for a job older than seven days.
        failed_job_status: The status that tells of a job that failed, which is
            "JOB FAILED" in its `async_status`.
        spent_month_status: The status for an export beyond the month's.
        manual_only: Whether only uploaded cohorts can be written to.
        writes_move_times: Whether a replacing upload or an update moves the
            `lastMod` and the `lastComputed` of its cohort.
        cohorts_by_id: Whether an upload answers with `cohortsById` as well;
            seen, and not documented.
        validation_names_cohort: Whether an upload with `skip_save` answers
            with a `cohortId`; it is null then.
        group_header: The header of a file of groups; seen with and without
            the TAB.
        last_computed: Whether an export request may have `lastComputed`, which
            the vendor's own clients send and the page does not have.
    """

    known_after: float = 0.0
    file_delay: float = 0.0
    early_file_status: int = 404
    expired_job_status: int = 410
    failed_job_status: int = 200
    spent_month_status: int = 429
    manual_only: bool = True
    writes_move_times: bool = True
    cohorts_by_id: bool = False
    validation_names_cohort: bool = False
    group_header: str = "\tgroup_value"
    last_computed: bool = False


@attrs.frozen(kw_only=True)
class Options:
    """All that `CohortsEmulator` is given; see there."""

    api_key: str
    secret_key: str = attrs.field(repr=False)
    app_id: int
    owner: str
    routes: Routes
    clock: Clock
    quotas: Quotas
    assumptions: Assumptions
    job_seconds: float
    link_seconds: float
    inline_below: float
    compress: Compression | None
    latency: Seconds
    known_users: KnownUsers
    cache_dir: Path
    seed: int
