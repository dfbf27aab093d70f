"""Networks from files: kind and sizes are read off the state dict, so that a checkpoint is all one needs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from math import isqrt
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from basicsr.utils.checkpoint import CheckpointError, load_state, read_checkpoint, read_metadata, unwrap
from basicsr.utils.registry import ARCH_REGISTRY

STATED = (
    'n_head', 'img_size', 'attn_resolutions', 'recogniser', 'w_identity', 'w_generated', 'prior_adain',
    'texture_from', 'max_shift', 'integrate', 'tokens', 'heads',
)  # fmt: skip
"""Options that shapes do not tell."""
PARTS = ('prior', 'dam', 'tgrn')
"""Sub-networks of CodeFormer++, whose options stand in sections of their own."""
DRAWING = (Tensor.uniform_, Tensor.normal_, nn.init.uniform_, nn.init.normal_, nn.init.kaiming_uniform_)


class _WithoutDraws(TorchFunctionMode):
    """Networks are built without the random numbers that a checkpoint replaces: a second for the published one.

    The device `meta` would spare them too, but it imports sympy, which takes longer.
    """

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Everything as it is, but for what draws."""
        kwargs = kwargs or {}
        if func in DRAWING:
            return args[0] if args else kwargs['tensor']
        return func(*args, **kwargs)


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
    }


def _describe_identity(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What makes a CodeFormer an IDCodeFormer; empty for one without identity."""
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
    """The options (`type` and sizes) of the network a state dict belongs to.

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
        if 'main.0.weight' in state:
            ndf, nc = state['main.0.weight'].shape[:2]
            convolutions = [block for block in _numbered(state, 'main') if len(block['weight']) == 4]
            return {'type': 'VQGANDiscriminator', 'nc': nc, 'ndf': ndf, 'n_layers': len(convolutions) - 2}
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f'the keys are those of no known network: {error!r} is missing or odd') from error
    raise CheckpointError(
        f'the keys are those of no known network (CodeFormer, CodeFormerPlusPlus, VQAutoEncoder, '
        f'VQGANDiscriminator); first: {", ".join(list(state)[:3])}'
    )


def _told(sizes: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes read off the shapes, completed by what the checkpoint states and shapes do not tell."""
    told = {
        name: stated[name] for name in STATED if name in stated and (name != 'recogniser' or 'identity_dim' in sizes)
    }
    parts = {part: _told(sizes[part], stated.get(part) or {}) for part in PARTS if part in sizes}
    return {**sizes, **told, **parts}


def read_network(
    path: str | os.PathLike, map_location: str = 'cpu', key: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options (`type` and sizes) and weights of the network in a file.

    Args:
        path: a `.pth` or `.safetensors` file; `params_ema`, `params`, … and `module.` are unwrapped.
        map_location: where to put the weights.
        key: the entry to take instead of the first usual one.

    Raises:
        CheckpointError: a wrong, truncated or foreign file; one message that says which.
    """
    checkpoint = read_checkpoint(path, map_location)
    state = unwrap(checkpoint, key, str(path))
    stated = checkpoint.get('network') or json.loads(read_metadata(path).get('network', '{}'))
    try:
        return _told(describe(state), stated), state
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error


def load_network(path: str | os.PathLike, map_location: str = 'cpu', key: str | None = None) -> nn.Module:
    """The network in a file, with its weights, in eval mode; arguments and errors as for `read_network`."""
    options, state = read_network(path, map_location, key)
    try:
        with _WithoutDraws():
            network = ARCH_REGISTRY.build(options)
    except ValueError as error:
        raise CheckpointError(f'{path}: {error}') from error
    load_state(network, state, source=path)
    return network.to(map_location).eval()
