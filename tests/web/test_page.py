"""The page of `serve` over HTTP: what it shows, what it spends, and whom it admits."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib._web import About, Access, make_app, on_event
from amplitude_cohorts_async.contrib._web.access import origins_of
from amplitude_cohorts_async.contrib.fastapi import CohortExports, ExportOrder
from amplitude_cohorts_async.contrib.fastapi.exports import worker_of
from amplitude_cohorts_async.contrib.fastapi.records import key_occurrence
from amplitude_cohorts_async.errors import QuotaWaitError
from amplitude_cohorts_async.events import BytesReceived, PhaseEnded
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY
from support.ports import LOOPBACK, free_ports
from support.web import COHORT, HOSTILE, Answer, Browser, served

TOKEN = "a token of some length"
Page = Callable[..., object]


@pytest.fixture
def port() -> int:
    """Where the page is."""
    (port,) = free_ports(1)

    return port


@pytest.fixture
def access(port: int) -> Access:
    """Who may see it."""
    return Access(token=TOKEN, origins=origins_of("http", {LOOPBACK}, port))


@pytest.fixture
def app_of(
    make_client: Callable[..., CohortsClient],
    clock: FakeClock,
    folder: Path,
    access: Access,
) -> Page:
    """The app and its exports; made here, because it reads its templates."""
    client = partial(make_client, hook=on_event)
    about = About(project="amplitude.com", is_live=True, keep=3)
    made = make_app(folder, client=client, access=access, about=about, clock=clock)

    return lambda: made


@pytest.fixture
async def stranger(app_of: Page, port: int) -> AsyncIterator[Browser]:
    """A browser that has not signed in."""
    app, exports = app_of()  # type: ignore[misc]
    async with served(app, stop=exports.stop, port=port) as browser:
        yield browser


@pytest.fixture
async def owner(stranger: Browser) -> AsyncIterator[Browser]:
    """A browser that has, and says where its requests come from."""
    answer = await sign_in(stranger)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    headers = {"Cookie": cookie, "Origin": stranger.url}
    async with aiohttp.ClientSession(headers=headers) as session:
        yield Browser(stranger.url, session)


async def sign_in(browser: Browser, token: str = TOKEN, **headers: str) -> Answer:
    """Exchange a token for a cookie."""
    ours = {"Origin": browser.url, **headers}

    return await browser.ask("POST", "/session", data={"token": token}, headers=ours)


async def plan_of(browser: Browser, cohort: str = COHORT) -> dict[str, str]:
    """Return the fields of the form that a plan has."""
    plan = await browser.get(f"/fragments/plan?cohort_id={cohort}")

    return dict(re.findall(r'name="(\w+)" value="([^"]*)"', plan.body.decode()))


def pairs(form: dict[str, str | list[str]]) -> list[tuple[str, str]]:
    """Return the fields of a form, of which some are there more than once."""
    return [
        (name, value)
        for name, given in form.items()
        for value in ([given] if isinstance(given, str) else given)
    ]


def ended_download(request_id: str) -> PhaseEnded:
    """Return what tells that a download has ended, as one that was cut off."""
    return PhaseEnded(
        id=1, phase="download", cohort_id=COHORT, request_id=request_id, seconds=1.0
    )


async def order(browser: Browser, cohort: str = COHORT) -> dict[str, str]:
    """Start an export as the page does; return its form."""
    form = await plan_of(browser, cohort)
    answer = await browser.ask("POST", "/exports", data=form)
    assert 200 == answer.status

    return form


async def test_cost_is_told_before_the_button(
    owner: Browser, emulator: CohortsEmulator
) -> None:
    """The plan has the price, what is left, and the button; it spends nothing."""
    plan = (await owner.get(f"/fragments/plan?cohort_id={COHORT}")).body.decode()

    assert "spends <strong>1</strong> export" in plan
    assert "<strong>499</strong> of 500" in plan
    assert "<button>Export 1 cohort: spend 1</button>" in plan
    assert 0 == emulator.spent


async def test_nothing_chosen_has_no_button(owner: Browser) -> None:
    """There is nothing to press before something is chosen."""
    plan = await owner.get("/fragments/plan")

    assert b"<button" not in plan.body


async def test_the_page_leaves_some_to_others(owner: Browser) -> None:
    """What `--keep` leaves is told, and there is no button that would spend it."""
    usage = await owner.get("/fragments/usage")

    assert b"leaves 3 to others" in usage.body


async def test_an_order_comes_to_its_file(
    owner: Browser, emulator: CohortsEmulator
) -> None:
    """The stream of the page shows the export until its file can be downloaded."""
    await order(owner)
    shown = [event async for event in owner.fragments("/events")]
    (path,) = re.findall(r'href="(/exports/\w+/file)"', shown[-1])
    file = await owner.get(path)

    assert b"user-1" in file.body
    assert 1 == emulator.spent


async def test_a_form_spends_once(owner: Browser, emulator: CohortsEmulator) -> None:
    """A double click, and a form that is sent again after "back", spend one export."""
    form = await order(owner)
    again = [await owner.ask("POST", "/exports", data=form) for _ in range(3)]
    _ = [event async for event in owner.fragments("/events")]
    late = await owner.ask("POST", "/exports", data=form)

    assert [200] * 4 == [answer.status for answer in (*again, late)]
    assert 1 == emulator.spent


async def test_an_order_that_is_refused_says_why(
    owner: Browser, emulator: CohortsEmulator
) -> None:
    """The message is shown in its place, and the rest of the page stays."""
    form = await plan_of(owner)
    answer = await owner.ask("POST", "/exports", data={**form, "cohort_id": "nobody"})

    assert 200 == answer.status
    assert b"Problem: Not Found" in answer.body
    assert b'hx-target="#problem"' in answer.body


async def test_some_are_started(owner: Browser, emulator: CohortsEmulator) -> None:
    """The problem says how many exports were started before it."""
    form = await plan_of(owner)
    wanted = {**form, "cohort_id": [COHORT, "nobody"]}
    answer = await owner.ask("POST", "/exports", data=pairs(wanted))

    assert b'hx-target="#problem"' in answer.body
    assert b"1 of 2 exports were started" in answer.body
    assert 1 == emulator.spent


async def test_messages_have_their_kinds(owner: Browser) -> None:
    """A result is said politely, a problem at once, each under a heading of its own."""
    page = (await owner.get("/")).body.decode()
    form = await plan_of(owner)
    started = (await owner.ask("POST", "/exports", data=form)).body.decode()
    refused = {**form, "cohort_id": "nobody"}
    problem = (await owner.ask("POST", "/exports", data=refused)).body.decode()

    assert '<div id="result" role="status"></div>' in page
    assert '<div id="problem" role="alert"></div>' in page
    for body, kind, heading in (
        (started, "result", "Started"),
        (problem, "problem", "Problem: Not Found"),
    ):
        assert f'<hx-partial hx-target="#{kind}"' in body
        assert f'<section class="message {kind}">' in body
        assert f"<h2>{heading}</h2>" in body
        assert f'aria-label="Dismiss: {heading}"' in body


async def test_many_unknown_cohorts(owner: Browser) -> None:
    """They do not push the cost out of its bar."""
    ids = "&".join(f"cohort_id=gone{number}" for number in range(100))
    plan = (await owner.get(f"/fragments/plan?{ids}")).body.decode()

    assert 5 == plan.count("<code>gone")
    assert "and 95 more" in plan


async def test_cards_of_one_cohort(owner: Browser, emulator: CohortsEmulator) -> None:
    """Its exports differ by what was ordered, when, and by their requests."""
    form = await plan_of(owner)
    for number, fields in enumerate(
        [{}, {}, {"format": "csv.gz"}, {"properties": "all"}]
    ):
        key = f"a key of some length {number}"
        sent = await owner.ask("POST", "/exports", data={**form, **fields, "key": key})
        assert 200 == sent.status
    *_, shown = [event async for event in owner.fragments("/events")]
    facts = re.findall(r'<dl class="facts">(.*?)</dl>', shown, re.DOTALL)
    values = [tuple(re.findall(r"<dd>(?:<code>)?([^<]+)", each)) for each in facts]

    assert 4 == len({*values}) == emulator.spent
    assert {COHORT} == {each[0] for each in values}
    assert all(re.fullmatch(r"[-\d]+ [:\d]+ UTC", each[1]) for each in values)
    assert {"CSV", "CSV, compressed"} == {each[2] for each in values}
    assert {"ids only", "ids and all user properties"} == {each[3] for each in values}
    assert 4 == len({each[4] for each in values})


async def test_named_columns(
    owner: Browser, app_of: Page, emulator: CohortsEmulator
) -> None:
    """An export of others may have some properties: their names are text, and few."""
    _, exports = app_of()  # type: ignore[misc]
    names = [HOSTILE, "plan", "city", "country", "age"]
    order = ExportOrder(cohort_id=COHORT, properties=names)
    await worker_of(exports).start(order, None)
    page = (await owner.get("/")).body.decode()

    assert "ids, &lt;img src=x onerror=alert(1)&gt;, plan, city and 2 more" in page
    assert "<img" not in page


async def test_rows_of_a_file(owner: Browser) -> None:
    """They are told with its size, where this process has counted them."""
    await order(owner)
    *_, shown = [event async for event in owner.fragments("/events")]

    assert re.search(r"<strong>Done</strong>: [\d.,]+ \w+, 50 rows\.", shown)


async def test_amplitude_is_away(owner: Browser, emulator: CohortsEmulator) -> None:
    """An error of a part goes to the place for messages."""
    emulator.fail_next("list", faults.refused(403, "no"), times=None)
    answer = await owner.get("/fragments/cohorts")

    assert (502, "#problem") == (answer.status, answer.headers["hx-retarget"])


@pytest.fixture
def still_page(
    make_client: Callable[[], CohortsClient], folder: Path, access: Access
) -> tuple[FastAPI, CohortExports]:
    """The app and its exports while time stands still: no step changes a record."""
    return make_app(
        folder,
        client=make_client,
        access=access,
        about=About(project="amplitude.com", is_live=True),
        clock=FakeClock(jumps=False),
    )


async def test_each_change_has_an_id_of_its_own(
    still_page: tuple[FastAPI, CohortExports], access: Access, port: int
) -> None:
    """Also one of the problem alone, which changes the revision of no record."""
    app, exports = still_page
    ids = []

    async with served(app, stop=exports.stop, port=port) as browser:
        cookies = {access.cookie: access.session}
        view = worker_of(exports).view
        order = ExportOrder(cohort_id=COHORT)
        state = await worker_of(exports).start(order, key_occurrence("form"))
        async with browser.session.get(f"{browser.url}/events", cookies=cookies) as got:
            async for line in got.content:
                if not line.startswith(b"id: "):
                    continue
                ids.append(line)
                problem = QuotaWaitError(f"problem {len(ids)}", seconds=1)
                view.note_failure(state.id, problem, is_final=len(ids) == 3)
                await view.look()

    assert 4 == len(ids) == len({*ids})


@pytest.mark.parametrize(
    ("known", "text", "bar"),
    [
        (
            {"total": 9_000_000, "seconds_left": 4.0},
            "1.0 MB of 9.0 MB received, 2.0 MB a second, about 4 s left",
            ' value="1000000" max="9000000"',
        ),
        (
            {"total": 1_000_000, "seconds_left": 0.0},
            "any moment now",
            ' value="1000000"',
        ),
        ({"total": None}, "1.0 MB received …", ""),
    ],
)
async def test_bytes_that_come(
    still_page: tuple[FastAPI, CohortExports],
    access: Access,
    port: int,
    *,
    known: dict[str, Any],
    text: str,
    bar: str,
) -> None:
    """The bar has a value where the size is known; the card says how fast they come."""
    app, exports = still_page
    cookies = {access.cookie: access.session}

    async with served(app, stop=exports.stop, port=port) as browser:
        worker = worker_of(exports)
        await worker.start(ExportOrder(cohort_id=COHORT), key_occurrence("form"))
        (record,) = worker.view.records
        request_id = str(record.request_id)
        before = (await browser.get("/", cookies=cookies)).body.decode()
        on_event(BytesReceived(request_id=request_id, received=1_000_000, **known))
        during = (await browser.get("/", cookies=cookies)).body.decode()
        on_event(ended_download(request_id))
        after = (await browser.get("/", cookies=cookies)).body.decode()

    label = f'<progress aria-label="Export of Cohort {COHORT}"'
    assert f"{label}></progress>" in before
    assert "<strong>Downloading</strong>: " in during
    assert text in during
    assert f"{label}{bar}" in during
    assert bool(bar) == (f"{label}></progress>" not in during)
    assert f"{label}></progress>" in after


async def test_errors_of_no_route_are_problems(owner: Browser) -> None:
    """An address or a method that is none has the same answers as the router's."""
    answers = [await owner.ask("PUT", "/exports"), await owner.get("/nope")]

    assert [405, 404] == [answer.status for answer in answers]
    assert {"application/problem+json"} == {
        answer.headers["content-type"] for answer in answers
    }


