"""The errors of one export, each with its token."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import attrs

from ..errors import (
    AmbiguousExportError,
    CohortsError,
    DownloadError,
    ExportError,
    ExportExpiredError,
    ExportFailedError,
    ExportTimeoutError,
    InvalidInputError,
    MalformedFileError,
    StorageError,
)
from .csvtext import CsvError, Malformed
from .job_rows import ExportRow, ExportState
from .requests import FEWER_PROPERTIES
from .tokens import FILE_LIFE, ExportRef, age_of, to_token

_SHOWN_DAYS = 0.1
_AGAIN = "request it again"
_FORGET = "call forget_job() with its record and request it again"

E = TypeVar("E", bound=ExportError | DownloadError)


@attrs.frozen
class ExportErrors:
    """Builds the errors of one export."""

    ref: ExportRef

    @contextmanager
    def with_token(self) -> Generator[None]:
        """Add the token to every error that is raised without one."""
        try:
            yield
        except CohortsError as error:
            if error.token is None:
                error.token = to_token(self.ref)
            raise

    def note_token(self, error: BaseException) -> None:
        """Add the token, as a note, to an error that is none of ours."""
        error.add_note(
            f"an export was requested; resume_export() goes on with it: "
            f"{to_token(self.ref)}"
        )

    @contextmanager
    def about_the_file(self, path: object = None) -> Generator[None]:
        """
        Translate errors of reading the file, or of writing it to *path*, for users.

        Without a path, an `OSError` passes.
        """
        try:
            yield
        except CsvError as error:
            raise self._error(
                MalformedFileError,
                f"the file of export {self.ref.request_id} is malformed: {error}; "
                f"{error.advice}",
                line=error.line,
            ) from None
        except Malformed as error:
            raise self._error(
                MalformedFileError,
                f"the file of export {self.ref.request_id} cannot be used: {error}; "
                f"{error.advice}",
            ) from None
        except OSError as error:
            if isinstance(error, CohortsError) or path is None:
                raise
            raise self._error(
                StorageError,
                f"{path} could not be written: {error.strerror or error}; fix that and "
                f"continue with `resume_export()`, which spends no export",
            ) from error

    def superseded(self, path: object) -> StorageError:
        """Return the error for a file that would replace that of a newer export."""
        return self._error(
            StorageError,
            f"{path} has, or may have, a newer export of cohort {self.ref.cohort_id} by "
            f"now, which is not replaced: export {self.ref.request_id} was not saved; "
            f"`resume_export()` brings it to another file, and spends no export",
        )

    def failed(self, status: str, *, again: str = _AGAIN) -> ExportFailedError:
        """Return the error for a job that ended without a file."""
        return self._error(
            ExportFailedError,
            f"{self._name} failed with the status {status!r}; {again}, which spends "
            f"another export",
        )

    def timed_out(self, timeout: float, status: str) -> ExportTimeoutError:
        """Return the error for a job that was still running at the deadline."""
        return self._error(
            ExportTimeoutError,
            f"{self._name} was still running after {timeout:g} s (last status: "
            f"{status!r}); its file stays available for seven days, continue with "
            f'`resume_export("{self.ref.request_id}")`{self._fewer_properties}',
        )

    def expired(
        self, status: int, *, now: datetime, again: str = _AGAIN
    ) -> ExportExpiredError:
        """Return the error for a job that the service does not know."""
        age = age_of(self.ref, now=now)
        days = (age or 0.0) / 86_400
        ago = f", and was requested {days:.1f} days ago" if days >= _SHOWN_DAYS else ""

        return self._error(
            ExportExpiredError,
            f"the service does not know export {self.ref.request_id} ({status})"
            f"{ago}; files live {FILE_LIFE.days} days and belong to one project: check "
            f"the keys and the region, or {again}",
        )

    def _error(self, kind: Callable[..., E], message: str, **facts: int) -> E:
        return kind(
            message,
            request_id=self.ref.request_id,
            cohort_id=self.ref.cohort_id,
            token=to_token(self.ref),
            **facts,
        )

    @property
    def _fewer_properties(self) -> str:
        # The page: "Set to 0 or unset if the request keeps timing out".
        return f". {FEWER_PROPERTIES}" if self.ref.properties else ""

    @property
    def _name(self) -> str:
        return f"export {self.ref.request_id} of cohort {self.ref.cohort_id}"


def ambiguous_export(
    export: ExportRow, *, used_now: int | None
) -> AmbiguousExportError:
    """Return the error for an export that was attempted, and whose id is not known."""
    advice = "pass on_unknown='spend' to request another one"

    if export.is_again:
        advice = (
            "it was requested instead of another one in doubt, so no tick requests a "
            "third before forget_job() is called with its record"
        )

    return AmbiguousExportError(
        advice,
        cohort_id=export.cohort_id,
        attempted_at=export.began_at,
        used_then=export.used,
        used_now=used_now,
    )


def superseded_export(export: ExportRow, target: str) -> InvalidInputError:
    """Return the error for an export that would replace a newer one."""
    token = to_token(export.ref())
    occurrence = "" if export.occurrence is None else f"{export.occurrence!r} of "
    error = InvalidInputError(
        f"the export of {occurrence and 'occurrence '}{occurrence}cohort "
        f"{export.cohort_id} was spent and never saved, and {target} has a newer export "
        f"by now, which is not replaced; resume_export({token!r}) brings it to another "
        f"file"
    )
    error.token = token

    return error


def ended_export(export: ExportRow, *, now: datetime) -> CohortsError:
    """Return the error for an export that was spent, and whose file will not come."""
    errors = ExportErrors(export.ref())

    if export.state is ExportState.FAILED:
        return errors.failed("failed", again=_FORGET)
    if export.state is ExportState.GONE:
        return errors.expired(404, now=now, again=_FORGET)

    error = InvalidInputError(
        f"export {export.id} of cohort {export.cohort_id} was put aside; "
        f"resume_export(record.token) takes it up"
    )
    error.token = to_token(export.ref())

    return error
