"""The command ``demo``: an export of two million users, without an account."""

from __future__ import annotations

import sys
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

from .. import CohortsClient, ExportJob
from ..events import BytesReceived, Event, LinkRenewed, RequestSent, StatusPolled
from ..models import Cohort, SavedExport
from ..policies import Polling
from .common import FORMATS, Output
from .emulator_process import Emulator, emulator_process
from .progress import bars
from .running import run

__all__ = ("demo",)

_USERS = 2_000_000
_SUFFIXES = tuple(f".{name}" for name in FORMATS)
_JOB_SECONDS = 2.0


@attrs.frozen(kw_only=True)
class DemoResult:
    """
    The result of a demo.

    Attributes:
        users: Members counted in the stream.
        anonymous: How many of them have no user id.
        size: Bytes of the file.
        downloaded: Bytes received for it.
        seconds: Duration of the download.
        megabytes_per_second: Of the file, during the download.
        api_calls: Requests to the emulated API.
        links: How many links the download used.
        exports_spent: From the usage.
        peak_memory: Of this process, in bytes; None if unknown.
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


def demo(
    shared: Output,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Keep the file under this name."
        ),
    ] = None,
    users: Annotated[
        int,
        typer.Option("--users", metavar="N", min=1_000, help="Users in the cohort."),
    ] = _USERS,
) -> None:
    """Export two million users from an emulator on this machine; no account needed."""
    if output is not None:
        _check(output)

    script = _Script(
        Console(stderr=shared.as_json, quiet=shared.quiet, highlight=False)
    )

    with TemporaryDirectory(prefix="amplitude-cohorts-demo-") as folder:
        result = _play(script, output or Path(folder, "members.csv"), users)

    result = attrs.evolve(result, path=output)
    shared.print("demo", result, _summary)


def _check(output: Path) -> None:
    # The library checks more, but only when the export is ready.
    if not output.name.lower().endswith(_SUFFIXES):
        raise typer.BadParameter(
            f"the name {output.name!r} does not say its format; end it in one of "
            f"{', '.join(_SUFFIXES)}"
        )

    if output.is_dir() or not output.parent.is_dir():
        raise typer.BadParameter(f"{output} cannot be a file; name another one")


def _play(script: _Script, to: Path, users: int) -> DemoResult:
    script.step("Starting a strict emulator of Amplitude's API in a separate process")
    script.say("The first run generates its users, which takes a few seconds.")
    options = [
        "--demo",
        "--mishaps",
        f"--size={users}",
        f"--job-seconds={_JOB_SECONDS}",
    ]

    with emulator_process(*options) as emulator:
        script.say(
            f"It listens at {emulator.base_url} and enforces the limits and quotas."
        )
        return run(_connected(script, emulator, to))


async def _connected(script: _Script, emulator: Emulator, to: Path) -> DemoResult:
    keys = emulator.environment
    counter = _CallCounter(script)

    # Real jobs take a minute and are polled less often.
    async with CohortsClient(
        keys["AMPLITUDE_API_KEY"],
        keys["AMPLITUDE_SECRET_KEY"],
        base_url=emulator.base_url,
        polling=Polling(initial_delay=0.5, interval=0.5),
        hook=counter,
    ) as client:
        cohort = await _look_around(script, client)
        job = await _request(script, client, cohort)
        started = time.perf_counter()
        saved = await _download(script, job, to)
        seconds = time.perf_counter() - started
        counted = await _count(script, client.resume_export(saved.token))
        usage = await client.get_usage()

    return DemoResult(
        users=counted[0],
        anonymous=counted[1],
        size=saved.size,
        downloaded=saved.downloaded,
        seconds=round(seconds, 3),
        megabytes_per_second=round(saved.size / seconds / 1e6, 1),
        api_calls=counter.calls,
        links=saved.links,
        exports_spent=usage.used,
        peak_memory=_peak_memory(),
        path=None,
    )


async def _look_around(script: _Script, client: CohortsClient) -> Cohort:
    script.step("Listing the cohorts")
    cohorts = await client.list_cohorts()

    for cohort in cohorts:
        script.say(f"{cohort.id:10} {cohort.size or 0:>9,} users  {cohort.name}")

    usage = await client.get_usage()
    script.say(f"{usage.remaining} of this month's {usage.limit} exports are left.")

    # It loads a web server, which no other command needs.
    from ..testing.demo import DEMO_COHORT  # noqa: PLC0415

    return next(cohort for cohort in cohorts if cohort.id == DEMO_COHORT)


async def _request(script: _Script, client: CohortsClient, cohort: Cohort) -> ExportJob:
    script.step(f"Requesting the export of {cohort.id}, and waiting for its file")
    job = await client.request_export(cohort.id)
    script.say(f"It is job {job.request_id}: any process can resume it for seven days.")

    return await job.wait(timeout=60.0)


async def _download(script: _Script, job: ExportJob, to: Path) -> SavedExport:
    script.step("Downloading, with an expired link and a cut connection on the way")

    with script.bar() as progress:
        saved = await job.download(to, progress=progress)

    digest = await saved.digest()
    script.say(f"The file is complete and only now has its name. SHA-256 {digest}")

    return saved


async def _count(script: _Script, job: ExportJob) -> tuple[int, int]:
    script.step("Reading the same export again as a stream of members, without a file")
    users = anonymous = 0
    started = time.perf_counter()

    async with job.members() as members:
        async for batch in members.batches():
            users += len(batch)
            anonymous += sum(member.user_id is None for member in batch)

    seconds = time.perf_counter() - started
    script.say(f"{users:,} users, {anonymous:,} of them anonymous, in {seconds:.1f} s.")

    return users, anonymous


class _Script:
    """Prints the steps of the demo."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._steps = 0

    def step(self, text: str) -> None:
        """Begin the next step."""
        self._steps += 1
        self._print(Text(f"{self._steps}. {text}", style="bold"))

    def say(self, text: str) -> None:
        """Print a remark on this step."""
        self._print(Text(f"   {text}"))

    @contextmanager
    def bar(self) -> Generator[Callable[[BytesReceived], None]]:
        """Draw the progress of a download, on a terminal."""
        shown = bars(self.console)
        shown.disable = not self.console.is_terminal
        task = shown.add_task("  ", total=None)

        def update(event: BytesReceived) -> None:
            shown.update(task, completed=event.received, total=event.total)

        with shown:
            yield update

    def _print(self, text: Text) -> None:
        self.console.print(text, soft_wrap=True)


