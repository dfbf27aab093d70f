"""CodeFormer (Zhou et al., NeurIPS 2022): code prediction by a Transformer, and controllable feature transformation.

Images are (N,3,S,S) in [-1, 1]. Parameter names are those of the published network, so its weights load as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import isqrt
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from basicsr.archs.identity import Identity
from basicsr.archs.vqgan_arch import ResBlock, VQAutoEncoder
from basicsr.utils.checkpoint import load_state, load_state_dict_file
from basicsr.utils.registry import ARCH_REGISTRY, nearest

Search = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""(logits, what decodes logits to faces with a gradient) -> better logits, see `CodeSearch`."""


def adaptive_instance_normalization(content: Tensor, style: Tensor) -> Tensor:
    """`content` with the mean and standard deviation of `style`, per sample and channel (Huang & Belongie, ICCV 2017).

    Both (N,C,H,W); the variance is the unbiased one plus 1e-5.
    """

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((2, 3), keepdim=True), (x.var((2, 3), keepdim=True) + 1e-5).sqrt()

    mean, std = moments(content)
    style_mean, style_std = moments(style)
    return (content - mean) / std * style_std + style_mean


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and feed-forward, sequence first; the position is added to queries and keys only."""

    def __init__(self, dim: int, n_head: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, n_head)
        self.linear1 = nn.Linear(dim, 2 * dim)
        self.linear2 = nn.Linear(2 * dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x (L,N,dim), position (L,1,dim) -> (L,N,dim)."""
        y = self.norm1(x)
        q = y + position
        x = x + self.self_attn(q, q, value=y, need_weights=False)[0]
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x))))


class FuseBlock(nn.Module):
    """Controllable feature transformation (eq. 4): the decoder feature, modulated by what the encoder saw."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encode_enc = ResBlock(2 * channels, channels)
        self.scale = self._branch(channels)
        self.shift = self._branch(channels)

    @staticmethod
    def _branch(channels: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    @property
    def last_layer(self) -> Tensor:
        """The weight of the shift branch's last convolution, where adaptive loss weights compare gradients."""
        return cast(nn.Conv2d, self.shift[-1]).weight

    def forward(self, enc_feat: Tensor, dec_feat: Tensor, w: float | Tensor) -> Tensor:
        """Fuse encoder and decoder features (N,C,H,W) at weight w >= 0 into a decoder feature (N,C,H,W)."""
        e = self.encode_enc(torch.cat([enc_feat, dec_feat], dim=1))
        return dec_feat + w * (dec_feat * self.scale(e) + self.shift(e))


