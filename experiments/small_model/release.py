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

import safetensors.torch
import torch

from basicsr.cli.arguments import ArgumentParser
from basicsr.utils.checkpoint import CheckpointError, read_checkpoint, unwrap
from basicsr.utils.files import replacing


def release(sources: Sequence[Path], target: Path, ia_cft: Path | None = None) -> None:
    """Write the mean of the averaged weights in `sources` to `target`, the network's options in the header.

    Args:
        sources: checkpoints of one network.
        target: a safetensors file.
        ia_cft: a checkpoint of that network with IA-CFT, which is taken from there as it is.

    Raises:
        CheckpointError: a file is no checkpoint of a training, or its weights are not those of the first network.
    """
    last = ia_cft or sources[0]
    checkpoint = read_checkpoint(last)
    if 'network' not in checkpoint:
        raise CheckpointError(f"{last}: no entry 'network'; give a checkpoint that a training wrote")
    states = [unwrap(read_checkpoint(source), 'params_ema', str(source)) for source in sources]
    state = unwrap(checkpoint, 'params_ema', str(last))
    shapes = {name: value.shape for name, value in states[0].items()}
    shared = {name: value for name, value in state.items() if name in shapes}
    for source, other in zip((*sources, last), (*states, shared), strict=True):
        if {name: value.shape for name, value in other.items()} != shapes:
            raise CheckpointError(f'{source}: not of the network in {sources[0]}; give checkpoints of one network')
    state |= {name: torch.stack([other[name].float() for other in states]).mean(0) for name in shapes}
    state = {name: value.half() for name, value in state.items()}
    paths = ('vqgan_path', 'model_path')  # of the machine it was trained on
    network = {name: value for name, value in checkpoint['network'].items() if name not in paths}
    with replacing(target) as partial:
        safetensors.torch.save_file(state, partial, metadata={'network': json.dumps(network), 'format': 'pt'})
    print(f'{target}: {network["type"]}, {target.stat().st_size / 1e6:.1f} MB')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Write the embedded small model from training checkpoints.')
    parser.add_argument('--codeformer', type=Path, required=True, nargs='+', help='of stage III; of several, the mean')
    parser.add_argument('--ia_cft', type=Path, help='a checkpoint of IA-CFT on that network, which is added')
    parser.add_argument('--vqgan', type=Path, required=True, help='stage I checkpoint')
    parser.add_argument('--output', type=Path, default=Path('weights/small'))
    args = parser.parse_args(argv)
    try:
        release(args.codeformer, args.output / 'codeformer_128.safetensors', args.ia_cft)
        release([args.vqgan], args.output / 'vqgan_128.safetensors')
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    return 0
