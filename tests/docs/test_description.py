"""What the package says of itself on an index."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("hatch_fancy_pypi_readme", reason="the group docs is not installed")

ROOT = Path(__file__).parents[2]
TARGET = re.compile(r"\]\(([^)]+)\)")
ADDRESS = "https://code.test/amplitude"


def described(repository: str) -> tuple[str, dict[str, str]]:
    """Return description and URLs, as the hook makes them."""
    hook = runpy.run_path(str(ROOT / "hatch_build.py"))["DescriptionHook"]
    metadata: dict[str, object] = {}
    hook(str(ROOT), {"repository": repository}).update(metadata)

    return metadata["readme"]["text"], metadata["urls"]


def test_no_address_is_invented() -> None:
    """Without one, no link leads nowhere, no picture is missing, and there are no URLs."""
    text, urls = described("")

    assert {} == urls
    assert [] == [each for each in TARGET.findall(text) if ":" not in each]
    assert "![" not in text
    assert "- Tutorial, and all documents by what you want to do." in text


def test_links_become_absolute() -> None:
    """With an address all begin with it, and pictures are asked for as files."""
    text, urls = described(f"{ADDRESS}/")

    assert [] == [each for each in TARGET.findall(text) if ":" not in each]
    assert f"({ADDRESS}/blob/HEAD/docs/tutorial.md)" in text
    assert f"({ADDRESS}/raw/HEAD/docs/command.svg)" in text
    assert ADDRESS == urls["Repository"]


@pytest.mark.parametrize("repository", ["", ADDRESS])
def test_the_rest_is_readme(repository: str) -> None:
    """Nothing but targets of links and pictures is changed."""
    readme = (ROOT / "README.md").read_text()
    text, _ = described(repository)
    unlinked = re.compile(
        r"!\[[^\]]*\]\([^)]+\)|[\[\]]|\((?:https?:|docs/|\w+\.md|LICENSE)[^)]*\)"
    )

    assert unlinked.sub("", readme) == unlinked.sub("", text)
