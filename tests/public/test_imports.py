"""What an import costs and brings along."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import amplitude_cohorts_async

ROOT = amplitude_cohorts_async.__name__
TESTING = f"{ROOT}.testing"
OFTEN = (ROOT, "aiohttp", "aiolimiter", "anyio", "attr", "cattr")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(amplitude_cohorts_async.__path__, f"{ROOT}.")
    if not module.name.endswith("__main__")
)
EXTRAS = [
    *("isal", "opentelemetry", "platformdirs", "psycopg", "psycopg_pool"),
    *("pyarrow", "redis", "rich", "tqdm", "typer"),
]
IMPORT_EACH = f"""
import importlib, os, sys, traceback
import aiohttp.web, aiolimiter, anyio, attrs, cattrs
for name in sys.argv[1:]:
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    try:
        importlib.import_module(name)
    except ImportError as error:
        # The right answer where an extra is not installed, and no other is.
        if not hasattr(error, "extra") and error.name.split(".")[0] not in {EXTRAS}:
            traceback.print_exc()
    except BaseException:
        traceback.print_exc()
    os._exit(0)
"""
CALLS = """
import asyncio, os, sys
from amplitude_cohorts_async import CohortsClient, IdType
from amplitude_cohorts_async.testing import CohortsEmulator, FakeClock

async def main(folder):
    with CohortsEmulator(clock=FakeClock(flows=True)) as emulator:
        cohort = "26umsb5"
        emulator.add_cohort(cohort, members=["user-1"], type="manual_upload")
        os.environ.update(emulator.environment())
        async with CohortsClient.from_env(clock=emulator.clock) as client:
            before = set(sys.modules)
            await client.list_cohorts()
            await client.plan([cohort])
            await client.export(cohort, f"{folder}/members.csv")
            async for _ in client.export_many([cohort], folder):
                pass
            await client.upload_cohort("new", ["a"], id_type=IdType.USER_ID)
            await client.sync_membership(cohort, ["user-1"], current=["user-1"])
            print(*set(sys.modules) - before)

asyncio.run(main(sys.argv[1]))
"""
WARNS = """
from amplitude_cohorts_async._io.limits.registry import limiter_for
from amplitude_cohorts_async.limits import LEAVE_ROOM, UNLIMITED
first, second = limiter_for("app", LEAVE_ROOM), limiter_for("app", UNLIMITED)
"""
WITHOUT_EXTRAS = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS}))"


def run(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter where every warning is an error."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *args],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_every_module_imports_alone() -> None:
    """
    No module needs another to have been imported first, and none warns.

    Each process starts as a copy of one that has the libraries of others, which
    take most of the time, and imports one module.
    """
    result = run(IMPORT_EACH, *MODULES)

    assert "" == result.stderr


def test_the_root_stays_light() -> None:
    """Importing the package brings no extra, no server and no emulator along."""
    heavy = {*EXTRAS, f"{ROOT}.blocking", f"{ROOT}.testing"}
    heavy |= {f"{ROOT}.cli", "numpy", "unittest", "pytest"}

    result = run(f"import sys, {ROOT}; print(*sys.modules)")

    assert "" == result.stderr
    assert set() == heavy & set(result.stdout.split())


@pytest.mark.slow
def test_the_client_comes_without_the_parts_that_work() -> None:
    """What a name costs is its signatures: neither the parts nor cattrs come along."""
    parts = {f"{ROOT}.{name}" for name in ("_exports", "_writes.upload", "_io.session")}

    result = run(f"import sys; from {ROOT} import CohortsClient; print(*sys.modules)")

    assert "" == result.stderr
    assert set() == {*parts, "cattrs", "aiolimiter"} & set(result.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize("argument", ["jobs", "limiter_url"])
def test_a_url_comes_without_the_parts_that_work(argument: str) -> None:
    """They are imported when the client is entered, in a thread."""
    pytest.importorskip("redis", reason="the extra redis is not installed")
    arguments = f"api_key='key', secret_key='secret', {argument}='redis://localhost'"

    result = run(
        f"import sys; from {ROOT} import CohortsClient; "
        f"CohortsClient.from_env({arguments}); print(*sys.modules)"
    )

    assert "" == result.stderr
    assert f"{ROOT}._operations" not in result.stdout.split()


def test_no_call_has_to_import(tmp_path: Path) -> None:
    """
    Once a client is entered its calls find what they need, and keep the loop free.
    """
    result = run(CALLS, str(tmp_path))
    ours = {name for name in result.stdout.split() if not name.startswith(TESTING)}

    assert "" == result.stderr
    assert set() == {name for name in ours if name.startswith(OFTEN)}


def test_the_core_works_without_extras() -> None:
    """Nothing outside `contrib` and `cli` needs an extra."""
    doors = (f"{ROOT}.contrib.", f"{ROOT}.cli")
    names = [name for name in MODULES if not name.startswith(doors)]
    code = f"{WITHOUT_EXTRAS}\nfrom importlib import import_module\n"

    result = run(f"{code}\nfor name in {names}: import_module(name)")

    assert "" == result.stderr


def test_the_command_names_its_extra() -> None:
    """Without the extra `cli` the command says what to install, without a traceback."""
    result = run(f"{WITHOUT_EXTRAS}\nfrom {ROOT}.cli import main\nsys.exit(main())")

    assert 0 != result.returncode
    assert "amplitude-cohorts-async[cli]" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_program_without_a_log_hears_nothing() -> None:
    """What we log goes where a program sends it, and nowhere if it does not say."""
    heard = run(f"import logging\nlogging.basicConfig()\n{WARNS}")

    assert "WARNING:amplitude_cohorts_async" in heard.stderr
    assert "" == run(WARNS).stderr


def test_types_are_shipped() -> None:
    """The marker that makes type checkers believe us is in the package."""
    assert files(ROOT).joinpath("py.typed").is_file()