async def test_what_nobody_foresaw_is_a_message(
    owner: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not replace a part of the page, and says nothing of its cause."""

    async def fail(client: CohortsClient) -> None:
        raise ZeroDivisionError("a secret of the app")

    monkeypatch.setattr(CohortsClient, "get_usage", fail)
    answer = await owner.get("/fragments/usage")

    assert (500, "#problem") == (answer.status, answer.headers["hx-retarget"])
    assert b"its log says more" in answer.body
    assert b"secret" not in answer.body


async def test_cancel_parks(owner: Browser, emulator: CohortsEmulator) -> None:
    """What was put aside shows its token."""
    await order(owner)
    listed = (await owner.get("/")).body.decode()
    (path,) = re.findall(r'hx-post="(/exports/\w+/cancel)"', listed)
    answer = await owner.ask("POST", path)

    assert b"put aside" in answer.body
    assert b"<summary>Token</summary>" in answer.body


async def test_hostile_names(owner: Browser, emulator: CohortsEmulator) -> None:
    """A name is text wherever it is shown."""
    emulator.add_cohort("evil", members=["a"], name=HOSTILE)
    listed = await owner.get("/fragments/cohorts")
    await order(owner, "evil")
    shown = [event async for event in owner.fragments("/events")]
    page = await owner.get("/")

    for body in (listed.body.decode(), page.body.decode(), *shown):
        assert "<img" not in body
        assert "<bdi>&lt;img" in body


async def test_no_key_reaches_the_browser(owner: Browser) -> None:
    """Neither Amplitude's keys nor the token are in what is sent."""
    await order(owner)
    bodies = [
        (await owner.get(path)).body.decode()
        for path in ("/", "/fragments/cohorts", "/fragments/usage")
    ]

    for secret in (API_KEY, SECRET_KEY, TOKEN):
        assert not any(secret in body for body in bodies)


@pytest.mark.parametrize("field", ["format", "cohort_id"])
async def test_the_browser_names_no_path(
    owner: Browser, emulator: CohortsEmulator, folder: Path, field: str
) -> None:
    """A format is one of three, and a cohort's id is no part of a path."""
    form = {**await plan_of(owner), field: "../../../tmp/x"}
    answer = await owner.ask("POST", "/exports", data=form)

    assert (422 if field == "format" else 200) == answer.status
    assert 0 == emulator.spent
    assert [] == [*folder.iterdir()]


async def test_stranger_sees_the_way_in_alone(
    stranger: Browser, emulator: CohortsEmulator
) -> None:
    """Without the cookie there is a form for the token, and nothing else."""
    page = await stranger.get("/")
    others = [
        await stranger.ask(method, path, headers={"Origin": stranger.url})
        for method, path in [
            ("GET", "/fragments/cohorts"),
            ("GET", "/fragments/usage"),
            ("GET", f"/fragments/plan?cohort_id={COHORT}"),
            ("GET", "/events"),
            ("POST", "/exports"),
            ("POST", "/exports/1/cancel"),
            ("GET", "/exports/1/file"),
            ("GET", "/docs"),
            ("GET", "/openapi.json"),
        ]
    ]

    assert 401 == page.status
    assert b'name="token"' in page.body
    assert b"amplitude.com" not in page.body
    assert {401} == {answer.status for answer in others}
    assert 0 == emulator.requests("list")


async def test_wrong_token(stranger: Browser) -> None:
    """It brings no cookie."""
    answer = await sign_in(stranger, "another")

    assert 403 == answer.status
    assert "set-cookie" not in answer.headers


async def test_forged_cookie(stranger: Browser, access: Access) -> None:
    """A cookie that we did not make, and one that is none, are no cookies."""
    answers = [
        await stranger.get("/fragments/usage", headers={"Cookie": cookie})
        for cookie in (
            f"{access.cookie}=1",
            f"{access.cookie}={TOKEN}",
            "\xe9=",
            "a=b; ==;",
        )
    ]

    assert {401} == {answer.status for answer in answers}


@pytest.mark.parametrize(
    "other",
    [
        'prefs={"theme":"dark"}',
        "name=J\xfcrgen K",
        "flag",
        'x=[1,"2"]',
        "a:b=1",
        'x="a',
    ],
)
def test_cookies_of_other_programs(access: Access, other: str) -> None:
    """Whatever another page of this machine has set, ours is found beside it."""
    headers = Headers({"cookie": f"{other}; {access.cookie}={access.session}"})

    assert access.is_signed_in(headers)


def test_pages_of_two_tokens_have_two_cookies(access: Access) -> None:
    """Cookies know no ports: signing in to one page signs out of no other."""
    other = Access(token="another token of some length", origins=access.origins)

    assert access.cookie != other.cookie
    assert access.cookie == Access(token=TOKEN, origins=frozenset()).cookie


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_long_sign_in(stranger: Browser, is_chunked: bool) -> None:
    """Who is not known yet sends no body that is long, or of any length."""

    async def chunks() -> AsyncIterator[bytes]:
        yield b"token=a"

    body = chunks() if is_chunked else b"token=" + b"a" * 5000
    headers = {
        "Origin": stranger.url,
        "Content-Type": "application/x-www-form-urlencoded",
    }
    answer = await stranger.ask("POST", "/session", data=body, headers=headers)

    assert 413 == answer.status


async def test_cookie_is_for_this_page(stranger: Browser) -> None:
    """Scripts cannot read it, and other sites' requests do not carry it."""
    cookie = (await sign_in(stranger)).headers["set-cookie"].lower()

    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert TOKEN not in cookie


def test_cookie_behind_tls_is_secure() -> None:
    """A browser sends it by https alone."""
    access = Access(token=TOKEN, origins=frozenset({"https://exports.example.com"}))

    assert access.is_secure
    assert {"exports.example.com"} == access.hosts


@pytest.mark.parametrize("path", ["/", "/session", "/static/page.js", "/events"])
async def test_other_hosts_are_refused(owner: Browser, path: str) -> None:
    """A name of others that points to this machine is none of ours (DNS rebinding)."""
    answer = await owner.get(path, headers={"Host": "attacker.example"})

    assert 403 == answer.status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://attacker.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://localhost:1"},
    ],
)
async def test_changes_come_from_the_page(
    owner: Browser, emulator: CohortsEmulator, headers: dict[str, str]
) -> None:
    """A request that another site makes the browser send spends nothing."""
    form = await plan_of(owner)
    answer = await owner.ask("POST", "/exports", data=form, headers=headers)

    assert 403 == answer.status
    assert 0 == emulator.spent


