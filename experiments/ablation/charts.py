"""Charts of an ablation's rows, as SVG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from basicsr.metrics.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, colour, frame, scale


def boxes(runs: Mapping[str, Sequence[float]], name: str) -> str:
    """Return a numbered line for each run from its 5 % to its 95 % quantile, a box from 25 % to 75 %, and the median.

    Args:
        runs: label to values; some values in each.
        name: of the axis.
    """
    quantiles = np.array([np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)) for values in runs.values()])
    low, high = float(quantiles.min()), float(quantiles.max())
    height = (HEIGHT - BOTTOM - TOP) / len(runs)
    x = scale(low, high, LEFT, WIDTH - RIGHT)
    parts = []
    for number, (least, first, median, third, most) in enumerate(quantiles):
        y = TOP + (number + 0.5) * height
        line = f'<line stroke="{colour(number)}" stroke-width="2"'
        parts += [
            f'{line} x1="{x(least):.1f}" x2="{x(most):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<rect x="{x(first):.1f}" y="{y - 0.3 * height:.1f}" width="{x(third) - x(first):.1f}" '
            f'height="{0.6 * height:.1f}" fill="white" stroke="{colour(number)}" stroke-width="2"/>',
            f'{line} x1="{x(median):.1f}" x2="{x(median):.1f}" y1="{y - 0.3 * height:.1f}" '
            f'y2="{y + 0.3 * height:.1f}"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number + 1}</text>',
        ]
    return frame(x, lambda y: y, [(low, high)], (name, ''), ''.join(parts))


def standalone(chart: str, labels: Sequence[str], title: str) -> str:
    """Return a chart as the content of an .svg file, with its title and a numbered legend below.

    Args:
        chart: one of those above.
        labels: of its runs, in their order.
        title: of the file.
    """
    line = 18  # height of a line of the legend, pixels
    height = HEIGHT + line * (len(labels) + 1)
    keys = [
        f'<rect x="{LEFT}" y="{HEIGHT + line * number}" width="10" height="10" fill="{colour(number)}"/>'
        f'<text x="{LEFT + 16}" y="{HEIGHT + line * number + 10}">{number + 1} {escape(label)}</text>'
        for number, label in enumerate(labels)
    ]
    name = f'<text x="{WIDTH - RIGHT}" y="12" text-anchor="end" font-weight="bold">{escape(title)}</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="{WIDTH}" height="{height}" fill="white"/>'
        f'{chart}{name}{"".join(keys)}</svg>\n'
    )
