"""Hold models beside official restorations of real damaged faces: a table of figures, and a sheet to look at.

    python -m experiments.small_model.judge --input lq --official w0.5 --output judged \
        --models small experiments/ID_CodeFormer_256_stage3/models/net_g_latest.pth \
        --niqe niqe_pris_params.npz --recognizers arcface_mbf512.onnx mobilefacenet_casia128.pth

INPUT has aligned faces, OFFICIAL restorations of another model, TRUTH the undamaged faces, all under the same names.
Gradient energy is the mean magnitude of the 3x3 Sobel gradient of the grey image (0 to 255) at a side in pixels.
Likeness is the cosine of a recognizer's embeddings with the input. With TRUTH: PSNR at 128 pixels; laplacian, the
variance of the Laplacian at a side over that of the truth; identity, the cosine with the truth; frechet, the Fréchet
distance of the embeddings; feature, the distance of VGG16's features at 256 pixels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from basicsr.data.common import list_pictures, relative_key
from basicsr.inference import FaceRestorer
from basicsr.losses import PerceptualLoss
from basicsr.metrics.builders import feature_distance
from basicsr.metrics.fid import FeatureStatistics, frechet_distance
from basicsr.metrics.niqe import NIQE
from basicsr.metrics.psnr_ssim import calculate_psnr
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.image import imread, imwrite, resized, to_tensor

SIDE = 512
SIDES = (128, 256)
Pictures = Mapping[str, np.ndarray]


def gradient_energy(image: np.ndarray, side: int) -> float:
    """Return the mean Sobel magnitude of RGB uint8 (H,W,3) reduced to `side` pixels by area."""
    grey = cv2.cvtColor(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    x, y = (cv2.Sobel(grey, cv2.CV_32F, dx, 1 - dx) for dx in (1, 0))
    return float(np.hypot(x, y).mean())


@torch.no_grad()
def embed(embedder: FaceEmbedder, images: Pictures) -> torch.Tensor:
    """Embed faces, RGB uint8 (512,512,3) each, to unit vectors (N,D)."""
    return torch.cat([embedder(to_tensor(image)[None]) for image in images.values()])


def laplacian_variance(image: np.ndarray, side: int) -> float:
    """Return the variance of the 3x3 Laplacian of RGB uint8 (H,W,3) reduced to `side` pixels by area."""
    grey = cv2.cvtColor(cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_64F).var())


def statistics(vectors: torch.Tensor) -> FeatureStatistics:
    """Return mean and covariance of vectors (N,D)."""
    found = FeatureStatistics(vectors.shape[1])
    for vector in vectors.cpu().numpy():
        found.add(vector)
    return found


@torch.no_grad()
def compare(
    images: Pictures, truth: Pictures, embedders: Mapping[str, FaceEmbedder], feature: PerceptualLoss | None = None
) -> dict[str, float]:
    """Return the mean figures of restorations against undamaged faces, each of 512 pixels."""
    psnr = [calculate_psnr(resized(image, 128, 128), resized(truth[name], 128, 128)) for name, image in images.items()]
    row = {'psnr_128': float(np.mean(psnr))}
    for side in SIDES:
        sharpness = [sum(laplacian_variance(face, side) for face in faces.values()) for faces in (images, truth)]
        row[f'laplacian_{side}'] = sharpness[0] / sharpness[1]
    for name, embedder in embedders.items():
        found, wanted = embed(embedder, images), embed(embedder, truth)
        row[f'identity {name}'] = float((found * wanted).sum(1).mean())
        row[f'frechet {name}'] = frechet_distance(statistics(found), statistics(wanted))
    if feature is not None:
        distances = [feature(_shown(image), _shown(truth[name]))[0] for name, image in images.items()]
        row['feature'] = float(np.mean([float(distance) for distance in distances]))
    return row


def _shown(image: np.ndarray) -> torch.Tensor:
    return to_tensor(resized(image, SIDES[1], SIDES[1]))[None]


def measure(images: Pictures, inputs: Pictures, niqe: NIQE | None, embedders: Mapping[str, FaceEmbedder]) -> dict:
    """Return the mean figures of restorations, each of 512 pixels."""
    row: dict[str, float] = {
        f'gradient_{side}': float(np.mean([gradient_energy(image, side) for image in images.values()]))
        for side in SIDES
    }
    if niqe is not None:
        row['niqe_512'] = float(np.mean([niqe(image) for image in images.values()]))
    for name, embedder in embedders.items():
        row[f'likeness {name}'] = float((embed(embedder, images) * embed(embedder, inputs)).sum(1).mean())
    return row


def read_faces(folder: Path, names: Path) -> Pictures:
    """Return faces of 512 pixels in `folder`, those of the files below `names`, by their names."""
    return {
        relative_key(path, names): resized(imread(folder / path.relative_to(names)), SIDE, SIDE)
        for path in list_pictures(names, '--input')
    }


def sheet(columns: Sequence[Pictures], side: int) -> np.ndarray:
    """Return one row a face, one column a restorer."""
    names = list(columns[0])
    return np.concatenate(
        [np.concatenate([resized(column[name], side, side) for column in columns], axis=1) for name in names]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description='Hold models beside official restorations of real damaged faces.')
    parser.add_argument('--input', type=Path, required=True, help='aligned damaged faces')
    parser.add_argument('--official', type=Path, help='restorations to compare with, of the same names')
    parser.add_argument('--truth', type=Path, help='undamaged faces of the same names')
    parser.add_argument('--models', nargs='+', default=['small'], help='auto, official, small, or files')
    parser.add_argument('--w', type=float, nargs='+', default=[0.5], help='fidelity weights')
    parser.add_argument('--niqe', type=Path, help='statistics of NIQE')
    parser.add_argument('--recognizers', nargs='*', default=[], help='weights of recognizers')
    parser.add_argument('--vgg', type=Path, help='weights of VGG16, for the feature distance')
    parser.add_argument('--side', type=int, default=256, help='pixels of a face on the sheet')
    parser.add_argument('--output', type=Path, required=True, help='folder of sheet and pictures')
    args = parser.parse_args(argv)
    try:
        inputs = read_faces(args.input, args.input)
        columns: dict[str, Pictures] = {'input': inputs}
        for model in args.models:
            restorer = FaceRestorer(model)
            for w in args.w:
                faces = restorer.restore(list(inputs.values()), w=w)
                columns[f'{model} w={w:g}'] = {
                    name: resized(face, SIDE, SIDE) for name, face in zip(inputs, faces, strict=True)
                }
        if args.official:
            columns['official'] = read_faces(args.official, args.input)
        niqe = NIQE(args.niqe) if args.niqe else None
        embedders = {Path(weights).stem: FaceEmbedder(weights) for weights in args.recognizers}
        rows = {name: measure(images, inputs, niqe, embedders) for name, images in columns.items()}
        if args.truth:
            truth = read_faces(args.truth, args.input)
            feature = feature_distance(args.vgg) if args.vgg else None
            rows = {name: row | compare(columns[name], truth, embedders, feature) for name, row in rows.items()}
            columns['truth'] = truth
        imwrite(args.output / 'sheet.png', sheet(list(columns.values()), args.side))
    except (OSError, ValueError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    keys = list(next(iter(rows.values())))
    print(f'| {len(inputs)} faces | ' + ' | '.join(keys) + ' |\n|---|' + '---|' * len(keys))
    for name, row in rows.items():
        print(f'| {name} | ' + ' | '.join(f'{row[key]:.3f}' for key in keys) + ' |')
    return 0


if __name__ == '__main__':
    sys.exit(main())
