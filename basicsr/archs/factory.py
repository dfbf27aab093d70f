"""Networks from files: kind and sizes are read off the state dict, so that a checkpoint is all one needs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isqrt, prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from basicsr.utils.checkpoint import (
    DAMAGED,
    CheckpointError,
    load_state,
    read_checkpoint,
    read_metadata,
    unwrap,
    without_prefix,
)
from basicsr.utils.download import sha256_of
from basicsr.utils.options import with_current_names
from basicsr.utils.registry import ARCH_REGISTRY

STATED = (
    'n_head', 'img_size', 'attn_resolutions', 'recognizer', 'w_identity', 'w_generated', 'prior_adain',
    'texture_from', 'max_shift', 'integrate', 'tokens', 'heads', 'unet', 'latent_side', 'condition', 'reduction',
    'patch',
)  # fmt: skip
"""Options that shapes do not tell."""
PARTS = ('prior', 'dam', 'tgrn')
"""Sub-networks of CodeFormer++, whose options stand in sections of their own."""
ANCHORS = (
    'encoder.blocks.0.weight',
    'main.0.weight',
    'prior.position_emb',
    'control.conv_in.weight',
)  # of every network here, one of them
FOREIGN = {
    'GFPGAN': 'stylegan_decoder.',
    'RestoreFormer, or another VQGAN of taming-transformers': 'encoder.conv_in.',
    'GPEN': 'ecd0.',
    'Real-ESRGAN': 'body.0.rdb1.',
    'ESRGAN': 'RRDB_trunk.',
    'RetinaFace': 'ClassHead.0.',
    'VGG': 'features.0.',
}
"""Networks whose files are taken for one of this project's, and how some of their keys begin."""
DRAWING = (Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_)
ALLOCATING = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)
SPARE = 1 << 20  # values that a network holds beside its state dict
ODD_SIZES = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, AssertionError, MemoryError,
)  # fmt: skip
"""Errors of networks and torch for sizes that make no sense (RecursionError is a RuntimeError)."""


