"""Enlarging backgrounds and restored faces with a super-resolution network that spandrel knows, in tiles."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import torch

from basicsr.archs.factory import building
from basicsr.utils.checkpoint import CheckpointError, load_state_dict_file
from basicsr.utils.errors import extra
from basicsr.utils.image import resized
from basicsr.utils.numerics import check_finite
from basicsr.utils.progress import track

with extra('upsample'):
    from spandrel import ImageModelDescriptor, ModelLoader, UnsupportedModelError, canonicalize_state_dict

REALESRGAN_FILE = Path('realesrgan') / 'RealESRGAN_x2plus.pth'
TRIAL_SIDE = 96  # pixels
OVERLAP = 32  # pixels of input around a tile that are computed and thrown away, so that tiles meet without a seam


def find_upsampler(name: str, weights_dir: str | os.PathLike) -> Path:
    """Return the file that `realesrgan` or a path stands for.

    Raises:
        FileNotFoundError: it is not there; the message says how to get it.
    """
    if name == 'realesrgan':
        path = Path(weights_dir) / REALESRGAN_FILE
        if not path.is_file():
            raise FileNotFoundError(f'{path} is not there; get it with: id-codeformer download realesrgan')
        return path
    if not Path(name).is_file():
        raise FileNotFoundError(
            f'{name}: no such upsampler file; use realesrgan, None or a file that spandrel can read'
        )
    return Path(name)


class Upsampler:
    """A super-resolution network.

    Args:
        path: `.pth` or `.safetensors` of any RGB network that spandrel knows.
        tile: side of the tiles in pixels of the input, which bounds the memory; 0 for the whole picture at once.
        device: `cpu`, `cuda`, `cuda:N`.

    Raises:
        CheckpointError: not a file of such a network.
        ValueError: `tile` is negative.
    """

    def __init__(self, path: str | os.PathLike, tile: int = 400, device: str = 'cpu') -> None:
        if tile < 0:
            raise ValueError(f'tile {tile}: must be 0 (no tiles) or more')
        state = canonicalize_state_dict(load_state_dict_file(path))
        with building(state, path):
            try:
                model = ModelLoader(device=device).load_from_state_dict(state)
            except UnsupportedModelError as error:
                raise CheckpointError('the keys are those of no network that spandrel knows') from error
        if not isinstance(model, ImageModelDescriptor) or (model.input_channels, model.output_channels) != (3, 3):
            raise CheckpointError(f'{path}: a {model.architecture.name} that does not map RGB pictures to RGB pictures')
        half = device.startswith('cuda') and model.supports_half
        self.model = (model.half() if half else model.float()).eval()
        self.tile = tile

    def upscale(self, image: np.ndarray, factor: float) -> np.ndarray:
        """RGB uint8 or uint16 (H,W,3) enlarged by `factor`, whatever the network's own, to (H f,W f,3) rounded."""
        size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
        result = self._upscale_tiles(image)
        if result.shape[1::-1] == size:
            return result
        return resized(result, *size)

    def seconds_a_megapixel(self) -> float:
        """Measure the seconds that a megapixel of input takes, on a small patch."""
        patch = np.zeros((TRIAL_SIDE, TRIAL_SIDE, 3), np.uint8)
        begin = time.perf_counter()
        self._run(patch)
        return (time.perf_counter() - begin) * 1e6 / TRIAL_SIDE**2

    def _upscale_tiles(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 or uint16 (H,W,3) enlarged by the network's factor, tile after tile with what surrounds it."""
        height, width = image.shape[:2]
        scale, tile = self.model.scale, self.tile or max(height, width)
        result = np.empty((height * scale, width * scale, 3), image.dtype)
        corners = [(top, left) for top in range(0, height, tile) for left in range(0, width, tile)]
        for top, left in track(corners, 'tile'):
            bottom, right = min(top + tile, height), min(left + tile, width)
            y, x = max(top - OVERLAP, 0), max(left - OVERLAP, 0)
            larger = self._run(image[y : bottom + OVERLAP, x : right + OVERLAP])
            kept = larger[(top - y) * scale : (bottom - y) * scale, (left - x) * scale : (right - x) * scale]
            result[top * scale : bottom * scale, left * scale : right * scale] = kept
        return result

    @torch.inference_mode()
    def _run(self, part: np.ndarray) -> np.ndarray:
        levels = np.iinfo(part.dtype).max
        pixels = torch.from_numpy(part.transpose(2, 0, 1).astype(np.float32))[None]
        output = self.model((pixels.to(self.model.device) / levels).to(self.model.dtype))
        check_finite(output, 'the upsampler')
        scaled = (output[0].float() * levels).round().permute(1, 2, 0)
        return scaled.cpu().numpy().astype(part.dtype)
