"""
The errors of this package.

There is a class for each case that a caller would handle differently::

    CohortsError
    ├── ConfigurationError (ValueError)
    ├── InvalidInputError (ValueError)
    │   └── RemovalGuardError
    ├── MissingExtraError (ImportError)
    ├── QuotaError
    │   ├── QuotaWaitError (TimeoutError)
    │   ├── MonthlyQuotaError
    │   └── LimiterUnavailableError
    ├── TransportError
    │   ├── ConnectionFailedError
    │   └── RequestTimeoutError (TimeoutError)
    ├── ApiError
    │   ├── BadRequestError
    │   │   └── InvalidIdsError
    │   ├── AuthenticationError
    │   ├── PermissionDeniedError
    │   ├── NotFoundError
    │   ├── RateLimitedError
    │   └── ServerError
    ├── UnexpectedResponseError
    ├── ExportError
    │   ├── ExportTimeoutError (TimeoutError)
    │   ├── ExportFailedError
    │   └── ExportExpiredError
    ├── DownloadError
    │   ├── IncompleteDownloadError
    │   ├── MalformedFileError
    │   └── StorageError (OSError)
    ├── JobStoreUnavailableError
    ├── AmbiguousExportError
    ├── AmbiguousUploadError
    └── PartialWriteError

All can be pickled with their attributes. None contains a key or the query string
of a presigned link. An error raised after an export was requested carries
``token``: pass it to ``client.resume_export(token)``, in any process, and no second
export is spent. The service describes those of an upload at
https://amplitude.com/docs/apis/analytics/behavioral-cohorts .
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

__all__ = (
    "AmbiguousExportError",
    "AmbiguousUploadError",
    "ApiError",
    "AuthenticationError",
    "BadRequestError",
    "CohortsError",
    "ConfigurationError",
    "ConnectionFailedError",
    "DownloadError",
    "ExportError",
    "ExportExpiredError",
    "ExportFailedError",
    "ExportTimeoutError",
    "IncompleteDownloadError",
    "InvalidIdsError",
    "InvalidInputError",
    "JobStoreUnavailableError",
    "LimiterUnavailableError",
    "MalformedFileError",
    "MissingExtraError",
    "MonthlyQuotaError",
    "NotFoundError",
    "PartialWriteError",
    "PermissionDeniedError",
    "QuotaError",
    "QuotaWaitError",
    "RateLimitedError",
    "RemovalGuardError",
    "RequestTimeoutError",
    "ServerError",
    "StorageError",
    "TransportError",
    "UnexpectedResponseError",
)


class CohortsError(Exception):
    """
    The base class; never raised itself.

    Attributes:
        message: What happened, to which thing, how much, and what to do next.
        token: With it the export goes on without being spent again; None if none
            had been requested yet.
    """

    token: str | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        # The default protocol cannot call constructors with keyword-only parameters.
        return _revive, (type(self), self.args, self.__dict__.copy())


def _revive(
    kind: type[CohortsError], args: tuple[object, ...], state: dict[str, object]
) -> CohortsError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(CohortsError, ValueError):
    """The configuration is invalid; nothing was sent."""


class InvalidInputError(CohortsError, ValueError):
    """The arguments of a call are invalid; nothing was sent."""


class RemovalGuardError(InvalidInputError):
    """
    More of a cohort would be removed than allowed; nothing was written.

    Attributes:
        removed: Members that would be removed, at least; None if unknown.
        current: Members of the cohort: for a sync, those with an id of its type;
            for a replacement, the size in the list, or None if it shows none.
        max_removed: The share of them that may be removed, from 0 to 1.
    """

    def __init__(
        self,
        message: str,
        *,
        removed: int | None,
        current: int | None,
        max_removed: float,
    ) -> None:
        super().__init__(message)
        self.removed = removed
        self.current = current
        self.max_removed = max_removed


class MissingExtraError(CohortsError, ImportError):
    """
    An optional dependency is not installed.

    Attributes:
        feature: What needs it, as in "Parquet".
        extra: The extra to install, as in ``amplitude-cohorts-async[redis]``.
    """

    def __init__(self, feature: str, *, extra: str) -> None:
        super().__init__(
            f"{feature} needs the extra {extra!r}; install it with "
            f"`pip install 'amplitude-cohorts-async[{extra}]'`"
        )
        self.feature = feature
        self.extra = extra


class QuotaError(CohortsError):
    """The limiter or the budget refused a request; nothing was sent."""


class QuotaWaitError(QuotaError, TimeoutError):
    """
    No slot is free now, and the caller does not wait.

    Because the wait for a window or a pause would be longer than `Limits.max_wait`,
    or because the limiter was asked with `try_slot()`.

    Attributes:
        seconds: How long the wait would have been; ask again after so many.
        ticket: Keeps the place of a `try_slot()` that is asked again with it; None if
            no place is kept.
    """

    def __init__(
        self, message: str, *, seconds: float, ticket: str | None = None
    ) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.ticket = ticket


class MonthlyQuotaError(QuotaError):
    """
    The monthly quota, or an allowance, is exhausted; no export was spent.

    Attributes:
        limit: Export requests a month; None if the plan has no limit, or it is
            unknown, and an allowance is exhausted.
        used: Export requests known to be spent this month.
        resets_at: When the count starts again, aware UTC, if known.
    """

    def __init__(
        self,
        message: str,
        *,
        limit: int | None,
        used: int,
        resets_at: datetime | None,
    ) -> None:
        super().__init__(message)
        self.limit = limit
        self.used = used
        self.resets_at = resets_at


class LimiterUnavailableError(QuotaError):
    """
    A shared limiter is unavailable.

    Attributes:
        may_have_happened: Whether a request was under way whose place was lost, so
            that the service may have acted on it. False means that nothing was sent.
    """

    may_have_happened: bool = False


class TransportError(CohortsError):
    """
    No usable answer came.

    Attributes:
        may_have_happened: Whether the service may have acted on the request. False
            means that no byte of it was sent.
    """

    def __init__(self, message: str, *, may_have_happened: bool) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened


class ConnectionFailedError(TransportError):
    """The connection was refused, was lost, or could not be made."""


class RequestTimeoutError(TransportError, TimeoutError):
    """The service did not answer in time."""


class ApiError(CohortsError):
    """
    The service answered with an error.

    Attributes:
        status: The HTTP status; ``http_code`` if an answer of 200 holds an error.
        type: The service's ``error.type``; often "unspecified".
        details: The reason, from ``error.metadata.details`` or ``error.message``;
            may be empty.
        api_message: The service's ``error.message``; often less specific than
            ``details``.
        http_code: The service's ``error.http_code``; the message mentions it where
            it differs from ``status``.
        metadata: The service's ``error.metadata``, as sent.
        retry_after: Seconds, from the header ``Retry-After``, if there is one.
        date: When it answered, by the service's clock, aware UTC, if it says so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str = "",  # noqa: A002 - the service's name for it
        details: str = "",
        api_message: str = "",
        http_code: int | None = None,
        metadata: Mapping[str, object] | None = None,
        retry_after: float | None = None,
        date: datetime | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.details = details
        self.api_message = api_message
        self.http_code = http_code
        self.metadata: dict[str, object] = dict(metadata or {})
        self.retry_after = retry_after
        self.date = date


