"""
The two writing endpoints: what goes out, what an answer means.

Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts, "Upload
cohort" and "Update cohort membership". The ids come encoded, as the inside of
a JSON array in pieces, because encoding 100,000 of them in one go would hold
the event loop; see `batching`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

import attrs

from ..errors import InvalidInputError, RemovalGuardError, UnexpectedResponseError
from ..models import Cohort, IdType, Routes
from .converter import Tolerant, structure
from .ids import checked_id
from .messages import Replay, Request, Response
from .redact import redact_links, shorten
from .responses import check_subject, decode

UPLOAD_PATH = "/api/3/cohorts/upload"
MEMBERSHIP_PATH = "/api/3/cohorts/membership"

USERS = "User"
"""The count group of cohorts that hold users, not groups."""

Change: TypeAlias = Literal["ADD", "REMOVE"]
Pieces: TypeAlias = Sequence[bytes]

_SKEW = timedelta(seconds=1)
"""How far the service's clock may be behind ours; more makes doubt, no harm."""

_UPLOAD_WORDS = {IdType.USER_ID: "BY_USER_ID", IdType.AMPLITUDE_ID: "BY_AMP_ID"}
_MEMBERSHIP_WORDS = {IdType.USER_ID: "BY_NAME", IdType.AMPLITUDE_ID: "BY_ID"}


@attrs.frozen(kw_only=True)
class Upload:
    """
    Everything about an upload but its ids; checked when made.

    Attributes:
        owner: The login email of the cohort's owner.

        group: The name of the group the ids are of; None for users.

        replace: The cohort to fill anew; None makes one.

        validate_only: Whether nothing is to be saved.
    """

    name: str
    id_type: IdType
    app_id: int | None
    owner: str | None
    published: bool = True
    group: str | None = None
    replace: str | None = None
    skip_invalid_ids: bool = True
    validate_only: bool = False
    routes: Routes = Routes.VENDOR

    def __attrs_post_init__(self) -> None:
        _check_text("name", self.name)
        _check_id_type(self.id_type)
        _check_switches(self, "published", "skip_invalid_ids", "validate_only")

        if self.routes is Routes.VENDOR or self.app_id is not None:
            _check_app_id(self.app_id)

        if self.routes is Routes.VENDOR or self.owner is not None:
            _check_owner(self.owner)

        if self.group is not None:
            _check_text("group", self.group)

        if self.replace is not None:
            checked_id(self.replace, "cohort id")

    @property
    def creates(self) -> bool:
        """Whether a cohort comes into being, one more with each repetition."""
        return self.replace is None and not self.validate_only

    @property
    def rest(self) -> Membership:
        """How the ids beyond the first request are added."""
        return Membership(
            id_type=self.id_type,
            count_group=self.group or USERS,
            skip_invalid_ids=self.skip_invalid_ids,
            routes=self.routes,
        )


@attrs.frozen(kw_only=True)
class Membership:
    """
    Everything about a membership update but its ids; checked when made.

    Attributes:
        count_group: What the cohort counts; "User", or the name of a group.
    """

    id_type: IdType
    count_group: str = USERS
    skip_invalid_ids: bool = True
    routes: Routes = Routes.VENDOR

    def __attrs_post_init__(self) -> None:
        _check_id_type(self.id_type)
        _check_text("count_group", self.count_group)
        _check_switches(self, "skip_invalid_ids")


def upload(spec: Upload, ids: Pieces) -> Request:
    """Return the request that makes or fills a cohort with these ids."""
    fields: dict[str, object] = {
        "name": spec.name,
        "app_id": spec.app_id,
        "id_type": _UPLOAD_WORDS[spec.id_type],
        "cg": spec.group,
        "ids": [],
        "owner": spec.owner,
        "published": spec.published,
        "skip_save": spec.validate_only or None,
        "skip_invalid_ids": None if spec.skip_invalid_ids else False,
        "existing_cohort_id": spec.replace,
    }

    return Request(
        operation="upload",
        method="POST",
        path=UPLOAD_PATH,
        kind="write",
        body=_body(
            {name: field for name, field in fields.items() if field is not None},
            [ids],
        ),
        replay=Replay.UNSAFE if spec.creates else Replay.SAFE,
        subject=_filled(spec),
    )


def _filled(spec: Upload) -> Mapping[str, Sequence[str]]:
    # What is made from the other description may answer with its own examples.
    if spec.replace is None or spec.routes is Routes.OPENAPI:
        return {}

    return {"cohort_id": [spec.replace]}


