"""The README's picture of the page can be drawn again."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LARGEST = 150_000


def test_the_page_can_be_drawn(tmp_path: Path) -> None:
    """It is as wide as README's, as light, and no larger than a reader waits for."""
    tool = runpy.run_path(str(ROOT / "tools/page_picture.py"))
    drawn = tmp_path / "page.png"
    tool["draw_page"](drawn)

    for picture in (drawn, ROOT / "docs/page.png"):
        assert LARGEST > picture.stat().st_size
        with Image.open(picture) as image:
            assert tool["WIDTH"] * tool["SCALE"] == image.width
            assert {} == {name: image.info[name] for name in image.info}
            assert (255, 255, 255) == image.convert("RGB").getpixel((0, 0))
