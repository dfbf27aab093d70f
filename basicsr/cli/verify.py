"""Comparison of restorations with published ones of the same inputs."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from basicsr.archs import CodeFormer
from basicsr.cli.arguments import ArgumentParser
from basicsr.inference import FaceRestorer
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.files import user_path
from basicsr.utils.image import ImageReadError, imread, scan_images, to_tensor

SAME = 0.5
"""Mean absolute difference up to which two pictures are one, levels of 255; other code or weights differ by several."""
WEIGHT = re.compile(r'w(?P<w>\d+(\.\d+)?)(?P<unit>_input_in_0_1)?')


@dataclass(frozen=True)
class Pair:
    """An input and what was published of it.

    Attributes:
        name: for the table.
        given: the aligned face, a file.
        published: its restoration, a file.
        w: fidelity weight.
        low: value of black, in the network's input and output: -1, or 0 as in spandrel's own tests.
    """

    name: str
    given: Path
    published: Path
    w: float
    low: int = -1


def find_pairs(folder: Path) -> Iterator[Pair]:
    """Yield the pairs in a folder.

    Those of `lq/NAME.png` and `w0.5/NAME.png`, for any w; and of `spandrel/lq.jpg` and
    `spandrel/w0.5_input_in_0_1.png`, whose values are in [0, 1].
    """
    for place in sorted(folder.iterdir()):
        if place.is_dir() and (weight := WEIGHT.fullmatch(place.name)):
            for path in scan_images(place):
                given = folder / 'lq' / path.relative_to(place)
                yield Pair(f'{place.name}/{path.name}', given, path, float(weight['w']))
    for path in sorted((folder / 'spandrel').glob('w*.png')):
        if weight := WEIGHT.fullmatch(path.stem):
            given = next(iter(sorted(path.parent.glob('lq.*'))), path.parent / 'lq.jpg')
            yield Pair(f'spandrel/{path.name}', given, path, float(weight['w']), 0 if weight['unit'] else -1)


@torch.inference_mode()
def restore(network: CodeFormer, face: np.ndarray, w: float, low: int) -> np.ndarray:
    """Restore a face with AdaIN, as the published inference does.

    Args:
        network: on its device.
        face: RGB uint8 (S,S,3).
        w: fidelity weight.
        low: value of black, -1 or 0; white is 1.

    Returns:
        RGB uint8 (S,S,3), clamped and rounded.
    """
    scaled = (to_tensor(face)[None] + 1) / 2 * (1 - low) + low
    parameter = next(network.parameters())
    output = network(scaled.to(parameter), w=w, adain=True)[0][0].float().clamp(low, 1)
    return ((output - low) / (1 - low) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def check(restorer: FaceRestorer, pairs: Sequence[Pair]) -> int:
    """Print how far each restoration is from the published one; how many are another picture, or could not be made."""
    failed = 0
    for pair in pairs:
        try:
            given, published = imread(pair.given), imread(pair.published)
            if given.shape != (restorer.size, restorer.size, 3) or published.shape != given.shape:
                raise ValueError(f'{given.shape} and {published.shape}; the network restores {restorer.size} pixels')
            made = restore(cast(CodeFormer, restorer.network), given, pair.w, pair.low)
        except (OSError, ImageReadError, ValueError) as error:
            print(f'{pair.name}: error: {error}', file=sys.stderr)
            failed += 1
            continue
        difference = np.abs(made.astype(int) - published)
        mean = difference.mean()
        verdict = 'the published picture' if mean <= SAME else 'ANOTHER PICTURE'
        failed += mean > SAME
        print(f'{pair.name}: {verdict}; they differ by {mean:.3f} levels on average, {difference.max()} at most')
    return failed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if every picture is the published one, 1 if one is not, 2 if none was compared."""
    parser = ArgumentParser(
        description='Compare restorations with published ones: PAIRS/lq/NAME with PAIRS/w0.5/NAME, and PAIRS/spandrel.'
    )
    parser.add_argument('pairs', type=Path, help='folder of pairs')
    parser.add_argument('--model', type=user_path, default='official', help='official (default), or a checkpoint')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N')
    args = parser.parse_args(argv)
    try:
        pairs = list(find_pairs(args.pairs))
        if not pairs:
            raise FileNotFoundError(f'{args.pairs}: no pairs; expected are lq/NAME and w0.5/NAME, or spandrel/')
        restorer = FaceRestorer(args.model, device=args.device, color_fix=False)
    except (OSError, CheckpointError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    print(restorer.description)
    failed = check(restorer, pairs)
    print(f'{len(pairs) - failed} of {len(pairs)} are the published pictures')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
