"""What an identity loss does: runs that differ in it alone, judged on the same faces by a recogniser outside training.

    python scripts/identity_study.py --run baseline=experiments/a/models/net_g_latest.pth --run "0.1=…" \
        --pairs faces_small=datasets/faces_val_128_small --recogniser weights/arcface/….pth --vgg weights/vgg/….pth \
        --w 0 --out docs/results/identity_loss

The first run is the baseline of the differences. Pairs are folders of scripts/make_val_pairs.py. Written are OUT.csv (a
row for each run and set), OUT.md (the table) and OUT.png (histograms of the identity scores).
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from basicsr.archs import CodeFormer, FaceEmbedder
from basicsr.archs.loader import load_network
from basicsr.data import DataError, PairedImageDataset
from basicsr.losses import PerceptualLoss
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.metrics.statistics import identity_summary, paired_bootstrap
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.download import sha256_of
from basicsr.utils.files import write_text
from basicsr.utils.image import imwrite, to_image
from basicsr.utils.logger import environment

LAYERS = ('relu1_2', 'relu2_2', 'relu3_3', 'relu4_3', 'relu5_3')
SCORES = ('psnr', 'ssim', 'feature', 'ids')
BATCH = 10
Scores = Mapping[str, list[float]]


class Judge:
    """Scores of restored faces: PSNR, SSIM, distance of VGG16 features, and the cosine of the recogniser's embeddings.

    Args:
        recogniser: for `ids`, not the one of the loss.
        vgg: weights of a VGG16 in torchvision names.
    """

    def __init__(self, recogniser: str, vgg: str) -> None:
        self.embedder = FaceEmbedder(recogniser).eval()
        self.features = PerceptualLoss(dict.fromkeys(LAYERS, 1.0), 'vgg16', range_norm=True, weights=vgg)

    def __call__(self, output: Tensor, gt: Tensor) -> dict[str, list[float]]:
        """A list of each score for faces (N,3,S,S) in [-1, 1]."""
        pictures = [(to_image(a), to_image(b)) for a, b in zip(output, gt, strict=True)]
        cosines = (self.embedder(output) * self.embedder(gt)).sum(1)
        features = [self.features(output[i : i + 1], gt[i : i + 1])[0] for i in range(len(output))]
        return {
            'psnr': [calculate_psnr(a, b) for a, b in pictures],
            'ssim': [calculate_ssim(a, b) for a, b in pictures],
            'feature': [float(value) for value in features if value is not None],
            'ids': cosines.tolist(),
        }


def read_pairs(folder: Path, limit: int | None) -> Dataset:
    """The pairs of a folder, `limit` of them at even steps.

    Raises:
        DataError: no such folders, or files without a partner.
    """
    pairs = PairedImageDataset({'dataroot_lq': str(folder / 'lq'), 'dataroot_gt': str(folder / 'gt')})
    count = min(limit or len(pairs), len(pairs))
    return Subset(pairs, [i * len(pairs) // count for i in range(count)])


def judge_run(network: nn.Module | None, pairs: Dataset, w: float, judge: Judge, name: str) -> dict[str, list[float]]:
    """The scores of every pair; those of the degraded faces themselves without a network."""
    scores: dict[str, list[float]] = {score: [] for score in SCORES}
    for batch in tqdm(DataLoader(pairs, BATCH), desc=name, leave=False):
        output = batch['lq'] if network is None else network(batch['lq'], w=w, adain=True)[0].clamp(-1, 1)
        for score, values in judge(output, batch['gt']).items():
            scores[score] += values
    return scores


def histogram(runs: Mapping[str, Sequence[float]], title: str, width: int = 720, height: int = 300) -> np.ndarray:
    """Step histograms of identity scores, RGB uint8 (height,width,3)."""
    canvas = np.full((height, width, 3), 255, np.uint8)
    edges = np.linspace(-0.2, 1, 31)
    counts = {name: np.histogram(np.clip(values, -0.2, 1), edges)[0] / len(values) for name, values in runs.items()}
    top = max(count.max() for count in counts.values())
    left, bottom, right, above = 40, height - 30, width - 150, 30

    def place(x: float, y: float) -> tuple[int, int]:
        return round(left + (x + 0.2) / 1.2 * (right - left)), round(bottom - y / top * (bottom - above))

    font = cv2.FONT_HERSHEY_SIMPLEX
    for tick in np.arange(-0.2, 1.01, 0.2):
        x = place(tick, 0)[0]
        cv2.line(canvas, (x, above), (x, bottom), (225, 225, 225), 1)
        cv2.putText(canvas, f'{tick:.1f}', (x - 10, bottom + 16), font, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    cv2.putText(canvas, title, (left, 18), font, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    for number, (name, count) in enumerate(counts.items()):
        hue = np.array([[[round(150 * number / max(1, len(counts) - 1)), 220, 190]]], np.uint8)
        colour = tuple(int(v) for v in cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0])
        points = [place(x, y) for i, y in enumerate(count) for x in (edges[i], edges[i + 1])]
        cv2.polylines(canvas, [np.array(points, np.int32)], False, colour, 2, cv2.LINE_AA)
        y = above + 20 * number
        cv2.line(canvas, (right + 8, y), (right + 28, y), colour, 2)
        cv2.putText(canvas, name, (right + 34, y + 4), font, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def summarise(
    run: str, pairs: str, scores: Mapping[str, list[float]], base: Mapping[str, list[float]]
) -> dict[str, Any]:
    """A row: means, the distribution of identity, and the differences to the baseline with their intervals."""
    row: dict[str, Any] = {'run': run, 'pairs': pairs, 'faces': len(scores['ids'])}
    row |= {score: float(np.mean(scores[score])) for score in SCORES[:3]}
    row |= identity_summary(scores['ids'])
    for score in ('ids', 'psnr'):
        difference = paired_bootstrap(scores[score], base[score])
        row |= dict(zip((f'd_{score}', f'd_{score}_low', f'd_{score}_high'), difference, strict=True))
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in row.items()}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as Markdown."""
    head = 'run | PSNR (dB) | SSIM | feature distance | IDS | 5 % | 25 % | 50 % | < 0.3 | IDS to the baseline (95 %)'
    lines = []
    for pairs in dict.fromkeys(row['pairs'] for row in rows):
        chosen = [row for row in rows if row['pairs'] == pairs]
        lines += [f'**{pairs}** ({chosen[0]["faces"]} faces)', '', f'| {head} |', '|' + '---|' * 10]
        for row in chosen:
            lines.append(
                f'| {row["run"]} | {row["psnr"]:.2f} | {row["ssim"]:.4f} | {row["feature"]:.3f} | {row["ids"]:.4f} | '
                f'{row["ids_p5"]:.3f} | {row["ids_p25"]:.3f} | {row["ids_p50"]:.3f} | {row["ids_lost"]:.3f} | '
                f'{row["d_ids"]:+.4f} ({row["d_ids_low"]:+.4f} to {row["d_ids_high"]:+.4f}) |'
            )
        lines.append('')
    return '\n'.join(lines)


