"""
Every error this package raises on purpose.

A leaf exists where a caller would write another ``except`` body::

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
    ├── AmbiguousUploadError
    └── PartialWriteError

All of them survive pickling with their attributes. None holds a key or the
query string of a presigned link. An error raised after an export was
requested carries ``token``: hand it to ``client.resume_export(token)``, in
any process, and no second export is spent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

__all__ = (
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
    The root of the tree; never raised itself.

    Attributes:
        message: What happened, to which thing, how much, and what to do next.

        token: Where an export goes on without being spent again, or None when
            none had been requested yet.
    """

    token: str | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only constructors do not survive the default protocol.
        return _revive, (type(self), self.args, self.__dict__.copy())


def _revive(
    kind: type[CohortsError], args: tuple[object, ...], state: dict[str, object]
) -> CohortsError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(CohortsError, ValueError):
    """The client cannot be built like this; no byte was sent."""


class InvalidInputError(CohortsError, ValueError):
    """The call makes no sense as written; no byte was sent."""


class RemovalGuardError(InvalidInputError):
    """
    More of a cohort would be removed than may be; nothing was written.

    Attributes:
        removed: Members that would have been removed, at least; None if unknown.

        current: Members the cohort has: for a sync, those it can name; for a
            replacement, the size in the list, or None if it shows none.

        max_removed: The share of them that may be removed.
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
    An optional dependency is needed and not installed.

    Attributes:
        feature: What needs it, as in "Arrow and Parquet".

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
    """We refused, so that the service need not; nothing was sent."""


class QuotaWaitError(QuotaError, TimeoutError):
    """
    The next place in a window is farther away than the caller will wait.

    Attributes:
        seconds: How long the wait would have been.
    """

    def __init__(self, message: str, *, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class MonthlyQuotaError(QuotaError):
    """
    This month's export requests are used up, or reserved.

    Attributes:
        limit: Export requests a month; None when the plan has no limit and a
            reserve or allowance of the caller's own was reached.

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
    A shared limiter does not know whether there is room, so nothing was sent.

    Trying again later is safe.
    """


class TransportError(CohortsError):
    """
    No usable answer came.

    Attributes:
        may_have_happened: Whether the service may have acted on the request
            all the same. False means that no byte of it left.
    """

    def __init__(self, message: str, *, may_have_happened: bool) -> None:
        super().__init__(message)
        self.may_have_happened = may_have_happened


class ConnectionFailedError(TransportError):
    """The connection was refused, cut, or could not be made."""


class RequestTimeoutError(TransportError, TimeoutError):
    """The service did not answer in time."""


class ApiError(CohortsError):
    """
    The service said no.

    Attributes:
        status: The HTTP status.

        type: The service's word for the kind of error; often "unspecified".

        details: The text that tells what was wrong, from
            ``error.metadata.details`` or ``error.message``; may be empty.

        api_message: The service's ``error.message``; mostly says less than
            ``details``.

        http_code: The service's ``error.http_code``; the message says so where
            it differs from ``status``.

        metadata: The service's ``error.metadata``, as sent.

        retry_after: Seconds the service asked to wait, if it did.
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
    ) -> None:
        super().__init__(message)
        self.status = status
        self.type = type
        self.details = details
        self.api_message = api_message
        self.http_code = http_code
        self.metadata: dict[str, object] = dict(metadata or {})
        self.retry_after = retry_after


class BadRequestError(ApiError):
    """Status 400, or another 4xx without a class of its own."""


class InvalidIdsError(BadRequestError):
    """
    Some ids are unknown and ``skip_invalid_ids`` is False; nothing was written.

    Attributes:
        sample: Ids the service named, perhaps not all of them.
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
        )
        self.sample: list[str] = list(sample)


class AuthenticationError(ApiError):
    """
    The keys are not accepted: status 401, or the 403 of a wrong key pair.

    The service answers 403 to keys of another region.
    """


class PermissionDeniedError(ApiError):
    """Status 403: the keys are fine, the plan or project does not allow this."""


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
        path: Where the answer broke, as in ``$.cohorts[3].size``.

        request_id: What stands in the place of an export's id, if it was accepted
            with one that cannot be followed, or for another cohort.

        may_have_happened: That the service may have acted on the request; it
            said so, and always may. As in ``TransportError``.
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
    Something about an export job.

    Attributes:
        request_id: The job, as the service names it.

        cohort_id: The cohort, if known.

        token: Where to go on; see ``CohortsClient.resume_export()``.
    """


class ExportTimeoutError(ExportError, TimeoutError):
    """The job was still running at the caller's deadline; it goes on without us."""


class ExportFailedError(ExportError):
    """The service gave the job up; only a new export can help."""


class ExportExpiredError(ExportError):
    """The job is unknown to the service, or older than seven days."""


class DownloadError(_JobError):
    """
    Something about the file of a job.

    Attributes:
        request_id: The job, as the service names it.

        cohort_id: The cohort, if known.

        token: Where to go on; see ``CohortsClient.resume_export()``.
    """


class IncompleteDownloadError(DownloadError):
    """
    The file did not arrive whole, and no link that was tried brought the rest.

    Attributes:
        received: Bytes that arrived.

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
    The file arrived, and is not what it claims to be.

    Attributes:
        line: The line of the CSV text, counted from 1, if it is about one.
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
    """The local disk refused: full, read-only, or gone."""


class AmbiguousUploadError(CohortsError):
    """
    The answer to a creating upload was lost, and it is not known what it did.

    Attributes:
        name: The name the cohort was to have.

        candidates: Ids of cohorts that may be the one; empty when none fits.
    """

    def __init__(self, message: str, *, name: str, candidates: Sequence[str]) -> None:
        super().__init__(message)
        self.name = name
        self.candidates: list[str] = list(candidates)


class PartialWriteError(CohortsError):
    """
    Some batches of a write were accepted, then one failed.

    ``__cause__`` says why. Repeating the finished batches does no harm.

    Attributes:
        report: What had been written: an ``UploadReport`` or a
            ``MembershipReport``.

        next_batch: Index of the first batch that is not known to be written.

        cohort_id: The cohort written to.
    """

    def __init__(
        self, message: str, *, report: object, next_batch: int, cohort_id: str
    ) -> None:
        super().__init__(message)
        self.report = report
        self.next_batch = next_batch
        self.cohort_id = cohort_id
