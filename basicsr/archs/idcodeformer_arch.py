"""CodeFormer conditioned on identity: cross-attention to identity tokens, and identity-aware feature transformation.

After the proposal "identity-conditioned codebook lookup Transformer" and "IA-CFT" (ID-CodeFormer, sections 2.2 and
2.3), with the changes that make it trainable: several tokens and a null token instead of one key, and outputs that
start at zero. New parameters are called `id_*`; all others are CodeFormer's, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.codeformer_arch import CodeFormer, Search
from basicsr.archs.identity import Identity, unit
from basicsr.utils.registry import ARCH_REGISTRY


def spread(vectors: Tensor) -> Tensor:
    """Return unit vectors (...,D) at length sqrt(D): numbers of variance 1, not lost in a layer's biases."""
    return vectors * vectors.shape[-1] ** 0.5


class IdentityTokens(nn.Module):
    """Embeddings to tokens, with a null token beside them.

    Args:
        embedding: length of an embedding.
        dim: width of the tokens.
        count: tokens of one embedding. With a single key every query would get the same answer, and no gradient.
    """

    def __init__(self, embedding: int, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.mlp = nn.Sequential(nn.Linear(embedding, dim), nn.GELU(), nn.Linear(dim, count * dim))
        self.null = nn.Parameter(torch.randn(1, dim) * 0.02)

    def forward(self, identity: Identity) -> tuple[Tensor, Tensor]:
        """Tokens (N,R*count+1,dim), the null token last, and the logarithm of their confidence (N,R*count+1)."""
        n, r, _ = identity.vectors.shape
        tokens = self.mlp(spread(identity.vectors)).view(n, r * self.count, -1)
        tokens = torch.cat([tokens, self.null.to(tokens.dtype).expand(n, 1, -1)], dim=1)
        confidence = identity.confidence
        smallest = torch.finfo(confidence.dtype).tiny  # the logarithm of 0 would have no gradient
        bias = confidence.clamp(min=smallest).log().masked_fill(confidence == 0, float('-inf'))
        return tokens, F.pad(bias.repeat_interleave(self.count, dim=1), (0, 1))


class CrossAttention(nn.Module):
    """Image tokens ask, identity tokens answer; pre-norm, and an output that starts at zero."""

    def __init__(self, dim: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.norm = nn.LayerNorm(dim)
        self.norm_id = nn.LayerNorm(dim)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, position: Tensor, tokens: Tensor, bias: Tensor) -> Tensor:
        """x (L,N,dim), position (L,1,dim), identity tokens (N,T,dim) and the bias of their logits (N,T) -> (L,N,dim).

        The logarithm of a confidence c as bias weighs a token as c of it: 0 is none, 1 the whole.
        """

        def heads(y: Tensor) -> Tensor:
            return y.unflatten(-1, (self.n_head, -1)).transpose(1, 2)  # (N,heads,L,dim/heads)

        query = heads(self.q(self.norm(x) + position).transpose(0, 1))
        seen = self.norm_id(tokens)
        keys, values = heads(self.k(seen)), heads(self.v(seen))
        answer = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias[:, None, None].to(query.dtype))
        return x + self.out(answer.transpose(1, 2).flatten(2)).transpose(0, 1)


