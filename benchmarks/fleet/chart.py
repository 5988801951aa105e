"""Two bar charts as one SVG, from the benchmark's figures and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_ROW, _LEFT, _WIDTH = 26, 170, 420
_FILL = 'fill="#2563eb"'

Summary = Mapping[str, Mapping[str, float]]


def draw(summary: Summary, *, plain: Sequence[str]) -> str:
    """
    Draw how much of the best possible rate there is, and what steps add to an export.

    Args:
        plain: The ways of plain asyncio, which have the first chart.
    """
    rates = {name: its["of_best"] for name, its in summary.items() if name in plain}
    added = {
        name: max(0.0, its["added"])
        for name, its in summary.items()
        if name not in plain and "added" in its
    }
    top = _chart("Exports, of the best possible rate", rates, "{:.1%}", 0, most=1.0)
    below = _ROW * (len(rates) + 1) + 24
    slowest = max([1e-9, *added.values()])
    bottom = _chart(
        "Seconds added to an export", added, "{:.2f} s", below, most=slowest
    )
    height = below + _ROW * (len(added) + 1) + 12

    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" role="img"',
            f'width="{_LEFT + _WIDTH + 70}" height="{height}"',
            'font-family="sans-serif" font-size="13">',
            "<title>A fleet: plain asyncio, and engines</title>",
            '<rect width="100%" height="100%" fill="#fff"/>',
            *top,
            *bottom,
            "</svg>\n",
        ]
    )


def _chart(
    title: str, values: Mapping[str, float], form: str, top: int, *, most: float
) -> list[str]:
    lines = [f'<text x="10" y="{top + 18}" font-weight="bold">{escape(title)}</text>']

    for row, (name, value) in enumerate(values.items(), start=1):
        y, width = top + _ROW * row + 6, _WIDTH * value / most
        text, at = f'<text y="{y + 14}"', _LEFT + width + 6
        lines += [
            f'{text} x="{_LEFT - 8}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width:.0f}" height="18" {_FILL}/>',
            f'{text} x="{at:.0f}">{form.format(value)}</text>',
        ]

    return lines
