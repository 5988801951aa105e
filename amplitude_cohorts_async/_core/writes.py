"""
Requests to the two writing endpoints, and their answers.

Source: https://amplitude.com/docs/apis/analytics/behavioral-cohorts, "Upload cohort"
and "Update cohort membership". The ids come encoded by `batching`, as the inside of a
JSON array in pieces: encoding 100,000 in one call would hold the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

import attrs

from ..errors import (
    CohortsError,
    InvalidInputError,
    RemovalGuardError,
    UnexpectedResponseError,
)
from ..models import Cohort, IdType, Routes
from .batching import Batch
from .converter import Tolerant, structure
from .ids import checked_id, cohort_id_of
from .messages import Replay, Request, Response
from .redact import redact_links, shorten
from .responses import check_subject, decode, refusal_in

UPLOAD_PATH = "/api/3/cohorts/upload"
MEMBERSHIP_PATH = "/api/3/cohorts/membership"

# The count group of cohorts that hold users, not groups.
USERS = "User"

Change: TypeAlias = Literal["ADD", "REMOVE"]
"""The page's words for an operation."""

Pieces: TypeAlias = Sequence[bytes]

# How far the service's clock may be behind ours; more leads to doubt, not to harm.
_SKEW = timedelta(seconds=1)

_UPLOAD_ID_TYPES = {IdType.USER_ID: "BY_USER_ID", IdType.AMPLITUDE_ID: "BY_AMP_ID"}
_MEMBERSHIP_ID_TYPES = {IdType.USER_ID: "BY_NAME", IdType.AMPLITUDE_ID: "BY_ID"}


@attrs.frozen(kw_only=True)
class Upload:
    """
    All options of an upload, checked when made.

    Attributes:
        owner: The login email of the cohort's owner.
        group: The name of the group the ids are of; None for users.
        replace: The cohort to fill anew; None creates one.
    """

    name: str
    id_type: IdType
    app_id: int | None
    owner: str | None
    published: bool = True
    group: str | None = None
    replace: str | None = attrs.field(
        default=None, converter=attrs.converters.optional(cohort_id_of)
    )
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

    @property
    def takes_amplitude_ids(self) -> bool:
        """Whether the ids are Amplitude's own numbers of users."""
        return self.id_type is IdType.AMPLITUDE_ID and self.group is None

    @property
    def creates(self) -> bool:
        """Whether a cohort is created, and another one by each repetition."""
        return self.replace is None and not self.validate_only

    @property
    def rest(self) -> Membership:
        """The options with which the ids after the first request are added."""
        return Membership(
            id_type=self.id_type,
            count_group=self.group or USERS,
            skip_invalid_ids=self.skip_invalid_ids,
            routes=self.routes,
        )


@attrs.frozen(kw_only=True)
class Membership:
    """
    All options of a membership update, checked when made.

    `count_group` is what the cohort counts: "User", or the name of a group.
    """

    id_type: IdType
    count_group: str = USERS
    skip_invalid_ids: bool = True
    routes: Routes = Routes.VENDOR

    def amplitude(self, id_type: IdType) -> bool:
        """Whether ids of a type are Amplitude's own numbers of users."""
        _check_id_type(id_type)

        return id_type is IdType.AMPLITUDE_ID and self.count_group == USERS

    def __attrs_post_init__(self) -> None:
        _check_id_type(self.id_type)
        _check_text("count_group", self.count_group)
        _check_switches(self, "skip_invalid_ids")


def id_attribute(id_type: IdType, count_group: str) -> str:
    """Return the name of the attribute of a `Member` that is its id."""
    if id_type is IdType.AMPLITUDE_ID:
        return "amplitude_id"

    return "user_id" if count_group == USERS else "group"


def upload_request(spec: Upload, ids: Pieces) -> Request:
    """Return the request that creates or fills a cohort with these ids."""
    fields: dict[str, object] = {
        "name": spec.name,
        "app_id": spec.app_id,
        "id_type": _UPLOAD_ID_TYPES[spec.id_type],
        "cg": spec.group,
        "ids": [],
        "owner": spec.owner,
        "published": spec.published,
        "skip_save": spec.validate_only or None,
        "skip_invalid_ids": None if spec.skip_invalid_ids else False,
        "existing_cohort_id": spec.replace,
    }

    # Mocks of the other description may answer with its own examples.
    subject = {"cohort_id": [spec.replace]} if spec.replace is not None else {}

    return Request(
        operation="upload",
        method="POST",
        path=UPLOAD_PATH,
        kind="write",
        body=_body(
            {name: field for name, field in fields.items() if field is not None}, ids
        ),
        replay=Replay.UNSAFE if spec.creates else Replay.SAFE,
        subject=subject if spec.routes is Routes.VENDOR else {},
    )


@attrs.frozen(kw_only=True)
class Entry:
    """
    One entry of a request's `memberships`: a batch of ids that are added or removed.

    Attributes:
        part: The position of its operation in the caller's update.
    """

    change: Change
    id_type: IdType
    batch: Batch
    part: int = 0

    @property
    def id_word(self) -> str:
        """The endpoint's word for the type of the ids."""
        return _MEMBERSHIP_ID_TYPES[self.id_type]