def named(text: str) -> tuple[str, Path]:
    """NAME=PATH of the command line."""
    name, equals, path = text.partition('=')
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"'{text}': write NAME=PATH")
    return name, Path(path)


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description='Compare runs by quality and identity.')
    parser.add_argument('--run', type=named, action='append', required=True, help='NAME=CHECKPOINT; first: baseline')
    parser.add_argument('--pairs', type=named, action='append', required=True, help='NAME=FOLDER with lq/ and gt/')
    parser.add_argument('--recogniser', required=True, help='that judges; another than that of the loss')
    parser.add_argument('--vgg', required=True, help='VGG16 weights in torchvision names')
    parser.add_argument('--limit', type=int, help='faces of a set, at even steps (default: all)')
    parser.add_argument('--w', type=float, default=0, help='fidelity weight (default: 0)')
    parser.add_argument('--out', type=Path, required=True, help='results without extension')
    args = parser.parse_args(argv)
    try:
        judge = Judge(args.recogniser, args.vgg)
        networks = {name: load_network(path) for name, path in args.run}
        if not all(isinstance(network, CodeFormer) for network in networks.values()):
            raise CheckpointError('--run: every checkpoint must be a CodeFormer')
        known = environment()
        about = {'w': args.w, 'recogniser': judge.embedder.name, 'commit': (known['commit'] or 'unknown')[:12]}
        about |= {'torch': known['torch'], 'platform': known['platform']}
        sums = {name: sha256_of(path)[:16] for name, path in args.run}
        rows, charts = [], []
        for pairs, folder in args.pairs:
            data = read_pairs(folder, args.limit)
            inputs = judge_run(None, data, args.w, judge, f'{pairs}, input')
            runs = {name: judge_run(net, data, args.w, judge, f'{pairs}, {name}') for name, net in networks.items()}
            base = runs[next(iter(runs))]
            for name, scores in {'degraded input': inputs, **runs}.items():
                rows.append({**summarise(name, pairs, scores, base), 'sha256': sums.get(name, ''), **about})
            charts.append(histogram({name: scores['ids'] for name, scores in runs.items()}, f'IDS, {pairs}'))
    except (CheckpointError, DataError) as error:
        print(error, file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.with_suffix('.csv').open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    write_text(args.out.with_suffix('.md'), table(rows))
    imwrite(args.out.with_suffix('.png'), np.vstack(charts))
    print(table(rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
