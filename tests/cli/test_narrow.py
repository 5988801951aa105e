"""Tables on narrow terminals: ids are whole, names are one line."""

from __future__ import annotations

import pytest

from amplitude_cohorts_async.cli import render

ID = "a1b2c3d4e5f6"
HEADER = ["ID", "NAME", "SIZE", "TYPE", "COMPUTED"]
ROW = [ID, "People who bought something in spring", 1_000, "manual_upload", None]


@pytest.fixture(autouse=True)
def terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stdout is a terminal without colours."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_an_id_is_whole_and_a_row_is_one_line(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """At any width: other commands need the id."""
    monkeypatch.setenv("COLUMNS", str(columns))
    render.table(HEADER, [ROW])
    lines = capsys.readouterr().out.splitlines()

    assert 2 == len(lines)
    assert ID == lines[1].split()[0]
    assert columns >= max(map(len, lines))


def test_a_wide_terminal_has_every_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """Whole names, too."""
    monkeypatch.setenv("COLUMNS", "120")
    render.table(HEADER, [ROW])
    heading, row = capsys.readouterr().out.splitlines()

    assert HEADER == heading.split()
    assert ROW[1] in row


def test_an_id_that_is_wider_than_the_terminal_goes_on_below(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """It is not cut."""
    monkeypatch.setenv("COLUMNS", "20")
    render.table(["ID", "NAME"], [["x" * 50, "Buyers"]])

    assert 50 == capsys.readouterr().out.count("x")


def test_a_long_value_of_one_cohort_is_not_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """As its id in `show`."""
    monkeypatch.setenv("COLUMNS", "30")
    render.table(None, [["id", "x" * 50]])

    assert 50 == capsys.readouterr().out.count("x")
