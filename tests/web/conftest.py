"""A service with a mounted router, an emulator behind it, and one clock for both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock
from support.canary import API_KEY, SECRET_KEY

HERE = Path(__file__).parent

# Without the extra there is nothing to test here; `tests/public` tests what it says.
collect_ignore = [path.name for path in HERE.glob("test_*.py")]

if all(map(find_spec, ("fastapi", "jinja2", "python_multipart", "uvicorn"))):
    from support.web import COHORT, IDS, Browser, mounted

    collect_ignore.clear()


@pytest.fixture
def make_client(
    emulator: CohortsEmulator, clock: FakeClock, tmp_path: Path
) -> Callable[[], CohortsClient]:
    """Make a client with a store in a file, as each worker does."""
    emulator.add_cohort(COHORT, members=IDS)

    return partial(
        CohortsClient,
        API_KEY,
        SECRET_KEY,
        base_url=emulator.base_url,
        clock=clock,
        jobs=str(tmp_path / "exports.db"),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the files go."""
    return tmp_path / "files"


@pytest.fixture
async def browser(
    make_client: Callable[[], CohortsClient], clock: FakeClock, folder: Path
) -> AsyncIterator[Browser]:
    """Who asks a service that runs."""
    async with mounted(folder, client=make_client, clock=clock) as browser:
        yield browser
