"""
A job from its request to its end: when it is asked, what its words mean, its token.
"""

from __future__ import annotations

import asyncio
import json
import pickle
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient, ExportJob
from amplitude_cohorts_async._core.polling import KNOWN_AFTER
from amplitude_cohorts_async._io.download.object_store import DownloadState
from amplitude_cohorts_async.errors import (
    AuthenticationError,
    CohortsError,
    ConnectionFailedError,
    ExportExpiredError,
    ExportFailedError,
    ExportTimeoutError,
    InvalidInputError,
    ServerError,
    UnexpectedResponseError,
)
from amplitude_cohorts_async.events import Event, StatusPolled
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.models import ExportStatus
from amplitude_cohorts_async.policies import Polling
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY, find_secrets
from support.clients import emulator_assuming, unlimited_client
from support.exporting import (
    COHORT,
    COMPLETED,
    EXPORT,
    FILE,
    LINK,
    OBJECT,
    REQUEST,
    RUNNING,
    STATUS,
    names_in,
    whole,
)
from support.fault_server import DROP, HANG, FaultServer, Reply, json_reply, reply


def status(word: object, code: int = 200, name: str = "async_status") -> Reply:
    """Write a status of the job."""
    return json_reply({"request_id": REQUEST, "cohort_id": COHORT, name: word}, code)


async def test_when_a_new_job_is_asked(
    emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """The first question comes ten seconds after the request, then one each five."""
    emulator.add_cohort(COHORT, members=["ann"], job_seconds=31)

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        rng=lambda: 0.5,
    ) as client:
        job = await client.request_export(COHORT)
        assert job is await job.wait()

    polls = [record.at for record in emulator.log if "status" == record.step]
    assert [10.0, 15.0, 20.0, 25.0, 30.0, 35.0] == pytest.approx(polls)


@pytest.mark.parametrize(
    ("share", "moments"), [(0.0, [8, 12, 16]), (1.0, [12, 18, 24])]
)
async def test_waits_vary_by_chance(
    emulator: CohortsEmulator, clock: FakeClock, share: float, moments: list[float]
) -> None:
    """Many jobs do not ask at once: each wait varies by a fifth, both ways."""
    emulator.add_cohort(COHORT, members=["ann"], job_seconds=moments[-1])

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        rng=lambda: share,
    ) as client:
        await (await client.request_export(COHORT)).wait()

    polls = [record.at for record in emulator.log if "status" == record.step]
    assert moments == pytest.approx(polls)


async def test_a_schedule_of_ones_own(
    emulator: CohortsEmulator, clock: FakeClock
) -> None:
    """How a job is watched can be chosen."""
    emulator.add_cohort(COHORT, members=["ann"], job_seconds=5)

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        polling=Polling(initial_delay=1.0, interval=2.0, jitter=0.0),
    ) as client:
        await (await client.request_export(COHORT)).wait()

    polls = [record.at for record in emulator.log if "status" == record.step]
    assert [1.0, 3.0, 5.0] == pytest.approx(polls)


async def test_a_resumed_job_is_asked_at_once(
    emulator: CohortsEmulator, client: CohortsClient, clock: FakeClock
) -> None:
    """A job that may long be done is not kept waiting; a fresh one waits the rest."""
    emulator.add_cohort(COHORT, members=["ann"])
    job = await client.request_export(COHORT)
    await clock.sleep(3)

    began = clock.now()
    await client.resume_export(job.token).wait()
    assert 5 <= clock.now() - began <= 9

    await clock.sleep(10)
    for resumable in (job.token, job.request_id):
        began = clock.now()
        await client.resume_export(resumable).wait()
        assert began == clock.now()


async def test_a_token_from_the_future(
    server: FaultServer, exporter: CohortsClient, clock: FakeClock
) -> None:
    """A token of a machine whose clock is ahead makes nobody wait for that clock."""
    then = (clock.utcnow() + timedelta(hours=3)).isoformat()
    token = json.dumps({"version": 1, "request_id": REQUEST, "requested_at": then})
    await exporter.resume_export(token).wait()

    assert clock.now() <= 12


