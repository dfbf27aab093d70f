"""Figures of a model on pairs of degraded and good aligned faces: a row for each w, beside the degraded input itself
and its bicubic enlargement.

    python scripts/make_val_pairs.py --input FACES --output datasets/faces_val_128 --severity small --size 128
    python scripts/evaluate_small.py --pairs datasets/faces_val_128 --csv docs/results/small_model.csv

Rows are appended to the CSV file, and the Markdown table beside it shows those of its last model.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from basicsr.archs import CodeFormer
from basicsr.archs.loader import load_network
from basicsr.data import DataError, PairedImageDataset
from basicsr.inference.face_restorer import fix_colour
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.download import sha256_of
from basicsr.utils.files import write_text
from basicsr.utils.image import to_image, to_tensor
from basicsr.utils.logger import environment

DIGITS = {'psnr': 2, 'ssim': 4, 'gradient_energy': 2}
COLUMNS = ('model', 'sha256', 'pairs', 'faces', 'output', *DIGITS, 'commit', 'torch', 'platform')


def gradient_energy(image: np.ndarray) -> float:
    """Mean squared difference of neighbouring pixels of the luminance in [0, 1], times 1000: how sharp a picture is."""
    grey = image.astype(np.float64) @ (0.299, 0.587, 0.114) / 255
    return 1000 * float(np.square(np.diff(grey, axis=0)).mean() + np.square(np.diff(grey, axis=1)).mean())


def fixed_colours(restored: Tensor, lq: Tensor) -> Tensor:
    """What the embedded model's inference makes of an output, both (1,3,S,S)."""
    return to_tensor(fix_colour(to_image(restored[0]), to_image(lq[0])))[None]


def pairs_of(folder: Path, degraded: str = 'lq') -> PairedImageDataset:
    """The pairs below `folder`, with the low-quality side of that name.

    Raises:
        DataError: no such folders, or files without a partner.
    """
    return PairedImageDataset({'dataroot_lq': str(folder / degraded), 'dataroot_gt': str(folder / 'gt')})


def judge(pairs: PairedImageDataset, make: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    """Mean figures of `make(lq, gt)`, tensors (1,3,S,S) in [-1, 1]."""
    figures: dict[str, list[float]] = {name: [] for name in DIGITS}
    for item in tqdm((pairs[index] for index in range(len(pairs))), total=len(pairs), unit='face', leave=False):
        output, truth = to_image(make(item['lq'][None], item['gt'][None])[0]), to_image(item['gt'])
        if output.tobytes() != truth.tobytes():
            figures['psnr'].append(calculate_psnr(output, truth))
        figures['ssim'].append(calculate_ssim(output, truth))
        figures['gradient_energy'].append(gradient_energy(output))
    return {name: float(np.mean(values)) if values else float('inf') for name, values in figures.items()}


def write_table(path: Path) -> None:
    """The Markdown table of the last model in a CSV file, beside it."""
    with path.open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    rows = [row for row in rows if row['sha256'] == rows[-1]['sha256']]
    lines = ['| pairs | faces | picture | PSNR (dB) | SSIM | gradient energy |', '|---|---|---|---|---|---|']
    for row in rows:
        figures = (
            f'{float(row[name]):.{digits}f}' for name, digits in (('psnr', 2), ('ssim', 4), ('gradient_energy', 2))
        )
        lines.append(f'| {row["pairs"]} | {row["faces"]} | {row["output"]} | {" | ".join(figures)} |')
    write_text(path.with_suffix('.md'), '\n'.join(lines) + '\n')


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description='Judge a model on pairs of degraded and good aligned faces.')
    parser.add_argument('--pairs', type=Path, required=True, help='folder with lq/, bicubic/ and gt/')
    parser.add_argument('--model', type=Path, default=Path('weights/small/codeformer_128.safetensors'))
    parser.add_argument('--w', type=float, nargs='+', default=[0, 0.8, 1])
    parser.add_argument('--adain', action=argparse.BooleanOptionalAction, default=True, help='as inference does')
    parser.add_argument('--csv', type=Path, help='file to append the rows to')
    args = parser.parse_args(argv)
    try:
        network = load_network(args.model)
        if not isinstance(network, CodeFormer):
            raise CheckpointError(f'{args.model}: a {type(network).__name__}, not a CodeFormer')
        pairs, bicubic = pairs_of(args.pairs), pairs_of(args.pairs, 'bicubic')
    except (CheckpointError, DataError) as error:
        print(error, file=sys.stderr)
        return 1
    makers: dict[str, Callable[[Tensor, Tensor], Tensor]] = {'degraded input': lambda lq, gt: lq}
    for w in args.w:
        name = f'restored, w = {w:g}{"" if args.adain else ", no AdaIN"}'
        makers[name] = lambda lq, gt, w=w: network(lq, w=w, adain=args.adain)[0]
        makers[f'{name}, colour fix'] = lambda lq, gt, w=w: fixed_colours(network(lq, w=w, adain=args.adain)[0], lq)
    makers['ground truth'] = lambda lq, gt: gt
    known = environment()
    fixed = {
        'model': args.model.name,
        'sha256': sha256_of(args.model)[:16],
        'pairs': args.pairs.name,
        'faces': len(pairs),
        'commit': (known['commit'] or 'unknown')[:12],
        'torch': known['torch'],
        'platform': known['platform'],
    }
    rows = []
    judged = {'bicubic enlargement': judge(bicubic, lambda lq, gt: lq)}
    judged |= {name: judge(pairs, make) for name, make in makers.items()}
    for name, figures in judged.items():
        rows.append({**fixed, 'output': name, **{key: f'{value:.5f}' for key, value in figures.items()}})
        print(f'{name:28s} ' + '  '.join(f'{key} {value:.4f}' for key, value in figures.items()))
    if args.csv:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        new = not args.csv.exists()
        with args.csv.open('a', newline='', encoding='utf-8') as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerows(rows)
        write_table(args.csv)
    return 0


if __name__ == '__main__':
    sys.exit(main())
