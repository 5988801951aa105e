"""
``demo``: an export of two million users, without an account.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import attrs
import typer
from rich.console import Console
from rich.filesize import decimal
from rich.text import Text

from .._client import CohortsClient
from .._job import ExportJob
from ..events import BytesReceived, Event, LinkRenewed, RequestSent, StatusPolled
from ..models import Cohort, SavedExport
from ..policies import Polling
from ..testing.demo import DEMO_COHORT
from .common import Output, command
from .emulator_process import Emulator, emulator_process
from .memory import peak_memory
from .progress import bars
from .running import run

__all__ = ("register",)

_USERS = 2_000_000
_JOB_SECONDS = 2.0


@attrs.frozen(kw_only=True)
class Facts:
    """
    What a demo found.

    Attributes:
        users: Members counted in the stream.

        anonymous: How many of them have no user id.

        size: Bytes of the file.

        downloaded: Bytes on the wire.

        seconds: That the download took.

        megabytes_per_second: Of the file, in this time.

        api_calls: Requests that Amplitude's place in this answered.

        links: Links the file took.

        exports_spent: As the usage says.

        peak_memory: Of this process, in bytes; None if the system does not
            tell.

        path: Where the file is; None when it was not kept.
    """

    users: int
    anonymous: int
    size: int
    downloaded: int
    seconds: float
    megabytes_per_second: float
    api_calls: int
    links: int
    exports_spent: int
    peak_memory: int | None
    path: Path | None


def register(app: typer.Typer) -> None:
    """
    Add this command.
    """
    command(app, "demo")(demo)


def demo(
    shared: Output,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Keep the file, under this name."
        ),
    ] = None,
    users: Annotated[
        int, typer.Option("--users", min=1_000, help="Users in the cohort.")
    ] = _USERS,
) -> None:
    """
    Export two million users from an emulator on this machine; no account needed.
    """
    stage = _Stage(Console(stderr=shared.as_json, quiet=shared.quiet, highlight=False))

    with TemporaryDirectory(prefix="amplitude-cohorts-demo-") as folder:
        facts = _play(stage, output or Path(folder, "members.csv"), users)

    facts = attrs.evolve(facts, path=output)
    shared.print("demo", facts, _summary)


def _play(stage: _Stage, to: Path, users: int) -> Facts:
    stage.step("Starting a strict emulator of Amplitude's API, in a process of its own")
    stage.say("The first time, it makes up its users: a few seconds.")
    options = [
        "--demo",
        "--mishaps",
        f"--size={users}",
        f"--job-seconds={_JOB_SECONDS}",
    ]

    with emulator_process(*options) as emulator:
        stage.say(
            f"It listens at {emulator.base_url}, and knows the limits and quotas."
        )
        return run(_connected(stage, emulator, to))


async def _connected(stage: _Stage, emulator: Emulator, to: Path) -> Facts:
    keys = emulator.environment
    tally = _Tally(stage)

    # Real jobs take a minute, and are asked about less often.
    async with CohortsClient(
        keys["AMPLITUDE_API_KEY"],
        keys["AMPLITUDE_SECRET_KEY"],
        base_url=emulator.base_url,
        polling=Polling(initial_delay=0.5, interval=0.5),
        hook=tally,
    ) as client:
        cohort = await _look_around(stage, client)
        job = await _request(stage, client, cohort)
        started = time.perf_counter()
        saved = await _download(stage, job, to)
        seconds = time.perf_counter() - started
        counted = await _count(stage, client.resume_export(saved.token))
        usage = await client.get_usage()

    return Facts(
        users=counted[0],
        anonymous=counted[1],
        size=saved.size,
        downloaded=saved.downloaded,
        seconds=round(seconds, 3),
        megabytes_per_second=round(saved.size / seconds / 1e6, 1),
        api_calls=tally.calls,
        links=saved.links,
        exports_spent=usage.used,
        peak_memory=peak_memory(),
        path=None,
    )


async def _look_around(stage: _Stage, client: CohortsClient) -> Cohort:
    stage.step("Asking which cohorts there are")
    cohorts = await client.list_cohorts()

    for cohort in cohorts:
        stage.say(f"{cohort.id:10} {cohort.size or 0:>9,} users  {cohort.name}")

    usage = await client.get_usage()
    stage.say(f"{usage.remaining} of this month's {usage.limit} exports are left.")

    return next(cohort for cohort in cohorts if cohort.id == DEMO_COHORT)


async def _request(stage: _Stage, client: CohortsClient, cohort: Cohort) -> ExportJob:
    stage.step(f"Requesting the export of {cohort.id}, and waiting for its file")
    job = await client.request_export(cohort.id)
    stage.say(f"It is job {job.request_id}: any process can take it up for seven days.")

    return await job.wait(timeout=60.0)


async def _download(stage: _Stage, job: ExportJob, to: Path) -> SavedExport:
    stage.step("Downloading; it will meet an expired link and a cut connection")

    with stage.bar() as progress:
        saved = await job.download(to, progress=progress)

    digest = await saved.digest()
    stage.say(f"The file is whole, and got its name only now. SHA-256 {digest}")

    return saved


async def _count(stage: _Stage, job: ExportJob) -> tuple[int, int]:
    stage.step("Reading the same export again, as a stream of members; nothing on disk")
    users = anonymous = 0
    started = time.perf_counter()

    async with job.members() as members:
        async for batch in members.batches():
            users += len(batch)
            anonymous += sum(member.user_id is None for member in batch)

    seconds = time.perf_counter() - started
    stage.say(f"{users:,} users, {anonymous:,} of them anonymous, in {seconds:.1f} s.")

    return users, anonymous


class _Stage:
    """
    Where the story is told.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._steps = 0

    def step(self, words: str) -> None:
        """
        Begin the next step.
        """
        self._steps += 1
        self._print(Text(f"{self._steps}. {words}", style="bold"))

    def say(self, words: str) -> None:
        """
        Tell something about this step.
        """
        self._print(Text(f"   {words}"))

    @contextmanager
    def bar(self) -> Generator[Callable[[BytesReceived], None]]:
        """
        Draw the progress of a download, on a terminal.
        """
        shown = bars(self.console)
        shown.disable = not self.console.is_terminal
        task = shown.add_task("  ", total=None)

        def update(event: BytesReceived) -> None:
            shown.update(task, completed=event.received, total=event.total)

        with shown:
            yield update

    def _print(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)


