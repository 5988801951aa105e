"""The card of an export: its state, and what tells it from others of its cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import attrs

from ...jobs import JobRecord
from ...models import Cohort
from ..fastapi.records import ExportRoot
from ..fastapi.schemas import ExportState
from ..fastapi.store_view import StoreView
from .downloads import Download, Downloads

__all__ = ("Card", "cards_of")


@attrs.frozen(kw_only=True)
class Card:
    """
    An export, as the page shows it.

    Attributes:
        state: As the store has it.
        title: The cohort's name, or its id.
        members: Of the cohort, as it is listed; None if it is not.
        started_at: When it was ordered; None if the store does not tell.
        request_id: The service's id; None before it is known.
        download: How far its file is; None if this process receives none of it.
        rows: Of its file, if this process received it.
    """

    state: ExportState
    title: str
    members: int | None = None
    started_at: datetime | None = None
    request_id: str | None = None
    download: Download | None = None
    rows: int | None = None


def cards_of(
    view: StoreView,
    states: Sequence[ExportState],
    cohorts: Mapping[str, Cohort | None],
    downloads: Downloads,
) -> list[Card]:
    """
    Return the cards of some exports.

    Args:
        cohorts: By their ids, as they are listed.
    """
    return [
        _card(
            state,
            view.record(state.id),
            cohorts.get(state.cohort_id),
            view.root,
            downloads,
        )
        for state in states
    ]


def _card(
    state: ExportState,
    record: JobRecord | None,
    cohort: Cohort | None,
    root: ExportRoot,
    downloads: Downloads,
) -> Card:
    request_id = None if record is None else record.request_id

    return Card(
        state=state,
        title=(cohort and cohort.name) or f"Cohort {state.cohort_id}",
        members=None if cohort is None else cohort.size,
        started_at=_started_at(record, root) or state.requested_at,
        request_id=request_id,
        download=None if request_id is None else downloads.find(request_id),
        rows=None if request_id is None else downloads.rows(request_id),
    )


def _started_at(record: JobRecord | None, root: ExportRoot) -> datetime | None:
    """Return when the delivery began that the card is about."""
    if record is None:
        return None

    mine = root.delivery(record)
    deliveries = record.deliveries if mine is None else [mine]

    return deliveries[-1].begun_at if deliveries else None
