"""The files of others in the page are those that its list says."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

from amplitude_cohorts_async.contrib import _web

STATIC = Path(_web.__file__).with_name("static")
ROW = re.compile(r"^\| `([\w.-]+)` \| (\S+) [\d.]+, .*`(LICENSE-[\w.]+)` \| `(\w{64})`")


def test_vendored_files_are_as_listed() -> None:
    """Each has its version, its licence beside it, and the bytes that were listed."""
    lines = (STATIC / "VENDORED.md").read_text().splitlines()
    listed = [row.groups() for line in lines if (row := ROW.match(line))]

    assert {path.name for path in STATIC.glob("*.min.*")} == {row[0] for row in listed}
    for name, _, licence, digest in listed:
        assert digest == sha256((STATIC / name).read_bytes()).hexdigest()
        assert (STATIC / licence).stat().st_size > 0


def test_templates_escape() -> None:
    """No template marks a text as safe, and none has scripts or styles of its own."""
    folder = Path(_web.__file__).with_name("templates")
    texts = [path.read_text() for path in folder.glob("*.html")]

    assert len(texts) > 8
    for text in texts:
        assert "|safe" not in text.replace(" ", "")
        assert "autoescape" not in text
        assert not re.search(r"<script>|<style|\sstyle=|\son\w+=", text)