@ARCH_REGISTRY.register()
class CodeFormer(VQAutoEncoder):
    """The stage II and III network.

    Args:
        dim_embd: width of the Transformer.
        n_head: its heads.
        n_layers: its layers.
        codebook_size: number of codes.
        latent_size: number of code positions; follows from `img_size` and `ch_mult` (256 for the published network),
            and a value given must agree.
        connect_list: sides in pixels at which features are fused, as strings or integers; by default every level
            between the codes and the picture ('32', '64', '128', '256' for the published network).
        fix_modules: sub-modules (and `position_emb`) that are not trained.
        vqgan_path: a stage I checkpoint whose encoder, codebook and generator are taken over.
        img_size, nf, ch_mult, quantizer, res_blocks, attn_resolutions, emb_dim, out_scale: as in `VQAutoEncoder`.

    Attributes:
        takes_identity: `forward` takes embeddings of who the faces are.
        recognizer, identity_dim: whose embeddings these are, if that is known, and how many numbers they have.
        decode_dtype: in what codes are decoded, where that is not what they are predicted in.

    Raises:
        ValueError: sizes that do not fit together.
    """

    takes_identity = False
    recognizer: str | None = None
    identity_dim: int | None = None
    decode_dtype: torch.dtype | None = None

    def __init__(
        self,
        dim_embd: int = 512,
        n_head: int = 8,
        n_layers: int = 9,
        codebook_size: int = 1024,
        latent_size: int | None = None,
        connect_list: Sequence[str | int] | None = None,
        fix_modules: Sequence[str] | None = ('quantize', 'generator'),
        vqgan_path: str | None = None,
        img_size: int = 512,
        nf: int = 64,
        ch_mult: Sequence[int] = (1, 2, 2, 4, 4, 8),
        quantizer: str = 'nearest',
        res_blocks: int = 2,
        attn_resolutions: Sequence[int] = (16,),
        emb_dim: int = 256,
        out_scale: int = 1,
    ) -> None:
        super().__init__(
            *(img_size, nf, ch_mult, quantizer, res_blocks, attn_resolutions, codebook_size, emb_dim),
            out_scale=out_scale,
        )
        positions = self.latent_side**2
        if latent_size not in (None, positions):
            side = isqrt(latent_size or 0)
            raise ValueError(
                f'latent_size {latent_size} ({side}x{side}) does not fit img_size {img_size} and {len(ch_mult)} '
                f'levels, which give {positions} codes; leave it out'
            )
        if vqgan_path is not None:
            # Before the Transformer exists, so that every key of the checkpoint must find its place.
            load_state(self, load_state_dict_file(vqgan_path), source=vqgan_path)
        if connect_list is None:
            connect_list = [side for side in self.channels_at if self.latent_side < side < img_size]
        self.connect_list = sorted(int(side) for side in connect_list)
        for side in self.connect_list:
            if side not in self.channels_at:
                raise ValueError(f"connect_list: no level of side '{side}'{nearest(str(side), self.channels_at)}")

        self.position_emb = nn.Parameter(torch.zeros(positions, dim_embd))
        self.feat_emb = nn.Linear(emb_dim, dim_embd)
        self.ft_layers = nn.ModuleList(TransformerLayer(dim_embd, n_head) for _ in range(n_layers))
        self.idx_pred_layer = nn.Sequential(nn.LayerNorm(dim_embd), nn.Linear(dim_embd, codebook_size, bias=False))
        for module in [self.feat_emb, *self.ft_layers.modules(), *self.idx_pred_layer]:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.fuse_convs_dict = nn.ModuleDict(
            {str(side): FuseBlock(self.channels_at[side]) for side in self.connect_list}
        )
        self.fix(fix_modules)

    def transformer_blocks(self, identity: Identity | None = None) -> Iterable[Callable[[Tensor, Tensor], Tensor]]:
        """Return the blocks for tokens (L,N,dim), in order; their second argument is the position (L,1,dim)."""
        return cast(Iterable[Callable[[Tensor, Tensor], Tensor]], self.ft_layers)

    def predict_logits(self, lq_feat: Tensor, identity: Identity | None = None) -> Tensor:
        """Predict code logits (N,s*s,codebook_size), positions row-major, from encoder features (N,emb_dim,s,s)."""
        tokens = self.feat_emb(lq_feat.flatten(2).permute(2, 0, 1))  # (L,N,dim)
        position = self.position_emb.unsqueeze(1)  # (L,1,dim)
        for block in self.transformer_blocks(identity):
            if self.encoder.grad_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, position, use_reentrant=False)
            else:
                tokens = block(tokens, position)
        return self.idx_pred_layer(tokens).transpose(0, 1)

    def encode(self, x: Tensor, sides: Sequence[int] = (), detach: bool = True) -> tuple[Tensor, dict[int, Tensor]]:
        """Faces -> features (N,emb_dim,s,s), and by side those for the fusion at `sides`, detached or not.

        Faces are (N,3,img_size,img_size) or (N,3,out_size,out_size).
        """
        seen: dict[int, Tensor] = {}

        def keep(side: int, feat: Tensor) -> Tensor:
            seen[side] = feat.detach() if detach else feat
            return feat

        return self.encoder(self.to_input(x), {side: partial(keep, side) for side in sides}), seen

    def lookup_codes(self, logits: Tensor) -> Tensor:
        """Code logits (N,s*s,K) -> the most likely codes (N,emb_dim,s,s); no gradient reaches the logits."""
        side = self.latent_side
        return self.quantize.get_codebook_feat(logits.argmax(2), (logits.shape[0], side, side, self.emb_dim))

    def lookup_codes_ste(self, logits: Tensor, tau: float = 1.0) -> Tensor:
        """`lookup_codes`, bit for bit, with the expected code's gradient: straight through softmax(logits / tau)."""
        with torch.autocast(logits.device.type, enabled=False):
            soft = (logits.float() / tau).softmax(2) @ self.quantize.codes.detach().float()  # (N,s*s,emb_dim)
        soft = soft.transpose(1, 2).unflatten(2, (self.latent_side, self.latent_side))
        return self.lookup_codes(logits).detach() + (soft - soft.detach())  # the bracket is zero

    def decode(
        self, codes: Tensor, seen: Mapping[int, Tensor], w: float | Tensor, identity: Identity | None = None
    ) -> Tensor:
        """Code features (N,emb_dim,s,s) -> faces (N,3,S,S), fused at weight `w` with the encoder features `seen`."""

        def fuse(side: int, feat: Tensor) -> Tensor:
            return self.fuse_convs_dict[str(side)](seen[side], feat, w)

        return self.generator(codes, {side: partial(fuse, side) for side in seen})

    def render(
        self,
        codes: Tensor,
        lq_feat: Tensor,
        seen: Mapping[int, Tensor],
        w: float | Tensor,
        adain: bool,
        identity: Identity | None = None,
    ) -> Tensor:
        """`decode`, the codes first given the statistics of the encoder's features with `adain`."""
        if adain:
            codes = adaptive_instance_normalization(codes, lq_feat)
        if self.decode_dtype is None:
            return self.decode(codes, seen, w, identity)
        cast = {side: feat.to(self.decode_dtype) for side, feat in seen.items()}
        identity = None if identity is None else identity.to(self.decode_dtype)
        return self.decode(codes.to(self.decode_dtype), cast, w, identity).to(lq_feat.dtype)

    def decode_in(self, dtype: torch.dtype) -> None:
        """Decode in another precision from now on. Codes are predicted in the old one, so that they stay the same."""
        self.decode_dtype = dtype
        self.generator.to(dtype)
        self.fuse_convs_dict.to(dtype)

    def forward(
        self,
        x: Tensor,
        w: float | Tensor | tuple[float | Tensor, ...] = 0,
        detach_16: bool = True,
        code_only: bool = False,
        adain: bool = False,
        search: Search | None = None,
    ) -> tuple[Any, ...]:
        """Restore faces.

        Args:
            x: low-quality faces (N,3,S,S) in [-1, 1].
            w: weight of the fused encoder features. The number 0 decodes the codes alone, and computes no fusion; a
                tensor without dimensions always computes it, so that one compiled graph serves every w. A tuple of
                weights decodes the same codes once for each, and the image is a tuple then.
            detach_16: stop gradients at the looked-up code features.
            code_only: predict codes, decode no image.
            adain: give the code features the mean and deviation of the encoder's features, as the published inference
                does and its training does not.
            search: finds better logits than the predicted ones; no gradient goes through it. It renders at the first
                of several weights.

        Returns:
            (logits, features) with `code_only`, else (image (N,3,out_size,out_size), logits, features);
            logits (N,positions,codebook_size), features (N,emb_dim,s,s).
        """
        return self.restore(x, w, detach_16, code_only, adain, search)

    def restore(
        self,
        x: Tensor,
        w: float | Tensor | tuple[float | Tensor, ...],
        detach_16: bool,
        code_only: bool,
        adain: bool,
        search: Search | None,
        identity: Identity | None = None,
    ) -> tuple[Any, ...]:
        """Compute `forward`, for faces whose identity a conditioned network takes."""
        weights = w if isinstance(w, tuple) else (w,)
        fusing = [isinstance(weight, Tensor) or weight > 0 for weight in weights]
        lq_feat, seen = self.encode(x, self.connect_list if any(fusing) and not code_only else ())
        logits = self.predict_logits(lq_feat, identity)  # (N,s*s,K)
        if code_only:
            return logits, lq_feat

        def render(codes: Tensor, index: int = 0) -> Tensor:
            return self.render(codes, lq_feat, seen if fusing[index] else {}, weights[index], adain, identity)

        if search is not None:
            logits = search(logits, lambda tried: render(self.lookup_codes_ste(tried).to(lq_feat.dtype)))
        codes = self.lookup_codes(logits)
        codes = codes.detach() if detach_16 else codes
        images = tuple(render(codes, index) for index in range(len(weights)))
        return images if isinstance(w, tuple) else images[0], logits, lq_feat
