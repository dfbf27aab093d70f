"""Statistics of a reference set for the FID: mean and covariance of the Inception features of a folder of pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from basicsr.archs.inception_arch import FIDInception
from basicsr.cli.arguments import ArgumentParser
from basicsr.cli.evaluate import device_of
from basicsr.metrics.builders import FFHQ_STATISTICS, Settings
from basicsr.metrics.fid import FeatureStatistics
from basicsr.metrics.scorers import Features, NotRunError, features_of
from basicsr.metrics.table import EvaluationError
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.files import user_path
from basicsr.utils.folders import weights_folder
from basicsr.utils.image import ImageReadError, imread, scan_images


def pictures_of(folder: Path) -> list[Path]:
    """List the pictures below a folder.

    Raises:
        FileNotFoundError: no folder.
        ValueError: fewer than two pictures.
    """
    paths = scan_images(folder)
    if len(paths) < 2:
        raise ValueError(f'{folder}: a covariance needs two pictures at least, not {len(paths)}')
    return paths


def statistics_of_pictures(paths: Sequence[Path], network: Features, device: torch.device) -> FeatureStatistics:
    """Mean and covariance of the features of pictures, each at its own size.

    Raises:
        OSError, ImageReadError: a picture cannot be read.
    """
    statistics = FeatureStatistics(network.dim)
    with torch.inference_mode():
        for path in tqdm(paths, unit='picture', disable=None):
            statistics.add(features_of(network, imread(path), device))
    return statistics


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 when the file is written, 1 when that failed, 2 when nothing was begun."""
    parser = ArgumentParser(description='Make the statistics of a reference set for the FID.')
    parser.add_argument('-i', '--input', type=Path, required=True, help='folder of pictures, FFHQ at 512 pixels')
    parser.add_argument('-o', '--output', type=Path, help='.npz (default: where evaluate looks for those of FFHQ)')
    parser.add_argument(
        '--weights',
        type=user_path,
        help="pytorch-fid's Inception weights (default: from the weights folder)",
    )
    parser.add_argument('--device', help='cpu, cuda or cuda:1; by default a GPU where there is one')
    args = parser.parse_args(argv)
    output = args.output or weights_folder() / FFHQ_STATISTICS
    try:
        device = device_of(args.device)
        place = Settings(weights={'fid': args.weights} if args.weights else {}).place('fid')
        network = FIDInception(place).to(device)
        paths = pictures_of(args.input)
    except (NotRunError, CheckpointError, EvaluationError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    try:
        statistics = statistics_of_pictures(paths, network, device)
        statistics.save(output, network.name)
    except (ImageReadError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print(f'{statistics.count} pictures: {output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
