"""Again, or not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amplitude_cohorts_async._core.messages import Replay
from amplitude_cohorts_async._core.retrying import (
    NO_RETRIES,
    may_ask_again,
    may_repeat,
    retry_delay,
    was_refused,
)
from amplitude_cohorts_async.errors import (
    BadRequestError,
    CohortsError,
    ConnectionFailedError,
    RateLimitedError,
    RequestTimeoutError,
    ServerError,
    UnexpectedResponseError,
)
from amplitude_cohorts_async.policies import Retrying

SENT = ConnectionFailedError("cut", may_have_happened=True)
UNSENT = ConnectionFailedError("refused", may_have_happened=False)
TIMEOUT = RequestTimeoutError("late", may_have_happened=True)
BUSY = ServerError("busy", status=503)
BROKEN = ServerError("broken", status=500)
UNKNOWN = ServerError("unknown", status=501)
LIMITED = RateLimitedError("slow", status=429)
WRONG = BadRequestError("wrong", status=400)
STRANGE = UnexpectedResponseError("strange")

FAILURES = [SENT, UNSENT, TIMEOUT, BUSY, BROKEN, UNKNOWN, LIMITED, WRONG, STRANGE]


@pytest.mark.parametrize(
    ("replay", "repeated"),
    [
        (Replay.SAFE, [SENT, UNSENT, TIMEOUT, BUSY, BROKEN, LIMITED]),
        (Replay.COSTLY, [UNSENT, BUSY, LIMITED]),
        (Replay.UNSAFE, [UNSENT, LIMITED]),
    ],
)
def test_what_may_be_repeated(replay: Replay, repeated: list[CohortsError]) -> None:
    """The less a repetition may cost, the more failures are worth one."""
    assert repeated == [each for each in FAILURES if may_repeat(replay, each)]


def test_what_surely_spent_no_export() -> None:
    """What was refused at the door, or never left."""
    assert [UNSENT, BUSY, LIMITED, WRONG] == [e for e in FAILURES if was_refused(e)]


def test_what_leaves_a_status_open() -> None:
    """The next question comes anyway, unless the answer says that it is in vain."""
    asked_again = [SENT, UNSENT, TIMEOUT, BUSY, BROKEN, UNKNOWN, LIMITED]

    assert asked_again == [e for e in FAILURES if may_ask_again(e)]


def test_waits_grow() -> None:
    """Each wait is about twice the last, up to a most."""
    retrying = Retrying(attempts=20, wait_initial=1.0, wait_max=8.0)
    waits = [
        retry_delay(retrying, Replay.SAFE, SENT, attempt=n, waited=0.0, jitter=1.0)
        for n in range(1, 7)
    ]

    assert [1.0, 2.0, 4.0, 8.0, 8.0, 8.0] == waits


def test_retry_after_is_kept() -> None:
    """
    What the service asks for is waited, and a little more: not all come at once.
    """
    limited = RateLimitedError("slow", status=429, retry_after=20.0)

    for jitter in (0.0, 1.0):
        wait = retry_delay(
            Retrying(), Replay.SAFE, limited, attempt=1, waited=0.0, jitter=jitter
        )
        assert wait is not None
        assert 20.0 < wait <= 20.5


@given(
    replay=st.sampled_from(Replay),
    failure=st.sampled_from(FAILURES)
    | st.builds(
        RateLimitedError,
        st.just("slow"),
        status=st.just(429),
        retry_after=st.none() | st.floats(0, 1e6),
    ),
    jitter=st.floats(0, 1),
    retrying=st.builds(
        Retrying,
        attempts=st.integers(1, 50),
        wait_initial=st.floats(0, 100),
        wait_max=st.floats(0, 100),
        timeout=st.floats(0, 1_000),
        max_retry_after=st.floats(0, 1_000),
    ),
)
def test_an_end_is_certain(
    replay: Replay, failure: CohortsError, jitter: float, retrying: Retrying
) -> None:
    """
    Never more sendings than attempts, never more waits than the budget, none negative.
    """
    attempt, waited = 1, 0.0

    while (
        wait := retry_delay(
            retrying, replay, failure, attempt=attempt, waited=waited, jitter=jitter
        )
    ) is not None:
        assert wait >= 0
        attempt, waited = attempt + 1, waited + wait

    assert attempt <= retrying.attempts
    assert waited <= retrying.timeout


@given(
    st.sampled_from([Replay.COSTLY, Replay.UNSAFE]),
    st.integers(1, 5),
    st.sampled_from([SENT, TIMEOUT, BROKEN]),
)
def test_nothing_costly_is_repeated_in_doubt(
    replay: Replay, attempt: int, failure: CohortsError
) -> None:
    """
    A request that may have been heard is not sent again when that may cost something.
    """
    assert (
        retry_delay(
            Retrying(), replay, failure, attempt=attempt, waited=0.0, jitter=0.5
        )
        is None
    )


def test_no_retries() -> None:
    """The policy of a single attempt has no second one."""
    assert (
        retry_delay(NO_RETRIES, Replay.SAFE, SENT, attempt=1, waited=0.0, jitter=0.5)
        is None
    )


@given(attempt=st.integers(1, 5_000))
def test_many_attempts_do_not_overflow(attempt: int) -> None:
    """The backoff of the thousandth attempt is the longest one, not an error."""
    retrying = Retrying(attempts=10_000)
    wait = retry_delay(
        retrying, Replay.SAFE, SENT, attempt=attempt, waited=0.0, jitter=1.0
    )

    assert wait is not None
    assert wait <= retrying.wait_max
