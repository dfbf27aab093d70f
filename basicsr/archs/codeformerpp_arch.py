"""CodeFormer++ (Reddem et al., arXiv 2510.04410): restore twice, register, transfer texture.

A frozen CodeFormer restores a face faithfully (I_F, w = 1) and freely (I_G, w = 0). `FaceAligner` (the paper's DAM)
bends I_G onto I_F, which gives I_warp. `TGRN` takes texture from I_warp into I_F. The paper's code and tables are not
public; widths and details are this project's own. Images are RGB (N,3,S,S) in [-1, 1] on the FFHQ template.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.codeformer_arch import CodeFormer, Search
from basicsr.archs.factory import read_network
from basicsr.utils.checkpoint import CheckpointError, load_state
from basicsr.utils.registry import ARCH_REGISTRY, nearest

SMALLEST, MULTIPLE = 32, 16
"""Sides that the networks work at: from the first, multiples of the second."""
TEXTURES = ('I_warp', 'I_G', 'I_F')
"""Sources of texture."""
COARSEST = 16
"""The aligner halves its features until their side is below this."""


def _check_size(img_size: int) -> None:
    if img_size < SMALLEST or img_size % MULTIPLE:
        raise ValueError(f'img_size {img_size}: must be a multiple of {MULTIPLE}, {SMALLEST} or more')


def _check_arguments(where: str, entry: Callable, given: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that `entry` does not take, with the nearest name."""
    known = [name for name in inspect.signature(entry).parameters if name != 'img_size']
    for name in given:
        if name not in known:
            raise ValueError(f"{where}: unknown key '{name}'{nearest(name, known)}")


def warp(image: Tensor, phi: Tensor, mode: str = 'bilinear') -> Tensor:
    """Bend pictures by a displacement field: out(x) = image(x + phi(x)).

    A zero field returns the picture, bit for bit where S is a power of two and else but for rounding.

    Args:
        image: (N,C,S,S), of any float type; positions are computed in float32 or better.
        phi: (N,2,S,S) in pixels, channel 0 to the right, channel 1 down. Places outside take the nearest border pixel.
        mode: `bilinear`, for losses, or `bicubic`, which keeps texture and may overshoot.
    """
    height, width = image.shape[2:]
    kind = torch.promote_types(phi.dtype, torch.float32)
    rows, columns = (torch.arange(side, device=phi.device, dtype=kind) for side in (height, width))
    x = (2 * (columns[None, None] + phi[:, 0].to(kind)) + 1) / width - 1
    y = (2 * (rows[None, :, None] + phi[:, 1].to(kind)) + 1) / height - 1
    grid = torch.stack([x, y], dim=3)  # (N,S,S,2)
    bent = F.grid_sample(image.to(kind), grid, mode=mode, padding_mode='border', align_corners=False)
    return bent.to(image.dtype)


