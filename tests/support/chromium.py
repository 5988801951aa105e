"""A headless Chromium that reaches this machine alone, and the page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

NAMES = (
    *("chromium-headless-shell", "chromium", "chromium-browser"),
    *("google-chrome-stable", "google-chrome", "chrome"),
)
MISSING = (
    "there is no Chromium: `apt-get install chromium-headless-shell`, or name one in "
    "BROWSER"
)


def find_chromium() -> str:
    """Return the program; skip without one, and fail where CI is set."""
    found = shutil.which(os.environ.get("BROWSER", "")) or next(
        filter(None, map(shutil.which, NAMES)), None
    )

    if found is None:
        if os.environ.get("CI"):
            pytest.fail(MISSING, pytrace=False)
        pytest.skip(MISSING)

    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run one, for which no name but this machine's leads anywhere."""
    options = ["--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"]
    if hasattr(os, "getuid") and os.getuid() == 0:
        options.append("--no-sandbox")

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=find_chromium(), args=options, headless=True
        )
        try:
            yield browser
        finally:
            browser.close()


class Watch:
    """What a page did that it must not: requests to others, and errors."""

    def __init__(self, context: BrowserContext, host: str) -> None:
        self.complaints: list[str] = []
        self._host = host
        context.route("**/*", self._check)
        context.on("weberror", lambda error: self.complaints.append(str(error.error)))
        context.on("console", lambda said: self._listen(said.text))

    def _check(self, route: Route) -> None:
        url = route.request.url
        if url.startswith((f"http://{self._host}/", "data:")):
            route.continue_()
            return

        self.complaints.append(f"asked for {url}")
        route.abort()

    def _listen(self, text: str) -> None:
        # The way in is a 401, and a server that was killed cannot be reached.
        if "Content Security Policy" in text or "Refused" in text:
            self.complaints.append(text)


def choose(page: Page, *cohorts: str) -> None:
    """Choose cohorts, and wait for what they cost."""
    for cohort in cohorts:
        page.get_by_role("checkbox", name=cohort).check()
    count = "1 cohort:" if len(cohorts) == 1 else f"{len(cohorts)} cohorts:"
    page.get_by_role("button", name=f"Export {count}").wait_for()
