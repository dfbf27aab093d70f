"""Identity module of IP-Adapter FaceID and FaceID-Plus (Ye et al., arXiv 2308.06721): projection and attention.

Key names are those of the published files. A network of diffusers is given one attention processor a layer; whom it
draws comes in with each call, as the tuple `(text, *Tokens)` in place of `encoder_hidden_states`, so nothing is kept in
the network between calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.checkpoint import CheckpointError, read_checkpoint

HEAD = 64
"""Width of a head of the projection's attention."""
TOKENS = 4
"""Identity tokens of a reference."""
PLUS = 'perceiver_resampler.'


class Tokens(NamedTuple):
    """Identity of a batch for the attention.

    Attributes:
        tokens: (N,T,D), of all references of a face one after the other.
        mask: bool (N,T); False where a reference is missing.
        strength: (N,), factor of the identity's attention; 0 restores blind.
    """

    tokens: Tensor
    mask: Tensor
    strength: Tensor

    def scaled(self, factor: float | Tensor) -> Tokens:
        """Return the same identity with another strength, a factor or one for each face."""
        return self._replace(strength=self.strength * factor)

    def __getitem__(self, index: Any) -> Any:
        """Return part of the faces for a slice or tensor of indices, one of the fields for an integer."""
        if isinstance(index, int):
            return tuple.__getitem__(self, index)
        return Tokens(*(field[index] for field in self))


