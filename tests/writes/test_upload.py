"""Uploads: every id once, every cohort once, whatever happens on the way."""

from __future__ import annotations

import errno
import json
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from io import BufferedRandom, FileIO
from pathlib import Path
from typing import BinaryIO

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amplitude_cohorts_async import CohortsClient, errors
from amplitude_cohorts_async._io.http.transport import Transport
from amplitude_cohorts_async._writes import batches as batches_module
from amplitude_cohorts_async._writes import id_stream as id_stream_module
from amplitude_cohorts_async._writes import upload as upload_module
from amplitude_cohorts_async._writes import writer as writer_module
from amplitude_cohorts_async._writes.writer import Writer, open_writer
from amplitude_cohorts_async.events import BatchWritten, Event
from amplitude_cohorts_async.models import IdType, Routes, UploadReport
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from amplitude_cohorts_async.testing.faults import (
    Fault,
    broken,
    html,
    lost_answer,
    refused,
    throttled,
    works,
)
from support.canary import API_KEY, SECRET_KEY
from support.fault_server import FaultServer, Reply, json_reply
from support.limiters import PlaceLosing

OWNER = "datamonster@amplitude.com"
APP = 153957


@pytest.fixture
def batches_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten ids a request, so that a few ids make many."""
    monkeypatch.setattr(batches_module, "MOST_IDS", 10)
    monkeypatch.setattr(id_stream_module, "MOST_IDS", 10)


def users(count: int) -> list[str]:
    """So many user ids."""
    return [f"user-{number}" for number in range(count)]


async def upload(
    client: CohortsClient, ids: object, name: str = "Buyers", **options: object
) -> UploadReport:
    """Upload user ids to the emulator's project."""
    keywords = {"id_type": IdType.USER_ID, "app_id": APP, "owner": OWNER, **options}

    return await client.upload_cohort(name, ids, **keywords)  # type: ignore[arg-type]


