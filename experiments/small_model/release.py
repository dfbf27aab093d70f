"""Turn the checkpoints of `options/small` into the files under `weights/small`: averaged weights, float16, safetensors.

    python scripts/release_small.py --codeformer experiments/CodeFormer_128_stage3/models/net_g_latest.pth \
        --vqgan experiments/VQGAN_128_stage1/models/net_g_latest.pth

Of several checkpoints the mean is written (Wortsman et al., Model soups, ICML 2022): that of trainings which went on
from the same weights keeps most of what each has learnt.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from basicsr.archs.factory import read_network
from basicsr.cli.arguments import ArgumentParser
from basicsr.inference.tasks import COLORIZE, INPAINT
from basicsr.utils.checkpoint import CheckpointError, read_checkpoint, read_metadata, unwrap
from basicsr.utils.download import sha256_of
from basicsr.utils.files import replacing


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return averaged weights and options of the network in a checkpoint of a training, or in a released file."""
    if file.suffix == '.safetensors':
        header = read_metadata(file)
        return read_network(file)[1] if 'base' in header else dict(read_checkpoint(file)), json.loads(header['network'])
    checkpoint = read_checkpoint(file)
    if 'network' not in checkpoint:
        raise CheckpointError(f"{file}: no entry 'network'; give a checkpoint that a training wrote")
    return unwrap(checkpoint, 'params_ema', str(file)), checkpoint['network']


def release(
    sources: Sequence[Path],
    target: Path,
    ia_cft: Path | None = None,
    base: Path | None = None,
    tasks: Sequence[str] = (),
) -> None:
    """Write the mean of the averaged weights in `sources` to `target`, the network's options in the header.

    Args:
        sources: checkpoints of one network.
        target: a safetensors file.
        ia_cft: a checkpoint or released file with IA-CFT for that network, which is taken from there as it is.
        base: a released file that the training started from; only what differs from it is written, and `target` can be
            loaded where that file lies beside it.
        tasks: that the network was made for, where these are not restoration.

    Raises:
        CheckpointError: a file is no checkpoint of a training, or its weights are not those of the first network.
    """
    files = [*sources, *([ia_cft] if ia_cft else [])]
    states, networks = zip(*(_read(file) for file in files), strict=True)
    shapes = {name: value.shape for name, value in states[0].items()}
    for file, other in zip(files, states, strict=True):
        shared = {name: value.shape for name, value in other.items() if name in shapes}
        lacks = shared.keys() != shapes.keys() and file is not ia_cft
        if lacks or not shared or any(shapes[name] != shape for name, shape in shared.items()):
            raise CheckpointError(f'{file}: not of the network in {sources[0]}; give checkpoints of one network')
    state = {name: torch.stack([other[name].float() for other in states[: len(sources)]]).mean(0) for name in shapes}
    network = dict(networks[0])
    if ia_cft:
        state |= {name: value for name, value in states[-1].items() if name not in shapes}
        network = {**network, **networks[-1], **{key: network[key] for key in ('out_scale',) if key in network}}
    state = {name: value.half() for name, value in state.items()}
    paths = ('vqgan_path', 'model_path')  # of the machine it was trained on
    network = {name: value for name, value in network.items() if name not in paths}
    header = {'format': 'pt'}
    if base:
        whole, network = _read(base)
        state = {name: value for name, value in state.items() if not torch.equal(value, whole[name])}
        header |= {'base': base.name, 'base_sha256': sha256_of(base)}
    if tasks:
        header['tasks'] = ' '.join(tasks)
    with replacing(target) as partial:
        safetensors.torch.save_file(state, partial, metadata={'network': json.dumps(network), **header})
    print(f'{target}: {network["type"]}, {target.stat().st_size / 1e6:.1f} MB')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Write the embedded small model from training checkpoints.')
    parser.add_argument('--codeformer', type=Path, nargs='+', help='of stage III; of several, the mean')
    parser.add_argument('--ia_cft', type=Path, help='a checkpoint of IA-CFT on that network, which is added')
    parser.add_argument('--vqgan', type=Path, help='stage I checkpoint')
    parser.add_argument(
        '--tasks',
        type=Path,
        nargs='+',
        help='of options/small/CodeFormer_128_tasks.yml, on the released network; of several, the mean',
    )
    parser.add_argument('--output', type=Path, default=Path('weights/small'))
    args = parser.parse_args(argv)
    if not (args.codeformer or args.vqgan or args.tasks):
        parser.error('nothing to write; give --codeformer, --vqgan or --tasks')
    try:
        network = args.output / 'codeformer_128.safetensors'
        if args.codeformer:
            release(args.codeformer, network, args.ia_cft)
        if args.vqgan:
            release([args.vqgan], args.output / 'vqgan_128.safetensors')
        if args.tasks:
            tasks = (COLORIZE.name, INPAINT.name)
            release(args.tasks, args.output / 'tasks_128.safetensors', base=network, tasks=tasks)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