async def test_a_job_that_never_ends(
    emulator: CohortsEmulator, client: CohortsClient, clock: FakeClock, tmp_path: Path
) -> None:
    """The last question falls on the deadline; the error's token goes on later."""
    emulator.add_cohort(COHORT, members=["ann"], job_seconds=100)

    with pytest.raises(ExportTimeoutError) as caught:
        await client.export(COHORT, tmp_path / "members.csv", timeout=47.0)

    polls = [record.at for record in emulator.log if "status" == record.step]
    assert 47.0 == pytest.approx(polls[-1], abs=0.5)
    assert isinstance(caught.value, TimeoutError)
    assert "47 s" in str(caught.value)
    assert "seven days" in str(caught.value)
    assert COHORT == caught.value.cohort_id
    assert caught.value.token is not None

    revived = pickle.loads(pickle.dumps(caught.value))
    job = client.resume_export(revived.token)
    saved = await job.download(tmp_path / "members.csv")
    assert caught.value.token == saved.token
    assert 1 == emulator.spent
    assert [] == emulator.violations


@pytest.mark.parametrize(
    ("properties", "is_told"), [(True, True), (["plan"], True), (False, False)]
)
async def test_an_export_that_keeps_timing_out_needs_fewer_properties(
    emulator: CohortsEmulator,
    client: CohortsClient,
    properties: bool | list[str],
    is_told: bool,
) -> None:
    """The page's advice, where it can help: at the deadline, and after a 504."""
    emulator.add_cohort(COHORT, members=["ann"], job_seconds=100)
    job = await client.request_export(COHORT, properties=properties)

    with pytest.raises(ExportTimeoutError) as late:
        await job.wait(timeout=1.0)

    emulator.fail_next("export", faults.broken(504))

    with pytest.raises(ServerError) as refused:
        await client.request_export(COHORT, properties=properties)

    assert is_told == ("ask for fewer properties" in str(late.value))
    assert is_told == ("ask for fewer properties" in str(refused.value))


async def test_a_deadline_of_now(server: FaultServer, job: ExportJob) -> None:
    """Even a wait of no time asks once."""
    server.on(STATUS, RUNNING)
    with pytest.raises(ExportTimeoutError, match="JOB INPROGRESS"):
        await job.wait(timeout=0)
    server.on(STATUS, COMPLETED)
    await job.wait(timeout=0)

    assert 2 == len(server.seen)


async def test_a_download_waits_as_long_as_it_is_told(
    server: FaultServer, job: ExportJob, tmp_path: Path
) -> None:
    """The job's time is up before its file is there."""
    server.on(STATUS, RUNNING)
    with pytest.raises(ExportTimeoutError):
        await job.download(tmp_path / "members.csv", timeout=0)

    assert 1 == len(server.seen)


@pytest.mark.parametrize("timeout", [-1, float("inf"), float("nan"), None])
async def test_an_endless_wait_is_refused(
    server: FaultServer, job: ExportJob, timeout: float
) -> None:
    """A wait is finite."""
    with pytest.raises(InvalidInputError):
        await job.wait(timeout=timeout)
    assert [] == server.seen


@pytest.mark.parametrize(
    "answer",
    [
        status("JOB INPROGRESS", 202),
        status("JOB QUEUED", 202),
        status("no one knows this word", 202),
        status("JOB COMPLETED", 202),
        status("JOB FAILED", 202),
        status("0 errors so far", 202),
        status(None, 202),
        json_reply({}, 202),
        status("JOB INPROGRESS", 200),
        status("queued", name="status"),
        status("computing", name="status"),
    ],
)
async def test_words_that_say_wait(
    server: FaultServer, job: ExportJob, answer: Reply
) -> None:
    """202 means running whatever the word; 200 with a word of progress does, too."""
    server.on(STATUS, answer)

    assert not (await job.poll()).done


