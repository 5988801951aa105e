"""What every limiter promises, as tests for a limiter of your own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise

import attrs

from ..errors import QuotaWaitError
from ..limiters import Kind, Limiter
from ..limits import Limits, Rate

__all__ = ("LimiterConformance",)

_NEXT_MONTH = datetime(2030, 1, 8, tzinfo=UTC)
_PATIENCE = 20.0


class LimiterConformance:
    """
    The promises of a limiter that is shared, each as a test.

    Subclass it in your tests and write `make()`:

        class TestGateway(LimiterConformance):
            def make(self, limits):
                return GatewayLimiter(self.url, limits)

    Any plugin that runs asynchronous tests runs these; fixtures of the subclass may
    prepare what `make()` needs. They take real time, some seconds in all, and are not
    confused by a slow machine. A limiter that keeps less than `Limits` leaves out a
    test with ``test_... = None``.
    """

    limits: Limits = Limits(
        exports=Rate(4, per=0.5), polls=None, clock_margin=0.01, release_delay=0.1
    )
    """The limits of most tests: the documented ones, in a hundredth of the time."""

    long: float = 1.0
    """Seconds of a request that is long; make it longer than three of your leases."""

    def make(self, limits: Limits) -> Limiter:
        """Return a limiter of one app; all those of one test share its places."""
        raise NotImplementedError

    async def test_the_fifth_export_waits_for_a_window(self) -> None:
        """Four start at once; the fifth a window after the end of the first one."""
        async with self._members(1) as (limiter,):
            starts = sorted(await asyncio.gather(*(_hold(limiter) for _ in range(5))))

        _check(starts[4] - starts[0] >= 0.5, "five exports started in one window")

    async def test_the_members_share_a_window(self) -> None:
        """Whichever of them asks."""
        async with self._members(2) as (one, other):
            starts = sorted(
                await asyncio.gather(*(_hold(who) for who in (one, other) * 5))
            )

        for first, fifth in zip(starts, starts[4:], strict=False):
            _check(fifth - first >= 0.5, "five exports started in one window")

    async def test_a_window_is_counted_from_the_end_of_a_request(self) -> None:
        """The service may count a request at any moment until it has answered."""
        limits = attrs.evolve(self.limits, exports=Rate(1, per=0.3))

        async with self._members(2, limits) as (one, other):
            start = await _hold(one, seconds=0.3)
            after = await _hold(other)

        _check(after - start >= 0.6, "a window began with the start of a request")

    async def test_two_windows_are_kept(self) -> None:
        """The long one also where the short one has room."""
        rates = [Rate(2, per=0.2), Rate(3, per=0.8)]
        limits = attrs.evolve(self.limits, exports=rates)

        async with self._members(2, limits) as (one, other):
            starts = sorted(
                await asyncio.gather(*(_hold(who) for who in (one, other) * 2))
            )

        _check(starts[2] - starts[0] >= 0.2, "the short window was not kept")
        _check(starts[3] - starts[0] >= 0.8, "the long window was not kept")

    async def test_exports_of_a_member_start_in_order(self) -> None:
        """First come, first served."""
        async with self._members(1) as (limiter,):
            starts = await asyncio.gather(*(_hold(limiter) for _ in range(9)))

        # Those of one window start together, in any order of the last milliseconds.
        in_order = all(after > before - 0.1 for before, after in pairwise(starts))
        _check(in_order, f"the exports started in another order: {starts}")

    async def test_no_more_requests_are_in_flight_than_allowed(self) -> None:
        """Of all members and kinds together, and that many are."""
        running = 0
        seen: list[int] = []
        limits = attrs.evolve(self.limits, in_flight=3, exports=())

        async def run(limiter: Limiter, kind: Kind) -> None:
            """Count those that run meanwhile."""
            nonlocal running
            async with limiter.slot(kind):
                running += 1
                seen.append(running)
                await asyncio.sleep(0.05)
                running -= 1

        async with self._members(2, limits) as members:
            kinds: list[Kind] = ["export", "poll", "file", "write", "other"]
            await asyncio.gather(*(run(who, kind) for who in members for kind in kinds))

        _check(max(seen) == 3, f"{max(seen)} requests were in flight, 3 are allowed")

    async def test_a_long_request_keeps_its_place(self) -> None:
        """However long: the place is its own until it ends."""
        limits = attrs.evolve(self.limits, in_flight=1)

        async with self._members(2, limits) as (one, other):
            async with one.slot("file"):
                waiting = asyncio.create_task(_hold(other, "file"))
                await asyncio.sleep(self.long)
                ended = time.monotonic()
                # The task of the other has had its chance.
                started = waiting.done()
            after = await waiting

        _check(not started and after >= ended, "a request lost its place")

    async def test_a_pause_is_everybodys(self) -> None:
        """A 429 for one holds back all, until the moment the service names."""
        async with self._members(2) as (one, other):
            await _hold(other, "poll")
            started = time.monotonic()
            await _refuse(one, "poll", retry_after=0.4)
            starts = await asyncio.gather(_hold(other, "poll"), _hold(one))

        _check(min(starts) - started >= 0.4, "a request started during the pause")

    async def test_429s_spread_exports_out_for_everybody(self) -> None:
        """After one refused export they start an eighth of a second apart."""
        async with self._members(2) as (one, other):
            await _hold(other, "poll")
            await _refuse(one, "export", retry_after=0.01)
            starts = sorted(
                await asyncio.gather(*(_hold(who) for who in (one, other, other, one)))
            )

        # Three eighths, less what a busy machine adds between a turn and a start.
        _check(starts[-1] - starts[0] >= 0.25, "the exports were not spread out")

    async def test_a_429_for_concurrency_withholds_a_place(self) -> None:
        """Others evidently use the app: one place of two is theirs for a while."""
        limits = attrs.evolve(self.limits, in_flight=2, exports=())

        async with self._members(2, limits) as (one, other):
            await _refuse(one, "poll", retry_after=0.01, details="concurrent limit")
            first, second = sorted(
                await asyncio.gather(_hold(one, "file", 0.2), _hold(other, "file", 0.2))
            )

        _check(second - first >= 0.2, "no place was withheld")

    async def test_the_last_place_is_never_withheld(self) -> None:
        """Otherwise no request could start any more."""
        limits = attrs.evolve(self.limits, in_flight=1, exports=())

        async with self._members(1, limits) as (limiter,):
            await _refuse(limiter, "poll", retry_after=0.01, details="concurrent limit")
            await _hold(limiter, "poll")

    async def test_a_429_for_the_rate_of_a_file_makes_polls_count(self) -> None:
        """For all members: the service said that more than exports count."""
        details = "Exceeded rate limit with query of cost 1"

        async with self._members(2) as (one, other):
            await _hold(other, "poll")
            await _refuse(one, "file", retry_after=0.01, details=details)
            starts = sorted(
                await asyncio.gather(*(_hold(other, "poll") for _ in range(5)))
            )

        _check(starts[4] - starts[0] >= 0.5, "five polls started in one window")

    async def test_writers_of_one_cohort_take_turns(self) -> None:
        """Across members; another cohort's writers do not wait."""
        log: list[str] = []

        async def write(limiter: Limiter, cohort_id: str) -> None:
            """Log the beginning and the end."""
            async with limiter.cohort_lock(cohort_id):
                log.append(f"{cohort_id} in")
                await asyncio.sleep(0.1)
                log.append(f"{cohort_id} out")

        async with self._members(2) as (one, other):
            await asyncio.gather(write(one, "a"), write(other, "a"), write(other, "b"))

        words = [word for word in log if word.startswith("a")]
        _check(words == ["a in", "a out"] * 2, f"two wrote to one cohort: {log}")
        last_a = len(log) - 1 - log[::-1].index("a in")
        _check(log.index("b in") < last_a, "a writer waited for another cohort's")

    async def test_a_wait_longer_than_the_callers_is_refused_at_once(self) -> None:
        """For a window and for a pause."""
        limits = attrs.evolve(self.limits, exports=Rate(2, per=60), max_wait=5)

        async with self._members(2, limits) as (one, other):
            await _hold(one)
            await _hold(other)
            seconds = await _refused_wait(one, "export")
            await _refuse(one, "poll", retry_after=30)
            paused = await _refused_wait(other, "poll")

        _check(50 < seconds < 61, f"the wait for a window is said to be {seconds} s")
        _check(20 < paused < 31, f"the wait for a pause is said to be {paused} s")

    async def test_a_try_does_not_wait(self) -> None:
        """It is over in about a second; and has the slot when it asks again later."""
        limits = attrs.evolve(self.limits, in_flight=1)

        async with self._members(2, limits) as (one, other):
            await _hold(other, "file")
            async with one.slot("file"):
                began = time.monotonic()
                error = await _refused_try(other, "file")
                seconds = time.monotonic() - began
            async with asyncio.timeout(_PATIENCE):
                await _tick(other, "file", ticket=error.ticket)

        # A second, and what a busy machine adds.
        _check(seconds < 5, f"a try waited for {seconds:.1f} s")
        _check(error.seconds > 0, f"a try is to ask again in {error.seconds} s")

    async def test_those_who_try_and_those_who_wait_keep_the_limits(self) -> None:
        """No window has five exports; all are served in the end."""
        async with self._members(2) as (one, other), asyncio.timeout(_PATIENCE):
            starts = sorted(
                await asyncio.gather(
                    *(_tick(who) for who in (one, other) * 3),
                    *(_hold(who) for who in (one, other) * 3),
                )
            )

        for first, fifth in zip(starts, starts[4:], strict=False):
            _check(fifth - first >= 0.5, "five exports started in one window")

    async def test_a_ticket_of_another_limiter_is_as_none(self) -> None:
        """Any text is; it takes no place of anybody's, and is no error."""
        async with self._members(1) as (limiter,):
            for text in ("", "no ticket", "f" * 32, "\ud800", "0" * 10_000):
                async with limiter.try_slot("other", ticket=text):
                    pass

    async def test_an_error_inside_comes_out_as_it_is(self) -> None:
        """No group, no other class; and the place is free a moment later."""
        limits = attrs.evolve(self.limits, in_flight=1)

        async with self._members(1, limits) as (limiter,):
            error = KeyError("mine")
            caught: BaseException | None = None
            try:
                async with limiter.slot("poll"):
                    raise error
            except KeyError as raised:
                caught = raised
            await _hold(limiter, "poll")

        _check(caught is error, f"the error came out as {caught!r}")

    async def test_cancelling_leaves_no_place_taken(self) -> None:
        """After a hundred cancellations and the release delay all places are free."""
        everybody_is_in = asyncio.Barrier(5)

        async def meet(limiter: Limiter) -> None:
            """Hold a place until all have one."""
            async with limiter.slot("file"):
                await everybody_is_in.wait()

        async with self._members(2) as members:
            for number in range(100):
                task = asyncio.create_task(_hold(members[number % 2], "poll", 0.002))
                await asyncio.sleep(number / 20_000)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            async with asyncio.timeout(_PATIENCE):
                await asyncio.gather(*(meet(members[n % 2]) for n in range(5)))

    async def test_a_cancelled_wait_holds_up_nobody(self) -> None:
        """Neither for a window nor for a place in flight."""
        limits = attrs.evolve(self.limits, in_flight=1)

        async with self._members(2, limits) as (one, other):
            for kind in ("export", "poll"):
                async with one.slot("file"):
                    waiting = asyncio.create_task(_hold(other, kind))
                    await asyncio.sleep(0.1)
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
                async with asyncio.timeout(_PATIENCE):
                    await _hold(one, kind)

    async def test_the_members_count_together(self) -> None:
        """What one adds the others see."""
        async with self._members(2) as (one, other):
            await one.counter.add("2029-12:*", 2, until=_NEXT_MONTH)
            count = await other.counter.add("2029-12:*", -1, until=_NEXT_MONTH)

        _check(count == 1, f"the counter is {count}")

    async def test_the_starts_to_expect_are_in_order(self) -> None:
        """As many as were asked for, none of them in the past."""
        async with self._members(1) as (limiter,):
            await _hold(limiter)
            starts = limiter.expected_starts(9, limits=self.limits)

        _check(len(starts) == 9, f"{len(starts)} starts were told for 9 exports")
        _check(list(starts) == sorted(starts), "the starts are not in order")
        _check(starts[0] >= 0, "an export is expected in the past")
        _check(starts[8] >= 0.5, "nine exports are expected in two windows")

    async def test_polls_keep_their_pace(self) -> None:
        """A burst of two, then ten a second."""
        limits = attrs.evolve(self.limits, polls=Rate(2, per=0.2))

        async with self._members(1, limits) as (limiter,):
            # A busy machine may tell of the first one late.
            began = time.monotonic()
            starts = await asyncio.gather(*(_hold(limiter, "poll") for _ in range(7)))

        _check(max(starts) - began >= 0.4, "the polls kept no pace")

    @asynccontextmanager
    async def _members(
        self, count: int, limits: Limits | None = None
    ) -> AsyncGenerator[list[Limiter]]:
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(
                    aclosing(self.make(limits or self.limits))
                )
                for _ in range(count)
            ]


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


