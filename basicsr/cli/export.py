"""Export a CodeFormer or a CodeFormer++ to ONNX, and compare it with the original on onnxruntime.

    id-codeformer export --model weights/CodeFormer/codeformer.pth --output codeformer.onnx

The file has the inputs `x` (N,3,S,S), float32 in [-1, 1], aligned faces in RGB, any N, and `w`, a float32 without
dimensions from 0 (quality) to 1 (fidelity); the outputs are `image` (N,3,S,S) and `logits` (N,positions,codes). Other
programs call it by other names and shapes, see `--dialect`. The package `onnxscript` is needed
(pip install "id-codeformer[export]").
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from basicsr.cli.arguments import ArgumentParser
from basicsr.inference.face_restorer import find_model, load_restorer
from basicsr.inference.onnx_export import DIALECTS, HALF_TOLERANCE, TOLERANCE, Restoration, compare, export
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.files import user_path
from basicsr.utils.folders import weights_folder


def build_parser() -> ArgumentParser:
    """All flags."""
    parser = ArgumentParser(description='Export a CodeFormer or a CodeFormer++ to ONNX, with w as an input.')
    parser.add_argument(
        '--model',
        type=user_path,
        default='small',
        help='auto, official, small, a file, or hf:OWNER/NAME[/FILE] (default: small)',
    )
    parser.add_argument('--output', type=Path, default=Path('codeformer.onnx'))
    parser.add_argument('--adain', action=argparse.BooleanOptionalAction, default=True, help='as inference does')
    parser.add_argument(
        '--dialect',
        choices=list(DIALECTS),
        default='plain',
        help='names and shapes of the inputs: ours, for any number of faces, or those by which facefusion or Rope '
        'call their CodeFormer (default: plain)',
    )
    parser.add_argument('--half', action='store_true', help='compute in float16; inputs and outputs stay float32')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if the file agrees with the original, 1 if not, 2 without a file."""
    args = build_parser().parse_args(argv)
    dialect = DIALECTS[args.dialect]
    try:
        network = load_restorer(find_model(args.model, weights_folder())[0])
    except (CheckpointError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    export(Restoration(network, args.adain, dialect, args.half).eval(), args.output)
    largest, median = compare(Restoration(network, args.adain).eval(), dialect, args.output)
    found, allowed, kind = (median, HALF_TOLERANCE, 'median') if args.half else (largest, TOLERANCE, 'largest')
    print(f'{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, {kind} difference {found:.2g}')
    if not found <= allowed:  # nor is NaN
        print(f'error: more than {allowed}; do not use the file', file=sys.stderr)
        return 1
    return 0
