"""The keys of the whole suite, and the watch that nobody ever sees them."""

from __future__ import annotations

import base64
import logging
import re
import warnings
from collections.abc import Generator, Iterator

import pytest

API_KEY = "canary-api-0f1e2d3c4b5a69788796a5b4c3d2e1f0"
SECRET_KEY = "canary-secret-9a8b7c6d5e4f30211203f4e5d6c7b8a9"
BASIC = base64.b64encode(f"{API_KEY}:{SECRET_KEY}".encode()).decode()

# The keys, the header made of them, and the secret part of a presigned link.
SECRET = re.compile(
    f"{re.escape(API_KEY)}|{re.escape(SECRET_KEY)}|{re.escape(BASIC)}"
    r"|X-Amz-Signature=[0-9a-f]{16,}",
)


def find_secrets(text: str) -> list[str]:
    """List what may not be shown, shortened, so that this does not show it."""
    return [f"{found[:16]}..." for found in SECRET.findall(text)]


class SecretWatch(logging.Handler):
    """Read all log records, with everything that travels in their `extra`."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Look at the message, and at every attribute as it would be printed."""
        text = f"{record.getMessage()} {vars(record)}"
        if record.exc_info:
            text += logging.Formatter().formatException(record.exc_info)
        self.seen += [f"log of {record.name}: {each}" for each in find_secrets(text)]


@pytest.fixture(autouse=True)
def nothing_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test during which a secret was logged, at any level, by anybody."""
    watch = SecretWatch()
    root = logging.getLogger()
    root.addHandler(watch)
    with caplog.at_level(logging.DEBUG):
        yield
    root.removeHandler(watch)

    assert [] == watch.seen


@pytest.fixture
def capsys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> pytest.CaptureFixture[str]:
    """Watch also the output that a test takes away before the report sees it."""
    read = capsys.readouterr

    def readouterr() -> object:
        captured = read()
        assert [] == find_secrets(captured.out + captured.err)
        return captured

    monkeypatch.setattr(capsys, "readouterr", readouterr)

    return capsys


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that printed a secret, or failed with one in its message."""
    report = yield
    shown = report.capstdout + report.capstderr + report.longreprtext

    if found := find_secrets(shown):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} shows secrets: {found}"
        report.sections = []

    return report


def pytest_warning_recorded(warning_message: warnings.WarningMessage) -> None:
    """End the run when a warning shows a secret."""
    if find_secrets(str(warning_message.message)):
        raise pytest.UsageError("a warning showed a secret")