async def _hold(limiter: Limiter, kind: Kind = "export", seconds: float = 0.0) -> float:
    """Hold a slot for so long; tell when it began."""
    async with limiter.slot(kind):
        start = time.monotonic()
        await asyncio.sleep(seconds)

    return start


async def _tick(
    limiter: Limiter, kind: Kind = "export", *, ticket: str | None = None
) -> float:
    """Try again at each due time; tell when it began."""
    while True:
        try:
            async with limiter.try_slot(kind, ticket=ticket):
                return time.monotonic()
        except QuotaWaitError as error:
            ticket = error.ticket
            await asyncio.sleep(error.seconds)


async def _refused_try(limiter: Limiter, kind: Kind) -> QuotaWaitError:
    """Try in vain."""
    try:
        async with limiter.try_slot(kind):
            pass
    except QuotaWaitError as error:
        return error

    raise AssertionError("a try was granted a place that another one holds")


async def _refuse(
    limiter: Limiter, kind: Kind, *, retry_after: float, details: str = ""
) -> None:
    """Let one request be answered 429."""
    async with limiter.slot(kind) as permit:
        permit.throttled(retry_after, details=details)


async def _refused_wait(limiter: Limiter, kind: Kind) -> float:
    """Tell how long the wait would be that is refused."""
    try:
        await _hold(limiter, kind)
    except QuotaWaitError as error:
        return error.seconds

    raise AssertionError("a wait longer than max_wait was not refused")
