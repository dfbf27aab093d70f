"""Recognition networks from ONNX files, as differentiable modules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, fx, nn

from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.errors import extra

if TYPE_CHECKING:
    import onnx

LEAST_EMBEDDING = 64  # outputs with fewer numbers are attributes such as age, not embeddings
CROPS = ((112, 112), (112, 96))
NORMALISING = ('Sub', 'Mul', 'Div', 'Add')


@dataclass(frozen=True)
class OnnxSignature:
    """Inputs and outputs of a graph.

    Attributes:
        inputs: the shape of each input, None where it is free.
        outputs: of each output.
        normalises: whether the graph begins with arithmetic on the pixels, so that it takes them as 0 to 255.
    """

    inputs: tuple[tuple[int | None, ...], ...]
    outputs: tuple[tuple[int | None, ...], ...]
    normalises: bool

    def __str__(self) -> str:
        return f'inputs {list(self.inputs)}, outputs {list(self.outputs)}'

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a recognizer's crop."""
        height, width = self.inputs[0][2:]
        return height or 0, width or 0

    @property
    def is_recognizer(self) -> bool:
        """True if one RGB crop of a fixed size goes in and one vector comes out."""
        if len(self.inputs) != 1 or len(self.outputs) != 1 or len(self.inputs[0]) != 4 or len(self.outputs[0]) != 2:
            return False
        embedding = self.outputs[0][1] or LEAST_EMBEDDING
        return self.inputs[0][1] == 3 and self.size in CROPS and embedding >= LEAST_EMBEDDING


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return the model in an ONNX file.

    Raises:
        CheckpointError: damaged or no ONNX file.
    """
    with extra('references'):
        import onnx  # takes a while, and few runs need it

    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, OSError) as error:
        raise CheckpointError(f'{path}: damaged or not an ONNX model; fetch it again ({error})') from error
    return onnx.load(str(path))


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)


def _graph_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    weights = {value.name for value in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def onnx_signature(model: onnx.ModelProto) -> OnnxSignature:
    """Read the inputs and outputs of a model."""
    inputs = _graph_inputs(model.graph)
    readers = [node for node in model.graph.node if inputs and inputs[0].name in node.input]
    return OnnxSignature(
        inputs=tuple(_shape(value) for value in inputs),
        outputs=tuple(_shape(value) for value in model.graph.output),
        normalises=bool(readers) and readers[0].op_type in NORMALISING,
    )


class ToShape(nn.Module):
    """Reshape all but the batch."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """(N,…) -> (N,*shape)."""
        return x.reshape(x.shape[0], *self.shape)


def _free_the_batch(network: fx.GraphModule, batch: Tensor) -> None:
    """Let reshapes keep the batch, whatever batch the file was written for, and know the rest beforehand.

    As converted, a reshape reads its shape from a tensor: that holds a fixed batch in many files, waits for the device
    and cannot be compiled.

    Args:
        network: as converted.
        batch: crops of a number that the graph takes as it is; one run with it shows all shapes.
    """
    with extra('references'):
        from onnx2torch.node_converters.reshape import OnnxReshape

    shapes: dict[nn.Module, torch.Size] = {}
    reshapes = [module for module in network.modules() if isinstance(module, OnnxReshape)]
    hooks = [module.register_forward_hook(lambda m, _, out: shapes.update({m: out.shape})) for module in reshapes]
    network(batch)
    for hook in hooks:
        hook.remove()
    for node in network.graph.nodes:
        shape = shapes.get(network.get_submodule(str(node.target))) if node.op == 'call_module' else None
        if shape and shape[0] == len(batch):
            network.set_submodule(str(node.target), ToShape(shape[1:]))
            node.args = node.args[:1]
    network.graph.eliminate_dead_code()
    network.delete_all_unused_submodules()
    network.recompile()


def onnx_network(model: onnx.ModelProto, path: Path) -> tuple[nn.Module, int]:
    """Return a recognition model as a module for any batch and device, and the size of its embeddings.

    Args:
        model: what `read_onnx` returns, with a recognizer's signature.
        path: the file, for messages.

    Raises:
        CheckpointError: the graph has an operator that cannot be converted, or cannot take a batch.
    """
    with extra('references'):
        import onnx2torch

    try:
        network = onnx2torch.convert(model)
    except NotImplementedError as error:
        raise CheckpointError(f'{path}: onnx2torch cannot convert this model to PyTorch ({error})') from error
    network = network.float().eval().requires_grad_(False)
    signature = onnx_signature(model)
    try:
        with torch.no_grad():
            _free_the_batch(network, torch.zeros(signature.inputs[0][0] or 1, 3, *signature.size))
            shape = network(torch.zeros(2, 3, *signature.size)).shape
    except RuntimeError as error:
        raise CheckpointError(f'{path}: this model cannot take a batch of faces ({error})') from error
    if len(shape) != 2 or shape[0] != 2:
        raise CheckpointError(f'{path}: this model makes a batch of 2 faces into numbers of shape {tuple(shape)}')
    return network, shape[1]
