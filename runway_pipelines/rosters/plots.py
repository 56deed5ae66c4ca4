"""Numbers as small inline images: pure.

Every materialization stores its image, so it is a few hundred bytes of SVG instead of a PNG. Dagster itself plots
numeric metadata (rows, seconds) over time.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

_BAR_WIDTH = 44
_BAR_HEIGHT = 90
_LINE = 14
_LETTER = 6.5
_LONGEST = 240


def bar_chart(title: str, counts: Mapping[str, int]) -> str:
    """An SVG document: one bar for each entry, in order, with its number on top and its name below."""
    most = max(counts.values(), default=0)
    bars = "".join(_bar(place, name, number, most) for place, (name, number) in enumerate(counts.items()))
    width, height = max(len(counts), 4) * _BAR_WIDTH + 16, _BAR_HEIGHT + 4 * _LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif"'
        f' font-size="10" text-anchor="middle"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{width / 2:g}" y="{_LINE}" font-size="12">{escape(title)}</text>{bars}</svg>'
    )


def _bar(place: int, name: str, number: int, most: int) -> str:
    height = round(_BAR_HEIGHT * number / most) if most else 0
    left, bottom = 8 + place * _BAR_WIDTH, _BAR_HEIGHT + 2.5 * _LINE
    middle = left + _BAR_WIDTH / 2
    return (
        f'<rect x="{left + 4}" y="{bottom - height:g}" width="{_BAR_WIDTH - 8}" height="{height}" fill="#4f43dd"/>'
        f'<text x="{middle:g}" y="{bottom - height - 3:g}">{number:,}</text>'
        f'<text x="{middle:g}" y="{bottom + _LINE - 2:g}">{escape(name)}</text>'
    )


def horizontal_bar_chart(title: str, counts: Mapping[str, int]) -> str:
    """An SVG document: a line for each entry, in order, with its name, its bar and its number."""
    most = max(counts.values(), default=0)
    names = max(map(len, counts), default=0) * _LETTER
    lines = "".join(
        _line(place, name, number, names, _LONGEST * number / most if most else 0)
        for place, (name, number) in enumerate(counts.items())
    )
    width, height = names + _LONGEST + 80, (len(counts) + 2) * _LINE
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height}" font-family="sans-serif"'
        f' font-size="10"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{names + 8:g}" y="{_LINE - 2}" font-size="12">{escape(title)}</text>{lines}</svg>'
    )


def _line(place: int, name: str, number: int, names: float, length: float) -> str:
    bottom = (place + 2) * _LINE
    return (
        f'<text x="{names:g}" y="{bottom}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="{names + 8:g}" y="{bottom - 9}" width="{length:.0f}" height="10" fill="#4f43dd"/>'
        f'<text x="{names + 12 + length:.0f}" y="{bottom}">{number:,}</text>'
    )


def line_chart(title: str, points: Sequence[tuple[str, int]]) -> str:
    """An SVG document: a line through the points, in order, between their least and their greatest number.

    The first and the last point have their name and their number.
    """
    numbers = [number for _, number in points]
    least, most = min(numbers, default=0), max(numbers, default=0)
    span, step = (most - least) or 1, _LONGEST / max(len(points) - 1, 1)
    places = [
        (40 + place * step, 2.5 * _LINE + _BAR_HEIGHT * (1 - (number - least) / span if most > least else 0.5))
        for place, number in enumerate(numbers)
    ]
    line = " ".join(f"{left:g},{down:.0f}" for left, down in places)
    bottom = _BAR_HEIGHT + 4 * _LINE
    ends = "".join(
        f'<text x="{left:g}" y="{down - 4:.0f}">{number:,}</text><text x="{left:g}" y="{bottom}">{escape(name)}</text>'
        for (left, down), (name, number) in list(zip(places, points, strict=True))[:: max(len(points) - 1, 1)]
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LONGEST + 80}" height="{bottom + _LINE}"'
        f' font-family="sans-serif" font-size="10" text-anchor="middle"><rect width="100%" height="100%" fill="#fff"/>'
        f'<text x="{40 + _LONGEST / 2:g}" y="{_LINE - 2}" font-size="12">{escape(title)}</text>'
        f'<polyline points="{line}" fill="none" stroke="#4f43dd" stroke-width="2"/>{ends}</svg>'
    )


def inline_image(svg: str, description: str) -> str:
    """The image as Markdown, which Dagster shows."""
    return f"![{description}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"
