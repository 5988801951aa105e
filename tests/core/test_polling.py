"""What to do next about a job, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.job_rows import ExportRow, ExportState
from amplitude_cohorts_async._core.polling import (
    Download,
    GiveUp,
    JobFailed,
    JobState,
    Poll,
    Step,
    may_be_unknown,
    next_step,
    step_due_in,
)
from amplitude_cohorts_async._core.tokens import ExportRef
from amplitude_cohorts_async.models import ExportStatus
from amplitude_cohorts_async.policies import Polling

POLLING = st.builds(
    Polling,
    initial_delay=st.floats(0, 1e4),
    interval=st.floats(0.01, 1e4),
    jitter=st.floats(0, 0.99),
)
SHARE = st.floats(0, 1)

RUNNING = ExportStatus(done=False, word="JOB INPROGRESS")
READY = ExportStatus(done=True, word="JOB COMPLETED")


def first(polling: Polling, age: float | None, jitter: float) -> float:
    """Return the delay before the first question."""
    step = next_step(JobState(age=age), polling, left=1e9, jitter=jitter)
    assert isinstance(step, Poll)

    return step.after


@given(POLLING, st.floats(-1e6, 1e6), SHARE)
def test_the_first_question(polling: Polling, age: float, share: float) -> None:
    """
    It never comes later than the initial delay and its jitter, whatever the age told.
    """
    delay = first(polling, age, share)

    assert 0 <= delay <= polling.initial_delay * (1 + polling.jitter) + 1e-6
    assert 0 == first(polling, 2e4 + polling.initial_delay, share)
    assert 0 == first(polling, None, share)


@given(POLLING, st.floats(0.01, 1e4), st.lists(SHARE, min_size=1, max_size=50))
def test_the_questions_after_it(
    polling: Polling, timeout: float, shares: list[float]
) -> None:
    """
    No wait is shorter than the jitter allows, but the last, which ends at the deadline.
    """
    state = JobState(age=0.0, polls=1, status=RUNNING)
    left = timeout

    for share in shares:
        step = next_step(state, polling, left=left, jitter=share)

        if isinstance(step, GiveUp):
            assert left <= 0
            return

        assert isinstance(step, Poll)
        least = polling.interval * (1 - polling.jitter)
        assert step.after == left or step.after >= least - 1e-9
        left -= step.after
        assert left >= 0


def test_the_defaults() -> None:
    """Ten seconds to the first question, five to each other, a fifth up or down."""
    polling, asked = Polling(), JobState(age=0.0, polls=1)

    assert [8.0, 10.0, 12.0] == [
        first(polling, 0.0, share) for share in (0.0, 0.5, 1.0)
    ]
    assert [Poll(4.0), Poll(5.0), Poll(6.0)] == [
        next_step(asked, polling, left=1e9, jitter=share) for share in (0.0, 0.5, 1.0)
    ]


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (JobState(age=None), Poll(0.0)),
        (JobState(age=0.0, status=READY), Download()),
        (JobState(age=0.0, polls=9, status=READY), Download()),
        (
            JobState(age=0.0, polls=1, status=JobFailed("JOB FAILED")),
            JobFailed("JOB FAILED"),
        ),
        (JobState(age=0.0, polls=1, status=RUNNING), GiveUp()),
        (JobState(age=0.0, polls=1), GiveUp()),
    ],
)
def test_the_step_at_the_deadline(state: JobState, step: Step) -> None:
    """What is known decides first; a job that nobody asked yet is asked once."""
    assert step == next_step(state, Polling(), left=0.0, jitter=0.5)


# -- As a job store has it ----------------------------------------------------

NOW = datetime(2026, 6, 15, 12, tzinfo=UTC)


def stored(
    *, poll_in: float | None, age: float = 0.0, state: str = "requested"
) -> ExportRow:
    """Return an export that ticks poll."""
    return ExportRow(
        id="e1",
        cohort_id="c1",
        created_at=NOW,
        state=ExportState(state),
        request_id="r1",
        requested_at=NOW - timedelta(seconds=age),
        poll_at=None if poll_in is None else NOW + timedelta(seconds=poll_in),
    )


def due(polling: Polling, export: ExportRow, jitter: float = 0.5) -> float:
    """Return in how many seconds its poll is due."""
    return step_due_in(export, polling, now=NOW, jitter=jitter)


@given(POLLING, SHARE, st.floats(0, 1e6))
def test_what_no_tick_has_polled(polling: Polling, share: float, age: float) -> None:
    """It is polled as by a call that goes on with it."""
    export = stored(poll_in=None, age=age)

    assert first(polling, age, share) == pytest.approx(
        due(polling, export, share), abs=1e-5
    )


@given(POLLING, st.floats(-1e6, 1e6))
def test_what_a_tick_has_polled(polling: Polling, poll_in: float) -> None:
    """At once when its time has come, or is later than after a whole wait."""
    seconds = due(polling, stored(poll_in=poll_in))
    longest = max(polling.initial_delay, polling.interval) * (1 + polling.jitter)

    # A stored time has microseconds.
    if poll_in < 0.05 - 1e-5 or poll_in > longest + 0.05 + 1e-5:
        assert 0 == seconds
    elif 0.05 + 1e-5 < poll_in < longest + 0.05 - 1e-5:
        assert seconds == pytest.approx(poll_in, abs=1e-5)


def test_what_is_ready_is_fetched() -> None:
    """It is not polled again."""
    export = stored(poll_in=5, state="ready")

    assert 0 == due(Polling(), export)


@pytest.mark.parametrize(("seconds", "after"), [(-600, 0), (5, 5), (600, 0)])
def test_clocks_of_hosts_differ(seconds: float, after: float) -> None:
    """A poll that is due in ten minutes was stored by a clock that is ahead."""
    assert after == due(Polling(), stored(poll_in=seconds))


@pytest.mark.parametrize(
    ("age", "may_be"),
    [
        (None, False),
        (-86_401, False),
        (-3600, True),
        (0, True),
        (299, True),
        (301, False),
    ],
)
def test_a_young_export_may_be_unknown(age: float | None, may_be: bool) -> None:
    """One of hours ahead was requested by a wrong clock; one of days is nonsense."""
    at = None if age is None else NOW - timedelta(seconds=age)
    ref = ExportRef(request_id="r", requested_at=at)

    assert may_be == may_be_unknown(ref, now=NOW, answered_at=None)


def test_the_clock_of_the_service_tells_a_young_export() -> None:
    """To a host whose clock is an hour ahead it looks old."""
    ref = ExportRef(request_id="r", requested_at=NOW, as_of=NOW)
    ahead, soon = NOW + timedelta(hours=1), NOW + timedelta(seconds=9)

    assert may_be_unknown(ref, now=ahead, answered_at=soon)
    assert not may_be_unknown(ref, now=ahead, answered_at=ahead)
