"""The guards of the suite bite: each catches a test made to offend."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .canary import find_secrets

OFFENDERS = """
import asyncio, base64, logging, socket, sys, time
import pytest
from hypothesis import given, strategies
from amplitude_cohorts_async import _core
from support import canary

def test_calls_the_world():
    socket.create_connection(("192.0.2.1", 80), 0.1)

def test_looks_up_a_name():
    socket.getaddrinfo("amplitude.com", 443)

async def test_looks_up_a_name_in_a_thread():
    await asyncio.to_thread(socket.getaddrinfo, "amplitude.com", 443)

async def test_leaves_a_task():
    asyncio.create_task(asyncio.sleep(60)).get_name()

@given(strategies.none())
async def test_law_leaves_a_task(_):
    asyncio.create_task(asyncio.sleep(60)).get_name()

async def test_is_well_behaved():
    await asyncio.create_task(asyncio.sleep(0))

async def test_leaves_a_socket():
    socket.socket()

async def test_forgets_an_exception():
    asyncio.get_running_loop().create_future().set_exception(OSError())

async def test_blocks():
    code = compile("time.sleep(0)", _core.__file__, "exec")
    exec(code, {"time": time})

def test_prints_the_key():
    print(canary.SECRET_KEY)

def test_reads_what_it_printed(capsys):
    print(canary.BASIC, file=sys.stderr)
    capsys.readouterr()

def test_logs_a_link():
    link = "https://store/x?X-Amz-Signature=" + 64 * "a"
    logging.getLogger("amplitude_cohorts_async").debug("got", extra={"url": link})

def test_fails_with_the_key():
    raise ValueError(canary.API_KEY)
"""
TESTS = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_offender_is_caught(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of these tests fails or errs, and the report shows no secret."""
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=":")
    pytester.makepyprojecttoml((TESTS.parent / "pyproject.toml").read_text())
    pytester.makeconftest('pytest_plugins = ["support.guards", "support.canary"]')
    path = pytester.makepyfile(OFFENDERS)

    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", path)

    caught = re.findall(
        r"^(?:FAILED|ERROR) \S+::(\w+)", str(result.stdout), re.MULTILINE
    )
    expected = set(re.findall(r"def (test_\w+)", OFFENDERS)) - {"test_is_well_behaved"}
    assert expected == set(caught)
    assert [] == find_secrets(str(result.stdout))
