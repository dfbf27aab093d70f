"""Draw the architecture as SVG: CodeFormer, the identity loss, and the optional way of references.

    python scripts/draw_architecture.py

The same file every time; `docs/assets/architecture.svg` is what this draws.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from basicsr.cli.arguments import ArgumentParser
from basicsr.utils.files import write_text

TARGET = Path('docs/assets/architecture.svg')
WIDTH, HEIGHT = 1130, 560
LINE = 17  # pixels from one line of text to the next
TITLE = 'CodeFormer with the identity loss of ID-CodeFormer'
FILLS = {'picture': '#f2f2f2', 'trained': '#dcecf9', 'frozen': '#ffffff', 'loss': '#fbe3d6'}
"""Colours of boxes by kind."""
STYLES = {
    'flow': ('#333333', ''),
    'gradient': ('#d55e00', '7 4'),
    'reference': ('#0072b2', '2 4'),
}
"""Colour and dashes of arrows by kind."""
BOLD = ' font-weight="bold"'
Point = tuple[int, int]


@dataclass(frozen=True)
class Box:
    """A part of the system.

    Attributes:
        left, top, right, bottom: pixels.
        text: a line each; the first is bold.
        kind: a key of `FILLS`.
    """

    left: int
    top: int
    right: int
    bottom: int
    text: tuple[str, ...]
    kind: str

    def draw(self) -> str:
        """Return the SVG of it; frozen parts have a dashed frame."""
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2 - LINE * (len(self.text) - 1) / 2 + 5
        dashes = ' stroke-dasharray="4 3"' if self.kind == 'frozen' else ''
        frame = (
            f'<rect x="{self.left}" y="{self.top}" width="{self.right - self.left}" height="{self.bottom - self.top}" '
            f'rx="7" fill="{FILLS[self.kind]}" stroke="#333333"{dashes}/>'
        )
        lines = ''.join(
            f'<text x="{x:g}" y="{y + LINE * number:g}" text-anchor="middle"{"" if number else BOLD}>'
            f'{escape(text)}</text>'
            for number, text in enumerate(self.text)
        )
        return frame + lines


BOXES = (
    Box(20, 15, 150, 70, ('References', 'of the person'), 'picture'),
    Box(190, 15, 320, 70, ('Recognizer', 'frozen'), 'frozen'),
    Box(485, 105, 675, 155, ('Feature transformation', 'CFT, fidelity w'), 'trained'),
    Box(20, 210, 140, 280, ('Degraded', 'face'), 'picture'),
    Box(180, 210, 290, 280, ('Encoder',), 'trained'),
    Box(330, 210, 470, 280, ('Transformer', 'predicts codes'), 'trained'),
    Box(510, 210, 620, 280, ('Codebook', 'frozen'), 'frozen'),
    Box(660, 210, 770, 280, ('Generator', 'frozen'), 'frozen'),
    Box(820, 210, 930, 280, ('Restored', 'face'), 'picture'),
    Box(1000, 210, 1110, 280, ('Ground', 'truth'), 'picture'),
    Box(820, 335, 930, 395, ('ArcFace', 'frozen'), 'frozen'),
    Box(1000, 335, 1110, 395, ('ArcFace', 'frozen'), 'frozen'),
    Box(870, 445, 1060, 505, ('Identity loss', '1 − cos of embeddings'), 'loss'),
)
ARROWS: tuple[tuple[str, tuple[Point, ...]], ...] = (
    ('flow', ((140, 245), (180, 245))),
    ('flow', ((290, 245), (330, 245))),
    ('flow', ((470, 245), (510, 245))),
    ('flow', ((620, 245), (660, 245))),
    ('flow', ((770, 245), (820, 245))),
    ('flow', ((235, 210), (235, 130), (485, 130))),
    ('flow', ((675, 130), (715, 130), (715, 210))),
    ('flow', ((875, 280), (875, 335))),
    ('flow', ((1055, 280), (1055, 335))),
    ('flow', ((875, 395), (920, 445))),
    ('flow', ((1055, 395), (1010, 445))),
    ('reference', ((150, 42), (190, 42))),
    ('reference', ((320, 42), (400, 42), (400, 210))),
    ('reference', ((400, 42), (580, 42), (580, 105))),
    ('gradient', ((870, 475), (400, 475), (400, 280))),
    ('gradient', ((400, 475), (235, 475), (235, 280))),
)
LABELS: tuple[tuple[Point, str], ...] = (
    ((250, 122), 'encoder features'),
    ((590, 60), 'identity styling (IA-CFT)'),
    ((408, 92), 'identity tokens'),
    ((480, 465), 'gradient to encoder and Transformer, in training'),
)
LEGEND = (
    ('flow', 'restoration'),
    ('gradient', 'training: identity supervision'),
    ('reference', 'optional: references'),
)


def arrow(kind: str, points: Sequence[Point]) -> str:
    """Return a line through points, with a head at the last one."""
    colour, dashes = STYLES[kind]
    path = ' '.join(f'{x},{y}' for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ''
    return (
        f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashed} marker-end="url(#{kind})"/>'
    )


def heads() -> str:
    """Return the heads of arrows, one for each kind."""
    return ''.join(
        f'<marker id="{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0L10 5L0 10z" fill="{colour}"/></marker>'
        for kind, (colour, _) in STYLES.items()
    )


def legend() -> str:
    """Return the legend of lines and frames, at the bottom left."""
    parts, left = [], 20
    for kind, meaning in LEGEND:
        parts.append(arrow(kind, ((left, 535), (left + 40, 535))))
        parts.append(f'<text x="{left + 48}" y="540">{escape(meaning)}</text>')
        left += 90 + 8 * len(meaning)
    for kind in ('trained', 'frozen'):
        dashes = ' stroke-dasharray="4 3"' if kind == 'frozen' else ''
        parts.append(
            f'<rect x="{left}" y="527" width="24" height="16" rx="3" fill="{FILLS[kind]}" stroke="#333333"{dashes}/>'
        )
        parts.append(f'<text x="{left + 32}" y="540">{kind}</text>')
        left += 120
    return ''.join(parts)


def draw() -> str:
    """Return the figure, an SVG text."""
    body = [arrow(kind, points) for kind, points in ARROWS]
    body += [box.draw() for box in BOXES]
    body += [f'<text x="{x}" y="{y}" fill="#555555" font-size="12">{escape(text)}</text>' for (x, y), text in LABELS]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="14" fill="#222222" role="img">\n'
        f'<title>{escape(TITLE)}</title>\n<defs>{heads()}</defs>\n'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>\n' + '\n'.join([*body, legend()]) + '\n</svg>\n'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 when the figure is written."""
    parser = ArgumentParser(description='Draw the architecture as SVG.')
    parser.add_argument('-o', '--output', type=Path, default=TARGET, help=f'file to write (default: {TARGET})')
    args = parser.parse_args(argv)
    try:
        write_text(args.output, draw())
    except OSError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(args.output)
    return 0
