"""The identity that a low-quality face tells by itself, and how far it can be trusted.

The confidence is the cosine that is to be expected between the embeddings of the degraded face and of its clean
original. It is predicted from what can be measured on the degraded face alone, by a logistic curve that rises with
every measurement. id-codeformer recognizer calibrate fits one for a recognizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.download import sha256_of
from basicsr.utils.files import write_text
from basicsr.utils.registry import nearest

COMMAND = 'id-codeformer recognizer calibrate -i FACES --weights {weights} -o {file}'
LAPLACE = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))
Network = Callable[[Tensor], Tensor]


def norm(network: Network, crops: Tensor, raw: Tensor) -> Tensor:
    """Length of the embedding before it is made a unit vector; recognizers give doubtful faces short ones."""
    return raw.norm(dim=1)


def sharpness(network: Network, crops: Tensor, raw: Tensor) -> Tensor:
    """Logarithm of the mean absolute Laplacian over the contrast (standard deviation) of the grey crop."""
    grey = crops.mean(1, keepdim=True)
    edges = F.conv2d(grey, grey.new_tensor(LAPLACE)[None, None]).abs().mean((1, 2, 3))
    return ((edges + 1e-6) / (grey.std((1, 2, 3)) + 1e-2)).log()  # an empty crop is not sharp


def flip(network: Network, crops: Tensor, raw: Tensor) -> Tensor:
    """Cosine between the embeddings of the face and of its mirror image."""
    return F.cosine_similarity(raw, network(crops.flip(3)))


def blur(network: Network, crops: Tensor, raw: Tensor) -> Tensor:
    """Cosine between the embeddings of the face and of itself, blurred by a pixel."""
    return F.cosine_similarity(raw, network(gaussian_blur(crops, [7, 7], [1.0, 1.0])))


FEATURES: Mapping[str, Callable[[Network, Tensor, Tensor], Tensor]] = {
    each.__name__: each for each in (norm, sharpness, flip, blur)
}
"""Measurements: of the recognizer's network, crops (N,C,h,w) and raw embeddings (N,D), a number each (N,)."""


def measure(embedder: FaceEmbedder, faces: Tensor, names: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return unit embeddings (N,D) and measurements (N,len(names)) of faces (N,3,H,W) in [-1, 1], without gradient.

    The faces are embedded as they are, whatever `embedder.flip`.
    """
    with torch.no_grad(), torch.autocast(faces.device.type, enabled=False):
        crops = embedder.preprocess(faces.float())
        raw = embedder.network(crops)
        measured = [FEATURES[name](embedder.network, crops, raw) for name in names]
        return F.normalize(raw), torch.stack(measured, dim=1)


@dataclass(frozen=True)
class Calibration:
    """sigmoid(bias + sum of weight * measurement), for one recognizer.

    Attributes:
        recognizer: its name.
        recognizer_sum: SHA-256 of its weights file, in hexadecimal.
        weights: of the measurements, by their names in `FEATURES`; 0 or more.
        bias: added to them.
        fitted_on: faces and degradations, in words.
        threshold: smallest cosine at which a face is taken for a person with references; None where none was fitted.
    """

    recognizer: str
    recognizer_sum: str
    weights: Mapping[str, float]
    bias: float
    fitted_on: str
    threshold: float | None = None

    @classmethod
    def read(cls, file: str | Path) -> Calibration:
        """From a JSON file.

        Raises:
            CheckpointError: it is missing, damaged or something else.
        """
        remedy = f'make it with {COMMAND.format(weights="RECOGNIZER", file=file)}'
        if not Path(file).is_file():
            raise CheckpointError(f'{file}: no such file; {remedy}')
        try:
            stored: dict[str, Any] = json.loads(Path(file).read_text(encoding='utf-8'))
            content = {name.replace('recogniser', 'recognizer'): value for name, value in stored.items()}  # as before
            weights = {name: float(weight) for name, weight in content.pop('weights').items()}
            threshold = content.pop('threshold', None)
            content['threshold'] = None if threshold is None else float(threshold)
            result = cls(weights=weights, bias=float(content.pop('bias')), **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f'{file}: damaged, or no calibration of a confidence ({error}); {remedy}') from error
        for name in weights:
            if name not in FEATURES:
                raise CheckpointError(f"{file}: unknown measurement '{name}'{nearest(name, FEATURES)}; {remedy}")
        is_rising = weights and all(0 <= weight < inf for weight in weights.values())
        if not is_rising or not isfinite(result.bias):
            raise CheckpointError(f'{file}: weights and bias must be finite, weights 0 or more, and some; {remedy}')
        return result

    def save(self, file: str | Path) -> None:
        """Write a JSON file, whole or not at all."""
        write_text(file, json.dumps(asdict(self), indent=2) + '\n')

    def __call__(self, measured: Tensor) -> Tensor:
        """Return the confidence (N,) from 0 to 1, of measurements (N,F) in the order of `weights`."""
        weights = measured.new_tensor(list(self.weights.values()))
        return ((measured * weights).sum(1) + self.bias).sigmoid()  # a matrix product would follow autocast


class InputIdentity(nn.Module):
    """Identity of a low-quality face, with its confidence.

    Args:
        embedder: the recognizer.
        calibration: a file of id-codeformer recognizer calibrate, made for this recognizer.

    Raises:
        CheckpointError: the file is missing, damaged, or of another recognizer.
    """

    def __init__(self, embedder: FaceEmbedder, calibration: str | Path) -> None:
        super().__init__()
        self.embedder = embedder
        self.calibration = Calibration.read(calibration)
        if sha256_of(embedder.path) != self.calibration.recognizer_sum:
            raise CheckpointError(
                f"{calibration}: made for the recognizer '{self.calibration.recognizer}' with other weights than "
                f'{embedder.path} ({embedder.name}); make another with '
                f'{COMMAND.format(weights=embedder.path, file="OTHER_FILE.json")}'
            )

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Return unit embeddings (N,D) and their confidence (N,) from 0 to 1, without gradient.

        Args:
            faces: aligned to the FFHQ template (N,3,H,W), RGB, in [-1, 1], sides at least 64.

        Raises:
            ValueError: see `FaceCrop`.
        """
        embeddings, measured = measure(self.embedder, faces, tuple(self.calibration.weights))
        return embeddings, self.calibration(measured)
