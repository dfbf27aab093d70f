"""The drawn figures: the files are what the scripts draw, and nothing lies over anything else."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

from experiments.figures.architecture import ARROWS, BOXES, HEIGHT, STYLES, TARGET, WIDTH, draw, main

ROOT = Path(__file__).resolve().parents[2]


def test_the_figure_is_what_the_script_draws(tmp_path: Path) -> None:
    assert main(['-o', str(tmp_path / 'figure.svg')]) == 0
    drawn = (tmp_path / 'figure.svg').read_bytes()
    assert drawn == (ROOT / TARGET).read_bytes() == draw().encode()


def test_the_figure_is_svg_with_every_part_and_head() -> None:
    tree = ElementTree.fromstring(draw())
    texts = {element.text for element in tree.iter('{http://www.w3.org/2000/svg}text')}
    assert {line for box in BOXES for line in box.text} <= texts
    markers = {element.get('id') for element in tree.iter('{http://www.w3.org/2000/svg}marker')}
    assert markers == set(STYLES) == {kind for kind, _ in ARROWS}


def test_boxes_lie_apart_and_arrows_end_at_them() -> None:
    for box in BOXES:
        assert 0 <= box.left < box.right <= WIDTH and 0 <= box.top < box.bottom <= HEIGHT
    for one, other in combinations(BOXES, 2):
        assert one.right < other.left or other.right < one.left or one.bottom < other.top or other.bottom < one.top
    for _, points in ARROWS:
        x, y = points[-1]
        assert any(box.left <= x <= box.right and box.top <= y <= box.bottom for box in BOXES)


def test_an_output_that_cannot_be_written_is_nothing_begun(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    assert main(['-o', str(tmp_path / 'file' / 'figure.svg')]) == 2