async def test_changes_say_where_they_come_from(
    stranger: Browser, access: Access, emulator: CohortsEmulator
) -> None:
    """Browsers do; what does not is no browser's."""
    cookie = {"Cookie": f"{access.cookie}={access.session}"}
    answer = await stranger.ask("POST", "/exports", headers=cookie)

    assert 403 == answer.status


async def test_headers_of_each_answer(owner: Browser, stranger: Browser) -> None:
    """Scripts and frames of others are kept out, and nothing is kept by a cache."""
    answers = [
        *[await owner.get(path) for path in ("/", "/static/page.js", "/nothing")],
        await stranger.get("/events"),
        await stranger.get("/", headers={"Host": "attacker.example"}),
    ]

    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "no-store" == answer.headers["cache-control"]
        assert "nosniff" == answer.headers["x-content-type-options"]
        assert "same-origin" == answer.headers["referrer-policy"]


async def test_the_page_needs_no_other_host(owner: Browser) -> None:
    """Each file that it names is one of ours, and nothing is written into the page."""
    page = (await owner.get("/")).body.decode()
    names = re.findall(r'(?:src|href)="([^"]+)"', page)
    files = [await owner.get(name) for name in names]

    assert len(names) > 4
    assert all(name.startswith("/static/") for name in names)
    assert {200} == {file.status for file in files}
    assert not re.search(r"<style|style=|onclick|<script>", page)
