"""A bar chart as SVG, from the benchmark's figures and nothing else."""

from __future__ import annotations

from html import escape

_ROW, _LEFT, _WIDTH = 26, 190, 420


def draw(summary: dict[str, dict[str, float]], *, title: str) -> str:
    """Draw one bar for each way: how many times curl's speed it has."""
    most = max(its["times"] for its in summary.values())
    height = _ROW * (len(summary) + 1) + 12
    lines = [
        '<svg xmlns="http://www.w3.org/2000/svg" role="img"',
        f'width="{_LEFT + _WIDTH + 60}" height="{height}"',
        'font-family="sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        f'<text x="10" y="18" font-weight="bold">{escape(title)}</text>',
    ]
    for row, (way, its) in enumerate(summary.items(), start=1):
        y = _ROW * row + 6
        width = _WIDTH * its["times"] / most
        colour = "#2563eb" if way.startswith("ours") else "#9ca3af"
        lines += [
            f'<text x="{_LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(way)}</text>',
            f'<rect x="{_LEFT}" y="{y}" width="{width:.0f}" height="18" fill="{colour}"/>',
            f'<text x="{_LEFT + width + 6:.0f}" y="{y + 14}">{its["times"]:.2f}</text>',
        ]

    return "\n".join([*lines, "</svg>"]) + "\n"
