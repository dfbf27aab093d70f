"""Turn the checkpoints of `options/small` into the files under `weights/small`: averaged weights, float16, safetensors.

    python scripts/release_small.py --codeformer experiments/CodeFormer_128_stage3/models/net_g_latest.pth \
        --vqgan experiments/VQGAN_128_stage1/models/net_g_latest.pth
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch

from basicsr.utils.checkpoint import CheckpointError, read_checkpoint, unwrap
from basicsr.utils.files import replacing


def release(source: Path, target: Path) -> None:
    """Write the averaged weights in `source` to `target`, its network's options in the header."""
    checkpoint = read_checkpoint(source)
    state = {name: value.half().contiguous() for name, value in unwrap(checkpoint, 'params_ema', str(source)).items()}
    paths = ('vqgan_path', 'model_path')  # of the machine it was trained on
    network = {name: value for name, value in checkpoint['network'].items() if name not in paths}
    with replacing(target) as partial:
        safetensors.torch.save_file(state, partial, metadata={'network': json.dumps(network), 'format': 'pt'})
    print(f'{target}: {network["type"]}, {target.stat().st_size / 1e6:.1f} MB')


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description='Write the embedded small model from training checkpoints.')
    parser.add_argument('--codeformer', type=Path, required=True, help='stage III checkpoint')
    parser.add_argument('--vqgan', type=Path, required=True, help='stage I checkpoint')
    parser.add_argument('--output', type=Path, default=Path('weights/small'))
    args = parser.parse_args(argv)
    try:
        release(args.codeformer, args.output / 'codeformer_128.safetensors')
        release(args.vqgan, args.output / 'vqgan_128.safetensors')
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