def membership(
    cohort_id: str, spec: Membership, changes: Sequence[tuple[Change, Pieces]]
) -> Request:
    """
    Return the request that adds and removes these ids.

    Args:
        changes: What to do, and with which ids. The service takes several,
            and is said to prefer one.
    """
    fields: dict[str, object] = {"cohort_id": checked_id(cohort_id, "cohort id")}

    if spec.routes is Routes.OPENAPI:
        raise InvalidInputError(
            "Routes.OPENAPI describes no membership endpoint, so a cohort can only "
            "be uploaded whole, with at most 100,000 ids; use Routes.VENDOR"
        )

    if spec.count_group != USERS:
        fields["count_group"] = spec.count_group

    word = _MEMBERSHIP_WORDS[spec.id_type]
    fields["memberships"] = [
        {"ids": [], "id_type": word, "operation": operation} for operation, _ in changes
    ]
    fields["skip_invalid_ids"] = spec.skip_invalid_ids

    return Request(
        operation="membership",
        method="POST",
        path=MEMBERSHIP_PATH,
        kind="write",
        body=_body(fields, [ids for _, ids in changes]),
        subject={
            "cohort_id": [cohort_id],
            "operation": [operation for operation, _ in changes],
            "id_type": [word],
        },
    )


@attrs.frozen(kw_only=True)
class UploadAnswer:
    """
    What the service says of an upload.

    Attributes:
        cohort_id: None when nothing was saved.

        matched: Ids it knew, if it says.

        totals: What it counted in all, if it says.

        invalid_sample: Some it did not.
    """

    cohort_id: str | None
    matched: int | None = None
    totals: int | None = None
    invalid_sample: Sequence[str] = attrs.field(factory=list[str])


@attrs.frozen(kw_only=True)
class _UploadMetadata(Tolerant):
    matched: int | None = None
    totals: int | None = None
    invalid_ids_sample: Sequence[str] = ()


@attrs.frozen(kw_only=True)
class _UploadDocument(Tolerant):
    cohort_id: str | None = None
    metadata: _UploadMetadata = _UploadMetadata()
    error: object = None


@attrs.frozen(kw_only=True)
class _MembershipResult(Tolerant):
    skipped_ids: Sequence[str] = ()
    operation: str | None = None
    id_type: str | None = None


@attrs.frozen(kw_only=True)
class _MembershipDocument(Tolerant):
    cohort_id: str | None = None
    memberships_result: Sequence[_MembershipResult] = ()
    error: object = None


def upload_answer(spec: Upload, request: Request, response: Response) -> UploadAnswer:
    """
    Return what an upload did.

    Raises:
        UnexpectedResponseError: It does not say which cohort it wrote, or names
            another than was to be filled.
    """
    document = structure(decode(request, response), _UploadDocument, path="$")
    cohort_id = document.cohort_id or spec.replace

    if document.error or not (cohort_id or spec.validate_only):
        raise _unclear(request, response, document.error, "$.cohortId")

    check_subject(request, document)
    counts = document.metadata

    return UploadAnswer(
        cohort_id=None if spec.validate_only else cohort_id,
        matched=counts.matched,
        totals=counts.totals,
        invalid_sample=list(counts.invalid_ids_sample),
    )


def skipped_ids(request: Request, response: Response) -> list[str]:
    """
    Return the ids that a membership update skipped.

    Raises:
        UnexpectedResponseError: It holds an error, although it succeeded, or is
            about another cohort or operation than was asked for.
    """
    document = structure(decode(request, response), _MembershipDocument, path="$")

    if document.error:
        raise _unclear(request, response, document.error, "$.memberships_result")

    check_subject(request, document)
    skipped: list[str] = []

    for result in document.memberships_result:
        check_subject(request, _in_our_words(result))
        skipped += result.skipped_ids

    return skipped


def _in_our_words(result: _MembershipResult) -> _MembershipResult:
    operation, id_type = (
        None if word is None else word.upper()
        for word in (result.operation, result.id_type)
    )
    # Another word than the documented two may well mean the same.
    is_known = id_type in _MEMBERSHIP_WORDS.values()

    return attrs.evolve(
        result, operation=operation, id_type=id_type if is_known else None
    )


@attrs.frozen
class Found:
    """
    What a list says about a cohort whose creation was not answered.

    Attributes:
        certain: Cohorts that fit in all: name, owner, type, time.

        possible: Cohorts of that name that are not known to be older.
    """

    certain: Sequence[Cohort]
    possible: Sequence[Cohort]


