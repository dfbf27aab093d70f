"""Export networks that restore faces to ONNX, in the dialects of the programs that run them.

The graph is that of `torch.export`. A host that feeds another side than the network's gets a graph that resizes at both
ends, so that any network can take the place of the published one.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeAlias
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from basicsr.archs import CodeFormer, CodeFormerPlusPlus
from basicsr.archs.vqgan_arch import Upsample
from basicsr.utils.errors import extra
from basicsr.utils.files import replacing, write_text
from basicsr.utils.image import resized_tensor

with extra('export'):
    import onnxruntime
    import onnxscript as onnxscript  # torch.onnx.export needs it
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

Network: TypeAlias = CodeFormer | CodeFormerPlusPlus

OPSET = 18
WEIGHTS_OF_FIDELITY = (0.0, 0.5, 1.0)
BATCHES = (1, 3)
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.02
"""Allowed differences between file and original, of values in [-1, 1]: the largest, and in fp16 the median."""
UNDECIDED = 1e-4  # of logits: below it, rounding decides between the two likeliest codes


@dataclass(frozen=True)
class Dialect:
    """Names and shapes by which a host calls a file.

    Attributes:
        inputs: names of the faces and of the fidelity weight.
        outputs: name of the restored faces, and of the logits where they are asked for.
        side: side in pixels that the host feeds and expects, one face at a time, with the weight as float64 (1,); None
            for the network's own, any number of faces, and the weight as float32 without dimensions.
        hash_suffix: ending of a file with the CRC32 of the ONNX file beside it, which the host checks.
    """

    inputs: tuple[str, str] = ('x', 'w')
    outputs: tuple[str, ...] = ('image', 'logits')
    side: int | None = None
    hash_suffix: str | None = None


PLAIN = Dialect()
DIALECTS = {
    'plain': PLAIN,
    'facefusion': Dialect(('input', 'weight'), ('output',), 512, '.hash'),
    'rope': Dialect(('x', 'w'), ('y',), 512),
}


def with_constant_weights(network: Network) -> Network:
    """Copy a network, with its enlargements as layers.

    Many runtimes take no convolution whose weight is computed.
    """
    network = copy.deepcopy(network)
    for module in [*network.modules()]:
        for name, child in module.named_children():
            if isinstance(child, Upsample):
                setattr(module, name, child.transposed())
    return network


class Restoration(nn.Module):
    """Exported part of a network: its image and its logits.

    Args:
        network: in eval mode; it is copied.
        adain: as in `CodeFormer.forward`; fixed in the file.
        dialect: of the host.
        half: compute in float16 between float32 ends.
    """

    def __init__(
        self,
        network: Network,
        adain: bool = True,
        dialect: Dialect = PLAIN,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.network = with_constant_weights(network)
        self.network = self.network.half() if half else self.network
        self.adain, self.dialect, self.half_inside = adain, dialect, half
        self.options = {'id_scale': 0.0} if network.takes_identity else {}  # nobody is known: leave the styling out

    @property
    def side(self) -> int:
        """Side of the input in pixels."""
        return self.dialect.side or self.network.img_size

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        """Restore faces.

        Args:
            x: (N,3,S,S) in [-1, 1], of the side of the dialect.
            w: () or (1,).

        Returns:
            the image (N,3,S,S) and the logits (N,positions,codes) in float32; as many of them as the dialect names.
        """
        dtype = torch.float16 if self.half_inside else torch.float32
        if self.dialect.side:
            x = resized_tensor(x, self.network.img_size)
        weight = w.to(dtype).reshape(())
        image, logits, _ = self.network(x.to(dtype), w=weight, adain=self.adain, **self.options)
        image = image.float()
        if self.dialect.side:
            image = resized_tensor(image, self.dialect.side)
        return (image, logits.float())[: len(self.dialect.outputs)]


def trace(module: Restoration) -> torch.export.ExportedProgram:
    """Trace the restoration for any w, and for the faces of the dialect."""
    one = module.dialect.side is not None
    x = torch.zeros(1 if one else 2, 3, module.side, module.side)
    w = torch.tensor([0.5], dtype=torch.float64) if one else torch.tensor(0.5)
    shapes = None if one else {'x': {0: torch.export.Dim('faces', min=1)}, 'w': {}}
    with torch.no_grad():
        return torch.export.export(module, (x, w), dynamic_shapes=shapes, strict=False)


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Keep a package from logging warnings."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def export(module: Restoration, path: Path) -> None:
    """Write the ONNX file, and beside it the sum of a dialect that has one."""
    with replacing(path) as partial, quiet('onnxscript'):
        program = torch.onnx.export(
            trace(module),
            opset_version=OPSET,
            input_names=list(module.dialect.inputs),
            output_names=list(module.dialect.outputs),
            dynamo=True,
            verbose=False,
        )
        if program is None:
            raise RuntimeError(f'{path}: torch.onnx.export returned nothing')
        clean = ClearMetadataAndDocStringPass()  # stack traces, which name files of this machine
        program.model = clean(program.model).model
        program.save(str(partial), external_data=False)
    if module.dialect.hash_suffix:
        write_text(path.with_suffix(module.dialect.hash_suffix), f'{crc32(path.read_bytes()):08x}')


def feed(dialect: Dialect, x: Tensor, w: float) -> dict[str, np.ndarray]:
    """Return inputs of a session, as the host gives them: faces (N,3,S,S) and the fidelity weight."""
    weight = np.array(w, np.float32) if dialect.side is None else np.array([w], np.float64)
    return dict(zip(dialect.inputs, (x.numpy(), weight), strict=True))


@torch.inference_mode()
def compare(original: Restoration, dialect: Dialect, path: Path) -> tuple[float, float]:
    """Compare a file on onnxruntime with the network, on noise.

    For each w of `WEIGHTS_OF_FIDELITY`, and each batch of `BATCHES` where the dialect takes any. Faces with a position
    where two codes are equally likely are compared by their logits only, as rounding chooses the code.

    Args:
        original: the network in float32, in the plain dialect.
        dialect: of the file.
        path: the file.

    Returns:
        the largest difference of a value (infinite if all faces were undecided), and the median of the pictures' median
        differences (all of them, as another code shows in a part of a picture), of [-1, 1].
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    restoration = Restoration(original.network, original.adain, Dialect(side=dialect.side))  # with logits
    draw = torch.Generator().manual_seed(0)
    worst, compared = 0.0, 0
    medians: list[float] = []
    for count in BATCHES if dialect.side is None else (1, 1, 1):
        x = torch.rand(count, 3, restoration.side, restoration.side, generator=draw) * 2 - 1
        for w in WEIGHTS_OF_FIDELITY:
            image, logits = restoration(x, torch.tensor(w))
            given = dict(zip(dialect.outputs, session.run(None, feed(dialect, x, w)), strict=True))
            difference = (image - torch.from_numpy(given[dialect.outputs[0]])).abs().flatten(1)
            first, second = logits.topk(2, dim=2).values.unbind(2)
            decided = (first - second > UNDECIDED).all(1)
            compared += int(decided.sum())
            worst = max([worst, *difference[decided].amax(1).tolist()])
            medians += difference.median(1).values.tolist()
            if 'logits' in given:
                worst = max(worst, (logits - torch.from_numpy(given['logits'])).abs().max().item())
    return worst if compared else float('inf'), median(medians)