async def test_a_cohort_is_made_of_all_kinds_of_ids(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """Lists, generators, async generators, sets and files: the same cohort."""
    file = tmp_path / "ids.txt"
    file.write_text("1\n2\nann\n2\n")

    async def stream() -> AsyncIterator[str | int]:
        for id_ in [1, 2, "ann", 2]:
            yield id_

    class Counter:
        """No generator, and never closed."""

        def __init__(self) -> None:
            self._left: list[str | int] = [1, 2, "ann", 2]

        def __aiter__(self) -> Counter:
            return self

        async def __anext__(self) -> str | int:
            if self._left:
                return self._left.pop()
            raise StopAsyncIteration

    for ids in (
        [1, 2, "ann", "2"],
        iter([1, 2, "ann", 2]),
        {1, 2, "ann"},
        {1: "", 2: "", "ann": ""}.keys(),
        stream(),
        Counter(),
        file,
        id_stream_module.read_ids(file),
    ):
        report = await upload(client, ids)

        assert (3, 3, 1) == (report.total, report.matched, report.batches)
        assert {"1", "2", "ann"} == emulator.members_of(str(report.cohort_id))

    assert [] == emulator.violations


@pytest.mark.big
async def test_the_service_never_sees_more_than_it_takes(
    client: CohortsClient, emulator: CohortsEmulator
):
    """250,000 ids are three requests: one that creates, two that add."""
    report = await upload(client, users(250_000))

    assert (
        UploadReport(
            cohort_id=report.cohort_id,
            total=250_000,
            matched=250_000,
            totals=100_000,
            batches=3,
            invalid_sample=[],
            skipped_ids=[],
        )
        == report
    )
    assert (1, 2) == (emulator.requests("upload"), emulator.requests("membership"))
    assert 250_000 == len(emulator.members_of(str(report.cohort_id)))
    assert [] == emulator.violations


@pytest.mark.usefixtures("batches_of_ten")
@settings(
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(numbers=st.lists(st.integers(0, 40), min_size=1), one_shot=st.booleans())
async def test_a_cohort_holds_exactly_the_ids(
    client: CohortsClient,
    emulator: CohortsEmulator,
    numbers: list[int],
    one_shot: bool,
):
    """Whatever the ids and however they come, nothing is lost and nothing extra."""
    report = await upload(client, iter(numbers) if one_shot else numbers)
    expected = {str(number) for number in numbers}

    assert expected == emulator.members_of(str(report.cohort_id))
    assert len(expected) == report.total
    assert -(-len(expected) // 10) == report.batches


async def test_unknown_ids_are_reported(
    client: CohortsClient, emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
):
    """The first request tells a sample, later ones all; the hook hears of them."""
    monkeypatch.setattr(batches_module, "MOST_IDS", 2)
    heard: list[str] = []
    ids = ["ann", "unknown-1", "bob", "unknown-2", "unknown-3", "eve"]
    report = await upload(client, ids, on_skipped=heard.extend)

    assert (6, 3) == (report.total, report.matched)
    assert ["unknown-1"] == report.invalid_sample
    assert ["unknown-2", "unknown-3"] == report.skipped_ids
    assert ["unknown-1", "unknown-2", "unknown-3"] == heard
    assert {"ann", "bob", "eve"} == emulator.members_of(str(report.cohort_id))


@pytest.mark.usefixtures("batches_of_ten")
async def test_unknown_ids_fail_the_upload_if_wanted(
    client: CohortsClient, emulator: CohortsEmulator
):
    """
    In the first request nothing is made; in a later one of a stream, which cannot be
    validated beforehand, the report tells how far it got.
    """
    with pytest.raises(errors.InvalidIdsError) as refused_at_once:
        await upload(client, ["unknown-1", "ann"], skip_invalid_ids=False)

    with pytest.raises(errors.PartialWriteError) as later:
        await upload(client, iter([*users(10), "unknown-2"]), skip_invalid_ids=False)

    assert ["unknown-1"] == refused_at_once.value.sample
    assert isinstance(later.value.__cause__, errors.InvalidIdsError)
    assert ["unknown-2"] == later.value.__cause__.sample
    assert [later.value.cohort_id] == emulator.cohort_ids
    assert "earlier ones wrote stays" in str(later.value)


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_cohort_is_replaced(client: CohortsClient, emulator: CohortsEmulator):
    """Its old members are gone, and it is still the same cohort."""
    emulator.add_cohort("1a2bc3d", members=["old-1", "old-2"])
    report = await upload(client, users(25), replace="1a2bc3d")

    assert "1a2bc3d" == report.cohort_id
    assert set(users(25)) == emulator.members_of("1a2bc3d")
    assert ["1a2bc3d"] == emulator.cohort_ids


@pytest.mark.usefixtures("batches_of_ten")
@pytest.mark.parametrize("as_stream", [False, True])
async def test_a_replacement_that_removes_too_many_is_refused(
    client: CohortsClient, emulator: CohortsEmulator, as_stream: bool
):
    """The counts are compared before a byte is written; the error has them."""
    emulator.add_cohort("1a2bc3d", members=users(100))
    ids = users(49)

    with pytest.raises(
        errors.RemovalGuardError, match=r"100 members of cohort 1a2bc3d .* counts"
    ) as raised:
        await upload(client, iter(ids) if as_stream else ids, replace="1a2bc3d")

    # A stream that is longer than one request is known by its first batch.
    at_least = 90 if as_stream else 51
    error = pickle.loads(pickle.dumps(raised.value))
    assert (at_least, 100, 0.5) == (error.removed, error.current, error.max_removed)
    assert set(users(100)) == emulator.members_of("1a2bc3d")
    assert 0 == emulator.requests("upload")


@pytest.mark.parametrize(("count", "share"), [(50, 0.5), (1, 0.99), (1, 1.0)])
async def test_a_replacement_may_remove_what_it_is_allowed_to(
    client: CohortsClient, emulator: CohortsEmulator, count: int, share: float
):
    """
    Half of the members unless another share is given; for all, the list is not asked.
    """
    emulator.add_cohort("1a2bc3d", members=users(100))
    await upload(client, users(count), replace="1a2bc3d", max_removed=share)

    assert set(users(count)) == emulator.members_of("1a2bc3d")
    assert (share < 1) == emulator.requests("list")


@pytest.mark.parametrize(
    ("hidden", "reason"),
    [({"computed": False}, "no size"), ({"published": False}, "is not in the list")],
)
async def test_a_cohort_of_unknown_size_is_not_replaced_unasked(
    client: CohortsClient,
    emulator: CohortsEmulator,
    hidden: dict[str, bool],
    reason: str,
):
    """
    Where the list does not show how many members there are, the caller has to say so.
    """
    emulator.add_cohort("1a2bc3d", members=["old"], **hidden)

    with pytest.raises(
        errors.RemovalGuardError, match=rf"{reason}.*max_removed=1\.0"
    ) as raised:
        await upload(client, ["ann"], replace="1a2bc3d")

    assert (None, None) == (raised.value.removed, raised.value.current)
    assert {"old"} == emulator.members_of("1a2bc3d")


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "half", None])
async def test_a_share_is_from_zero_to_one(
    client: CohortsClient, emulator: CohortsEmulator, share: object
):
    """Anything else is refused before a request."""
    with pytest.raises(errors.InvalidInputError, match="max_removed must be a share"):
        await upload(client, ["ann"], replace="1a2bc3d", max_removed=share)

    assert [] == emulator.log


async def test_validating_a_replacement_removes_nothing(
    client: CohortsClient, emulator: CohortsEmulator
):
    """So the guard has nothing to compare."""
    emulator.add_cohort("1a2bc3d", members=users(100))
    report = await upload(client, ["ann"], replace="1a2bc3d", validate_only=True)

    assert (1, 0) == (report.matched, emulator.requests("list"))


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_replacement_that_goes_on_is_not_guarded_again(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """What an earlier run wrote of it has removed the members already."""
    journal = tmp_path / "journal"
    keywords = {"replace": "1a2bc3d", "journal": journal}
    emulator.add_cohort("1a2bc3d", members=users(40))
    emulator.fail_next("membership", refused(400, "no"))

    with pytest.raises(errors.PartialWriteError):
        await upload(client, users(20), **keywords)

    emulator.add_cohort("1a2bc3d", members=users(1_000))
    await upload(client, users(20), **keywords)

    assert 1 == emulator.requests("list")


@pytest.mark.usefixtures("batches_of_ten")
async def test_validating_saves_nothing(
    client: CohortsClient, emulator: CohortsEmulator
):
    """Each batch is looked at, and no cohort is made."""
    report = await upload(client, [*users(24), "unknown-1"], validate_only=True)

    assert (None, 25, 24) == (report.cohort_id, report.total, report.matched)
    assert ["unknown-1"] == report.invalid_sample
    assert [] == emulator.cohort_ids
    assert (3, 0) == (emulator.requests("upload"), emulator.requests("membership"))


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_long_strict_upload_is_validated_first(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """An unknown id in its last request leaves no cohort of the first ones."""
    with pytest.raises(errors.InvalidIdsError) as raised:
        await upload(
            client,
            [*users(25), "unknown-1"],
            skip_invalid_ids=False,
            journal=tmp_path / "journal",
        )

    assert ["unknown-1"] == raised.value.sample
    assert [] == emulator.cohort_ids
    assert (3, 0) == (emulator.requests("upload"), emulator.requests("membership"))


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_long_strict_upload_goes_on_without_validating_again(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """Three requests look at all ids, then three write them, once."""
    emulator.fail_next("membership", refused(400, "no"))
    keywords = {"skip_invalid_ids": False, "journal": tmp_path / "journal"}

    with pytest.raises(errors.PartialWriteError):
        await upload(client, users(25), **keywords)

    report = await upload(client, users(25), **keywords)

    assert set(users(25)) == emulator.members_of(str(report.cohort_id))
    assert (4, 3) == (emulator.requests("upload"), emulator.requests("membership"))


@pytest.mark.usefixtures("batches_of_ten")
async def test_groups_and_amplitude_ids(
    client: CohortsClient, emulator: CohortsEmulator
):
    """Later batches speak of the same group and the same type of id."""
    groups = await upload(client, users(15), group="company")
    numbers = await upload(client, range(1, 16), id_type=IdType.AMPLITUDE_ID)

    assert set(users(15)) == emulator.members_of(str(groups.cohort_id))
    assert {str(number) for number in range(1, 16)} == emulator.members_of(
        str(numbers.cohort_id), by="amplitude_id"
    )
    assert [] == emulator.violations


@pytest.mark.usefixtures("batches_of_ten")
@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        ([], "there are no ids"),
        (iter([]), "there are no ids"),
        ("ann", "given as one text"),
        (b"ann", "given as one text"),
        (7, "given as int"),
        (Path("/nowhere/ids.txt"), "cannot be read"),
        ([*users(95), ""], "id number 96 is empty"),
        ((id_ for id_ in ["ann", "a\nb"]), "line break"),
        (range(101), "more than 100 different"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
async def test_bad_ids_are_found_before_anything_is_sent(
    client: CohortsClient,
    emulator: CohortsEmulator,
    monkeypatch: pytest.MonkeyPatch,
    ids: object,
    reason: str,
):
    """Also when they stand in the last batch, or the input is a generator."""
    monkeypatch.setattr(upload_module, "MOST_MEMBERS", 100)

    with pytest.raises(errors.InvalidInputError, match=reason):
        await upload(client, ids)

    assert [] == emulator.log


async def test_a_stream_that_fails_later_leaves_a_report(
    client: CohortsClient, emulator: CohortsEmulator, monkeypatch: pytest.MonkeyPatch
):
    """What a long generator raises ends up as the cause, whatever it is."""

    def stream() -> Iterator[str]:
        yield from users(1_250)
        raise KeyError("database")

    monkeypatch.setattr(batches_module, "MOST_IDS", 500)
    monkeypatch.setattr(id_stream_module, "MOST_IDS", 500)

    with pytest.raises(errors.PartialWriteError) as raised:
        await upload(client, stream())

    error = pickle.loads(pickle.dumps(raised.value))

    assert isinstance(raised.value.__cause__, KeyError)
    assert (2, 1_000) == (error.next_batch, error.report.total)
    assert set(users(1_000)) == emulator.members_of(error.cohort_id)


@pytest.mark.usefixtures("batches_of_ten")
async def test_ids_that_change_meanwhile_are_noticed(
    client: CohortsClient, emulator: CohortsEmulator
):
    """A list that somebody appends to, or shortens, is not what was checked."""

    class Growing(list[str]):
        """A longer list at each look."""

        def __iter__(self) -> Iterator[str]:
            self.append(f"late-{len(self)}")
            return super().__iter__()

    class Changing(list[str]):
        """Another list at each look."""

        def __iter__(self) -> Iterator[str]:
            self[-1] += "-late"
            return super().__iter__()

    for ids in (Growing(users(5)), Changing(users(5))):
        with pytest.raises(errors.InvalidInputError, match="changed while"):
            await upload(client, ids)

    assert [] == emulator.log

    for ids in (Growing(users(25)), Changing(users(25))):
        with pytest.raises(errors.PartialWriteError, match="changed while"):
            await upload(client, ids)


async def test_the_client_knows_app_and_owner(emulator: CohortsEmulator):
    """The call wins over the client; without either nothing is sent."""
    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, app_id=APP, owner="a@b.example"
    ) as client:
        first = await client.upload_cohort("A", ["x"], id_type=IdType.USER_ID)
        second = await client.upload_cohort(
            "B", ["x"], id_type=IdType.USER_ID, owner=OWNER
        )
        owners = {each.id: each.owners for each in await client.list_cohorts()}

    assert ("a@b.example",) == owners[str(first.cohort_id)]
    assert (OWNER,) == owners[str(second.cohort_id)]

    async with CohortsClient(API_KEY, SECRET_KEY, base_url=emulator.base_url) as client:
        with pytest.raises(errors.InvalidInputError, match="AMPLITUDE_APP_ID"):
            await client.upload_cohort("A", ["x"], id_type=IdType.USER_ID)
        with pytest.raises(errors.InvalidInputError, match="AMPLITUDE_OWNER"):
            await client.upload_cohort("A", ["x"], id_type=IdType.USER_ID, app_id=APP)


async def test_the_other_description_is_served(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
):
    """It knows uploads of one request only, and says so before sending."""
    async with (
        CohortsEmulator(
            api_key=API_KEY, secret_key=SECRET_KEY, clock=clock, routes="openapi"
        ) as emulator,
        CohortsClient(
            API_KEY,
            SECRET_KEY,
            base_url=emulator.base_url,
            clock=clock,
            routes=Routes.OPENAPI,
        ) as client,
    ):
        report = await client.upload_cohort("A", ["ann"], id_type=IdType.USER_ID)
        monkeypatch.setattr(batches_module, "MOST_IDS", 10)

        with pytest.raises(errors.InvalidInputError, match="at most 100,000 ids"):
            await client.upload_cohort("A", users(11), id_type=IdType.USER_ID)

        assert {"ann"} == emulator.members_of(str(report.cohort_id))
        assert report.matched is None
        assert 1 == emulator.requests("upload")


# -- Never two cohorts -----------------------------------------------------


@pytest.mark.usefixtures("batches_of_ten")
@pytest.mark.parametrize("request_number", range(4))
async def test_a_lost_answer_at_any_request_makes_no_second_cohort(
    client: CohortsClient, emulator: CohortsEmulator, request_number: int
):
    """The upload goes on as if nothing had happened, and there is one cohort."""
    step, before = (
        ("upload", 0)
        if not request_number
        else (
            "membership",
            request_number - 1,
        )
    )
    emulator.fail_next(step, *[works()] * before, lost_answer())  # type: ignore[arg-type]
    report = await upload(client, users(35))

    assert [report.cohort_id] == emulator.cohort_ids
    assert set(users(35)) == emulator.members_of(str(report.cohort_id))
    assert 1 == emulator.requests("upload")
    assert (request_number == 0) == report.adopted
    assert 35 == report.total


async def test_a_creation_whose_place_was_lost_is_looked_up(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
):
    """The cohort may exist by then: it is found in the list, not created again."""
    limiter, journal = PlaceLosing("write", clock=clock), tmp_path / "journal"

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, clock=clock, limiter=limiter
    ) as client:
        report = await upload(client, ["ann"], journal=journal)
        again = await upload(client, ["ann"], journal=journal)

    assert report.adopted
    assert [report.cohort_id] == emulator.cohort_ids == [again.cohort_id]


@pytest.mark.parametrize(
    "fault",
    [lost_answer(), broken(503), broken(500, retry_after=1.0), html()],
    ids=["lost", "503", "500", "html"],
)
async def test_an_unanswered_creation_is_never_repeated(
    client: CohortsClient, emulator: CohortsEmulator, clock: FakeClock, fault: Fault
):
    """Without a cohort in the list nobody knows, and the error says so."""
    old = await upload(client, ["ann"])
    clock.advance(60)
    emulator.fail_next("upload", fault)

    if fault == lost_answer():
        emulator.fail_next("list", broken(404), times=None)

    what = "was lost" if fault == lost_answer() else r"leaves .* open \(upload "

    with pytest.raises(errors.AmbiguousUploadError, match=f"'Buyers' {what}") as raised:
        await upload(client, ["bob"])

    error = pickle.loads(pickle.dumps(raised.value))

    assert ("Buyers", []) == (error.name, error.candidates)
    assert 2 == emulator.requests("upload")
    assert {"ann"} == emulator.members_of(str(old.cohort_id))


async def fails_with(answer: Reply, **options: object) -> errors.CohortsError:
    """Return the error of an upload that is answered so, and is in no list."""
    async with FaultServer() as server:
        server.on("/api/3/cohorts/upload", answer)
        server.on("/api/3/cohorts", json_reply({"cohorts": []}))

        async with CohortsClient(
            API_KEY, SECRET_KEY, base_url=server.url, clock=FakeClock()
        ) as client:
            with pytest.raises(errors.CohortsError) as raised:
                await upload(client, ["a"], **options)

    return raised.value


@pytest.mark.parametrize("options", [{}, {"replace": "c", "max_removed": 1.0}])
async def test_an_error_in_a_success_with_a_code_is_a_refusal(
    options: dict[str, object],
):
    """The page lists it without a status: nothing was created, and why is told."""
    metadata = {"details": "bad thing", "invalid_ids": ["a"]}
    error = await fails_with(
        json_reply({"error": {"http_code": 400, "metadata": metadata}}), **options
    )

    assert isinstance(error, errors.InvalidIdsError)
    assert (["a"], "bad thing") == (error.sample, error.details)


@pytest.mark.parametrize("code", [None, 500])
async def test_an_error_in_a_success_may_leave_the_result_open(code: int | None):
    """The answer came, so it is not called lost, and its reason is shown."""
    error = await fails_with(
        json_reply({"error": {"http_code": code, "message": "bad thing"}})
    )

    assert isinstance(error, errors.AmbiguousUploadError)
    assert "bad thing" in str(error)
    assert "lost" not in str(error)


async def test_several_that_fit_are_told(
    client: CohortsClient, emulator: CohortsEmulator
):
    """Two cohorts of one name, owner and second: neither is taken."""
    first = await upload(client, ["ann"])
    emulator.fail_next("upload", lost_answer())

    with pytest.raises(errors.AmbiguousUploadError, match="2 cohorts") as raised:
        await upload(client, ["bob"])

    assert str(first.cohort_id) in raised.value.candidates
    assert 2 == len(raised.value.candidates)


async def test_an_unpublished_cohort_is_never_found_again(
    client: CohortsClient, emulator: CohortsEmulator
):
    """The list does not show it, so the error comes at once and says why."""
    emulator.fail_next("upload", lost_answer())

    with pytest.raises(errors.AmbiguousUploadError, match="published=False"):
        await upload(client, ["ann"], published=False)

    assert 0 == emulator.requests("list")


async def test_what_was_not_done_is_no_riddle(
    client: CohortsClient, emulator: CohortsEmulator
):
    """A refusal is a refusal, and 429 is tried again: nothing had happened."""
    emulator.fail_next("upload", throttled(), refused(400, "no such owner"))

    with pytest.raises(errors.BadRequestError, match="no such owner"):
        await upload(client, ["ann"])

    assert (2, 0) == (emulator.requests("upload"), emulator.requests("list"))


async def test_a_replacement_is_simply_repeated(
    client: CohortsClient, emulator: CohortsEmulator
):
    """To fill a cohort twice with the same ids is to fill it once."""
    emulator.add_cohort("1a2bc3d", members=["old"])
    emulator.fail_next("upload", lost_answer(), broken(503))
    report = await upload(client, ["ann"], replace="1a2bc3d")

    assert not report.adopted
    assert {"ann"} == emulator.members_of("1a2bc3d")
    assert 3 == emulator.requests("upload")


# -- The journal -----------------------------------------------------------


class Killed(BaseException):
    """The end of the process, as far as our code can tell."""


@pytest.mark.slow
@pytest.mark.usefixtures("batches_of_ten")
async def test_killed_at_any_moment_it_resumes_to_the_wanted_set(
    client: CohortsClient,
    emulator: CohortsEmulator,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    clock: FakeClock,
):
    """Before and after each request and each line of the journal."""
    for moment in range(100):
        name, journal = f"Buyers {moment}", tmp_path / f"{moment}.journal"
        cohorts = len(emulator.cohort_ids)
        clock.advance(5)

        with monkeypatch.context() as patch:
            _kill_at(patch, moment)

            try:
                await upload(client, users(35), name, journal=journal)
                killed = False
            except Killed:
                killed = True

        if len(emulator.cohort_ids) == cohorts:
            # Nobody can know that the request never left; time tells.
            clock.advance(timedelta(hours=1).total_seconds())

        report = await upload(client, users(35), name, journal=journal)

        assert cohorts + 1 == len(emulator.cohort_ids)
        assert set(users(35)) == emulator.members_of(str(report.cohort_id))
        assert (35, 4) == (report.total, report.batches)

        if not killed:
            assert 4 == report.resumed
            break
    else:
        pytest.fail("it never came to its end")


def _kill_at(patch: pytest.MonkeyPatch, moment: int) -> None:
    # Kills before or after the nth thing that the world can see.
    left = [moment]

    def watched(original: Callable[..., object]) -> Callable[..., object]:
        async def wrapper(*args: object) -> object:
            for action in (None, original):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                result = None if action is None else await action(*args)  # type: ignore[misc]
            return result

        return wrapper

    patch.setattr(Transport, "send", watched(Transport.send))
    patch.setattr(Writer, "append", watched(Writer.append))


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_crash_right_after_creating_finds_the_cohort(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """The journal knows of the attempt, the list of the cohort."""
    journal = tmp_path / "journal"
    emulator.fail_next("upload", lost_answer())
    emulator.fail_next("list", broken(404), times=4)

    with pytest.raises(errors.AmbiguousUploadError):
        await upload(client, users(15), journal=journal)

    report = await upload(client, users(15), journal=journal)

    assert report.adopted
    assert report.matched is None
    assert [report.cohort_id] == emulator.cohort_ids
    assert set(users(15)) == emulator.members_of(str(report.cohort_id))


async def test_a_refused_creation_may_be_resumed(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """The journal knows that nothing was made, so no riddle remains."""
    journal = tmp_path / "journal"
    emulator.fail_next("upload", refused(403, "not now"))

    with pytest.raises(errors.PermissionDeniedError):
        await upload(client, ["ann"], journal=journal)

    report = await upload(client, ["ann"], journal=journal)

    assert [report.cohort_id] == emulator.cohort_ids
    assert 0 == emulator.requests("list")


async def test_an_attempt_in_doubt_is_not_made_again_too_early(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path, clock: FakeClock
):
    """A quarter of an hour after it, what is not listed was not created."""
    journal = tmp_path / "journal"
    emulator.fail_next("upload", broken(503))

    for seconds in (0, 60, 600):
        clock.advance(seconds)
        with pytest.raises(errors.AmbiguousUploadError):
            await upload(client, ["ann"], journal=journal)

    clock.advance(600)
    report = await upload(client, ["ann"], journal=journal)

    assert {"ann"} == emulator.members_of(str(report.cohort_id))
    assert 2 == emulator.requests("upload")


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_partial_upload_goes_on_from_its_journal(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """Only what is missing is sent; a finished journal sends nothing."""
    journal = tmp_path / "journal"
    emulator.fail_next("membership", works(), refused(400, "no"))

    with pytest.raises(errors.PartialWriteError) as raised:
        await upload(client, users(35), journal=journal)

    report = await upload(client, users(35), journal=journal)
    again = await upload(client, iter(users(35)), journal=journal)

    assert 2 == raised.value.next_batch
    assert (35, 35, 4, 2) == (
        report.total,
        report.matched,
        report.batches,
        report.resumed,
    )
    assert 4 == again.resumed
    assert set(users(35)) == emulator.members_of(str(report.cohort_id))
    assert (1, 4) == (emulator.requests("upload"), emulator.requests("membership"))


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_journal_is_of_one_upload(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """Other ids, other parameters, a set, another file: all are refused."""
    journal = tmp_path / "journal"
    await upload(client, users(15), journal=journal)
    requests = len(emulator.log)

    for ids in (users(16), users(14), users(35), users(5), users(15)[::-1]):
        with pytest.raises(errors.InvalidInputError, match="with other ids"):
            await upload(client, ids, journal=journal)

    with pytest.raises(errors.InvalidInputError, match="name='Buyers'"):
        await upload(client, users(15), "Others", journal=journal)

    with pytest.raises(errors.InvalidInputError, match=r"sorted\(ids\)"):
        await upload(client, set(users(15)), journal=journal)

    with pytest.raises(errors.InvalidInputError, match="writes nothing"):
        await upload(client, users(15), journal=journal, validate_only=True)

    with pytest.raises(errors.InvalidInputError, match="no journal can be kept"):
        await upload(client, users(15), journal=tmp_path)

    ids = tmp_path / "ids.txt"
    ids.write_text("ann")

    with pytest.raises(errors.InvalidInputError, match="left as it is"):
        await upload(client, users(15), journal=ids)

    assert "ann" == ids.read_text()
    assert requests == len(emulator.log)


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_journal_holds_no_ids_and_no_secrets(
    client: CohortsClient, tmp_path: Path
):
    """Digests and counts are all there is of the ids."""
    journal = tmp_path / "journal"
    await upload(client, [*users(15), "unknown-1"], journal=journal)
    text = journal.read_text()

    assert "user-" not in text
    assert "unknown-" not in text
    assert API_KEY not in text
    assert SECRET_KEY not in text
    assert ["journal", "attempt", "cohort", "cohort", "done"] == [
        next(iter(json.loads(line))) for line in text.splitlines()
    ]


async def test_two_runs_cannot_share_a_journal(client: CohortsClient, tmp_path: Path):
    """Otherwise both could make a cohort."""
    journal = tmp_path / "journal"

    async def slowly() -> AsyncIterator[str]:
        yield "ann"
        await anyio.lowlevel.checkpoint()

    parts = client._operations

    async with open_writer(
        parts.session, parts.jobs, journal, "upload", {}, on_skipped=None
    ):
        with pytest.raises(errors.InvalidInputError, match="in use by another run"):
            await upload(client, slowly(), journal=journal)


@pytest.mark.usefixtures("batches_of_ten")
async def test_the_hook_hears_of_each_batch(emulator: CohortsEmulator):
    """Which batch, how many ids, and of which cohort; no id is told."""
    heard: list[Event] = []

    async with CohortsClient(
        API_KEY, SECRET_KEY, base_url=emulator.base_url, hook=heard.append
    ) as client:
        report = await upload(client, users(15))

    batches = [event for event in heard if isinstance(event, BatchWritten)]

    assert [(0, 10), (1, 5)] == [(event.batch, event.ids) for event in batches]
    assert {(report.cohort_id, "upload")} == {
        (event.cohort_id, event.operation) for event in batches
    }


@pytest.mark.usefixtures("batches_of_ten")
async def test_a_disk_that_fills_up_hides_no_cohort(
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """The error tells what was written, and the journal holds whole lines only."""
    journal = tmp_path / "journal"
    write = FileIO.write

    class Full(FileIO):
        def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
            if b'"count"' in bytes(data):
                write(self, bytes(data)[:20])
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(self, data)

    def opened(path: Path, mode: str, buffering: int = -1) -> BinaryIO:
        raw = Full(path, mode.replace("b", ""))

        return raw if buffering == 0 else BufferedRandom(raw)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opened)
        with pytest.raises(errors.PartialWriteError) as caught:
            await upload(client, users(15), journal=journal)

    assert [caught.value.cohort_id] == emulator.cohort_ids
    assert 2 == len(list(map(json.loads, journal.read_text().splitlines())))
    assert (
        caught.value.cohort_id
        == (await upload(client, users(15), journal=journal)).cohort_id
    )


@pytest.mark.parametrize("line", ["journal", "attempt"])
async def test_a_journal_that_cannot_be_begun_sends_nothing(
    client: CohortsClient,
    emulator: CohortsEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
):
    """The disk is full at its first line, or at that of the attempt: an error of ours."""
    append = writer_module._append

    def full(file: FileIO, written: bytes) -> None:
        if line.encode() in written:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(file, written)

    monkeypatch.setattr(writer_module, "_append", full)

    with pytest.raises(
        errors.StorageError, match=r"journal .* No space left"
    ) as raised:
        await upload(client, users(5), journal=tmp_path / "journal")

    assert 0 == emulator.requests("upload")
    assert str(raised.value) == str(pickle.loads(pickle.dumps(raised.value)))


async def test_a_device_is_no_journal(client: CohortsClient, emulator: CohortsEmulator):
    """It would be read for ever."""
    with pytest.raises(errors.InvalidInputError, match="no regular file"):
        await upload(client, users(5), journal="/dev/full")

    assert [] == emulator.log


async def test_a_journal_is_kept_while_all_shared_threads_are_busy(
    client: CohortsClient, emulator: CohortsEmulator, tmp_path: Path
):
    """As under synchronous endpoints of a service: its lines have threads of their own."""
    free = threading.Event()
    limiter = anyio.to_thread.current_default_thread_limiter()

    async with anyio.create_task_group() as tasks:
        for _ in range(int(limiter.total_tokens)):
            tasks.start_soon(anyio.to_thread.run_sync, free.wait)

        try:
            while limiter.available_tokens:
                await anyio.lowlevel.checkpoint()
            await upload(client, users(5), journal=tmp_path / "journal")
        finally:
            free.set()

    assert '{"done":true}\n' == (tmp_path / "journal").read_text()[-14:]
