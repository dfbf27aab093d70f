"""Precompute what the small RIDFR experiment trains on: faces, their latents, and embeddings of two references each.

The latents are the features of a stage I autoencoder, reduced to their `CHANNELS` principal components (see `basis`).
The two references are other photographs of a synthetic person: the face bent and toned anew, mirrored by chance, and
reduced to a random side between half and the whole. All is written in blocks, so that an interrupted run goes on.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from basicsr.archs import VQAutoEncoder
from basicsr.archs.factory import load_network
from basicsr.data.common import resize_square
from basicsr.data.degradation import to_bytes, to_unit
from basicsr.data.synthetic_identity_dataset import ANOTHER_PHOTOGRAPH
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.files import replacing
from basicsr.utils.image import imread, scan_images

CHANNELS = 8
REFERENCES = 2
BLOCK = 100
BASIS_FACES = 200
SUBSET = 'basis.safetensors'


def to_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """Return uint8 RGB pictures (S,S,3) as one tensor (N,3,S,S) in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def reference(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return another photograph of the synthetic person in a face, uint8 (S,S,3)."""
    face = to_bytes(ANOTHER_PHOTOGRAPH(to_unit(image), rng))
    if rng.random() < 0.5:
        face = cv2.flip(face, 1)
    side = int(rng.integers(len(face) // 2, len(face), endpoint=True))
    return resize_square(resize_square(face, side), len(face))


@torch.no_grad()
def basis(features: Tensor) -> dict[str, Tensor]:
    """Return the principal components of features (N,E,s,s), scaled so that the latents have unit variance overall.

    A component is divided by the square root of its deviation: half way between one scale for all, under which the
    weakest drown in noise until the last steps, and whitening, which makes them as important as the first.

    Returns:
        'mean' (E,), 'down' (C,E) and 'up' (E,C): z = down (f - mean), f = up z + mean.
    """
    rows = features.permute(0, 2, 3, 1).flatten(0, 2).double()
    mean = rows.mean(0)
    _, values, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    deviation = values[:CHANNELS] / len(rows) ** 0.5
    scale = deviation.sqrt() * deviation.mean().sqrt()  # of z: deviation / scale has a mean square of 1
    down = axes[:CHANNELS] / scale[:, None]
    up = axes[:CHANNELS].T * scale
    return {'mean': mean.float(), 'down': down.float().contiguous(), 'up': up.float().contiguous()}


def project(features: Tensor, found: dict[str, Tensor]) -> Tensor:
    """Return the latents (N,C,s,s) of features (N,E,s,s)."""
    return torch.einsum('nehw,ce->nchw', features - found['mean'][:, None, None], found['down'])


def prepare(faces: Path, out: Path, autoencoder: Path, recognizer: str, limit: int, seed: int = 0) -> None:
    """Write `basis.safetensors` and blocks `NNNN.safetensors` of the first `limit` faces, in a drawn order.

    Args:
        faces: folder of aligned faces.
        out: folder of the results; blocks that are there stay.
        autoencoder: stage I checkpoint; its side is that of the faces.
        recognizer: of the embeddings; see `FaceEmbedder`.
        limit: number of faces.
        seed: of order and references.
    """
    network = load_network(autoencoder).eval()
    assert isinstance(network, VQAutoEncoder)
    embedder = FaceEmbedder(recognizer)
    files = scan_images(faces)
    order = np.random.default_rng(seed).permutation(len(files))[:limit]
    out.mkdir(parents=True, exist_ok=True)

    def read(index: int) -> np.ndarray:
        image = resize_square(imread(files[index]), network.img_size)
        return cv2.flip(image, 1) if np.random.default_rng([seed, index]).random() < 0.5 else image

    if not (out / SUBSET).is_file():
        with torch.no_grad():
            some = [network.encoder(to_tensor([read(index)])) for index in order[:BASIS_FACES]]
        with replacing(out / SUBSET) as partial:
            save_file(basis(torch.cat(some)), partial)
    found = load_file(out / SUBSET)
    for start in range(0, len(order), BLOCK):
        target = out / f'{start // BLOCK:04d}.safetensors'
        if target.is_file():
            continue
        images = [read(index) for index in order[start : start + BLOCK]]
        latents, vectors = [], []
        for image in images:
            rng = np.random.default_rng([seed, zlib.crc32(image.tobytes())])
            with torch.no_grad():
                latents.append(project(network.encoder(to_tensor([image])), found))
                vectors.append(embedder(to_tensor([reference(image, rng) for _ in range(REFERENCES)])))
        content = {
            'faces': torch.from_numpy(np.stack(images)),  # uint8 (N,S,S,3)
            'latents': torch.cat(latents).half(),  # (N,C,s,s)
            'vectors': torch.stack(vectors).half(),  # (N,R,D)
        }
        with replacing(target) as partial:
            save_file(content, partial)
        print(f'{target.name}: {start + len(images)} of {len(order)} faces', flush=True)