class _Building(TorchFunctionMode):
    """Build a network without random numbers and within a number of values.

    The checkpoint replaces the random numbers, which take a second for the published network. The device `meta` would
    spare them too, but it imports sympy, which takes longer.

    Args:
        values: most values that parameters and buffers may have together.
    """

    def __init__(self, values: int) -> None:
        super().__init__()
        self.left = values

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Everything as it is, but for what draws, and for what would be larger than the checkpoint."""
        kwargs = kwargs or {}
        if func in DRAWING:
            return args[0] if args else kwargs['tensor']
        if func in ALLOCATING:
            size = kwargs.get('size', args[0] if args and not isinstance(args[0], int) else args)
            self.left -= prod(int(side) for side in size)
            if self.left < 0:
                raise CheckpointError('the sizes in it make a network of more values than it has')
        return func(*args, **kwargs)


@contextmanager
def building(state: Mapping[str, Tensor], path: str | os.PathLike) -> Iterator[None]:
    """Build a network to the sizes of a state dict: without random numbers, and of no more values than that has.

    Raises:
        CheckpointError: the sizes make no network, or one of more values; the message names the file.
    """
    try:
        with _Building(sum(tensor.numel() for tensor in state.values()) + SPARE):
            yield
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error
    except ODD_SIZES as error:
        said = next(iter(str(error).splitlines()), '') or type(error).__name__
        raise CheckpointError(f'{path}: the sizes in it make no network ({said})') from error


def _numbered(state: Mapping[str, Tensor], prefix: str) -> list[dict[str, tuple[int, ...]]]:
    """For each N of `prefix.N.…`, in order, the shapes of what is below."""
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for key, value in state.items():
        if key.startswith(prefix + '.'):
            number, _, rest = key[len(prefix) + 1 :].partition('.')
            found.setdefault(int(number), {})[rest] = tuple(value.shape)
    return [found[number] for number in sorted(found)]


def _describe_autoencoder(state: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = _numbered(state, 'encoder.blocks')
    nf = blocks[0]['weight'][0]
    levels: list[list[dict]] = [[]]
    for block in blocks[1:-5]:  # the first convolution; at the end a residual block, attention, another, norm, conv
        if 'conv.weight' in block:
            levels.append([])
        else:
            levels[-1].append(block)
    residual = [[block['conv1.weight'][0] for block in level if 'conv1.weight' in block] for level in levels]
    # Attention sides are known relative to the codes only; alone, an autoencoder is taken to have the usual 16x16.
    latent_side = isqrt(state['position_emb'].shape[0]) if 'position_emb' in state else 16
    img_size = latent_side << (len(levels) - 1)
    gumbel = 'quantize.embed.weight' in state
    codes = state['quantize.embed.weight' if gumbel else 'quantize.embedding.weight']
    return {
        'img_size': img_size,
        'nf': nf,
        'ch_mult': [channels[-1] // nf for channels in residual],
        'quantizer': 'gumbel' if gumbel else 'nearest',
        'res_blocks': len(residual[0]),
        'attn_resolutions': [
            img_size >> i for i, level in enumerate(levels) if any('q.weight' in block for block in level)
        ],
        'codebook_size': codes.shape[0],
        'emb_dim': codes.shape[1],
        **({'out_scale': 2} if 'generator.detail.0.weight' in state else {}),
    }


def _describe_identity(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options that make a CodeFormer an IDCodeFormer; empty for one without identity."""
    conditioned, styled = 'id_tokens.null' in state, 'id_style.shared.0.weight' in state
    if not (conditioned or styled):
        return {}
    sizes = {'type': 'IDCodeFormer', 'condition_transformer': conditioned, 'ia_cft': styled}
    first = state['id_tokens.mlp.0.weight' if conditioned else 'id_style.shared.0.weight']
    if conditioned:
        sizes['identity_tokens'] = state['id_tokens.mlp.2.weight'].shape[0] // state['id_tokens.null'].shape[1]
    if styled:
        head = min(key for key in state if key.startswith('id_style.heads.') and key.endswith('weight'))
        sizes['style_grid'] = isqrt(len(state['id_style.shared.2.weight']) // state[head].shape[1])
    return {**sizes, 'identity_dim': first.shape[1]}


def _describe_plusplus(state: Mapping[str, Tensor]) -> dict[str, Any]:
    parts = {
        part: {key[len(part) + 1 :]: value for key, value in state.items() if key.startswith(f'{part}.')}
        for part in PARTS
    }
    prior, dam = describe(parts['prior']), parts['dam']
    enlarged = 2 ** (len(_numbered(dam, 'down')) - len(_numbered(dam, 'up')))
    return {
        'type': 'CodeFormerPlusPlus',
        'prior': prior,
        'dam': {'width': dam['flow.weight'].shape[1], 'stride': enlarged},
        'tgrn': {'width': parts['tgrn']['last.weight'].shape[1]},
    }


def describe(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the options (`type` and sizes) of the network a state dict belongs to.

    What shapes do not tell keeps its default: `STATED`, and an autoencoder's side (16x16 codes are assumed).

    Raises:
        CheckpointError: no network of this project has such keys.
    """
    try:
        if 'prior.position_emb' in state:
            return _describe_plusplus(state)
        if 'position_emb' in state and 'encoder.blocks.0.weight' in state:
            fused = {key.split('.')[1] for key in state if key.startswith('fuse_convs_dict.')}
            return {
                'type': 'CodeFormer',
                **_describe_identity(state),
                'dim_embd': state['position_emb'].shape[1],
                'n_layers': len(_numbered(state, 'ft_layers')),
                'connect_list': sorted(fused, key=int),
                **_describe_autoencoder(state),
            }
        if 'encoder.blocks.0.weight' in state:
            return {'type': 'VQAutoEncoder', **_describe_autoencoder(state)}
        if 'control.conv_in.weight' in state:
            return {'type': 'ContentControl'}
        if 'main.0.weight' in state:
            ndf, nc = state['main.0.weight'].shape[:2]
            convolutions = [block for block in _numbered(state, 'main') if len(block['weight']) == 4]
            return {'type': 'VQGANDiscriminator', 'nc': nc, 'ndf': ndf, 'n_layers': len(convolutions) - 2}
    except (LookupError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f'the keys are those of no known network: {error!r} is missing or odd') from error
    for name, beginning in FOREIGN.items():
        if any(key.startswith(beginning) for key in state):
            raise CheckpointError(f'the keys are those of {name}, which is no CodeFormer; give weights of CodeFormer')
    raise CheckpointError(
        f'the keys are those of no known network (CodeFormer, CodeFormerPlusPlus, VQAutoEncoder, '
        f'VQGANDiscriminator); first: {", ".join(list(state)[:3])}'
    )


def _stated(checkpoint: Mapping[str, Any], path: str | os.PathLike) -> Mapping[str, Any]:
    """Return the network options that a file states beside its weights.

    Raises:
        CheckpointError: they are no mapping.
    """
    try:
        stated = checkpoint['network'] if 'network' in checkpoint else read_metadata(path).get('network', '{}')
        stated = with_current_names(json.loads(stated) if isinstance(stated, str) else stated, str(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{path}: its `network` is no JSON') from error
    stated = {} if stated is None else stated
    if not isinstance(stated, Mapping):
        raise CheckpointError(f'{path}: its `network` is a {type(stated).__name__}, not a mapping of options')
    return stated


def _on_base(state: Mapping[str, Tensor], path: Path, map_location: str) -> dict[str, Tensor]:
    """Complete a part of a network by the file that its header names, `base`, in the same folder.

    So a network for another task, whose encoder alone differs, is as small as that encoder.

    Raises:
        CheckpointError: no such file there, another one than that the part was trained on, or other shapes.
    """
    header = read_metadata(path)
    name = header.get('base')
    if name is None:
        return dict(state)
    file = path.parent / Path(name).name
    if not file.is_file() or sha256_of(file) != header.get('base_sha256'):
        raise CheckpointError(f'{path}: a part of the network in {file.name}, which must lie beside it as it was then')
    base = unwrap(read_checkpoint(file, map_location), None, str(file))
    if odd := sorted(key for key, value in state.items() if key not in base or base[key].shape != value.shape):
        raise CheckpointError(f'{path}: its {odd[0]} has no place in {file.name}')
    return {**base, **state}


def _completed(sizes: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the sizes read off the shapes by what the checkpoint states and shapes do not tell."""
    told = {
        name: stated[name] for name in STATED if name in stated and (name != 'recognizer' or 'identity_dim' in sizes)
    }
    sections = {part: stated.get(part) for part in PARTS if part in sizes}
    parts = {
        part: _completed(sizes[part], section if isinstance(section, Mapping) else {})
        for part, section in sections.items()
    }
    return {**sizes, **told, **parts}


def stated_type(path: str | os.PathLike) -> str | None:
    """Return the type of network that a file states beside its weights, without reading these; None if it does not."""
    try:
        if Path(path).suffix == '.safetensors':
            stated: Any = json.loads(read_metadata(path).get('network', '{}'))
        else:
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
            stated = content.get('network') if isinstance(content, dict) else None
    except DAMAGED:  # whoever reads all of it says what is wrong
        return None
    return stated.get('type') if isinstance(stated, Mapping) else None


def tasks_of(path: str | os.PathLike) -> list[str]:
    """Return the tasks that the header of a safetensors file names, where it was made for some only."""
    return read_metadata(path).get('tasks', '').split()


def read_network(
    path: str | os.PathLike, map_location: str = 'cpu', key: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the options (`type` and sizes) and the weights of the network in a file.

    Args:
        path: a `.pth` or `.safetensors` file, or a part of one (see `_on_base`); what trainers and wrappers put around
            the weights is taken away (`unwrap`, `without_prefix`).
        map_location: where to put the weights.
        key: the entry to take instead of the first usual one.

    Raises:
        CheckpointError: a wrong, damaged or foreign file; one message that says which.
    """
    checkpoint = read_checkpoint(path, map_location)
    state = without_prefix(unwrap(checkpoint, key, str(path)), ANCHORS)
    stated = _stated(checkpoint, path)
    sizes_of = [tensor.numel() for tensor in state.values()]
    if sum(sizes_of) > Path(path).stat().st_size or 0 in sizes_of:
        raise CheckpointError(f'{path}: its parameters are empty, or share their values')
    state = _on_base(state, Path(path), map_location)
    with building(state, path):
        return _completed(describe(state), stated), state


def load_network(path: str | os.PathLike, map_location: str = 'cpu', key: str | None = None) -> nn.Module:
    """Load the network in a file, with its weights, in eval mode; arguments and errors as for `read_network`.

    Weights that are stored in the network's precision are not copied, but read from the file when they are first used.
    """
    options, state = read_network(path, map_location, key)
    with building(state, path):
        network = ARCH_REGISTRY.build(options)
    own = network.state_dict()
    for name, value in state.items():  # whole numbers stay, for `load_state` to refuse
        if name in own and value.is_floating_point():
            state[name] = value.to(own[name].dtype)
    load_state(network, state, source=path, assign=True)
    return network.to(map_location).eval()
