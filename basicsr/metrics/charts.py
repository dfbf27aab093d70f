"""Charts as inline SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 16, 44  # room for the axes, pixels
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#444444')  # Okabe and Ito
Scale = Callable[[float], float]


def colour(number: int) -> str:
    """Of the run of a number."""
    return COLOURS[number % len(COLOURS)]


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """Return the map of values from `low` to `high` to pixels from `start` to `end`."""
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _ticks(low: float, high: float) -> list[float]:
    """Four to nine round numbers within the range."""
    rough = (high - low) / 6 or 1.0
    unit = 10 ** np.floor(np.log10(rough))
    step = float(next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough))
    first = np.ceil(low / step - 1e-9)
    return [float(i * step) + 0.0 for i in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def frame(x: Scale, y: Scale, ranges: Sequence[tuple[float, float]], names: tuple[str, str], body: str) -> str:
    """Return a chart with its axes around `body`; without a second range, the y axis has no ticks."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(names[1])} over {escape(names[0])}">'
    ]
    for tick in _ticks(*ranges[0]):
        parts.append(f'<line stroke="#e4e4e4" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{bottom}"/>')
        parts.append(f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>')
    for tick in _ticks(*ranges[1]) if len(ranges) > 1 else ():
        parts.append(f'<line stroke="#e4e4e4" x1="{LEFT}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(names[0])}</text>')
    middle = (TOP + bottom) / 2
    turned = f'transform="rotate(-90 14 {middle})"'
    parts.append(f'<text x="14" y="{middle}" text-anchor="middle" {turned}>{escape(names[1])}</text>')
    return ''.join([*parts, body, '</svg>'])


def histogram(runs: Mapping[str, Sequence[float]], name: str, bins: int = 30) -> str:
    """Return the share of pictures by value, a step line for each run.

    Args:
        runs: label to values; some values in all.
        name: of the axis.
        bins: from the least to the greatest value of all runs, rounded outwards to tenths.
    """
    everything = np.concatenate([np.asarray(values, float) for values in runs.values()])
    low, high = np.floor(everything.min() * 10) / 10, np.ceil(everything.max() * 10) / 10
    edges = np.linspace(low, max(high, low + 0.1), bins + 1)
    shares = [np.histogram(values, edges)[0] / max(1, len(values)) for values in runs.values()]
    top = float(max(share.max() for share in shares))
    x, y = scale(edges[0], edges[-1], LEFT, WIDTH - RIGHT), scale(0, top, HEIGHT - BOTTOM, TOP)
    lines = []
    for number, share in enumerate(shares):
        points = [(edges[0], 0.0), *((edge, s) for i, s in enumerate(share) for edge in edges[i : i + 2])]
        points.append((edges[-1], 0.0))
        path = ' '.join(f'{x(a):.1f},{y(b):.1f}' for a, b in points)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour(number)}" stroke-width="2"/>')
    return frame(x, y, [(edges[0], edges[-1]), (0, top)], (name, 'share of pictures'), ''.join(lines))


def scatter(
    runs: Mapping[str, Mapping[str, tuple[float, float]]], names: tuple[str, str], numbered: bool = False
) -> str:
    """Return a dot for each picture, its name as a tooltip.

    Args:
        runs: label to picture to (x, y); some in all.
        names: of the axes.
        numbered: with the number of its run beside it.
    """
    points = np.array([point for dots in runs.values() for point in dots.values()])
    low, high = points.min(0), points.max(0)
    room = np.where(high > low, (high - low) * 0.05, 0.5)
    ranges = [(float(a), float(b)) for a, b in zip(low - room, high + room, strict=True)]
    x, y = scale(*ranges[0], LEFT, WIDTH - RIGHT), scale(*ranges[1], HEIGHT - BOTTOM, TOP)
    dots = [
        f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3" fill="{colour(number)}" fill-opacity="0.6">'
        f'<title>{escape(f"{label}: {picture}: {a:.4g}, {b:.4g}")}</title></circle>'
        + (f'<text x="{x(a) + 5:.1f}" y="{y(b) + 4:.1f}">{number + 1}</text>' if numbered else '')
        for number, (label, run) in enumerate(runs.items())
        for picture, (a, b) in run.items()
    ]
    return frame(x, y, ranges, names, ''.join(dots))