class _Tally:
    """
    An event hook that counts calls, and tells what a job and its file meet.
    """

    def __init__(self, stage: _Stage) -> None:
        self.calls = 0
        self._stage = stage
        self._word = ""

    def __call__(self, event: Event, /) -> None:
        match event:
            case RequestSent():
                self.calls += 1
            case StatusPolled(word=word, elapsed=elapsed) if word != self._word:
                self._word = word
                self._stage.say(f"{word} after {elapsed:.1f} s")
            case LinkRenewed(links=links, received=received):
                self._stage.say(
                    f"Link {links} broke at {decimal(received)}; a fresh one goes on "
                    f"from there."
                )
            case _:
                pass


def _summary(facts: Facts) -> None:
    console = Console(highlight=False)
    peak = "not told" if facts.peak_memory is None else decimal(facts.peak_memory)
    rows = {
        "users": f"{facts.users:,}",
        "bytes": f"{facts.size:,} ({facts.downloaded:,} on the wire)",
        "seconds": f"{facts.seconds:.2f} for the download",
        "MB/s": f"{facts.megabytes_per_second:.1f}",
        "API calls": f"{facts.api_calls}",
        "links used": f"{facts.links}",
        "exports spent": f"{facts.exports_spent}",
        "peak memory": f"{peak}, in this process",
    }
    console.print()

    for name, value in rows.items():
        console.print(f"   [bold]{name:14}[/] {value}", soft_wrap=True)
