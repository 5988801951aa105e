"""Tables on narrow terminals: ids are whole, names are one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from amplitude_cohorts_async.cli import render

ID = "a1b2c3d4e5f6"
HEADER = ["ID", "NAME", "SIZE", "TYPE", "COMPUTED"]
ROW = [ID, "People who bought something in spring", 1_000, "manual_upload", None]


@pytest.fixture
def drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Draw a table on a terminal of some width, and return its lines."""

    def draw(
        columns: int, header: Sequence[str] | None, row: Sequence[object]
    ) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("NO_COLOR", "1")
        # rich takes every dumb terminal for one of 80 columns.
        monkeypatch.setenv("TERM", "vt100")
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        render.table(header, [row])
        return capsys.readouterr().out.splitlines()

    return draw


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_an_id_is_whole_and_a_row_is_one_line(drawn, columns: int):
    """At any width: other commands need the id."""
    heading, row = drawn(columns, HEADER, ROW)

    assert heading
    assert ID == row.split()[0]
    assert columns >= len(row)


def test_a_wide_terminal_has_every_column(drawn):
    """Whole names, too."""
    heading, row = drawn(120, HEADER, ROW)

    assert [] == [name for name in HEADER if name not in heading]
    assert ROW[1] in row


def test_a_narrow_terminal_leaves_columns_out_from_the_right(drawn):
    """What is left is readable."""
    heading, row = drawn(40, HEADER, ROW)

    assert "SIZE" in heading
    assert "COMPUTED" not in heading
    assert "1000" in row


def test_an_id_that_is_wider_than_the_terminal_goes_on_below(drawn):
    """It is not cut."""
    assert 50 == "".join(drawn(20, ["ID", "NAME"], ["x" * 50, "Buyers"])).count("x")


def test_a_long_value_of_one_cohort_is_not_cut(drawn):
    """As its id in `show`."""
    assert 50 == "".join(drawn(30, None, ["id", "x" * 50])).count("x")
