"""The picture of a confidence's calibration: what was predicted of each face against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

SIDE, LEFT, TOP, BOTTOM, RIGHT = 480, 64, 40, 56, 24  # of the plot, and the room around it, pixels
FACE, CURVE, GRID, BLACK = (150, 190, 225), (196, 66, 0), (228, 228, 228), (0, 0, 0)


def place(x: float, y: float) -> tuple[int, int]:
    """Return the pixel of a point with both coordinates from 0 to 1."""
    return round(LEFT + x * SIDE), round(TOP + (1 - y) * SIDE)


def write(canvas: np.ndarray, text: str, x: int, y: int) -> None:
    """Text in black, centred at x, on the line y."""
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    cv2.putText(canvas, text, (x - width // 2, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, BLACK, 1, cv2.LINE_AA)


def axes(title: str) -> np.ndarray:
    """Axes from 0 to 1 with their names, and the diagonal on which a calibrated confidence lies."""
    canvas = np.full((TOP + SIDE + BOTTOM, LEFT + SIDE + RIGHT, 3), 255, np.uint8)
    for tick in np.linspace(0, 1, 6):
        cv2.line(canvas, place(tick, 0), place(tick, 1), GRID)
        cv2.line(canvas, place(0, tick), place(1, tick), GRID)
        write(canvas, f'{tick:.1f}', place(tick, 0)[0], place(0, 0)[1] + 18)
        write(canvas, f'{tick:.1f}', LEFT - 18, place(0, tick)[1] + 5)
    cv2.line(canvas, place(0, 0), place(1, 1), BLACK, 1, cv2.LINE_AA)
    write(canvas, 'predicted from the degraded face', LEFT + SIDE // 2, TOP + SIDE + 42)
    turned = np.full((20, SIDE, 3), 255, np.uint8)
    write(turned, 'measured cosine to the clean face', SIDE // 2, 14)
    canvas[TOP : TOP + SIDE, 4:24] = np.rot90(turned)
    write(canvas, title, canvas.shape[1] // 2, 22)
    return canvas


def calibration_chart(
    predicted: np.ndarray, measured: np.ndarray, rows: Sequence[Mapping[str, float]], title: str
) -> np.ndarray:
    """Faces as dots; bins as a line of their means with bars from the 10th to the 90th percentile.

    Args:
        predicted: of each face, 0 to 1 (N,).
        measured: of each face, 0 to 1 (N,).
        rows: the bins, with `predicted`, `measured`, `measured_p10` and `measured_p90`.
        title: above it.

    Returns:
        RGB uint8 (H,W,3).
    """
    canvas = axes(title)
    for x, y in zip(predicted, measured, strict=True):
        cv2.circle(canvas, place(x, y), 3, FACE, -1, cv2.LINE_AA)
    points = [place(row['predicted'], row['measured']) for row in rows]
    for row, point in zip(rows, points, strict=True):
        for end in ('measured_p10', 'measured_p90'):
            cv2.line(canvas, point, place(row['predicted'], row[end]), CURVE, 1, cv2.LINE_AA)
        cv2.circle(canvas, point, 5, CURVE, -1, cv2.LINE_AA)
    cv2.polylines(canvas, [np.array(points, np.int32)], False, CURVE, 2, cv2.LINE_AA)
    return canvas
