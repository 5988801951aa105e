"""
What uploads and updates do to a cohort.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence

import attrs

from .answers import Refused
from .bodies import Named, Operation, Update, Upload
from .cohorts import MANUAL, CohortRecord
from .ledger import RequestRecord
from .members import ListedMembers
from .options import KnownUsers
from .service import Service

__all__ = ("Uploaded", "results_json", "update", "upload")

_SAMPLE = 10


@attrs.frozen(kw_only=True)
class Uploaded:
    """
    What came of an upload.

    Attributes:
        cohort: None when nothing was to be saved.
    """

    cohort: CohortRecord | None
    matched: int
    total: int
    invalid_sample: Sequence[str]


def upload(service: Service, body: Upload, record: RequestRecord) -> Uploaded:
    """
    Make a cohort of the ids of an upload, or give them to one there is.
    """
    valid, invalid = _sorted_out(body.ids, service.options.known_users)
    sample = invalid[:_SAMPLE]
    _check_app(service, body)
    _check_upload(body, valid, sample)
    target = _target(service, body, record)

    if body.skip_save:
        return Uploaded(
            cohort=None, matched=len(valid), total=len(body.ids), invalid_sample=sample
        )

    members = ListedMembers()
    _apply(members, "ADD", body.named, valid)
    _check_size(service, members)
    cohort = target or _create(service, body, record)
    _save(service, cohort, members)

    return Uploaded(
        cohort=cohort, matched=len(valid), total=len(body.ids), invalid_sample=sample
    )


def update(
    service: Service, body: Update, record: RequestRecord
) -> list[tuple[Operation, list[str]]]:
    """
    Add and remove members, in the order of the entries.

    Returns:
        Each entry, and the ids of it that nobody has.
    """
    cohort = service.open_for_writing(body.cohort_id, record)

    if body.group != cohort.group:
        group = cohort.group or "User"
        raise Refused(400, f"count_group must be {group}", rule="body")

    sorted_out = [
        (entry, *_sorted_out(entry.ids, service.options.known_users))
        for entry in body.operations
    ]
    results = [(entry, invalid) for entry, _, invalid in sorted_out]

    if not body.skip_invalid and any(invalid for _, invalid in results):
        raise _invalid_ids(body, results)

    members = _own(cohort, service.options.quotas.members - _added(body))

    for entry, valid, _ in sorted_out:
        _apply(members, entry.operation, entry.named, valid)

    _check_size(service, members)
    _save(service, cohort, members)

    return results


def results_json(
    results: Sequence[tuple[Operation, list[str]]],
) -> list[dict[str, object]]:
    """
    Return the documented `memberships_result`.
    """
    return [
        {
            "skipped_ids": skipped,
            "id_type": entry.id_type,
            "operation": entry.operation,
        }
        for entry, skipped in results
    ]


def _sorted_out(ids: Sequence[str], known: KnownUsers) -> tuple[list[str], list[str]]:
    knows: Callable[[str], bool] = known if callable(known) else known.__contains__
    valid = [name for name in ids if knows(name)]

    if len(valid) == len(ids):
        return valid, []

    return valid, [name for name in ids if not knows(name)]


def _check_app(service: Service, body: Upload) -> None:
    ours = service.options.app_id

    if body.app_id is not None and body.app_id != ours:
        raise Refused(
            400, f"app_id {body.app_id} is not the project of this key, {ours}"
        )


def _check_upload(body: Upload, valid: Sequence[str], sample: Sequence[str]) -> None:
    metadata = {
        "matched": len(valid),
        "totals": len(body.ids),
        "invalid_ids_sample": sample,
    }

    if not valid:
        raise Refused(400, "No valid ids", metadata=metadata)

    if sample and not body.skip_invalid:
        raise Refused(400, "Invalid ids", metadata=metadata)


def _target(
    service: Service, body: Upload, record: RequestRecord
) -> CohortRecord | None:
    if body.replaces is None:
        return None

    cohort = service.open_for_writing(body.replaces, record)

    if body.group != cohort.group:
        raise Refused(400, f"cg must be {cohort.group or 'User'}", rule="body")

    return cohort


def _create(service: Service, body: Upload, record: RequestRecord) -> CohortRecord:
    now = service.clock.utcnow()
    cohort = CohortRecord(
        id=service.new_id(string.digits + string.ascii_lowercase, 8),
        name=body.name,
        app_id=service.options.app_id,
        members=ListedMembers(),
        group=body.group,
        type=MANUAL,
        owners=(body.owner,) if body.owner else (),
        published=body.published,
        created_at=now,
        modified_at=now,
        computed_at=now,
        writer=record,
    )
    service.cohorts[cohort.id] = cohort

    return cohort


def _added(body: Update) -> int:
    return sum(len(entry.ids) for entry in body.operations if entry.operation == "ADD")


def _own(cohort: CohortRecord, most: int) -> ListedMembers:
    """
    Return members that may be changed: a copy, if that may have to be undone.
    """
    members = cohort.members

    if not isinstance(members, ListedMembers):
        return ListedMembers(members.rows())

    return members if len(members) <= most else members.copy()


def _apply(
    members: ListedMembers, operation: str, named: Named, ids: Sequence[str]
) -> None:
    match operation, named:
        case "ADD", "name":
            members.add_names(ids)
        case "ADD", _:
            members.add_ids(ids)
        case _, "name":
            members.remove_names(ids)
        case _:
            members.remove_ids(ids)


def _check_size(service: Service, members: ListedMembers) -> None:
    most = service.options.quotas.members

    if len(members) > most:
        raise Refused(400, f"{len(members)} members; a cohort has at most {most}")


def _save(service: Service, cohort: CohortRecord, members: ListedMembers) -> None:
    cohort.members = members
    cohort.modified_at = cohort.computed_at = service.clock.utcnow()


def _invalid_ids(
    body: Update, results: Sequence[tuple[Operation, list[str]]]
) -> Refused:
    return Refused(
        400,
        "Invalid ids",
        metadata={
            "cohort_id": body.cohort_id,
            "memberships_result": results_json(results),
        },
    )
