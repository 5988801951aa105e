"""What is said of a job that goes wrong."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from amplitude_cohorts_async._core.csvtext import CsvError, Malformed
from amplitude_cohorts_async._core.export_errors import ExportErrors, ended_export
from amplitude_cohorts_async._core.job_rows import ExportRow, ExportState
from amplitude_cohorts_async._core.tokens import ExportRef, to_token
from amplitude_cohorts_async.errors import (
    CohortsError,
    ExportExpiredError,
    ExportFailedError,
    InvalidInputError,
    MalformedFileError,
    RequestTimeoutError,
    StorageError,
)

TICKET = ExportRef(request_id="Sf7M9j", cohort_id="26umsb5")


def test_what_the_disk_says_is_about_the_target():
    """An error of the system becomes one that names the file and what to do."""
    with (
        pytest.raises(StorageError, match=r"members\.csv .* No space left"),
        ExportErrors(TICKET).about_the_file("members.csv"),
    ):
        raise OSError(28, "No space left on device")


def test_what_the_disk_says_is_passed_on_where_no_file_is_written():
    """Without a target the error is not ours to name."""
    with pytest.raises(PermissionError), ExportErrors(TICKET).about_the_file():
        raise PermissionError(13, "Permission denied")


def test_a_time_out_is_no_error_of_the_disk():
    """Python counts time-outs among the errors of the system; ours keep their class."""
    with (
        pytest.raises(RequestTimeoutError) as caught,
        ExportErrors(TICKET).with_token(),
        ExportErrors(TICKET).about_the_file("members.csv"),
    ):
        raise RequestTimeoutError("slow", may_have_happened=True)

    assert to_token(TICKET) == caught.value.token


def test_a_malformed_file_names_its_export():
    """The pure part says what is wrong, and this of which export."""
    with (
        pytest.raises(MalformedFileError, match=r"Sf7M9j .* it is empty"),
        ExportErrors(TICKET).about_the_file(),
    ):
        raise Malformed("it is empty")


def test_a_malformed_line_names_the_export_and_the_line():
    """Users read which export, which line, and what to do."""
    with (
        pytest.raises(MalformedFileError) as caught,
        ExportErrors(TICKET).about_the_file(),
    ):
        raise CsvError("is empty", line=7)

    error = caught.value

    assert ("Sf7M9j", "26umsb5", to_token(TICKET), 7) == (
        error.request_id,
        error.cohort_id,
        error.token,
        error.line,
    )
    assert "export Sf7M9j is malformed: line 7 is empty" in str(error)


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (ExportState.FAILED, ExportFailedError),
        (ExportState.GONE, ExportExpiredError),
        (ExportState.PARKED, InvalidInputError),
    ],
)
def test_an_export_without_a_file_keeps_its_token(
    state: ExportState, kind: type[CohortsError]
) -> None:
    """Whichever way it ended."""
    now = datetime(2026, 6, 15, 12, tzinfo=UTC)
    row = ExportRow(
        id="e1", cohort_id="c1", created_at=now, request_id="r1", state=state
    )

    error = ended_export(row, now=now)

    assert isinstance(error, kind)
    assert to_token(row.ref()) == error.token
