"""What differs on Windows and macOS, as far as Linux can tell."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amplitude_cohorts_async import CohortsClient
from amplitude_cohorts_async._exports.runs import file_name
from amplitude_cohorts_async._io import machine
from amplitude_cohorts_async._io.sinks import part_file
from amplitude_cohorts_async._store_urls import checked_path_or_url
from amplitude_cohorts_async.errors import ConfigurationError, InvalidInputError
from amplitude_cohorts_async.testing import CohortsEmulator
from support.posix import imported, unmarked

TESTS = Path(__file__).parents[1]
MODULES = sorted(TESTS.rglob("*.py"))
NOT_THERE = ("fcntl", "grp", "pwd", "resource", "termios")


@pytest.mark.parametrize(
    "path", [each for each in MODULES if each.name.startswith("test_")], ids=str
)
def test_a_test_that_needs_posix_says_so(path: Path) -> None:
    """By its mark, so that the others run everywhere."""
    assert [] == [function.name for function in unmarked(path)]


def test_modules_of_tests_can_be_imported_everywhere() -> None:
    """A script of its own, or who skips first, may import what Windows has not."""
    needing = {path.name for path in MODULES if imported(path)}

    assert {"import_cost.py", "test_going_on.py", "test_terminal.py"} >= needing


def test_the_package_can_be_imported_without_modules_of_posix() -> None:
    """No public module imports one where the system is called Windows."""
    code = (
        "import asyncio, sys, subprocess, aiohttp, aiolimiter, anyio, cattrs\n"
        "import anyio._backends._asyncio, aiohttp.web, logging.handlers, tempfile\n"
        f"sys.modules.update(dict.fromkeys({NOT_THERE}))\n"
        "sys.platform = 'win32'\n"
        "import amplitude_cohorts_async.testing\n"
        "from amplitude_cohorts_async import _operations, blocking\n"
    )
    if not (TESTS.parent / "amplitude_cohorts_async/blocking").exists():
        code = code.replace(", blocking", "")
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert "" == ran.stderr


@pytest.mark.parametrize("name", ["con", "NUL", "aux.1", "Com1", "lpt9"])
def test_no_file_is_named_like_a_device(name: str) -> None:
    """Windows opens the device, whatever stands after the first dot."""
    assert file_name(name, "csv").startswith(f"%{ord(name[0]):X}")


@pytest.mark.parametrize("name", ["console", "26umsb5", "com10", "null"])
def test_other_names_stay_as_they_are(name: str) -> None:
    """A file of an earlier release is found again."""
    assert f"{name}.csv" == file_name(name, "csv")


@pytest.mark.parametrize(
    "name", ["a/b", "a\\b", "a:b", 'a"b', "a*b", "a?b", "a<b", "a|b", "a b", ".."]
)
def test_a_name_has_no_character_that_a_system_forbids(name: str) -> None:
    """Slashes, colons and wild cards are percent-encoded."""
    assert not set(file_name(name, "csv")) & set('/\\:"*?<>| ')


@pytest.mark.parametrize("system", ["win32", "darwin"])
async def test_two_ids_that_differ_in_case_are_refused_where_it_does_not_count(
    emulator: CohortsEmulator,
    client: CohortsClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    system: str,
) -> None:
    """One file would replace the other; nothing is sent."""
    monkeypatch.setattr("amplitude_cohorts_async._exports.runs.sys.platform", system)

    with pytest.raises(InvalidInputError, match="ignore case"):
        await client.export_many(["abc", "ABC"], tmp_path).aclose()

    assert not emulator.log


@pytest.mark.parametrize(
    "path", ["C:\\jobs\\exports.db", "c:/jobs/exports.db", ".\\exports.db"]
)
def test_a_path_with_a_drive_is_no_url(path: str) -> None:
    """A job store may be named as Windows names files."""
    assert Path(path) == checked_path_or_url(path)


async def test_without_proc_no_process_counts_as_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On macOS and Windows the end of a lease decides."""
    monkeypatch.setattr(machine, "_BOOT_ID", tmp_path / "none")
    monkeypatch.setattr(machine, "_PID_NAMESPACE", tmp_path / "none")
    monkeypatch.delattr("time.CLOCK_BOOTTIME", raising=False)
    machine._named.cache_clear()

    owner = machine.this_process()
    machine._named.cache_clear()

    assert f"/{os.getpid()}" == owner
    assert not machine.has_ended(owner)
    assert machine.seconds_since_boot() > 0


def test_a_folder_that_cannot_be_opened_is_not_synced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Windows opens no folders, and so the rename is not forced to disk."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)

    part_file.sync_folder(tmp_path)


async def test_psycopg_s_refusal_is_told_before_it_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop that Windows has by default is named, with what to pass instead."""
    pytest.importorskip("psycopg_pool", reason="the extra postgres is not installed")
    from amplitude_cohorts_async.contrib.postgres import (  # noqa: PLC0415
        PostgresLimiter,
    )

    kind = type(asyncio.get_running_loop())
    monkeypatch.setattr(asyncio, "ProactorEventLoop", kind, raising=False)
    limiter = PostgresLimiter("postgresql://127.0.0.1:1/none", app="app")

    with pytest.raises(ConfigurationError, match="SelectorEventLoop"):
        async with limiter.slot("other"):
            pass