class IdentityStyle(nn.Module):
    """The styling path of IA-CFT: at each scale, decoder features with the statistics that an identity asks for.

    What makes a face somebody's is different at every place of it, so gamma and beta may be, too: they are given on a
    grid over the aligned face, and interpolated. A grid of 1 is the formula of the proposal.

    Args:
        embedding: length of an embedding.
        channels: of the decoder features, by side.
        grid: places a side. Above 1 all layers are linear: what a recognizer asks for is nearly so in the embedding,
            and is learnt in few steps.
        width: of the layers that the scales share; with a grid their last one has `width // 8` maps.
    """

    def __init__(self, embedding: int, channels: Mapping[int, int], grid: int = 1, width: int = 256) -> None:
        super().__init__()
        self.grid = grid
        maps, between = (width, nn.GELU) if grid == 1 else (width // 8, nn.Identity)
        self.shared = nn.Sequential(nn.Linear(embedding, width), between(), nn.Linear(width, maps * grid**2), between())
        self.heads = nn.ModuleDict({str(side): self._head(maps, count) for side, count in channels.items()})
        self.gates = nn.ParameterDict({str(side): nn.Parameter(torch.zeros(1)) for side in channels})

    @staticmethod
    def _head(maps: int, channels: int) -> nn.Conv2d:
        """To gamma and beta, which start near 0: what opens the gate is what an identity asks for, nothing else."""
        head = nn.Conv2d(maps, 2 * channels, 1)
        nn.init.normal_(head.weight, std=maps**-0.5)
        nn.init.zeros_(cast(Tensor, head.bias))
        return head

    def statistics(self, side: int, identity: Identity) -> Tensor:
        """Gamma and beta (N,2C,grid,grid), through the gate."""
        maps = self.shared(spread(identity.mean)).unflatten(1, (-1, self.grid, self.grid))
        return self.gates[str(side)] * self.heads[str(side)](maps)

    @staticmethod
    def styled(feat: Tensor, statistics: Tensor) -> Tensor:
        """Return a decoder feature (N,C,H,W), normalised, under gamma and beta (N,2C,grid,grid)."""
        if statistics.shape[2] > 1:
            statistics = F.interpolate(statistics, size=feat.shape[2:], mode='bilinear', align_corners=False)
        gamma, beta = statistics.chunk(2, dim=1)
        mean = feat.mean((2, 3), keepdim=True)
        deviation = (feat.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
        return gamma * (feat - mean) / deviation + beta

    def forward(self, side: int, feat: Tensor, identity: Identity) -> Tensor:
        """Return the addition to a decoder feature (N,C,H,W), in proportion to the identity's confidence and scale."""
        strength = identity.scale * identity.max_confidence
        return strength[:, None, None, None] * self.styled(feat, self.statistics(side, identity))


@ARCH_REGISTRY.register()
class IDCodeFormer(CodeFormer):
    """CodeFormer that may know who it restores.

    A fresh one that loads CodeFormer's parameters restores as that one does, bit for bit, with and without identity.

    Args:
        condition_transformer: cross-attention to identity tokens after each self-attention.
        ia_cft: the styling path at each side of `connect_list`.
        identity_dim: length of the recognizer's embeddings.
        identity_tokens: tokens of one embedding, 2 or more.
        style_grid: places a side of the aligned face at which the styling path is told apart, see `IdentityStyle`.
        identity_dropout: share of training faces that are restored as if nothing were known.
        recognizer: whose embeddings they are, a name or a file; for whoever restores with it.
        fix_modules: sub-modules (and `position_emb`) that are not trained.
        options: the others of `CodeFormer`.

    Raises:
        ValueError: sizes that do not fit together.
    """

    takes_identity = True

    def __init__(
        self,
        condition_transformer: bool = True,
        ia_cft: bool = True,
        identity_dim: int = 512,
        identity_tokens: int = 4,
        style_grid: int = 1,
        identity_dropout: float = 0.2,
        recognizer: str | None = None,
        fix_modules: Sequence[str] | None = ('quantize', 'generator'),
        **options: Any,
    ) -> None:
        super().__init__(fix_modules=None, **options)
        dim = self.feat_emb.out_features
        if identity_tokens < 2:
            raise ValueError(f'identity_tokens {identity_tokens}: must be 2 or more')
        if style_grid < 1:
            raise ValueError(f'style_grid {style_grid}: must be 1 or more')
        if not 0 <= identity_dropout < 1:
            raise ValueError(f'identity_dropout {identity_dropout}: must be from 0 to below 1')
        self.identity_dim = identity_dim
        self.identity_dropout = identity_dropout
        self.recognizer = recognizer
        if condition_transformer:
            n_head = options.get('n_head', 8)
            self.id_tokens = IdentityTokens(identity_dim, dim, identity_tokens)
            self.id_layers = nn.ModuleList(CrossAttention(dim, n_head) for _ in self.ft_layers)
        if ia_cft:
            channels = {side: self.channels_at[side] for side in self.connect_list}
            self.id_style = IdentityStyle(identity_dim, channels, style_grid)
        self.condition_transformer = condition_transformer
        self.ia_cft = ia_cft
        self.fix(fix_modules)

    def identify(
        self, faces: int, identity: Tensor | None = None, mask: Tensor | None = None, id_scale: float = 1.0
    ) -> Identity:
        """Return the identity of a batch; in training, that of a share of the faces is dropped.

        Args:
            faces: N.
            identity: embeddings (N,D), or (N,R,D) of R references each; None knows nothing of anybody.
            mask: which of the references there are (N,R), bool, or how far each can be trusted, from 0 (it is not
                there) to 1; None means all. Values are not checked in compiled and exported networks.
            id_scale: strength of the styling path, 0 (as CodeFormer) to 2.

        Raises:
            ValueError: shapes that do not fit, or a confidence out of its range.
        """
        if identity is None:
            reference = self.position_emb
            identity, mask = reference.new_zeros(faces, 1, cast(int, self.identity_dim)), None
            confidence = reference.new_zeros(faces, 1)
            id_scale = id_scale if self.training else 0.0  # nobody's style adds nothing; with 0 it is not computed
        else:
            identity = identity[:, None] if identity.ndim == 2 else identity
            confidence = identity.new_ones(identity.shape[:2])
        if mask is not None:
            is_certain = mask.dtype == torch.bool or torch.compiler.is_compiling()
            if not is_certain and not ((mask >= 0) & (mask <= 1)).all():
                raise ValueError(f'mask: confidence must be from 0 to 1, not {mask.tolist()}')
            confidence = mask.to(identity.dtype)
        # An exported batch is symbolic, and `len` would fix it.
        if identity.shape[0] != faces or identity.shape != (*confidence.shape, self.identity_dim):
            raise ValueError(
                f'identity {tuple(identity.shape)} with mask {tuple(confidence.shape)} for {faces} faces; it must be '
                f'({faces},{self.identity_dim}) or ({faces},R,{self.identity_dim}) with a mask ({faces},R)'
            )
        if self.training and self.identity_dropout:
            confidence = confidence * (torch.rand(faces, 1, device=confidence.device) >= self.identity_dropout)
        there = confidence[..., None] > 0
        return Identity(unit(identity.where(there, 0), dim=2), confidence, id_scale)

    def transformer_blocks(self, identity: Identity | None = None) -> Iterable[Callable[[Tensor, Tensor], Tensor]]:
        """Self-attention and feed-forward as CodeFormer has them, each followed by cross-attention."""
        if not self.condition_transformer:
            return super().transformer_blocks()
        if identity is None:
            raise ValueError('this network takes the identity of the faces, see `identify`')
        tokens, bias = self.id_tokens(identity)

        def block(layer: nn.Module, cross: nn.Module, x: Tensor, position: Tensor) -> Tensor:
            return cross(layer(x, position), position, tokens, bias)

        return [partial(block, layer, cross) for layer, cross in zip(self.ft_layers, self.id_layers, strict=True)]

    def decode(
        self, codes: Tensor, seen: Mapping[int, Tensor], w: float | Tensor, identity: Identity | None = None
    ) -> Tensor:
        """CodeFormer's, with the styling path added at each side of `connect_list`, at any w."""
        if not self.ia_cft:
            return super().decode(codes, seen, w)
        if identity is None:
            raise ValueError('this network takes the identity of the faces, see `identify`')
        if not identity.scale:
            return super().decode(codes, seen, w)
        return self.decode_styled(codes, seen, w, lambda side, feat: self.id_style(side, feat, identity))

    def decode_in(self, dtype: torch.dtype) -> None:
        """As CodeFormer's, styling included."""
        super().decode_in(dtype)
        if self.ia_cft:
            self.id_style.to(dtype)

    def decode_styled(
        self,
        codes: Tensor,
        seen: Mapping[int, Tensor],
        w: float | Tensor,
        style: Callable[[int, Tensor], Tensor],
    ) -> Tensor:
        """`decode` with what `style` makes of side and decoder feature (N,C,H,W) added at each side."""

        def fuse(side: int, feat: Tensor) -> Tensor:
            fused = self.fuse_convs_dict[str(side)](seen[side], feat, w) if side in seen else feat
            return fused + style(side, feat)

        return self.generator(codes, {side: partial(fuse, side) for side in self.connect_list})

    def forward(
        self,
        x: Tensor,
        w: float | Tensor | tuple[float | Tensor, ...] = 0,
        detach_16: bool = True,
        code_only: bool = False,
        adain: bool = False,
        search: Search | None = None,
        identity: Tensor | None = None,
        mask: Tensor | None = None,
        id_scale: float = 1.0,
    ) -> tuple[Any, ...]:
        """Restore faces, as `CodeFormer.forward` does, of people who may be known.

        Args:
            x, w, detach_16, code_only, adain, search: see `CodeFormer.forward`.
            identity, mask: see `identify`.
            id_scale: strength of the styling path, 0 (as CodeFormer) to 2.
        """
        embedded = self.identify(x.shape[0], identity, mask, id_scale)
        return self.restore(x, w, detach_16, code_only, adain, search, embedded)
