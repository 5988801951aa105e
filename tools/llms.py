"""
Write `docs/llms.txt`, the contents of the site for programs that read it.

`python tools/llms.py` brings it up to date: its order is that of the navigation in
`mkdocs.yml`, and what it says of a page is what `docs/index.md` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs/llms.txt"
# What a program gets wrong that has not read the rest.
FIRST = """\
Start with `async with CohortsClient.from_env() as client:` and
`await client.export(cohort_id, "members.parquet")`. Each export is one of 500 a month: after an
error or a time-out make the same call again, which goes on with the same export; with
`jobs="exports.db"` after a crash, too. Limits are kept for you, so do not add retries or sleeps.
`amplitude-cohorts emulate` and the pytest fixture `cohorts_emulator` serve the API without an
account.
"""
WISH = re.compile(r"^\| (.+) \| (.+) \|$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)]+\.md)\)")


def main() -> None:
    """Bring the file up to date."""
    TARGET.write_text(current())


def current() -> str:
    """Return the file as it should be."""
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    purposes = dict(_purposes((ROOT / "docs/index.md").read_text()))
    head = [
        f"# {config['site_name']}",
        "",
        f"> {config['site_description']}",
        "",
        FIRST,
    ]

    return "\n".join([*head, *_lines(config["nav"], purposes)]).rstrip() + "\n"


def _purposes(index: str) -> Iterator[tuple[str, str]]:
    """Tell of each page what a reader of it wants."""
    for wish, pages in WISH.findall(index):
        for page in LINK.findall(pages):
            yield page, wish


def _lines(nav: list[dict[str, object]], purposes: dict[str, str]) -> Iterator[str]:
    """Tell the pages that stand alone, and then those of each chapter."""
    entries = [entry for each in nav for entry in each.items()]
    yield from (_page(*each, purposes) for each in entries if isinstance(each[1], str))

    for title, pages in entries:
        if isinstance(pages, list):
            yield from ("", f"## {title}", "", *_lines(pages, purposes))


def _page(title: str, path: object, purposes: dict[str, str]) -> str:
    """Link a page by its address in the site."""
    address = str(path).removesuffix("index.md").removesuffix(".md")
    purpose = purposes.get(str(path))

    return f"- [{title}]({f'{address}/' if address else './'})" + (
        f": {purpose}" if purpose else ""
    )


if __name__ == "__main__":
    main()