class _PerceiverAttention(nn.Module):
    """Attention of queries to features and to themselves."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads = dim // HEAD
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, queries: Tensor) -> Tensor:
        """(N,L,D), (N,T,D) -> (N,T,D)."""
        x, queries = self.norm1(x), self.norm2(queries)
        key, value = self.to_kv(torch.cat([x, queries], 1)).chunk(2, -1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.to_q(queries), key, value)
        )
        return self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class _Resampler(nn.Module):
    """Draw from image features what queries ask for (the paper's Q-Former)."""

    def __init__(self, dim: int, features: int, depth: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(features, dim)
        self.proj_out = nn.Linear(dim, dim)
        self.norm_out = nn.LayerNorm(dim)
        hidden = 4 * dim

        def feed_forward() -> nn.Sequential:
            return nn.Sequential(
                nn.LayerNorm(dim), nn.Linear(dim, hidden, bias=False), nn.GELU(), nn.Linear(hidden, dim, bias=False)
            )

        self.layers = nn.ModuleList(nn.ModuleList([_PerceiverAttention(dim), feed_forward()]) for _ in range(depth))

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """(N,T,D), (N,L,E) -> (N,T,D)."""
        x = self.proj_in(features)
        for layer in self.layers:
            attention, feed_forward = cast(nn.ModuleList, layer)
            queries = attention(x, queries) + queries
            queries = feed_forward(queries) + queries
        return self.norm_out(self.proj_out(queries))


class FaceIDProjection(nn.Module):
    """Identity tokens of a face: of its recognizer's vector, and in the Plus form of an image encoder's features.

    Args:
        dim: width D of a token, the U-Net's `cross_attention_dim`.
        vector: length of the recognizer's vectors.
        hidden: width between the two layers of the vector's projection.
        features: width E of the image encoder's features; None for the form without (FaceID).
        depth: layers of the resampler.
        shortcut: Plus: add the vector's own tokens to the result (version 2 of the published files).

    Raises:
        ValueError: a width that is no multiple of 64 in the Plus form.
    """

    def __init__(
        self,
        dim: int,
        vector: int = 512,
        hidden: int = 1024,
        features: int | None = None,
        depth: int = 4,
        shortcut: bool = True,
    ) -> None:
        super().__init__()
        if features is not None and dim % HEAD:
            raise ValueError(f'dim {dim}: must be a multiple of {HEAD}')
        self.dim, self.shortcut = dim, shortcut
        self.proj = nn.Sequential(nn.Linear(vector, hidden), nn.GELU(), nn.Linear(hidden, TOKENS * dim))
        self.norm = nn.LayerNorm(dim)
        self.perceiver_resampler = None if features is None else _Resampler(dim, features, depth)

    @property
    def takes_features(self) -> bool:
        """True for the Plus form."""
        return self.perceiver_resampler is not None

    def forward(self, vectors: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the tokens of faces.

        Args:
            vectors: unit vectors (N,vector).
            features: of the image encoder (N,L,E), for the Plus form.

        Returns:
            (N,4,D).
        """
        tokens = self.norm(self.proj(vectors).unflatten(-1, (TOKENS, self.dim)))
        if self.perceiver_resampler is None:
            return tokens
        drawn = self.perceiver_resampler(tokens, features)
        return tokens + drawn if self.shortcut else drawn


class DecoupledAttention(nn.Module):
    """Attention processor for diffusers: to the text, and beside it to identity tokens (equation 3 of the paper).

    Args:
        hidden: width of the layer.
        dim: width of the tokens.
    """

    def __init__(self, hidden: int, dim: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(dim, hidden, bias=False)
        self.to_v_ip = nn.Linear(dim, hidden, bias=False)

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        """Return the layer's result for positions (N,P,hidden).

        Args:
            attn: layer of diffusers, cross-attention without group normalisation.
            hidden_states: (N,P,hidden).
            encoder_hidden_states: text (N,L,D), or `(text, tokens, mask, strength)`.
        """
        identity = None
        if isinstance(encoder_hidden_states, (tuple, list)):
            encoder_hidden_states, *rest = encoder_hidden_states
            identity = Tokens(*rest)

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q(hidden_states))
        text = heads(attn.to_k(encoder_hidden_states)), heads(attn.to_v(encoder_hidden_states))
        result = F.scaled_dot_product_attention(query, *text)
        if identity is not None:
            # A face without any reference attends to whatever is there; its strength takes that out again.
            mask = (identity.mask | ~identity.mask.any(1, keepdim=True))[:, None, None]
            keys, values = heads(self.to_k_ip(identity.tokens)), heads(self.to_v_ip(identity.tokens))
            drawn = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            known = identity.strength * identity.mask.any(1)
            result = result + known.to(result.dtype)[:, None, None, None] * drawn
        result = attn.to_out[0](result.transpose(1, 2).flatten(2))
        return attn.to_out[1](result) / attn.rescale_output_factor


def add_attention(unet: Any, dim: int) -> list[DecoupledAttention | None]:
    """Give each cross-attention of a U-Net of diffusers a `DecoupledAttention`.

    Returns:
        the processors in the order of the published files, which is that of the network (down, up, middle); None for
        self-attention.
    """
    processors = dict(unet.attn_processors)
    added: list[DecoupledAttention | None] = []
    for name in processors:
        layer = unet.get_submodule(name.removesuffix('.processor'))
        added.append(DecoupledAttention(layer.inner_dim, dim) if layer.is_cross_attention else None)
        if added[-1] is not None:
            processors[name] = added[-1]
    unet.set_attn_processor(processors)
    return added


def adapter_state(projection: FaceIDProjection, attention: list[DecoupledAttention | None]) -> dict[str, Tensor]:
    """Return the weights of an adapter under the published key names."""
    state = {f'image_proj.{key}': value for key, value in projection.state_dict().items()}
    for number, processor in enumerate(attention):
        for key, value in (processor.state_dict() if processor else {}).items():
            state[f'ip_adapter.{number}.{key}'] = value
    return {key: value.detach().contiguous() for key, value in state.items()}


def read_adapter(path: str | Path) -> dict[str, Tensor]:
    """Read an adapter's file under dotted keys: `.safetensors`, or the two dicts of the published `.bin`.

    Raises:
        CheckpointError: damaged, or no adapter of FaceID; the message says what it is.
    """
    content = read_checkpoint(path)
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            state |= {f'{key}.{inner}': tensor for inner, tensor in value.items()}
        else:
            state[key] = value
    if 'image_proj.proj.0.weight' not in state or 'image_proj.norm.weight' not in state:
        kinds = {
            'image_proj.latents': 'an IP-Adapter Plus for images',
            'image_proj.proj.weight': 'an IP-Adapter for images',
        }
        found = next(
            (kind for mark, kind in kinds.items() if mark in state), f'keys such as {", ".join(list(state)[:3])}'
        )
        raise CheckpointError(f'{path}: found {found}; expected an IP-Adapter FaceID or FaceID-Plus (SD 1.5)')
    return {key: value.float() for key, value in state.items()}


def load_adapter(unet: Any, path: str | Path, shortcut: bool) -> FaceIDProjection:
    """Give a U-Net the adapter of a file: new attention, and its LoRA added into the weights.

    Args:
        unet: `UNet2DConditionModel` of diffusers; changed. What is added to it is trainable: freeze it afterwards.
        path: see `read_adapter`.
        shortcut: see `FaceIDProjection`; files do not state it (`plusv2`: True, `plus`: False).

    Returns:
        the projection.

    Raises:
        CheckpointError: it does not fit the U-Net, or keys are missing or left over; the message names them.
    """
    state = read_adapter(path)
    dim = state['image_proj.norm.weight'].shape[0]
    wanted = unet.config.cross_attention_dim
    if dim != wanted:
        raise CheckpointError(
            f'{path}: tokens of {dim} numbers, and the U-Net takes {wanted}; use the adapter of its model'
        )
    hidden, vector = state['image_proj.proj.0.weight'].shape
    key = f'image_proj.{PLUS}proj_in.weight'
    features = state[key].shape[1] if key in state else None
    depth = len({name.split('.')[3] for name in state if name.startswith(f'image_proj.{PLUS}layers.')})
    projection = FaceIDProjection(dim, vector, hidden, features, depth, shortcut)
    attention = add_attention(unet, dim)
    names = list(unet.attn_processors)
    folded = _fold_lora(unet, names, state, path)
    own = adapter_state(projection, attention)
    rest = {key: value for key, value in state.items() if key not in folded}
    missing, unexpected = sorted(own.keys() - rest.keys()), sorted(rest.keys() - own.keys())
    wrong = sorted(key for key in own.keys() & rest.keys() if own[key].shape != rest[key].shape)
    for what, keys in (('missing', missing), ('unexpected', unexpected), ('of another shape', wrong)):
        if keys:
            raise CheckpointError(f'{path}: {len(keys)} {what} ({", ".join(keys[:3])}); it is not for this U-Net')
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(rest[key])
    return projection


@torch.no_grad()
def _fold_lora(unet: Any, names: list[str], state: Mapping[str, Tensor], path: str | Path) -> set[str]:
    """Add each `up @ down` of a file into its layer's weight; return the keys that are used.

    Raises:
        CheckpointError: half a pair, or one that does not fit.
    """
    pattern = re.compile(r'ip_adapter\.(\d+)\.to_(q|k|v|out)_lora\.(down|up)\.weight')
    used: set[str] = set()
    for key in state:
        match = pattern.fullmatch(key)
        if match is None or match[3] == 'up':
            continue
        other = key.replace('.down.', '.up.')
        number = int(match[1])
        if other not in state or number >= len(names):
            raise CheckpointError(f'{path}: {key} has no counterpart ({other}, or a layer {number} of the U-Net)')
        layer = unet.get_submodule(names[number].removesuffix('.processor'))
        linear = layer.to_out[0] if match[2] == 'out' else getattr(layer, f'to_{match[2]}')
        change = state[other] @ state[key]
        if change.shape != linear.weight.shape:
            raise CheckpointError(
                f'{path}: {key} is for a layer of {tuple(change.shape)}, found {tuple(linear.weight.shape)}'
            )
        linear.weight += change.to(linear.weight)
        used |= {key, other}
    return used
