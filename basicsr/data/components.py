"""Boxes around eyes and mouth, for losses on face parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basicsr.data.common import DataError, load_table, table_keys

REQUIRED_PARTS = ('left_eye', 'right_eye', 'mouth')
PARTS = (*REQUIRED_PARTS, 'nose')
ENLARGE_RATIOS = {'eye_enlarge_ratio': 1.4, 'mouth_enlarge_ratio': 1.1, 'nose_enlarge_ratio': 1.1}
TABLE_SIZE = 512
Boxes = dict[str, tuple[float, float, float]]


def flip_boxes(boxes: Mapping[str, tuple[float, float, float]], width: float) -> Boxes:
    """The boxes of the mirror image, as a new dict: x is mirrored, and the eyes change places.

    Args:
        boxes: part to (centre x, centre y, half side).
        width: of the picture, in the unit of the boxes.
    """
    swapped = {'left_eye': 'right_eye', 'right_eye': 'left_eye'}
    return {swapped.get(part, part): (width - x, y, half) for part, (x, y, half) in boxes.items()}


class ComponentBoxes:
    """The part boxes of every picture, from a `.pth` `{key: {'left_eye': [centre x, centre y, half side], ...}}`.

    Boxes are in pixels of a 512-pixel face. A key is a picture's relative path without extension, its stem, or its
    number in the sorted list as eight digits. 'nose' is optional.

    Args:
        opt: `component_path`, and `eye_enlarge_ratio`, `mouth_enlarge_ratio`, `nose_enlarge_ratio`.
        paths: the pictures of the dataset.
        root: the folder they are in.
        size: side of the pictures that the boxes are wanted for.

    Raises:
        DataError: unreadable file, or one without entries for a picture or a part.
    """

    def __init__(self, opt: Mapping[str, Any], paths: Sequence[Path], root: Path, size: int) -> None:
        self.scale = size / TABLE_SIZE
        self.ratios = {key: float(opt.get(key, default)) for key, default in ENLARGE_RATIOS.items()}
        file = opt['component_path']
        table = load_table(file)
        self.boxes = [
            self._entry(table, [*names, f'{index:08d}'], paths[index], file)
            for index, names in enumerate(table_keys(paths, root))
        ]

    @staticmethod
    def _entry(table: Mapping[str, Any], names: list[str], path: Path, file: str | Path) -> Boxes:
        key = next((name for name in names if name in table), None)
        if key is None:
            raise DataError(f'{path}: {file} (component_path) holds no boxes for this picture; tried the keys {names}')
        absent = [part for part in REQUIRED_PARTS if part not in table[key]]
        if absent:
            raise DataError(f"{file} (component_path): the entry '{key}' lacks {absent}")
        boxes: Boxes = {}
        for part in (part for part in PARTS if part in table[key]):
            x, y, half = map(float, table[key][part])
            boxes[part] = (x, y, half)
        return boxes

    def __call__(self, index: int, flip: bool) -> dict[str, Tensor]:
        """`loc_<part>` to (x1, y1, x2, y2), float32 (4,), pixels of the wanted size; of the mirror image if `flip`."""
        boxes = flip_boxes(self.boxes[index], TABLE_SIZE) if flip else self.boxes[index]
        found = {}
        for part, (x, y, half) in boxes.items():
            half *= self.ratios[f'{part.split("_")[-1]}_enlarge_ratio']
            found[f'loc_{part}'] = torch.tensor([x - half, y - half, x + half, y + half]) * self.scale
        return found
