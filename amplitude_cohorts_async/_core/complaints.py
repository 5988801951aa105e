"""
What is said of a job that goes wrong: each error of one export, and its token.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import attrs

from ..errors import (
    CohortsError,
    DownloadError,
    ExportError,
    ExportExpiredError,
    ExportFailedError,
    ExportTimeoutError,
    MalformedFileError,
    StorageError,
)
from .csvtext import CsvError, Malformed
from .tokens import FILE_LIFE, Ticket, age_of, to_token

E = TypeVar("E", bound=ExportError | DownloadError)


@attrs.frozen
class Complaints:
    """
    Words for the misfortunes of one export.
    """

    _ticket: Ticket

    @contextmanager
    def with_token(self) -> Generator[None]:
        """
        Give the token to every error that passes and has none.
        """
        try:
            yield
        except CohortsError as error:
            if error.token is None:
                error.token = to_token(self._ticket)
            raise

    @contextmanager
    def about_the_file(self, path: object = None) -> Generator[None]:
        """
        Say of an error that passes which file it is about.

        Args:
            path: The target, if one is written.
        """
        try:
            yield
        except CsvError as error:
            raise error.of_job(
                self._ticket.request_id,
                cohort_id=self._ticket.cohort_id,
                token=to_token(self._ticket),
            ) from None
        except Malformed as error:
            raise self._malformed(error) from None
        except OSError as error:
            if isinstance(error, CohortsError) or path is None:
                raise
            raise self._not_written(path, error) from error

    def failed(self, word: str) -> ExportFailedError:
        """
        The service gave the job up.
        """
        return self._error(
            ExportFailedError,
            f"{self._name} failed: the service says {word!r}; request it again, which "
            f"spends another export",
        )

    def timed_out(self, timeout: float, word: str) -> ExportTimeoutError:
        """
        The job was still running at the deadline.
        """
        return self._error(
            ExportTimeoutError,
            f"{self._name} was still running after {timeout:g} s (last word: "
            f"{word!r}); its file stays available for seven days, continue with "
            f'`resume_export("{self._ticket.request_id}")`',
        )

    def expired(self, status: int, *, now: datetime) -> ExportExpiredError:
        """
        The service does not know the job.
        """
        age = age_of(self._ticket, now=now)
        days = "" if age is None else f", and was requested {age / 86_400:.1f} days ago"

        return self._error(
            ExportExpiredError,
            f"the service does not know export {self._ticket.request_id} ({status})"
            f"{days}; files live {FILE_LIFE.days} days and belong to one project: check "
            f"the keys and the region, or request the export again",
        )

    def _malformed(self, error: Malformed) -> MalformedFileError:
        return self._error(
            MalformedFileError,
            f"the file of export {self._ticket.request_id} cannot be used: {error}; "
            f"try once more, and report it to Amplitude if that does not help",
        )

    def _not_written(self, path: object, error: OSError) -> StorageError:
        return self._error(
            StorageError,
            f"{path} could not be written: {error.strerror or error}; fix that and "
            f"continue with `resume_export()`, which spends no export",
        )

    def _error(self, kind: type[E], message: str) -> E:
        return kind(
            message,
            request_id=self._ticket.request_id,
            cohort_id=self._ticket.cohort_id,
        )

    @property
    def _name(self) -> str:
        return f"export {self._ticket.request_id} of cohort {self._ticket.cohort_id}"
