"""Contact sheets: rows of pictures under titles."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

TILE, MARGIN, TITLE = 192, 6, 26


def enlarged(image: np.ndarray) -> np.ndarray:
    """Return a tile of the sheet, with a white margin."""
    tile = cv2.resize(image, (TILE, TILE), interpolation=cv2.INTER_CUBIC)
    return cv2.copyMakeBorder(tile, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> np.ndarray:
    """Rows of pictures (RGB uint8, of any size) under a row of titles, RGB uint8."""
    body = np.vstack([np.hstack([enlarged(image) for image in row]) for row in rows])
    head = np.full((TITLE, body.shape[1], 3), 255, np.uint8)
    for column, title in enumerate(titles):
        place = (column * (TILE + 2 * MARGIN) + MARGIN, TITLE - 8)
        cv2.putText(head, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
    return np.vstack([head, body])