def folded(phi: Tensor) -> Tensor:
    """Share of places where a field (N,2,S,S) folds, () float32.

    There det(1 + grad phi) <= 0, by forward differences.
    """
    along_x = phi[:, :, :-1, 1:] - phi[:, :, :-1, :-1]
    along_y = phi[:, :, 1:, :-1] - phi[:, :, :-1, :-1]
    determinant = (1 + along_x[:, 0]) * (1 + along_y[:, 1]) - along_x[:, 1] * along_y[:, 0]
    return (determinant <= 0).float().mean()


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution that keeps the variance of its input, and a leaky ReLU."""
    layer = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(layer.weight, a=0.2)
    nn.init.zeros_(cast(Tensor, layer.bias))
    return nn.Sequential(layer, nn.LeakyReLU(0.2, inplace=True))


class FaceAligner(nn.Module):
    """DAM: predict the field that lays the generated face on the faithful one.

    A fresh one predicts a zero field. There is no normalization layer, so pictures of a batch do not mix.

    Args:
        img_size: side S in pixels.
        width: channels of all levels but the first.
        stride: side of the picture by that of the predicted field, a power of two; the field is then enlarged.
        max_shift: largest displacement along an axis, share of S.
        integrate: steps of scaling and squaring, which make the prediction a velocity and keep the field from
            folding (7 is usual); 0 takes it as the displacement.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(
        self, img_size: int, width: int = 32, stride: int = 4, max_shift: float = 0.06, integrate: int = 0
    ) -> None:
        super().__init__()
        _check_size(img_size)
        if stride not in (1, 2, 4):
            raise ValueError(f'stride {stride}: must be 1, 2 or 4')
        if not 0 < max_shift <= 0.5:
            raise ValueError(f'max_shift {max_shift}: must be above 0 and at most 0.5')
        if width < 1 or integrate < 0:
            raise ValueError(f'width {width} must be 1 or more, integrate {integrate} 0 or more')
        self.reach = max_shift * img_size
        self.integrate = integrate
        self.first = _convolution(6, 16)
        channels, side = [16], img_size
        down: list[nn.Module] = []
        while side >= COARSEST and side % 2 == 0:
            down.append(_convolution(channels[-1], width, stride=2))
            channels.append(width)
            side //= 2
        up: list[nn.Module] = []
        while side * stride < img_size:
            side *= 2
            up.append(_convolution(width + channels[-2 - len(up)], width))
        self.down, self.up = nn.ModuleList(down), nn.ModuleList(up)
        self.last = _convolution(width, width)
        self.flow = nn.Conv2d(width, 2, 3, padding=1)
        nn.init.zeros_(self.flow.weight)
        nn.init.zeros_(cast(Tensor, self.flow.bias))

    def forward(self, generated: Tensor, faithful: Tensor) -> Tensor:
        """I_G and I_F (N,3,S,S) -> phi (N,2,S,S) in pixels, float32: `warp(I_G, phi)` lies on I_F."""
        size = generated.shape[2:]
        feats = [self.first(torch.cat([generated, faithful], dim=1))]
        for layer in self.down:
            feats.append(layer(feats[-1]))
        x = feats.pop()
        for layer in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode='bilinear', align_corners=False)
            x = layer(torch.cat([x, feats.pop()], dim=1))
        raw = self.flow(self.last(x)).float()
        phi = self.reach * torch.tanh(raw / self.reach)
        phi = F.interpolate(phi, size=size, mode='bilinear', align_corners=False)
        if self.integrate:
            phi = phi / 2**self.integrate
            for _ in range(self.integrate):
                phi = phi + warp(phi, phi)
        return phi


class _Residual(nn.Module):
    """Two 3x3 convolutions with a leaky ReLU between them, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(channels, channels), nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> (N,C,H,W)."""
        return x + self.body(x)


class TextureAttention(nn.Module):
    """TAM: add texture features to those of the faithful face.

    Two sources are weighed by channel: the texture at the same place, which registration makes meaningful, and the
    texture of the whole face by attention. The output layer starts at zero.

    Args:
        channels: C, a multiple of 8 and of `heads`.
        tokens: side of the grid that the texture is pooled to; keys are its squares.
        heads: of the attention.

    Raises:
        ValueError: a value out of its range. With one key every query would get the same answer and no gradient.
    """

    def __init__(self, channels: int, tokens: int = 8, heads: int = 2) -> None:
        super().__init__()
        if tokens < 2:
            raise ValueError(f'tokens {tokens}: must be 2 or more, as attention to one key has no gradient')
        if heads < 1 or channels % heads or channels % 8:
            raise ValueError(f'{channels} channels and {heads} heads: must be a multiple of 8 and of the heads')
        self.tokens, self.heads = tokens, heads
        self.norm = nn.GroupNorm(8, channels)
        self.norm_texture = nn.GroupNorm(8, channels)
        self.q, self.k, self.v, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.gate = nn.Sequential(nn.Linear(3 * channels, channels), nn.GELU(), nn.Linear(channels, 2 * channels))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(cast(Tensor, self.out.bias))

    def forward(self, feat: Tensor, texture: Tensor) -> Tensor:
        """Features of I_F and of I_warp (N,C,H,W) -> the fused features (N,C,H,W)."""

        def split(x: Tensor) -> Tensor:
            return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)  # (N,heads,places,C/heads)

        pooled = F.adaptive_avg_pool2d(self.norm_texture(texture), self.tokens)
        query, key, value = split(self.q(self.norm(feat))), split(self.k(pooled)), split(self.v(pooled))
        found = F.scaled_dot_product_attention(query, key, value).transpose(2, 3).reshape(feat.shape)
        means = torch.cat([x.mean((2, 3)) for x in (feat, texture, found)], dim=1)
        here, anywhere = self.gate(means).unflatten(1, (2, -1)).softmax(1)[..., None, None].unbind(1)  # (N,C,1,1)
        return feat + self.out(here * texture + anywhere * found)