def find_created(
    cohorts: Iterable[Cohort], spec: Upload, *, attempted_at: datetime
) -> Found:
    """
    Return the listed cohorts that an upload may have created.

    Args:
        attempted_at: When the upload was about to be sent, aware UTC.
    """
    # The service tells whole seconds.
    earliest = attempted_at.replace(microsecond=0) - _SKEW
    owner = (spec.owner or "").casefold()
    possible = [
        cohort
        for cohort in cohorts
        if cohort.name == spec.name
        and (cohort.created_at is None or cohort.created_at >= earliest)
    ]
    certain = [
        cohort
        for cohort in possible
        if cohort.created_at is not None
        and owner in [name.casefold() for name in cohort.owners]
        and _is_upload(cohort.type)
    ]

    return Found(certain, possible)


def checked_share(max_removed: object) -> float:
    """
    Return the share of the members that may be removed.

    Raises:
        InvalidInputError: It is no number from 0 to 1.
    """
    if not isinstance(max_removed, int | float) or not 0 <= max_removed <= 1:
        raise InvalidInputError(
            f"max_removed must be a share from 0.0 to 1.0, got {max_removed!r}"
        )

    return max_removed


def check_replacement(
    cohort_id: str, cohort: Cohort | None, new: int, max_removed: float
) -> None:
    """
    Make sure that a replacement removes no more than a share of the members.

    Only counts are compared: who the members are would cost an export.

    Args:
        cohort: The cohort as the list shows it; None if it does not.

        new: How many ids are going to replace the members, or at least are.

    Raises:
        RemovalGuardError: It would, or the list does not show the size.
    """
    current = None if cohort is None else cohort.size

    if current is None:
        why = "is not in the list" if cohort is None else "has no size in the list"
        raise RemovalGuardError(
            f"cohort {cohort_id} {why}, so it is unknown how many members replacing it "
            f"would remove; nothing was written. Pass max_removed=1.0 to replace it all "
            f"the same",
            removed=None,
            current=None,
            max_removed=max_removed,
        )

    removed = current - new

    if removed > max_removed * current:
        raise RemovalGuardError(
            f"this would replace the {current:,} members of cohort {cohort_id} by "
            f"{new:,} ids, so at least {removed:,}, {removed / current:.0%}, would go, "
            f"and max_removed={max_removed} allows {max_removed:.0%}; only the counts "
            f"were compared, and nothing was written. Pass a larger max_removed if it "
            f"is meant, or change single members with update_membership()",
            removed=removed,
            current=current,
            max_removed=max_removed,
        )


def _is_upload(kind: str | None) -> bool:
    # "manual_upload" has been seen; a behavioral cohort is "redshift".
    return kind is None or "upload" in kind or "manual" in kind


def _body(fields: Mapping[str, object], ids: Sequence[Pieces]) -> bytes:
    # A quote inside a text is written \" so this can only be our own key.
    frame = json.dumps(fields, separators=(",", ":")).encode().split(b'"ids":[]')
    filled = [frame[0]]

    for pieces, after in zip(ids, frame[1:], strict=True):
        filled += [b'"ids":[', *pieces, b"]", after]

    # Megabytes: joined once.
    return b"".join(filled)


def _unclear(
    request: Request, response: Response, error: object, path: str
) -> UnexpectedResponseError:
    shown = shorten(redact_links(str(error)))
    reason = f", and with an error: {shown}" if error else ""

    return UnexpectedResponseError(
        f"{request.operation} was answered {response.status} without saying what was "
        f"written{reason}; look at the cohort before trying again",
        path=path,
    )


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InvalidInputError(f"{name} must be text that is not empty, got {value!r}")


def _check_id_type(value: object) -> None:
    if not isinstance(value, IdType):
        raise InvalidInputError(
            f"id_type is {value!r}; pass IdType.USER_ID or IdType.AMPLITUDE_ID"
        )


def _check_switches(spec: object, *names: str) -> None:
    for name in names:
        if not isinstance(getattr(spec, name), bool):
            raise InvalidInputError(
                f"{name} must be True or False, got {getattr(spec, name)!r}"
            )


def _check_app_id(value: object) -> None:
    if value is None:
        raise InvalidInputError(
            "an upload needs the project's number: pass app_id=, give it to the "
            "client, or set AMPLITUDE_APP_ID; find it as `app_id` of any listed cohort"
        )

    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise InvalidInputError(
            f"app_id must be the project's number, a whole number above zero, got {value!r}"
        )


def _check_owner(value: object) -> None:
    if value is None:
        raise InvalidInputError(
            "an upload needs an owner: pass owner= with the login email of a "
            "member of the project, give it to the client, or set AMPLITUDE_OWNER"
        )

    _check_text("owner", value)