class BadRequestError(ApiError):
    """Status 400, or another 4xx without a class of its own."""


class InvalidIdsError(BadRequestError):
    """
    Some ids are unknown and ``skip_invalid_ids`` is False, or all are unknown.

    Nothing was written.

    Attributes:
        sample: Unknown ids that the service named, perhaps not all.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str = "",  # noqa: A002 - the service's name for it
        details: str = "",
        api_message: str = "",
        http_code: int | None = None,
        metadata: Mapping[str, object] | None = None,
        retry_after: float | None = None,
        date: datetime | None = None,
        sample: Sequence[str] = (),
    ) -> None:
        super().__init__(
            message,
            status=status,
            type=type,
            details=details,
            api_message=api_message,
            http_code=http_code,
            metadata=metadata,
            retry_after=retry_after,
            date=date,
        )
        self.sample: list[str] = list(sample)


class AuthenticationError(ApiError):
    """The keys are refused: status 401, or the 403 of a wrong key pair or region."""


class PermissionDeniedError(ApiError):
    """Status 403: the keys are valid, but the plan or project does not allow this."""


class NotFoundError(ApiError):
    """Status 404 or 410, or a cohort that is not in the list."""


class RateLimitedError(ApiError):
    """Status 429, still after all retries."""


class ServerError(ApiError):
    """Status 5xx, still after all retries."""


class UnexpectedResponseError(CohortsError):
    """
    The service reported success in a form that cannot be read.

    Attributes:
        path: The place in the answer, as in ``$.cohorts[3].size``.
        request_id: The id of an accepted export, if the id is not usable or the
            answer is about another cohort.
        may_have_happened: Always True: the service may have acted on the request.
    """

    may_have_happened: bool = True

    def __init__(
        self, message: str, *, path: str = "$", request_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.request_id = request_id


class _JobError(CohortsError):
    def __init__(
        self,
        message: str,
        *,
        request_id: str,
        cohort_id: str | None = None,
        token: str | None = None,
    ) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.cohort_id = cohort_id
        self.token = token


class ExportError(_JobError):
    """
    Base class of errors about an export job.

    Attributes:
        request_id: The service's id of the job.
        cohort_id: The cohort, if known.
        token: For ``CohortsClient.resume_export()``.
    """


class ExportTimeoutError(ExportError, TimeoutError):
    """The job still ran at the caller's timeout; it continues at the service."""


