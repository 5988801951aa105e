"""
One export: a cohort as it was when asked for, and the file made of it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import attrs

from .csvfiles import Columns, StoredObject, compressed, csv_chunks, in_memory
from .faults import Edit, Fault
from .generator import generated_object
from .members import GeneratedMembers, Members

__all__ = ("JOB_SECONDS", "Job", "build_object")

# The file link is valid for seven days.
# https://amplitude.com/docs/apis/analytics/behavioral-cohorts
JOB_SECONDS = 7 * 24 * 3600.0


@attrs.define(kw_only=True, eq=False)
class Job:
    """
    One export.

    Attributes:
        members: As they were when the export was asked for.

        requested_at: When that was, on the emulator's clock.

        ready_at: When its file is there.

        fate: What a fault made of it.

        edits: What faults made of the text of its file.

        stored_edits: What faults made of the bytes in the store.
    """

    request_id: str
    cohort_id: str
    app_id: int
    members: Members = attrs.field(repr=False)
    columns: Columns
    requested_at: float
    ready_at: float
    fate: Literal["failed", "endless"] | None = None
    edits: tuple[Edit, ...] = attrs.field(default=(), repr=False)
    stored_edits: tuple[Edit, ...] = attrs.field(default=(), repr=False)

    def suffer(self, fault: Fault) -> None:
        """
        Take what a fault does to this job from now on.
        """
        if fault.job == "endless":
            self.ready_at = math.inf

        self.fate = fault.job or self.fate
        self.edits += fault.edits
        self.stored_edits += fault.stored_edits


def build_object(job: Job, *, compress: bool, cache_dir: Path) -> StoredObject:
    """
    Make the file of a job as the store holds it; may take seconds.
    """
    edited = job.edits or job.stored_edits

    if isinstance(job.members, GeneratedMembers) and not edited:
        return generated_object(
            job.members, job.columns, compress=compress, cache_dir=cache_dir
        )

    text = b"".join(csv_chunks(job.members, job.columns))

    for edit in job.edits:
        text = edit(text)

    data = compressed([text]) if compress else text

    for edit in job.stored_edits:
        data = edit(data)

    return in_memory(data)
