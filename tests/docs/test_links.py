"""What the documents point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
MODULE = re.compile(r"`(?:python )?(\w+/[\w/]+\.py)\b")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """List what the headings of a document are called in a link."""
    headings = HEADING.findall(FENCED.sub("", path.read_text()))
    kept = (re.sub(r"[^\w\- ]", "", each.lower()) for each in headings)

    return {each.replace(" ", "-") for each in kept}


@pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_somewhere(path: Path) -> None:
    """Every link inside the project names a file, and a heading of it."""
    broken = []
    for target, anchor in LINK.findall(FENCED.sub("", path.read_text())):
        file = path.parent / target if target else path
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(f"{target}#{anchor}")

    assert [] == broken


@pytest.mark.parametrize(
    "path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
def test_modules_are_there(path: Path) -> None:
    """Every module that a document names by its path is one."""
    folders = (ROOT, ROOT / "amplitude_cohorts_async")
    missing = [
        module
        for module in MODULE.findall(FENCED.sub("", path.read_text()))
        if not any((folder / module).exists() for folder in folders)
    ]

    assert [] == missing