class _Encoder(nn.ModuleList):
    """Features of a picture at the sides S, S/2 and S/4."""

    def __init__(self, widths: Sequence[int]) -> None:
        pairs = zip((3, *widths[:-1]), widths, strict=True)
        super().__init__(
            nn.Sequential(_convolution(before, after, stride=1 + (level > 0)), _Residual(after))
            for level, (before, after) in enumerate(pairs)
        )


class TGRN(nn.Module):
    """Texture-prior guided restoration network: a U-Net on I_F that looks at I_warp at each level.

    A fresh one returns I_F, bit for bit.

    Args:
        img_size: side S in pixels.
        width: channels at the side S, a multiple of 8; twice and four times as many at the next two levels.
        tokens, heads: see `TextureAttention`.

    Raises:
        ValueError: a value out of its range.
    """

    def __init__(self, img_size: int, width: int = 24, tokens: int = 8, heads: int = 2) -> None:
        super().__init__()
        _check_size(img_size)
        if width < 8 or width % 8:
            raise ValueError(f'width {width}: must be a multiple of 8')
        widths = (width, 2 * width, 4 * width)
        self.encoder, self.texture_encoder = _Encoder(widths), _Encoder(widths)
        self.attentions = nn.ModuleList(TextureAttention(channels, tokens, heads) for channels in widths)
        self.middle = _Residual(widths[2])
        self.decoder = nn.ModuleList(
            nn.Sequential(_convolution(widths[level + 1] + widths[level], widths[level]), _Residual(widths[level]))
            for level in (1, 0)
        )
        self.last = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(cast(Tensor, self.last.bias))

    def forward(self, faithful: Tensor, warped: Tensor, texture: float | Tensor = 1.0) -> Tensor:
        """I_F and I_warp (N,3,S,S) -> I_out (N,3,S,S), I_F plus `texture` times what the network adds; not clamped."""
        x, t = faithful, warped
        feats = []
        for encode, encode_texture, attend in zip(self.encoder, self.texture_encoder, self.attentions, strict=True):
            x, t = encode(x), encode_texture(t)
            x = attend(x, t)
            feats.append(x)
        x = self.middle(feats.pop())
        for decode in self.decoder:
            x = decode(torch.cat([F.interpolate(x, scale_factor=2.0, mode='nearest'), feats.pop()], dim=1))
        return faithful + texture * self.last(x)


