"""Run the steps of the embedded model's training, from faces to checkpoints.

    python -m experiments.small_model.recipe --set faces=datasets/faces192/train

The steps are those of `recipe.yml`: `resize` makes the training faces, `train` runs an option file for a time,
`release` writes the file that ships. `--minutes` shares a time between the trainings, for a machine that is lent;
`--processes` trains with so many processes. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from basicsr.models.checkpoints import network_file
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.files import replacing
from basicsr.utils.image import scan_images
from basicsr.utils.options import OptionError, load_options
from experiments.small_model.release import release

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
STOPPED = (0, 143)  # exit codes of a training that is done, or was ended and has saved


def resize(source: Path, target: Path, size: int, suffix: str = '.jpg', quality: int = 93) -> None:
    """Write the pictures of `source`, `size` pixels a side by Lanczos, to `target`; those that are there are kept.

    Args:
        source: folder of square pictures.
        target: folder of the results.
        size: pixels a side.
        suffix: '.jpg' or '.webp'.
        quality: of the format, 1 to 100.

    Raises:
        OptionError: `source` has no pictures.
    """
    files = scan_images(source)
    if not files:
        raise OptionError(f'{source}: no pictures; give --set faces=FOLDER')
    target.mkdir(parents=True, exist_ok=True)
    extra = {'subsampling': 0} if suffix == '.jpg' else {'method': 6}
    for file in files:
        result = target / (file.stem + suffix)
        if result.exists():
            continue
        with Image.open(file) as image, replacing(result) as partial:
            small = image.convert('RGB').resize((size, size), Image.Resampling.LANCZOS)
            small.save(partial, Image.registered_extensions()[suffix], quality=quality, **extra)


def newest(run: Path) -> int:
    """Return the iteration of a run's newest training state, 0 without any."""
    return max((int(file.stem) for file in (run / 'training_states').glob('*.state')), default=0)


def train(options: Path, minutes: float, changes: Sequence[str], processes: int) -> None:
    """Run an option file until it is done or `minutes` are over, and leave its newest networks as `latest`.

    Raises:
        OptionError: the training failed; what it printed says why.
    """
    run = Path('experiments') / load_options(options)['name']
    command = [sys.executable]
    if processes > 1:
        command += ['-m', 'torch.distributed.run', f'--nproc_per_node={processes}']
    command += [str(ROOT / 'basicsr' / 'train.py'), '-opt', str(options), '--auto_resume']
    command += ['--launcher', 'pytorch'] if processes > 1 else []
    process = subprocess.Popen([*command, *(['--force_yml', *changes] if changes else [])])
    end = time.monotonic() + 60 * minutes
    try:
        process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
    iteration = newest(run)
    if not iteration or (processes == 1 and process.returncode not in STOPPED):
        raise OptionError(f'{options}: the training ended with exit code {process.returncode}; see above')
    for name in ('net_g', 'net_d'):
        file = network_file(run, name, iteration)
        if file.exists():
            shutil.copyfile(file, network_file(run, name, 'latest'))


def run_step(step: Mapping[str, Any], paths: Mapping[str, str], args: argparse.Namespace, share: float) -> None:
    """Run one step; `share` is the part of `--minutes` that a training has."""
    ((kind, given),) = step.items()
    filled: dict[str, Any] = {
        key: value.format(**paths) if isinstance(value, str) else value for key, value in given.items()
    }
    print(f'== {kind} {" ".join(str(value) for value in filled.values())}', flush=True)
    if kind == 'resize':
        resize(Path(filled.pop('source')), Path(filled.pop('target')), **filled)
    elif kind == 'release':
        ia_cft = filled.get('ia_cft')
        release([Path(filled['source'])], Path(filled['target']), Path(ia_cft) if ia_cft else None)
    elif kind == 'train':
        changes = [change.format(**paths) for change in filled.get('set', [])] + args.force_yml
        minutes = args.minutes * share if args.minutes else filled['minutes']
        train(HERE / 'options' / filled['options'], minutes, changes, args.processes)
    else:
        raise OptionError(f"{args.recipe}: no step '{kind}'; use resize, train or release")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description='Train the embedded model from a file of steps.')
    parser.add_argument('--recipe', type=Path, default=HERE / 'recipe.yml', help='the file of steps')
    parser.add_argument('--set', nargs='+', default=[], metavar='KEY=VALUE', help='paths, instead of those of the file')
    parser.add_argument('--minutes', type=float, help='for all trainings together, shared as their minutes are')
    parser.add_argument('--processes', type=int, default=1, help='of a training')
    parser.add_argument('--force_yml', nargs='+', default=[], metavar='KEY=VALUE', help='changes of all option files')
    args = parser.parse_args(argv)
    try:
        recipe = yaml.safe_load(args.recipe.read_text())
        paths = {**recipe['paths'], **dict(pair.split('=', 1) for pair in args.set)}
        if unknown := sorted(set(paths) - set(recipe['paths'])):
            raise OptionError(f'--set {", ".join(unknown)}: no such path; the recipe has {", ".join(recipe["paths"])}')
        total = sum(step['train']['minutes'] for step in recipe['steps'] if 'train' in step) or 1
        for step in recipe['steps']:
            run_step(step, paths, args, step['train']['minutes'] / total if 'train' in step else 0)
    except (OptionError, CheckpointError, OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
