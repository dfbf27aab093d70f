"""Faces through stage I alone, encoded, looked up and decoded: the ceiling of all that a codebook can restore.

    python scripts/reconstruct.py --weights weights/small/vqgan_128.safetensors -i datasets/faces_val -o reconstructed
    python scripts/evaluate.py --restored reconstructed --gt datasets/faces_val --metrics psnr,ssim

It prints how many of the codes these faces use, and the perplexity of that use.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from basicsr.archs import VQAutoEncoder
from basicsr.archs.factory import load_network
from basicsr.cli.arguments import ArgumentParser
from basicsr.data.common import resize_square
from basicsr.metrics.pictures import Folder
from basicsr.metrics.table import EvaluationError
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.image import imread, imwrite, to_image, to_tensor


@torch.inference_mode()
def reconstruct(network: VQAutoEncoder, faces: Folder, output: Path) -> Tensor:
    """Write the reconstruction of every face under its name; how often each code was looked up, (K,).

    Raises:
        OSError, ValueError: a picture cannot be read.
    """
    counts = torch.zeros(network.codebook_size, dtype=torch.long)
    for name, path in tqdm(faces.files.items(), unit='face'):
        face = to_tensor(resize_square(imread(path), network.img_size, path))[None]
        restored, _, stats = network(face)
        counts += torch.bincount(stats['min_encoding_indices'].flatten(), minlength=len(counts))
        imwrite(output / f'{name}.png', to_image(restored[0].clamp(-1, 1)))
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Encode and decode faces by a network of stage I.')
    parser.add_argument('--weights', type=Path, required=True, help='of stage I')
    parser.add_argument('-i', '--input', type=Path, required=True, help='folder of aligned faces')
    parser.add_argument('-o', '--output', type=Path, required=True, help='folder for the reconstructions')
    args = parser.parse_args(argv)
    try:
        network = load_network(args.weights)
        if type(network) is not VQAutoEncoder:  # a CodeFormer is one, too
            raise CheckpointError(f'{args.weights}: a {type(network).__name__}; the network of stage I is needed')
        counts = reconstruct(network.eval(), Folder.scan(args.input, 'input'), args.output)
    except (CheckpointError, EvaluationError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    share = counts / counts.sum()
    perplexity = torch.exp(-torch.special.xlogy(share, share).sum()).item()
    used = int((counts > 0).sum())
    print(f'{used} of {len(counts)} codes used ({100 * used / len(counts):.1f} %), perplexity {perplexity:.0f}')
    return 0
