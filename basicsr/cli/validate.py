"""Judge trained weights on the validation sets of an option file: `python basicsr/test.py -opt X.yml`.

The weights are `path:pretrain_network_g` (with `param_key_g`), or `--weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from basicsr.cli.arguments import ArgumentParser
from basicsr.cli.train import run_options, uses_cuda
from basicsr.data import DataError, build_dataloader, build_dataset
from basicsr.models import build_model
from basicsr.models.validation import validate
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.files import user_path
from basicsr.utils.logger import get_root_logger, git_commit
from basicsr.utils.options import OptionError, merge


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code. Results go to `results/<name>/`."""
    parser = ArgumentParser(description='Judge trained weights on the validation sets of an option file.')
    parser.add_argument('-opt', type=user_path, required=True, help='option file (YAML)')
    parser.add_argument('--weights', type=user_path, help='network weights, instead of path:pretrain_network_g')
    parser.add_argument('--force_yml', nargs='+', default=[], metavar='KEY=VALUE', help='changes to the option file')
    args = parser.parse_args(argv)
    logger = get_root_logger()
    try:
        opt = run_options(args.opt, args.force_yml)
        weights = args.weights or opt.get('path', {}).get('pretrain_network_g')
        if not weights:
            raise OptionError('path:pretrain_network_g is missing: which weights are to be judged? (or --weights)')
        sections = {name: section for name, section in opt['datasets'].items() if name != 'train'}
        if not sections:
            raise OptionError("datasets: no 'val' or 'test' section to judge on")
        opt = merge(opt, {'path': {'pretrain_network_g': weights, 'strict_load_g': True}})
        model = build_model(opt, 'cuda' if uses_cuda(opt) else 'cpu', is_train=False)
        about = {'iter': Path(weights).stem, 'weights': weights, 'commit': git_commit()}
        for name, section in sections.items():
            loader = build_dataloader(build_dataset(section), section, train=False)
            validate(model, loader, Path('results') / opt['name'], name, about)
    except (OptionError, DataError, CheckpointError, FileNotFoundError) as error:
        logger.error('%s', error)
        return 1
    return 0
