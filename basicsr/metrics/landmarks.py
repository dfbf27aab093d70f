"""Landmarks of aligned faces, by a network of facexlib."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from basicsr.utils.checkpoint import load_state, load_state_dict_file
from basicsr.utils.errors import extra

SIDE = 256  # of the picture that the network sees
COUNT = 98


def peaks(heatmaps: np.ndarray) -> np.ndarray:
    """Return the maxima (N,2) of heatmaps (N,h,w), as (x, y) in their pixels, (0.5, 0.5) the centre of the first.

    A quarter of a pixel is added towards the higher neighbour in each direction, as stacked hourglasses are read out
    (Newell et al., ECCV 2016).
    """
    number, _, width = heatmaps.shape
    y, x = np.divmod(heatmaps.reshape(number, -1).argmax(1), width)
    padded = np.pad(heatmaps, ((0, 0), (1, 1), (1, 1)), mode='edge')
    rows = np.arange(number)
    right = np.sign(padded[rows, y + 1, x + 2] - padded[rows, y + 1, x])
    down = np.sign(padded[rows, y + 2, x + 1] - padded[rows, y, x + 1])
    return np.stack([x + 0.25 * right, y + 0.25 * down], axis=1) + 0.5


class Landmarks:
    """98 landmarks of faces by AWING (Wang et al., ICCV 2019), the network of facexlib.

    Its read-out is written anew here: that of facexlib 0.3 does not run with NumPy 1.24 and later.

    Args:
        path: `alignment_WFLW_4HG.pth`.
        device: of the network.

    Raises:
        CheckpointError: damaged, or another network's.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        with extra('metrics'):
            from facexlib.alignment.awing_arch import FAN  # the package takes seconds to import

        self.device = device
        self.network = FAN(num_modules=4, num_landmarks=COUNT, device=str(device))
        load_state(self.network, load_state_dict_file(path), source=path)
        self.network.eval().to(device)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(98,2), pixels, of RGB uint8 (H,W,3)."""
        small = cv2.resize(image, (SIDE, SIDE))
        inputs = torch.from_numpy(small.transpose(2, 0, 1)[None].astype(np.float32) / 255).to(self.device)
        heatmaps = self.network(inputs)[0][-1][0, :-1].cpu().numpy()
        return peaks(heatmaps) * np.array(image.shape[1::-1]) / heatmaps.shape[:0:-1]
