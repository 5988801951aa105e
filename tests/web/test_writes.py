"""Upload and sync on the page of `serve` over HTTP: checked first, then written once."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.contrib._web import About, Access, make_app, on_event
from amplitude_cohorts_async.contrib._web.access import origins_of
from amplitude_cohorts_async.contrib._web.received import sweep
from amplitude_cohorts_async.limits import Limits
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock, faults
from support.canary import API_KEY, SECRET_KEY
from support.ports import LOOPBACK, free_ports
from support.web import COHORT, HOSTILE, IDS, Answer, Browser, served

TOKEN = "a token of some length"
MOST = 2_000_000
NAME = "Spring buyers"
LINES = "".join(f"{id_}\n" for id_ in IDS).encode()
FEWER = "".join(f"{id_}\n" for id_ in [*IDS[:30], "new-1"]).encode()
FEWEST = f"{IDS[0]}\n".encode()


@attrs.define
class Owner:
    """A browser that has signed in."""

    browser: Browser
    folder: Path

    async def key(self) -> str:
        """Return the key of a form that was loaded now."""
        forms = (await self.browser.get("/fragments/write-forms")).body.decode()

        return re.findall(r'name="key" value="([^"]+)"', forms)[0]

    async def send(self, file: bytes = LINES, **fields: str) -> Answer:
        """Send a form."""
        form = aiohttp.FormData()
        values = {"key": fields.pop("key", None) or await self.key()}
        values |= {"id_type": "user", **fields}
        for name, value in values.items():
            form.add_field(name, value)
        form.add_field("file", BytesIO(file), filename="ids.txt")

        return await self.browser.ask("POST", "/writes", data=form)

    async def shown(self) -> str:
        """Return what the page shows."""
        return (await self.browser.get("/fragments/writes")).body.decode()

    async def settled(self) -> str:
        """Return what it shows when nothing changes by itself any more."""
        while "<progress" in (shown := await self.shown()):
            pass

        return shown

    async def press(self, what: str = "write", **fields: str) -> Answer:
        """Press the second button of the latest one."""
        (path, *_) = re.findall(rf'hx-post="(/writes/\w+/{what})"', await self.shown())

        return await self.browser.ask("POST", path, data=fields)

    async def left(self) -> list[str]:
        """Return the files that stayed."""
        found = await asyncio.to_thread(lambda: [*self.folder.glob("uploads/*")])

        return sorted(path.suffix or path.name for path in found)


@pytest.fixture
def options(emulator: CohortsEmulator) -> dict[str, Any]:
    """What the client of the page has besides its keys."""
    settings = emulator.environment()

    return {
        "app_id": int(settings["AMPLITUDE_APP_ID"]),
        "owner": settings["AMPLITUDE_OWNER"],
    }


Serve = Callable[[], AbstractAsyncContextManager[Owner]]


@pytest.fixture
def command(
    emulator: CohortsEmulator,
    clock: FakeClock,
    folder: Path,
    tmp_path: Path,
    options: dict[str, Any],
) -> Callable[[], Serve]:
    """Make the page; not on the loop, because it reads its templates."""
    emulator.add_cohort(COHORT, members=IDS)

    def make() -> Serve:
        """Return what serves a page, as a new process would."""
        (port,) = free_ports(1)
        access = Access(token=TOKEN, origins=origins_of("http", {LOOPBACK}, port))
        client = partial(
            CohortsClient,
            API_KEY,
            SECRET_KEY,
            base_url=emulator.base_url,
            clock=clock,
            hook=on_event,
            jobs=str(tmp_path / "exports.db"),
            **options,
        )
        about = About(
            project="amplitude.com", is_live=True, can_upload="app_id" in options
        )
        app, exports = make_app(
            folder,
            client=client,
            access=access,
            about=about,
            clock=clock,
            most_bytes=MOST,
        )

        @asynccontextmanager
        async def serve() -> AsyncIterator[Owner]:
            """Serve it meanwhile."""
            cookie = {"Cookie": f"{access.cookie}={access.session}"}
            async with served(app, stop=exports.stop, port=port) as browser:
                headers = {**cookie, "Origin": browser.url}
                async with aiohttp.ClientSession(headers=headers) as session:
                    yield Owner(Browser(browser.url, session), folder)

        return serve

    return make


@pytest.fixture
def first(command: Callable[[], Serve]) -> Serve:
    """One process."""
    return command()


@pytest.fixture
def second(command: Callable[[], Serve]) -> Serve:
    """The next one."""
    return command()


@pytest.fixture
async def owner(first: Serve) -> AsyncIterator[Owner]:
    """Who has the page of a running command."""
    async with first() as owner:
        yield owner


async def test_upload(owner: Owner, emulator: CohortsEmulator) -> None:
    """Checked, then written; the report's counts are shown, and the file goes."""
    await owner.send(name=NAME)
    checked = await owner.settled()
    assert "<strong>Checked</strong>: 50 ids" in checked
    assert 0 == emulator.requests("upload")

    pressed = (await owner.press()).body
    done = await owner.settled()

    assert b"<strong>Checked</strong>" not in pressed
    assert "<strong>Done</strong>" in done
    assert "has 50 ids" in done
    assert [] == await owner.left()
    assert 1 == emulator.requests("upload")


