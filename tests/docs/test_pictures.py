"""The README's pictures are of today, and fetch nothing."""

from __future__ import annotations

import html
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("pyte", reason="the group docs is not installed")
pytest.importorskip("pty", reason="the system has no terminals of POSIX")
pytest.importorskip("typer", reason="the extra cli is not installed")

ROOT = Path(__file__).parents[2]
PICTURES = sorted((ROOT / "docs").glob("*.svg"))
ADDRESS = re.compile(r"(?:href|src)\s*=\s*[\"']?https?:|url\([\"']?https?:")


@pytest.fixture
def tool() -> dict[str, Callable[..., object]]:
    """The names of the script that draws."""
    return runpy.run_path(str(ROOT / "tools/pictures.py"))


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_a_picture_fetches_nothing(picture: Path) -> None:
    """No font and no picture of a server."""
    assert [] == ADDRESS.findall(picture.read_text())


def test_the_badges_are_current(tool: dict[str, Callable[..., object]]) -> None:
    """`python tools/pictures.py badges` draws them."""
    assert tool["badges"]() == (ROOT / "docs/badges.svg").read_text()


@pytest.mark.slow
def test_the_command_can_be_drawn(
    tool: dict[str, Callable[..., object]], tmp_path: Path
) -> None:
    """Its scenes end as README shows them: interrupted, and going on."""
    tool["draw_command"](tmp_path / "command.svg")

    for picture in (tmp_path / "command.svg", ROOT / "docs/command.svg"):
        shown = re.sub(r"<[^>]*>", "", picture.read_text())
        text = html.unescape(shown).replace("\N{NO-BREAK SPACE}", " ")
        assert "interrupted" in text
        assert "took up the export of" in text
        assert "no export spent, 499 left of the month" in text
