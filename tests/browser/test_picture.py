"""The README's picture of the page can be drawn again."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LARGEST = 150_000
DRAW = """
import pathlib, runpy, sys
runpy.run_path(sys.argv[1])["draw_page"](pathlib.Path(sys.argv[2]))
"""


def test_the_page_can_be_drawn(tmp_path: Path) -> None:
    """It is as wide as README's, as light, and no larger than a reader waits for."""
    script, drawn = ROOT / "tools/page_picture.py", tmp_path / "page.png"
    tool = runpy.run_path(str(script))
    # In a process of its own: this one may drive the browser of the other tests.
    subprocess.run([sys.executable, "-c", DRAW, script, drawn], check=True)

    for picture in (drawn, ROOT / "docs/page.png"):
        assert LARGEST > picture.stat().st_size
        with Image.open(picture) as image:
            assert tool["WIDTH"] * tool["SCALE"] == image.width
            assert {} == {name: image.info[name] for name in image.info}
            assert (255, 255, 255) == image.convert("RGB").getpixel((0, 0))