async def test_sync(owner: Owner, emulator: CohortsEmulator) -> None:
    """Compared for one export; what it adds and removes is told before the button."""
    await owner.send(FEWER, cohort_id=COHORT)
    compared = await owner.settled()
    assert "adds 1, removes 20, keeps 30" in compared
    assert 0 == emulator.requests("membership")

    await owner.press()
    done = await owner.settled()

    assert "added 1, removed 20, kept 30" in done
    assert {*IDS[:30], "new-1"} == emulator.members_of(COHORT)
    assert 1 == emulator.spent
    assert [] == await owner.left()


async def test_guard_asks_for_the_number(
    owner: Owner, emulator: CohortsEmulator
) -> None:
    """More than the form allows needs a person who knows how many go."""
    await owner.send(FEWEST, cohort_id=COHORT)
    compared = await owner.settled()
    assert "would remove 49 of the 50 members, 98%" in compared

    refused = [await owner.press(), await owner.press(removals="50")]
    assert [422, 422] == [answer.status for answer in refused]
    assert b"type 49" in refused[0].body
    assert 0 == emulator.requests("membership")

    await owner.press(removals="49")
    assert "removed 49" in await owner.settled()
    assert 1 == emulator.spent


async def test_column(owner: Owner) -> None:
    """A table has its ids in a column that the form names."""
    table = b"mail,id\na@example.com,ann\nb@example.com,bob\n"
    await owner.send(table, name=NAME, column="id")

    assert "<strong>Checked</strong>: 2 ids" in await owner.settled()


@pytest.mark.parametrize(
    ("file", "column", "words"),
    [
        (b"", "", "ids.txt has no ids"),
        (b"ann\n\xff\n", "", "ids.txt is not UTF-8"),
        (b"user_id,amplitude_id\nann,1\n", "", "name the column of the ids"),
        (b"user_id\nann\n", "mail", "mail"),
        (b"ann\n" + b"x" * 5_000 + b"\n", "", "characters"),
    ],
)
@pytest.mark.parametrize("target", [{"name": NAME}, {"cohort_id": COHORT}])
async def test_bad_file_sends_nothing(
    owner: Owner,
    emulator: CohortsEmulator,
    *,
    file: bytes,
    column: str,
    words: str,
    target: dict[str, str],
) -> None:
    """Its error is shown by the file's own name, and its copy goes."""
    await owner.send(file, column=column, **target)
    shown = await owner.settled()

    assert "<strong>Failed</strong>" in shown
    assert words in shown
    assert str(owner.folder) not in shown
    assert [] == await owner.left()
    assert 0 == emulator.requests("list") == emulator.requests("upload")
    assert 0 == emulator.spent


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"name": NAME, "cohort_id": COHORT},
        {"name": NAME, "id_type": "mail"},
        {"cohort_id": COHORT, "max_removed": "101"},
        {"cohort_id": COHORT, "max_removed": "-1"},
        {"name": "x" * 20_000},
    ],
)
async def test_bad_fields(owner: Owner, fields: dict[str, str]) -> None:
    """A form that the page would not send is refused, and its file goes."""
    answer = await owner.send(LINES, **fields)

    assert (422, "#problem") == (answer.status, answer.headers["hx-retarget"])
    assert [] == await owner.left()


async def test_too_large(owner: Owner, emulator: CohortsEmulator) -> None:
    """A larger form than the page takes is heard to its end, and not kept."""
    answer = await owner.send(b"x" * (MOST + 1), name=NAME)

    assert (413, "#problem") == (answer.status, answer.headers["hx-retarget"])
    assert [] == await owner.left()
    assert "No uploads or syncs since" in await owner.shown()


@pytest.mark.parametrize(
    "body", [b"", b"--x\r\n", b'--x\r\nContent-Disposition: form-data; name="key"\r\n']
)
async def test_cut_form(owner: Owner, body: bytes) -> None:
    """What ends in the middle is no form, and leaves no file."""
    kind = "multipart/form-data; boundary="
    answers = [
        await owner.browser.ask(
            "POST", "/writes", data=body, headers={"Content-Type": each}
        )
        for each in (f"{kind}x", f"{kind}{'x' * 300}", "text/plain")
    ]

    assert [422, 422, 422] == [answer.status for answer in answers]
    assert [] == await owner.left()


