"""
Draw the README's picture of the page: of `serve --demo`, in a real Chromium.

`python tools/pictures.py page` runs it. Needs the group `browser`, and a Chromium that
`BROWSER` names or the path has.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from support.chromium import choose, chromium  # noqa: E402

# Two dots for each, so that it is sharp on any screen; the page is plain, so that few
# colours make it a third as large.
WIDTH, SCALE = 960, 2
COLOURS = 64
TRIES = 3


def draw_page(target: Path) -> None:
    """Draw the page with a choice and its price, an export that runs, and one that is done."""
    for _ in range(TRIES):
        with serving() as url:
            if picture := picture_of(url):
                save(picture, target)
                return

    raise SystemExit("each export was over before the picture was taken; try again")


@contextmanager
def serving() -> Iterator[str]:
    """Run the page as a user does, and tell the address that it prints."""
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(
            [
                *(sys.executable, "-m", "amplitude_cohorts_async"),
                *("serve", "--demo", "--port=0"),
            ],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def picture_of(url: str) -> bytes | None:
    """Return the picture; None if the second export was over too early."""
    with chromium() as browser:
        page = browser.new_page(
            color_scheme="light",
            device_scale_factor=SCALE,
            viewport={"width": WIDTH, "height": 800},
        )
        page.goto(url)
        choose(page, "Active last week")
        page.get_by_role("button", name="Export 1 cohort").click()
        page.get_by_role("link", name="Download Active last week").wait_for()
        choose(page, "Spring buyers")
        page.get_by_role("button", name="Export 1 cohort").click()
        page.get_by_text("Running").wait_for()
        choose(page, "Companies in trial")

        picture = page.screenshot(full_page=True)
        running = page.get_by_text("Running").is_visible()

    return picture if running else None


def save(picture: bytes, target: Path) -> None:
    """Save it in few colours, and with nothing but them."""
    with Image.open(BytesIO(picture)) as image:
        few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(target, optimize=True)