class ExportFailedError(ExportError):
    """The job failed at the service; only a new export can help."""


class ExportExpiredError(ExportError):
    """The job is unknown to the service, or older than seven days."""


class DownloadError(_JobError):
    """
    Base class of errors about the file of a job.

    Attributes: see `ExportError`.
    """


class IncompleteDownloadError(DownloadError):
    """
    The file is incomplete, and no further link brought the rest.

    Attributes:
        received: Bytes received.
        expected: Bytes announced, if they were.
    """

    def __init__(
        self,
        message: str,
        *,
        request_id: str,
        cohort_id: str | None = None,
        token: str | None = None,
        received: int = 0,
        expected: int | None = None,
    ) -> None:
        super().__init__(
            message, request_id=request_id, cohort_id=cohort_id, token=token
        )
        self.received = received
        self.expected = expected


class MalformedFileError(DownloadError):
    """
    The file is complete, but its content is invalid.

    Attributes:
        line: The line of the CSV text, counted from 1, if one is meant.
    """

    def __init__(
        self,
        message: str,
        *,
        request_id: str,
        cohort_id: str | None = None,
        token: str | None = None,
        line: int | None = None,
    ) -> None:
        super().__init__(
            message, request_id=request_id, cohort_id=cohort_id, token=token
        )
        self.line = line


class StorageError(DownloadError, OSError):
    """
    A local file cannot be written: the disk is full, read-only, or gone.

    Or it was not: a newer export of the same cohort came to its name meanwhile.

    Attributes:
        request_id: Empty if the file is the journal of a write, or the record that
            an earlier release left in a directory.
    """


class JobStoreUnavailableError(CohortsError):
    """
    The store of exports cannot be read or written.

    Raised before an export is spent, or a cohort written to: nothing was sent.
    """


class AmbiguousExportError(CohortsError):
    """
    An export may have been spent, and its id is not known.

    Its caller was killed between sending the request and recording the answer, or
    the answer was lost. Nothing more was spent.

    Attributes:
        cohort_id: The cohort.
        attempted_at: When the request was sent; aware UTC.
        used_then: The month's usage before the request; None if unknown.
        used_now: The usage now; None if unknown. Other spenders change it, too.
    """

    def __init__(
        self,
        advice: str,
        *,
        cohort_id: str,
        attempted_at: datetime,
        used_then: int | None = None,
        used_now: int | None = None,
    ) -> None:
        self.cohort_id = cohort_id
        self.attempted_at = attempted_at
        self.used_then = used_then
        self.used_now = used_now
        super().__init__(f"{self.doubt}. Nothing more was spent; {advice}")

    @property
    def doubt(self) -> str:
        """What may have been spent, without advice: for a program with its own."""
        usage = (
            ""
            if self.used_then is None or self.used_now is None
            else f" (the month's usage was {self.used_then} then, and is "
            f"{self.used_now} now)"
        )

        return (
            f"an export of cohort {self.cohort_id} may have been spent at "
            f"{self.attempted_at:%Y-%m-%d %H:%M:%S} UTC: its answer was never "
            f"recorded{usage}"
        )


class AmbiguousUploadError(CohortsError):
    """
    The answer to an upload that creates a cohort was lost or is unclear.

    So it is unknown whether the cohort exists.

    Attributes:
        name: The name of the new cohort.
        candidates: Ids of cohorts that may be the new one; empty if none fits.
    """

    def __init__(self, message: str, *, name: str, candidates: Sequence[str]) -> None:
        super().__init__(message)
        self.name = name
        self.candidates: list[str] = list(candidates)


class PartialWriteError(CohortsError):
    """
    Some batches of a write were accepted, then one failed.

    ``__cause__`` is the reason. Repeating the accepted batches is safe.

    Attributes:
        report: An ``UploadReport`` or ``MembershipReport`` of what was written.
        next_batch: Index of the first batch not known to be written, from 0.
        cohort_id: The cohort written to.
    """

    def __init__(
        self, message: str, *, report: object, next_batch: int, cohort_id: str
    ) -> None:
        super().__init__(message)
        self.report = report
        self.next_batch = next_batch
        self.cohort_id = cohort_id