@pytest.mark.parametrize(
    "answer",
    [
        status("JOB COMPLETED"),
        status("complete", name="status"),
        status("SUCCESS"),
        status("job_succeeded"),
        status("done", 201),
    ],
)
async def test_words_that_say_done(
    server: FaultServer, job: ExportJob, answer: Reply
) -> None:
    """200 with a word of completion is done."""
    server.on(STATUS, answer)
    assert (await job.poll()).done

    await job.wait()
    assert 1 == len(server.seen)


@pytest.mark.parametrize(
    "word", ["JOB FAILED", "failed", "ERROR", "CANCELLED", "aborted"]
)
async def test_words_that_say_failed(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path, word: str
) -> None:
    """A word of failure ends the wait when the code says that it is over, quoted."""
    server.on(STATUS, RUNNING, status(word))

    with pytest.raises(ExportFailedError, match=word) as caught:
        await exporter.export(COHORT, tmp_path / "members.csv")
    assert (REQUEST, COHORT) == (caught.value.request_id, caught.value.cohort_id)
    assert caught.value.token


async def test_a_word_of_failure_while_it_runs(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """The code says that it runs: a paid export is not given up for a word."""
    server.on(STATUS, status("JOB FAILED", 202), status("ERROR", 202), COMPLETED)

    await exporter.export(COHORT, tmp_path / "members.csv")

    assert 3 == len(server.requests(STATUS))
    assert 1 == len(server.requests(EXPORT))


async def test_a_failed_job_that_is_said_to_run(
    clock: FakeClock, tmp_path: Path
) -> None:
    """It ends at the deadline, and keeps its token."""
    async with (
        emulator_assuming(clock, failed_job_status=202) as emulator,
        unlimited_client(emulator.base_url, clock) as client,
    ):
        emulator.add_cohort(COHORT, members=["ann"])
        emulator.fail_next("status", faults.job_failed())

        with pytest.raises(ExportTimeoutError, match="'JOB FAILED'") as caught:
            await client.export(COHORT, tmp_path / "members.csv", timeout=60)

    assert caught.value.token is not None
    assert 1 == emulator.spent


@pytest.mark.parametrize(
    "answer",
    [
        status("no one knows this word"),
        status("UNSUCCESSFUL"),
        status("INCOMPLETE"),
        status("abandoned"),
        status("FAILOVER"),
        json_reply({}),
        json_reply({"request_id": "another", "async_status": "JOB COMPLETED"}),
        json_reply({"request_id": "another", "async_status": "JOB FAILED"}),
        reply(200, b"<!DOCTYPE html>", content_type="text/html"),
        reply(202, b""),
        reply(302, location="/login"),
    ],
)
async def test_answers_that_say_nothing(
    server: FaultServer, job: ExportJob, answer: Reply
) -> None:
    """
    200 with an unknown word or about another job, or no JSON: an error with the token.
    """
    server.on(STATUS, answer)

    with pytest.raises(UnexpectedResponseError) as caught:
        await job.wait()
    assert job.token == caught.value.token


async def test_the_status_of_another_cohort(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """A job that knows its cohort believes no status of another one."""
    other = {"request_id": REQUEST, "cohort_id": "other", "async_status": "JOB FAILED"}
    server.on(STATUS, json_reply(other), COMPLETED)
    job = await exporter.request_export(COHORT)

    with pytest.raises(UnexpectedResponseError, match="cohort 'other'") as caught:
        await job.wait()
    assert job.token == caught.value.token

    await exporter.resume_export(caught.value.token).wait()


async def test_a_word_that_is_missing(server: FaultServer, job: ExportJob) -> None:
    """Without a word the code decides: 202 is running, 200 is done."""
    running = json_reply({"request_id": REQUEST, "async_status": None}, 202)
    server.on(STATUS, running, status(None))

    assert not (await job.poll()).done
    assert (await job.poll()).done


@pytest.mark.parametrize("code", [404, 410])
async def test_a_job_that_nobody_knows(
    server: FaultServer, exporter: CohortsClient, clock: FakeClock, code: int
) -> None:
    """A job the service does not know, or no longer, says how old it is."""
    server.on(STATUS, reply(code))
    job = await exporter.request_export(COHORT)
    await clock.sleep(8 * 86_400)

    for ask in (job.poll, job.wait):
        with pytest.raises(ExportExpiredError, match=r"8\.0 days ago") as caught:
            await ask()
        assert job.token == caught.value.token


async def test_the_age_of_a_new_job_is_not_told(
    server: FaultServer, exporter: CohortsClient, clock: FakeClock
) -> None:
    """Less than a tenth of a day says nothing about a file that lives for seven."""
    server.on(STATUS, reply(404))
    job = await exporter.request_export(COHORT)
    await clock.sleep(KNOWN_AFTER)

    with pytest.raises(ExportExpiredError, match=r"\(404\); files live 7 days"):
        await job.poll()


@pytest.mark.parametrize("code", [404, 410])
async def test_a_job_that_is_not_known_yet(
    server: FaultServer, exporter: CohortsClient, code: int
) -> None:
    """A young export is not given up: its status is asked for again."""
    server.on(STATUS, reply(code), reply(code), COMPLETED)
    job = await exporter.request_export(COHORT)
    await job.wait()

    assert 3 == len(server.requests(STATUS))


async def test_a_poll_of_a_job_that_is_not_known_yet(
    server: FaultServer, exporter: CohortsClient
) -> None:
    """It is not done, in a word that is not the service's."""
    server.on(STATUS, reply(404), COMPLETED)
    job = await exporter.request_export(COHORT)

    assert ExportStatus(done=False, word="not known yet") == await job.poll()
    assert (await job.poll()).done


async def test_how_long_a_job_may_be_unknown(
    server: FaultServer, exporter: CohortsClient, clock: FakeClock
) -> None:
    """For five minutes from its request; then it is gone, and the wait ends."""
    server.on(STATUS, reply(404))
    job = await exporter.request_export(COHORT)

    with pytest.raises(ExportExpiredError):
        await job.wait()

    assert 300 <= clock.now() <= 310


async def test_an_id_that_is_not_known(server: FaultServer, job: ExportJob) -> None:
    """An id alone may be misspelt: nothing says that it is young."""
    server.on(STATUS, reply(404))

    with pytest.raises(ExportExpiredError):
        await job.wait()

    assert 1 == len(server.seen)


async def test_a_service_that_knows_a_job_late(
    clock: FakeClock, tmp_path: Path
) -> None:
    """The file comes, of the one export."""
    async with (
        emulator_assuming(clock, known_after=40) as emulator,
        unlimited_client(emulator.base_url, clock) as client,
    ):
        emulator.add_cohort(COHORT, members=["ann"])
        await client.export(COHORT, tmp_path / "members.csv")

    assert emulator.requests("status") > 3
    assert 1 == emulator.spent


async def test_seven_days(
    emulator: CohortsEmulator, client: CohortsClient, clock: FakeClock, tmp_path: Path
) -> None:
    """A token is good for seven days, and not for eight."""
    emulator.add_cohort(COHORT, members=["ann"])
    token = (await client.request_export(COHORT)).token

    await clock.sleep(6.9 * 86_400)
    await client.resume_export(token).download(tmp_path / "members.csv")
    await clock.sleep(0.2 * 86_400)
    with pytest.raises(ExportExpiredError):
        await client.resume_export(token).download(tmp_path / "members.csv")
    assert 1 == emulator.spent


async def test_bad_weather_while_waiting(
    server: FaultServer, exporter: CohortsClient, clock: FakeClock
) -> None:
    """429, 5xx and lost connections while waiting are met with the next question."""
    server.on(STATUS, reply(429), reply(503), DROP, reply(500), RUNNING, COMPLETED)
    job = exporter.resume_export(REQUEST)
    await job.wait()

    assert 6 == len(server.requests(STATUS))
    assert 20 <= clock.now() <= 60


async def test_bad_weather_to_the_deadline(server: FaultServer, job: ExportJob) -> None:
    """A service that is down until the deadline is a timeout that says so."""
    server.on(STATUS, reply(502))

    with pytest.raises(ExportTimeoutError, match="ServerError"):
        await job.wait(timeout=30)


async def test_a_single_question_in_bad_weather(
    server: FaultServer, job: ExportJob
) -> None:
    """`poll()` tries some times, then tells what is wrong, with the token."""
    server.on(STATUS, reply(503), DROP, COMPLETED)
    assert (await job.poll()).done

    for answer, error in ((reply(503), ServerError), (DROP, ConnectionFailedError)):
        server.on(STATUS, answer)
        with pytest.raises(error) as caught:
            await job.poll()
        assert job.token == caught.value.token  # type: ignore[attr-defined]


async def test_keys_that_are_refused_meanwhile(
    server: FaultServer, job: ExportJob
) -> None:
    """Refused keys end the wait at once: waiting would not mend them."""
    server.on(
        STATUS, json_reply({"error": {"metadata": {"details": "Invalid API Key"}}}, 403)
    )

    with pytest.raises(AuthenticationError) as caught:
        await job.wait()
    assert job.token == caught.value.token
    assert 1 == len(server.seen)


async def test_a_question_without_an_answer(
    server: FaultServer, clock: FakeClock
) -> None:
    """A status that hangs is given up, and the job asked again."""
    server.on(STATUS, HANG, COMPLETED)

    async with CohortsClient(
        API_KEY,
        SECRET_KEY,
        base_url=server.url,
        clock=clock,
        limits=Limits(release_delay=0.0),
        timeout=0.1,
    ) as client:
        await client.resume_export(REQUEST).wait()

    assert 2 == len(server.seen)


async def test_what_the_hook_hears(server: FaultServer, clock: FakeClock) -> None:
    """Each question tells its answer, the time gone by and the next question."""
    heard: list[Event] = []
    server.on(STATUS, RUNNING, reply(503), COMPLETED)

    async with unlimited_client(
        server.url,
        clock,
        hook=heard.append,
        rng=lambda: 0.5,
    ) as client:
        await client.resume_export(REQUEST).wait()

    assert [
        ("JOB INPROGRESS", 0.0, 5.0),
        ("no answer (ServerError)", 5.0, 5.0),
        ("JOB COMPLETED", 10.0, None),
    ] == [
        (event.word, event.elapsed, event.next_poll)
        for event in heard
        if isinstance(event, StatusPolled)
    ]


async def test_a_job_that_fails_at_the_emulator(
    emulator: CohortsEmulator, client: CohortsClient, tmp_path: Path
) -> None:
    """A job that fails leaves no file, and its export is spent."""
    emulator.add_cohort(COHORT, members=["ann"])
    emulator.fail_next("export", faults.job_failed())

    with pytest.raises(ExportFailedError):
        await client.export(COHORT, tmp_path / "members.csv")
    assert [] == names_in(tmp_path)
    assert 1 == emulator.spent


async def test_a_token_says_what_a_job_is(
    server: FaultServer, exporter: CohortsClient, clock: FakeClock
) -> None:
    """
    A token is plain JSON with a version; it holds no key, and goes on in any process.
    """
    job = await exporter.request_export(COHORT, properties=["plan", "a b"])
    fields = json.loads(job.token)

    assert 1 == fields["version"]
    assert (REQUEST, COHORT) == (fields["request_id"], fields["cohort_id"])
    assert ["plan", "a b"] == fields["properties"]
    assert clock.utcnow() == datetime.fromisoformat(fields["requested_at"])
    assert [] == find_secrets(job.token)

    resumed = exporter.resume_export(job.token)
    assert job.token == resumed.token
    assert (REQUEST, COHORT) == (resumed.request_id, resumed.cohort_id)
    assert 1 == len(server.seen)
    assert repr(resumed) == f"<ExportJob {REQUEST} of cohort {COHORT}>"


async def test_a_bare_id_is_a_job(server: FaultServer, job: ExportJob) -> None:
    """Without a token the request id will do."""
    await job.wait()

    assert job.cohort_id is None
    assert [STATUS] == [seen.target for seen in server.seen]


async def test_errors_after_the_request_carry_the_token(
    server: FaultServer, exporter: CohortsClient, tmp_path: Path
) -> None:
    """Whatever fails after the request, its pickled error goes on without an export."""
    for code in (400, 401, 403, 404, 418, 501):
        server.on(STATUS, reply(code))

        with pytest.raises(CohortsError) as caught:
            await exporter.export(COHORT, tmp_path / "members.csv")

        revived = pickle.loads(pickle.dumps(caught.value))
        assert str(revived) == str(caught.value)
        assert REQUEST == exporter.resume_export(revived.token).request_id


async def test_two_wait_for_one_job(
    emulator: CohortsEmulator, client: CohortsClient
) -> None:
    """A job may be waited for from many tasks."""
    emulator.add_cohort(COHORT, members=["ann"], job_seconds=60)
    job = await client.request_export(COHORT)

    assert [job] * 3 == await asyncio.gather(*(job.wait() for _ in range(3)))
    assert 1 == len([r for r in emulator.log if EXPORT == r.target])


async def test_awaiting_a_job_waits_for_it(job: ExportJob, server: FaultServer) -> None:
    """As an asyncio.Future does; then it is done, which it was not before."""
    server.on(STATUS, RUNNING, COMPLETED)

    assert not job.done
    assert job is await job
    assert job.done


async def test_a_job_that_failed_is_not_done(
    job: ExportJob, server: FaultServer
) -> None:
    """There is no file."""
    server.on(STATUS, json_reply({"request_id": REQUEST, "async_status": "JOB FAILED"}))

    with pytest.raises(ExportFailedError):
        await job

    assert not job.done


async def test_the_link_itself(job: ExportJob, server: FaultServer) -> None:
    """Fresh each time, plain text, and nothing of it is followed here."""
    server.on(STATUS, RUNNING, COMPLETED)
    link = await job.link()

    assert link == f"{server.url}{OBJECT}?{LINK}"
    assert type(link) is str
    assert link == await job.link()
    assert 2 == len(server.requests(FILE))
    assert [] == server.requests(OBJECT)


async def test_a_link_of_a_file_that_came_itself(
    job: ExportJob, server: FaultServer
) -> None:
    """It says what to do instead, and keeps the token."""
    server.on(FILE, whole())

    with pytest.raises(UnexpectedResponseError, match="download") as caught:
        await job.link()

    assert job.token == caught.value.token


async def test_a_link_of_a_file_that_is_gone(
    job: ExportJob, server: FaultServer, clock: FakeClock
) -> None:
    """The status decides whether it comes later, or never."""
    await job
    await clock.sleep(600)
    server.on(FILE, reply(404))
    server.on(STATUS, reply(404))

    with pytest.raises(ExportExpiredError):
        await job.link()


async def test_progress_says_how_long_it_may_take(
    exporter: CohortsClient, server: FaultServer, clock: FakeClock, tmp_path: Path
) -> None:
    """Once there is a pace; and nothing is left at the end."""
    state = DownloadState(
        exporter._operations.session.context,
        exporter._operations.session.transport,
        REQUEST,
        None,
        total=4_000,
    )
    assert state._seconds_left() is None
    state.add(500)
    assert state._seconds_left() is None
    await clock.sleep(2.0)
    state.add(500)
    assert 6.0 == state._seconds_left()
    state.add(3_000)
    assert 0.0 == state._seconds_left()
