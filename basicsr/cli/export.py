"""Export a CodeFormer or a CodeFormer++ to ONNX, and compare it with the original on onnxruntime.

    id-codeformer export --model weights/CodeFormer/codeformer.pth --output codeformer.onnx

The file has the inputs `x` (N,3,S,S), float32 in [-1, 1], aligned faces in RGB, any N, and `w`, a float32 without
dimensions from 0 (quality) to 1 (fidelity); the outputs are `image` (N,3,S,S) and `logits` (N,positions,codes). The
package `onnxscript` is needed (pip install "id-codeformer[export]").
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from basicsr.archs import CodeFormer, CodeFormerPlusPlus
from basicsr.cli.arguments import ArgumentParser
from basicsr.inference.face_restorer import SMALL, load_restorer
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.errors import extra
from basicsr.utils.files import replacing
from basicsr.utils.folders import packaged

with extra('export'):
    import onnxruntime
    import onnxscript as onnxscript  # torch.onnx.export needs it

OPSET = 18
TOLERANCE = 1e-3
WEIGHTS_OF_FIDELITY = (0.0, 0.5, 1.0)
BATCHES = (1, 3)


class Restoration(nn.Module):
    """Exported part of a network: its image and its logits.

    Args:
        network: in eval mode.
        adain: as in `CodeFormer.forward`; fixed in the file.
    """

    def __init__(self, network: CodeFormer | CodeFormerPlusPlus, adain: bool = True) -> None:
        super().__init__()
        self.network = network
        self.adain = adain

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """x (N,3,S,S) in [-1, 1], w () -> the image (N,3,S,S) and the logits (N,positions,codes)."""
        image, logits, _ = self.network(x, w=w, adain=self.adain)
        return image, logits


def trace(module: Restoration) -> torch.export.ExportedProgram:
    """`torch.export` of the restoration, for any number of faces and any w."""
    size = module.network.img_size
    faces = torch.export.Dim('faces', min=1)
    with torch.no_grad():
        return torch.export.export(
            module,
            (torch.zeros(2, 3, size, size), torch.tensor(0.5)),
            dynamic_shapes={'x': {0: faces}, 'w': {}},
            strict=False,
        )


def export(module: Restoration, path: Path) -> None:
    """Write the ONNX file; its weights are in it."""
    with replacing(path) as partial:
        program = torch.onnx.export(
            trace(module),
            opset_version=OPSET,
            input_names=['x', 'w'],
            output_names=['image', 'logits'],
            dynamo=True,
            verbose=False,
        )
        if program is None:
            raise RuntimeError(f'{path}: torch.onnx.export returned nothing')
        program.save(str(partial), external_data=False)


@torch.inference_mode()
def compare(module: Restoration, path: Path) -> float:
    """Return the largest difference of an image value (of [-1, 1]) between the file on onnxruntime and the original.

    Of noise, for each w of `WEIGHTS_OF_FIDELITY` and each batch of `BATCHES`. Faces for which the two choose another
    code somewhere, because two are equally likely, are compared by their logits.
    """
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    size, worst = module.network.img_size, 0.0
    draw = torch.Generator().manual_seed(0)
    for count in BATCHES:
        x = torch.rand(count, 3, size, size, generator=draw) * 2 - 1
        for w in WEIGHTS_OF_FIDELITY:
            image, logits = module(x, torch.tensor(w))
            given = session.run(None, {'x': x.numpy(), 'w': torch.tensor(w).numpy()})
            other_image, other_logits = (torch.from_numpy(array) for array in given)
            same = (logits.argmax(2) == other_logits.argmax(2)).all(1)
            worst = max(worst, (logits - other_logits).abs().max().item())
            worst = max([worst, *(image - other_image)[same].abs().flatten(1).amax(1).tolist()])
    return worst


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if the file agrees with the original, 1 if not, 2 without a file."""
    parser = ArgumentParser(description='Export a CodeFormer or a CodeFormer++ to ONNX, with w as an input.')
    parser.add_argument('--model', type=Path, default=packaged('weights') / SMALL)
    parser.add_argument('--output', type=Path, default=Path('codeformer.onnx'))
    parser.add_argument('--adain', action=argparse.BooleanOptionalAction, default=True, help='as inference does')
    args = parser.parse_args(argv)
    try:
        module = Restoration(load_restorer(args.model), args.adain).eval()
    except CheckpointError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    export(module, args.output)
    difference = compare(module, args.output)
    print(f'{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, largest difference {difference:.2g}')
    if difference > TOLERANCE:
        print(f'error: more than {TOLERANCE}; do not use the file', file=sys.stderr)
        return 1
    return 0
