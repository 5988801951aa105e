"""The site of the documents: it builds without a complaint, and has everything."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the group docs is not installed")

import yaml

from amplitude_cohorts_async.errors import MissingExtraError
from support.surface import public_modules

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.glob("**/*.md"))
OUTSIDE = re.compile(r"""<(?:script|link|img|source)\b[^>]*["'](https?:[^"']+)""")
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]+)")

pytestmark = pytest.mark.slow


def build_site(folder: Path) -> None:
    """Build it as `mkdocs build` does."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mkdocs", "build", "--strict"),
            *("--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(folder)),
        ],
        # The theme's advice about the next MkDocs is not about us.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr


def pages_of(nav: object) -> Iterator[str]:
    """Tell the pages of the navigation, in its order."""
    match nav:
        case str():
            yield nav
        case dict():
            for each in nav.values():
                yield from pages_of(each)
        case list():
            for each in nav:
                yield from pages_of(each)


def test_every_page_is_in_the_navigation() -> None:
    """Add a page to `nav` of `mkdocs.yml`, where a reader would look for it."""
    assert PAGES == sorted(pages_of(CONFIG["nav"]))


@pytest.mark.parametrize("page", PAGES)
def test_links_stay_in_the_site(page: str) -> None:
    """What is outside of `docs` is named by its path, because the site has it not."""
    path = DOCS / page
    links = LINK.findall(path.read_text())

    assert [] == [
        link
        for link in links
        if not (path.parent / link).resolve().is_relative_to(DOCS)
    ]


def test_the_site_is_whole(tmp_path: Path) -> None:
    """
    It builds without a complaint, fetches nothing, and has each public name.

    Neither fonts nor scripts come from elsewhere: the site works without a network. A
    public module has a page in `docs/api`, and each of its names is on it.
    """
    build_site(tmp_path)
    fetched = [
        (page.name, address)
        for page in tmp_path.glob("**/*.html")
        for address in OUTSIDE.findall(page.read_text())
    ]
    listed = (tmp_path / "objects.inv").read_bytes().split(b"\n", 4)[4]
    found = {line.split()[0] for line in zlib.decompress(listed).decode().splitlines()}

    assert [] == fetched
    assert set() == {*public_names()} - found


def test_the_successor_of_mkdocs_builds_it_too(tmp_path: Path) -> None:
    """From a copy, because it has no option for the folder of the site."""
    pytest.importorskip("zensical", reason="the group docs is not installed")
    shutil.copytree(DOCS, tmp_path / "docs")
    config = shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(
        [*command, "--config-file", config],
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == done.returncode, done.stdout + done.stderr
    assert (tmp_path / "site/api/client/index.html").exists()


def public_names() -> Iterator[str]:
    """Tell every public name by its module; of what is not installed only that."""
    for name in public_modules():
        folder = ROOT / name.replace(".", "/")
        try:
            names = importlib.import_module(name).__all__
        except MissingExtraError:
            names = ()
        if name != "amplitude_cohorts_async":
            yield name
        for each in names:
            is_module = (folder / f"{each}.py").exists() or (folder / each).is_dir()
            if not (is_module or each.startswith("__")):
                yield f"{name}.{each}"
