"""Tables of values as notebooks show them; every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

__all__ = ("table",)


def table(
    rows: Iterable[Sequence[object]], *, head: Sequence[str] = (), caption: str = ""
) -> str:
    """
    Return a table; without `head`, the first cell of each row is its header.

    A value that is None is an empty cell, and a number has separators of thousands.
    """
    parts = ["<table>"]
    if caption:
        parts.append(f"<caption>{escape(caption)}</caption>")
    if head:
        cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
        parts.append(f"<thead><tr>{cells}</tr></thead>")
    parts.append("<tbody>")
    parts.extend(_row(row, headed=not head) for row in rows)
    parts.append("</tbody></table>")
    return "".join(parts)


def _row(row: Sequence[object], *, headed: bool) -> str:
    cells = [f"<td>{escape(_text(cell))}</td>" for cell in row]
    if headed:
        cells[0] = f'<th scope="row">{escape(_text(row[0]))}</th>'
    return f"<tr>{''.join(cells)}</tr>"


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat(" ", "seconds")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