async def test_form_is_done_once(owner: Owner, emulator: CohortsEmulator) -> None:
    """A double click and a form that is sent again after "back" write once."""
    key = await owner.key()
    await asyncio.gather(*[owner.send(name=NAME, key=key) for _ in range(3)])
    assert 1 == (await owner.settled()).count("<li")
    (path,) = re.findall(r'hx-post="(/writes/\w+/write)"', await owner.shown())
    buttons = [owner.browser.ask("POST", path) for _ in range(3)]
    await asyncio.gather(*buttons)
    await owner.settled()
    late = await owner.send(name=NAME, key=key)
    again = await owner.browser.ask("POST", path)

    assert [200, 200] == [late.status, again.status]
    assert 1 == (await owner.settled()).count("<li")
    assert 1 == emulator.requests("upload")
    assert [] == await owner.left()


async def test_namesakes_are_told(owner: Owner, emulator: CohortsEmulator) -> None:
    """Where there is a cohort of the name, the second button makes another one."""
    emulator.add_cohort("other", members=["a"], name=NAME)
    await owner.send(name=NAME)

    assert "a cohort of this name already (<code>other</code>)" in await owner.settled()


async def test_discard(owner: Owner, emulator: CohortsEmulator) -> None:
    """What was only checked can be given up; nothing is written then."""
    await owner.send(name=NAME)
    await owner.settled()
    (path,) = re.findall(r'hx-post="(/writes/\w+/write)"', await owner.shown())
    answer = await owner.press("discard")
    late = await owner.browser.ask("POST", path)

    assert b"<strong>Discarded</strong>" in answer.body
    assert 409 == late.status
    assert 0 == emulator.requests("upload")
    assert [] == await owner.left()


async def test_failure_is_shown(owner: Owner, emulator: CohortsEmulator) -> None:
    """What Amplitude refuses is told, and the file goes."""
    await owner.send(name=NAME)
    await owner.settled()
    emulator.fail_next("upload", faults.refused(400, "no such owner"), times=None)
    await owner.press()

    assert "<strong>Failed</strong>" in await owner.settled()
    assert [".journal"] == await owner.left()


@pytest.mark.parametrize("options", [{"limits": Limits(monthly_reserve=500)}])
async def test_quota_is_left_to_others(owner: Owner, emulator: CohortsEmulator) -> None:
    """What `--keep` leaves is not spent by a comparison."""
    await owner.send(cohort_id=COHORT)

    assert "<strong>Failed</strong>" in await owner.settled()
    assert 0 == emulator.spent


@pytest.mark.parametrize("options", [{}])
async def test_upload_needs_a_project(owner: Owner) -> None:
    """The form says what to set, and the sync is there."""
    forms = (await owner.browser.get("/fragments/write-forms")).body.decode()

    assert "<code>AMPLITUDE_APP_ID</code>" in forms
    assert 'name="name"' not in forms
    assert 'name="cohort_id"' in forms


async def test_names_are_text(owner: Owner) -> None:
    """A name that is code is shown as it is."""
    await owner.send(name=HOSTILE, column=HOSTILE)

    assert "<img" not in await owner.settled()


async def test_upload_goes_on_after_the_process_ended(
    first: Serve, second: Serve, emulator: CohortsEmulator
) -> None:
    """The same file again makes no second cohort, and an old form nothing."""
    many = "".join(f"user-{number}\n" for number in range(150_000)).encode()

    async with first() as owner:
        key = await owner.key()
        await owner.send(many, name=NAME, key=key)
        await owner.settled()
        emulator.fail_next("membership", faults.refused(403, "no"))
        await owner.press()
        failed = await owner.settled()
        assert "after 100,000 ids were written" in failed
        assert "it goes on where it stopped" in failed

    async with second() as owner:
        stale = await owner.send(many, name=NAME, key=key)
        assert 409 == stale.status
        page = await owner.browser.get("/fragments/writes?of=another")
        assert b"was started again" in page.body
        await owner.send(many, name=NAME)
        assert "was begun before" in await owner.settled()
        await owner.press()
        done = await owner.settled()

        assert "has 150,000 ids" in done
        assert "1 of 2 requests were sent before" in done
        assert [] == await owner.left()

    assert 1 == emulator.requests("upload")


async def test_file_goes_with_the_process(
    first: Serve, folder: Path, emulator: CohortsEmulator
) -> None:
    """What waits for its second button leaves no file when the command ends."""
    async with first() as owner:
        await owner.send(name=NAME)
        await owner.settled()
        assert 1 == len(await owner.left())

    assert [] == await owner.left()
    assert 0 == emulator.requests("upload")


def test_what_a_killed_process_left(tmp_path: Path) -> None:
    """Its file goes with the next one that is sent, an hour later."""
    old, new = tmp_path / "received-1", tmp_path / "received-2"
    for path in (old, new):
        path.write_bytes(LINES)
    os.utime(old, (0, 0))
    sweep(tmp_path)

    assert [new] == [*tmp_path.iterdir()]