def membership_request(
    cohort_id: str, spec: Membership, entries: Sequence[Entry]
) -> Request:
    """Return the request that adds and removes the ids of some entries, in one step."""
    fields: dict[str, object] = {"cohort_id": checked_id(cohort_id, "cohort id")}

    if spec.routes is Routes.OPENAPI:
        raise InvalidInputError(
            "Routes.OPENAPI describes no membership endpoint, so a cohort can only "
            "be uploaded whole, with at most 100,000 ids; use Routes.VENDOR"
        )

    if spec.count_group != USERS:
        fields["count_group"] = spec.count_group

    fields["memberships"] = [
        {"ids": [], "id_type": entry.id_word, "operation": entry.change}
        for entry in entries
    ]
    fields["skip_invalid_ids"] = spec.skip_invalid_ids

    return Request(
        operation="membership",
        method="POST",
        path=MEMBERSHIP_PATH,
        kind="write",
        body=_body(fields, *(entry.batch.pieces for entry in entries)),
        subject={
            "cohort_id": [cohort_id],
            "operation": sorted({entry.change for entry in entries}),
            "id_type": sorted({entry.id_word for entry in entries}),
        },
    )


@attrs.frozen(kw_only=True)
class UploadCounts(Tolerant):
    """
    What an upload did; a count is None if the service did not send it.

    `matched` is taken for the ids that the service knew, and `invalid_ids_sample` for
    some that it did not: the page defines neither, and more match than there are in its
    example.
    """

    matched: int | None = None
    totals: int | None = None
    invalid_ids_sample: Sequence[str] = ()


@attrs.frozen(kw_only=True)
class UploadAnswer(Tolerant):
    """The answer to an upload; `cohort_id` is None when nothing was saved."""

    cohort_id: str | None = None
    metadata: UploadCounts = UploadCounts()
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

    Raises `ApiError` if a success holds an error with a code, and
    `UnexpectedResponseError` if it names no cohort, or another one.
    """
    document = structure(decode(request, response), UploadAnswer, path="$")
    cohort_id = document.cohort_id or spec.replace

    if document.error or not (cohort_id or spec.validate_only):
        raise _unclear_answer(request, response, document.error, "$.cohortId")

    check_subject(request, document)

    return attrs.evolve(document, cohort_id=None if spec.validate_only else cohort_id)


def skipped_ids(
    request: Request, response: Response, entries: Sequence[Entry]
) -> list[list[str]]:
    """
    Return the ids that a membership update skipped, for each of its entries.

    Raises `ApiError` if a success holds an error with a code, and
    `UnexpectedResponseError` if the code is missing, or the answer is about another
    cohort or operation.
    """
    document = structure(decode(request, response), _MembershipDocument, path="$")

    if document.error:
        raise _unclear_answer(request, response, document.error, "$.memberships_result")

    check_subject(request, document)
    skipped: list[list[str]] = [[] for _ in entries]

    for index, answered in enumerate(document.memberships_result):
        result = _normalised(answered)
        check_subject(request, result)
        skipped[_entry_of(result, entries, index)] += result.skipped_ids

    return skipped


def _entry_of(result: _MembershipResult, entries: Sequence[Entry], index: int) -> int:
    """Return which entry a result is about: its own by its place, or the first alike."""
    alike = [
        position
        for position, entry in enumerate(entries)
        if result.operation in {None, entry.change}
        and result.id_type in {None, entry.id_word}
    ]

    if not alike:
        raise UnexpectedResponseError(
            f"membership was answered for {result.operation} {result.id_type}, which "
            f"was not asked for; find out what was done before trying again",
            path=f"$.memberships_result[{index}]",
        )

    return index if index in alike else alike[0]


def _normalised(result: _MembershipResult) -> _MembershipResult:
    operation, id_type = (
        None if text is None else text.upper()
        for text in (result.operation, result.id_type)
    )
    # A text other than the documented two may mean the same.
    is_known = id_type in _MEMBERSHIP_ID_TYPES.values()

    return attrs.evolve(
        result, operation=operation, id_type=id_type if is_known else None
    )


def find_created(
    cohorts: Iterable[Cohort], spec: Upload, *, attempted_at: datetime
) -> tuple[Sequence[Cohort], Sequence[Cohort]]:
    """
    Return the listed cohorts that an upload, sent after *attempted_at*, may have
    created: certain and possible ones.

    The certain ones have the same name, owner, type and time; the possible ones have
    the same name and are not known to be older.
    """
    # The service's times are whole seconds.
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
        # "manual_upload" has been seen; a behavioral cohort is "redshift".
        and (cohort.type is None or "upload" in cohort.type or "manual" in cohort.type)
    ]

    return certain, possible


def checked_share(max_removed: object) -> float:
    """Return the share of members that may be removed, or raise `InvalidInputError`."""
    if not isinstance(max_removed, int | float) or not 0 <= max_removed <= 1:
        raise InvalidInputError(
            f"max_removed must be a share from 0.0 to 1.0, got {max_removed!r}"
        )

    return max_removed


def check_replacement(
    cohort_id: str, cohort: Cohort | None, new: int, max_removed: float
) -> None:
    """
    Raise `RemovalGuardError` if a replacement would remove too many of the members.

    Only counts are compared: the members themselves would cost an export. *cohort* is
    the one in the list, if any, and *new* the number of new ids or a lower bound of it.
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


def _body(fields: Mapping[str, object], *ids: Pieces) -> bytes:
    # A quote inside a text is escaped, so this can only be our own key.
    key = b'"ids":['
    first, *others = json.dumps(fields, separators=(",", ":")).encode().split(key)
    parts = [first]

    for pieces, after in zip(ids, others, strict=True):
        parts += [key, *pieces, after]

    return b"".join(parts)


def _unclear_answer(
    request: Request, response: Response, error: object, path: str
) -> CohortsError:
    if error and (refusal := refusal_in(request, response)):
        return refusal

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
            f"app_id must be the project's number, a whole number above zero, got "
            f"{value!r}"
        )


def _check_owner(value: object) -> None:
    if value is None:
        raise InvalidInputError(
            "an upload needs an owner: pass owner= with the login email of the "
            "cohort's owner in Amplitude, give it to the client, or set AMPLITUDE_OWNER"
        )

    _check_text("owner", value)
