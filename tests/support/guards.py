"""What watches every test: the network, blocking calls, and what is left behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
import ipaddress
import logging
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from importlib import import_module

import pytest
from blockbuster import BlockBuster
from hypothesis import HealthCheck, settings

PACKAGE = "amplitude_cohorts_async"

LOCKS = ("threading.Lock.acquire", "threading.Lock.acquire_lock")

# Loop turns that a closed connection may take to be gone.
TURNS = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the run choose the event loop of its asynchronous tests."""
    parser.addoption(
        "--uvloop", action="store_true", help="run asynchronous tests on uvloop"
    )
    parser.addoption(
        "--aiofastnet",
        action="store_true",
        help="let aiofastnet open all connections of the event loop",
    )


def pytest_configure() -> None:
    """Refuse the outside world in this process, threads included, and be patient."""
    if not _is_traced():
        sys.addaudithook(_stay_at_home)
    # A busy machine is slow, and no law is about that; a test has its time-out.
    # The same examples each time: what is covered must not depend on chance.
    settings.register_profile(
        "patient",
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile("patient")
    # For --hypothesis-profile=quick, which hypothesis loads after this.
    settings.register_profile("quick", settings.get_profile("patient"), max_examples=15)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Watch what every asynchronous test leaves on its loop; skip what cannot run."""
    if sys.platform == "win32" and item.get_closest_marker("posix"):
        item.add_marker(pytest.mark.skip(reason="needs a POSIX system"))

    if not isinstance(item, pytest.Function):
        return

    law = getattr(item.obj, "hypothesis", None)
    if inspect.iscoroutinefunction(law.inner_test if law else item.obj):
        item.fixturenames.insert(0, "nothing_left")


def pytest_collection_finish() -> None:
    """
    Take what exists by now out of the garbage collector's rounds.

    Measured: a round after each asynchronous test took a sixth of the suite.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """We are asyncio only, as aiohttp is; the loop may be uvloop, or aiofastnet's."""
    make_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop

    if request.config.getoption("--uvloop"):
        make_loop = import_module("uvloop").new_event_loop

    if request.config.getoption("--aiofastnet"):
        make_loop = partial(_patched_loop, make_loop)

    return "asyncio", {"loop_factory": make_loop}


def _patched_loop(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> asyncio.AbstractEventLoop:
    loop = import_module("aiofastnet").loop_factory(make_loop)()
    # What the emulator serves is for the loop's own transports: a writer of asyncio's
    # streams asks its transport something when it is collected, in whichever thread that
    # happens, and aiofastnet's refuse that.
    del loop.create_server

    return loop


@pytest.fixture(scope="session", autouse=True)
def nothing_blocks() -> Iterator[None]:
    """
    Fail a blocking call that our code makes on an event loop.

    The emulator is exempt: it stands for somebody else's machine.
    """
    # A client imports its parts when it is entered; many here never are.
    import_module(f"{PACKAGE}._operations")

    # A blocking client may keep a loop of its caller's waiting: a notebook's.
    others = [f"{PACKAGE}.testing", f"{PACKAGE}.blocking"]
    guard = BlockBuster(PACKAGE, excluded_modules=others)
    for function in guard.functions.values():
        function.can_block_in("pytest_timeout.py", "dump_stacks")
    # The kernel answers from memory, whichever disk the folder is on.
    guard.functions["os.getcwd"].can_block_in(f"{PACKAGE}/models.py", "_absolute")
    if _is_traced():
        # Its tracer acquires a lock of its own at lines of ours, from C, without
        # a frame that says so. All other sessions watch locks.
        for name in LOCKS:
            guard.functions.pop(name)
    guard.activate()
    yield
    guard.deactivate()


@pytest.fixture
async def nothing_left() -> AsyncIterator[None]:
    """Fail a test that leaves a task running or a connection open."""
    yield

    for _ in range(TURNS):
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if not _belongs_to_harness(task)]
    # An open session or socket complains when it is collected: do it here,
    # where the complaint, which is an error, fails the test that caused it.
    gc.collect()
    # What is left belongs to the harness, and to no later round of the collector.
    gc.freeze()

    assert [] == left


@pytest.fixture(autouse=True)
def asyncio_is_content(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test after which asyncio complains, as of an exception nobody fetched."""
    yield
    complaints = [
        record.getMessage()
        for phase in ("setup", "call")
        for record in caplog.get_records(phase)
        if "asyncio" == record.name and record.levelno >= logging.ERROR
    ]

    assert [] == complaints


def _belongs_to_harness(task: asyncio.Task[object]) -> bool:
    return "TestRunner." in repr(task.get_coro())


def _is_traced() -> bool:
    """
    Whether coverage counts lines in this process.

    To set its tracer is an audit event, and Python 3.11 refuses to set it in two threads
    at once: while the hook is told in one, a start of another thread failed.
    """
    return "coverage" in sys.modules


def _stay_at_home(event: str, args: tuple[object, ...]) -> None:
    if "socket.connect" == event:
        address = args[1]
    elif "socket.getaddrinfo" == event:
        address = args[:2]
    else:
        return

    # Addresses of unix sockets are not tuples; the empty host is ourselves.
    if isinstance(address, tuple) and not _is_home(address[0]):
        pytest.fail(f"{event} to {address[0]!r}: tests talk to loopback only")


def _is_home(host: object) -> bool:
    if host in {None, "", b"", "localhost", b"localhost"}:
        return True

    try:
        return ipaddress.ip_address(_text(host)).is_loopback
    except ValueError:
        return False


def _text(host: object) -> str:
    return host.decode() if isinstance(host, bytes) else str(host)
