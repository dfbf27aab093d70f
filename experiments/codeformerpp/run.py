"""Train and judge CodeFormer++ on a prior: pairs, both stages, all rows, tables and a sheet, by one command.

    python -m experiments.codeformerpp.run --train datasets/faces/train --faces datasets/faces_val \
        --people datasets/people_val --publish experiments/codeformerpp

The option files are those of 128 pixels; side and batch follow from the prior and the flags. What is done already is
not done again, so the command may be repeated after an interruption. `--trial` does everything at a minute's scale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from skimage.data import astronaut

from basicsr.archs.factory import read_network
from basicsr.cli.data_pairs import SEVERITIES, make_pairs
from basicsr.data.degradation import degrade
from basicsr.faces.detection import build_detector
from basicsr.faces.geometry import align_face
from basicsr.inference import FaceRestorer
from basicsr.utils.image import imwrite, sheet
from experiments.ablation import run as ablation
from experiments.ablation.plan import load_plan
from experiments.ablation.stages import trainings_of

HERE = Path(__file__).resolve().parent
PEOPLE = ('celebref512', 'multi_id')
TRIAL = {
    'train:total_iter': 4,
    'train:net_d_start_iter': 2,
    'logger:print_freq': 1,
    'datasets:train:batch_size_per_gpu': 2,
}
DRAWS = (1, 4)


def make_sets(args: argparse.Namespace, size: int) -> dict[str, Path]:
    """Write pairs of each set under each damage; the folders by the name of the set."""
    sources = {'faces': args.faces, **{name: args.people / name for name in PEOPLE}}
    found = {}
    for name, source in sources.items():
        for damage, ranges in SEVERITIES.items():
            target = args.out / 'pairs' / f'{name}_{damage}_{size}_{args.limit or "all"}'
            if not (target / 'done').is_file():
                make_pairs(source, target, ranges, size, 0, args.limit)
                (target / 'done').touch()
            found[f'{name}_{damage}'] = target
    return found


def changes(args: argparse.Namespace, in_size: int, size: int, sets: dict[str, Path]) -> tuple[list[str], list[str]]:
    """Return the changes of the plan, and of its option files."""
    plan = [f'sets:{name}:{role}={folder / role}' for name, folder in sets.items() for role in ('lq', 'gt')]
    plan += [f'sets:{name}:limit={args.judged}' for name in sets]
    rows = load_plan(HERE / 'plan.yml', plan).rows.values()
    plan += [f'rows:{row.name}:checkpoint={args.prior}' for row in rows if row.checkpoint]
    plan += [
        f'judge:recognizer={args.judge}',
        f'judge:weights:feature={args.vgg}',
        f'judge:weights:niqe_192={args.niqe}',
    ]
    options = {
        'network_g:prior_path': args.prior, 'datasets:train:dataroot_gt': args.train,
        'datasets:train:gt_size': size, 'datasets:train:in_size': in_size,
        'train:perceptual_opt:weights': args.vgg, 'train:metric_opt:weights': args.vgg, 'network_d:weights': args.vgg,
        **(TRIAL if args.trial else {}),
    }  # fmt: skip
    return plan, [f'{key}={value}' for key, value in options.items()]


def portrait_sheet(prior: Path, full: Path) -> np.ndarray:
    """Return the public-domain portrait under draws of both damages: input, the prior, and CodeFormer++."""
    restorers = FaceRestorer(prior, color_fix=True), FaceRestorer(full, color_fix=True)
    size, portrait = restorers[0].size, astronaut()
    face, _ = align_face(portrait, build_detector().detect(portrait)[0].landmarks, size)
    rows = []
    for ranges in SEVERITIES.values():
        for draw in DRAWS:
            damaged = degrade(face.astype(np.float32) / 255, ranges.scaled(size), np.random.default_rng(draw))
            given = np.rint(np.clip(damaged, 0, 1) * 255).astype(np.uint8)
            restored = [restorers[0].restore(given, w)[0] for w in (1.0, 0.5, 0.0)]
            rows.append([given, *restored, restorers[1].restore(given)[0], face])
    return sheet(rows, ['input', 'w = 1 (I_F)', 'w = 0.5', 'w = 0 (I_G)', 'CodeFormer++', 'truth'])


def parser() -> argparse.ArgumentParser:
    """Of the command line."""
    result = argparse.ArgumentParser(description='Train and judge CodeFormer++ on a prior.')
    add = result.add_argument
    add('--prior', type=Path, default=Path('weights/small/codeformer_128.safetensors'), help='of any side')
    add('--train', type=Path, default=Path('datasets/faces/train'), help='clean faces to train on')
    add('--faces', type=Path, default=Path('datasets/faces_val'), help='held-out clean faces')
    add('--people', type=Path, default=Path('datasets/people_val'), help=f'with the folders {" and ".join(PEOPLE)}')
    add('--vgg', default='weights/vgg/vgg16-397923af.pth', help='VGG16 in torchvision names')
    add('--judge', default='mobilefacenet_casia128', help='of the judging; another one')
    add('--niqe', default='weights/metrics/niqe_pris_params.npz', help="NIQE's statistics")
    add('--limit', type=int, help='pairs made of each set (all by default)')
    add('--judged', type=int, default=100, help='faces judged of each set, at even steps')
    add('--rows', nargs='+', help='only these')
    add('--out', type=Path, default=Path('results/codeformerpp'))
    add('--publish', type=Path, help='write tables, plots and the sheet of the portrait into this folder, too')
    add('--trial', action='store_true', help='a few iterations and faces, to see that everything runs')
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = parser().parse_args(argv)
    if args.trial:
        args.limit = args.judged = 2
    prior = read_network(args.prior)[0]
    size = prior['img_size'] * prior.get('out_scale', 1)
    plan, options = changes(args, prior['img_size'], size, make_sets(args, size))
    command = ['--plan', str(HERE / 'plan.yml'), '--out', str(args.out), '--set', *plan, '--force_yml', *options]
    command += ['--rows', *args.rows] if args.rows else []
    command += ['--publish', str(args.publish / 'results')] if args.publish else []
    code = ablation.main(command)
    shared = [*load_plan(HERE / 'plan.yml', plan).force_yml, *options]
    row = load_plan(HERE / 'plan.yml', plan).rows['full']
    full = trainings_of(row, 0, shared)[-1].checkpoint
    if full.is_file():
        imwrite((args.publish or args.out) / 'portrait.jpg', portrait_sheet(args.prior, full))
    return code


if __name__ == '__main__':
    sys.exit(main())