def _read_prior(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Options and weights of the CodeFormer in a file, or of the prior of the CodeFormer++ in it.

    Raises:
        CheckpointError: the file holds neither.
    """
    options, state = read_network(path)
    if options['type'] == CodeFormerPlusPlus.__name__:
        prefix = 'prior.'
        options = options['prior']
        state = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if 'dim_embd' not in options:
        raise CheckpointError(f'{path}: holds a {options["type"]}; the prior must be a CodeFormer or an IDCodeFormer')
    return options, state


@ARCH_REGISTRY.register()
class CodeFormerPlusPlus(nn.Module):
    """CodeFormer++: a frozen CodeFormer, a face aligner and a texture transfer network.

    A fresh one restores as its prior does at `w_identity`, bit for bit. The prior stays in evaluation mode and gets no
    gradient; its weights are saved with the others, so that one file restores.

    Args:
        prior: options of the CodeFormer or IDCodeFormer; left out, they are read from `prior_path`.
        prior_path: its checkpoint, or that of a CodeFormer++ whose prior is taken. Without it the prior has drawn
            weights, for a checkpoint to replace.
        dam: options of `FaceAligner` but `img_size`, which is the prior's.
        tgrn: likewise of `TGRN`.
        w_identity: fidelity weight of I_F, 0 to 1.
        w_generated: fidelity weight of I_G, 0 to 1.
        prior_adain: the prior's codes take the statistics of its encoder's features, see `CodeFormer.forward`.
        texture_from: what the transfer network looks at: `I_warp`; `I_G`, unregistered; or `I_F`, the control that
            tells a transfer of texture from a mere refinement.
        fix_modules: sub-modules that are not trained, beside the prior.

    Attributes:
        options: all that it was built from, with the prior's, as a checkpoint states it.

    Raises:
        ValueError: neither `prior` nor `prior_path`, an unknown key, or a value out of its range.
        CheckpointError: `prior_path` cannot be used.
    """

    def __init__(
        self,
        prior: Mapping[str, Any] | None = None,
        prior_path: str | None = None,
        dam: Mapping[str, Any] | None = None,
        tgrn: Mapping[str, Any] | None = None,
        w_identity: float = 1.0,
        w_generated: float = 0.0,
        prior_adain: bool = True,
        texture_from: str = 'I_warp',
        fix_modules: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if texture_from not in TEXTURES:
            raise ValueError(f"texture_from: unknown '{texture_from}'{nearest(texture_from, TEXTURES)}")
        self.texture_from = texture_from
        for name, w in (('w_identity', w_identity), ('w_generated', w_generated)):
            if not 0 <= w <= 1:
                raise ValueError(f'{name} {w}: must be from 0 to 1')
        self.w_identity, self.w_generated, self.prior_adain = w_identity, w_generated, prior_adain
        if prior is None and prior_path is None:
            raise ValueError(
                'CodeFormerPlusPlus needs its prior: give prior_path, the checkpoint of a CodeFormer '
                "('python scripts/download_pretrained_models.py CodeFormer' fetches the published one)"
            )
        state = None
        if prior_path is not None:
            stored, state = _read_prior(prior_path)
            prior = stored if prior is None else prior
        self.prior = self._build_prior(cast(Mapping[str, Any], prior))
        if state is not None:
            load_state(self.prior, state, source=prior_path or '')
        _check_arguments('dam', FaceAligner, dam or {})
        _check_arguments('tgrn', TGRN, tgrn or {})
        self.dam = FaceAligner(self.out_size, **(dam or {}))
        self.tgrn = TGRN(self.out_size, **(tgrn or {}))
        self.options = {
            'type': type(self).__name__, 'prior': dict(prior or {}), 'dam': dict(dam or {}), 'tgrn': dict(tgrn or {}),
            'w_identity': w_identity, 'w_generated': w_generated, 'prior_adain': prior_adain,
            'texture_from': texture_from,
        }  # fmt: skip
        for name in fix_modules or ():
            if name not in dict(self.named_children()):
                raise ValueError(f"fix_modules: no sub-module '{name}'{nearest(name, dict(self.named_children()))}")
            getattr(self, name).requires_grad_(False)

    @staticmethod
    def _build_prior(options: Mapping[str, Any]) -> CodeFormer:
        try:
            prior = ARCH_REGISTRY.build({'type': 'CodeFormer', **options})
        except TypeError as error:
            raise ValueError(f'prior: {error}') from error
        if not isinstance(prior, CodeFormer):
            raise ValueError(f'prior: a {type(prior).__name__}; it must be a CodeFormer or an IDCodeFormer')
        return prior.eval().requires_grad_(False)

    @property
    def img_size(self) -> int:
        """Side of the input in pixels, the prior's."""
        return self.prior.img_size

    @property
    def out_size(self) -> int:
        """Side of the results in pixels, the prior's."""
        return self.prior.out_size

    @property
    def codebook_size(self) -> int:
        """Number of codes of the prior."""
        return self.prior.codebook_size

    @property
    def takes_identity(self) -> bool:
        """True if the prior takes identity embeddings."""
        return self.prior.takes_identity

    @property
    def recogniser(self) -> str | None:
        """Recognizer whose embeddings the prior takes, if that is known."""
        return self.prior.recogniser

    @property
    def identity_dim(self) -> int | None:
        """Length of these embeddings."""
        return self.prior.identity_dim

    @property
    def transfers_texture(self) -> bool:
        """True if stage 2 has trained it: the last layer of the transfer network is not all zero."""
        return bool(self.tgrn.last.weight.any())

    @property
    def registers(self) -> bool:
        """True if stage 1 has trained it: the last layer of the aligner is not all zero."""
        return bool(self.dam.flow.weight.any())

    def train(self, mode: bool = True) -> CodeFormerPlusPlus:
        """Switch all but the prior to training, or back."""
        super().train(mode)
        self.prior.eval()
        return self

    @torch.no_grad()
    def restore_twice(
        self, x: Tensor, w: float | Tensor | None = None, adain: bool | None = None, **known: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Restore faces faithfully and freely from one encoding and one Transformer pass.

        Args:
            x: low-quality faces (N,3,S,S).
            w: fidelity weight of I_F; None for `w_identity`.
            adain: None for `prior_adain`.
            known: `search`, and what the prior may know of the faces; see its `forward`.

        Returns:
            I_F and I_G (N,3,S,S), equal to the prior's at the two weights bit for bit; logits and features as there.
        """
        weights = (self.w_identity if w is None else w, self.w_generated)
        adain = self.prior_adain if adain is None else adain
        (faithful, generated), logits, lq_feat = self.prior(x, w=weights, adain=adain, **known)
        return faithful, generated, logits, lq_feat

    def align(self, generated: Tensor, faithful: Tensor) -> Tensor:
        """I_G (N,3,S,S) bent onto I_F: I_warp, bicubic, in [-1, 1]."""
        return warp(generated, self.dam(generated, faithful), 'bicubic').clamp(-1, 1)

    def texture_source(self, faithful: Tensor, generated: Tensor) -> Tensor:
        """Return the source of texture (N,3,S,S) that `texture_from` names."""
        if self.texture_from == 'I_warp':
            return self.align(generated, faithful)
        return generated if self.texture_from == 'I_G' else faithful

    def forward(
        self,
        x: Tensor,
        w: float | Tensor | None = None,
        texture: float | Tensor = 1.0,
        adain: bool | None = None,
        search: Search | None = None,
        **known: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Restore faces.

        Args:
            x: low-quality faces (N,3,S,S) in [-1, 1].
            w: fidelity weight of I_F; None for `w_identity`.
            texture: how much of the texture is added, 0 to 1; at 0 neither aligner nor transfer network is computed.
            adain: None for `prior_adain`.
            search: see `CodeFormer.forward`; it renders by the prior alone.
            known: what the prior may know of the faces (`identity`, `mask`, `id_scale`).

        Returns:
            the image (N,3,S,S), and the prior's logits and features.
        """
        if not isinstance(texture, Tensor) and texture == 0:
            weight = self.w_identity if w is None else w
            adain = self.prior_adain if adain is None else adain
            with torch.no_grad():
                return cast(Any, self.prior(x, w=weight, adain=adain, search=search, **known))
        faithful, generated, logits, lq_feat = self.restore_twice(x, w, adain, search=search, **known)
        return self.tgrn(faithful, self.texture_source(faithful, generated), texture), logits, lq_feat