class _CallCounter:
    """An event hook that counts requests, and prints the steps of job and download."""

    def __init__(self, script: _Script) -> None:
        self.calls = 0
        self._script = script
        self._status = ""

    def __call__(self, event: Event, /) -> None:
        match event:
            case RequestSent():
                self.calls += 1
            case StatusPolled(word=status, elapsed=elapsed) if status != self._status:
                self._status = status
                self._script.say(f"{status} after {elapsed:.1f} s")
            case LinkRenewed(links=links, received=received):
                self._script.say(
                    f"Link {links} failed after {decimal(received)}; a new link "
                    f"continues from there."
                )
            case _:
                pass


def _summary(result: DemoResult) -> None:
    console = Console(highlight=False)
    peak = "unknown" if result.peak_memory is None else decimal(result.peak_memory)
    rows = {
        "users": f"{result.users:,}",
        "bytes": f"{result.size:,} ({result.downloaded:,} on the wire)",
        "seconds": f"{result.seconds:.2f} for the download",
        "MB/s": f"{result.megabytes_per_second:.1f}",
        "API calls": f"{result.api_calls}",
        "links used": f"{result.links}",
        "exports spent": f"{result.exports_spent}",
        "peak memory": f"{peak}, in this process",
    }
    console.print()

    for name, value in rows.items():
        console.print(f"   [bold]{name:14}[/] {value}", soft_wrap=True)


def _peak_memory() -> int | None:
    """Return the peak memory of this process in bytes; None if unknown."""
    # On Linux a child inherits the peak of getrusage() from its parent, so that a
    # small process started by a large one seems large. VmHWM is not inherited.
    status = Path("/proc/self/status")

    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024

    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return None

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    return peak if sys.platform == "darwin" else peak * 1024
