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
from torch import Tensor, nn

from basicsr.archs.codeformer_arch import CodeFormer, Search
from basicsr.archs.face_aligner_arch import FaceAligner, warp
from basicsr.archs.factory import read_network
from basicsr.archs.tgrn_arch import TGRN
from basicsr.utils.checkpoint import CheckpointError, load_state
from basicsr.utils.registry import ARCH_REGISTRY, nearest

TEXTURES = ('I_warp', 'I_G', 'I_F')
"""Sources of texture."""


def _check_arguments(where: str, entry: Callable, given: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that `entry` does not take, with the nearest name."""
    known = [name for name in inspect.signature(entry).parameters if name != 'img_size']
    for name in given:
        if name not in known:
            raise ValueError(f"{where}: unknown key '{name}'{nearest(name, known)}")


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
    def recognizer(self) -> str | None:
        """Recognizer whose embeddings the prior takes, if that is known."""
        return self.prior.recognizer

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

    def decode_in(self, dtype: torch.dtype) -> None:
        """Decode the prior's codes in another precision, see `CodeFormer.decode_in`."""
        self.prior.decode_in(dtype)

    @torch.no_grad()
    def restore_twice(
        self, x: Tensor, w: float | Tensor | None = None, adain: bool | None = None, **cond: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Restore faces faithfully and freely from one encoding and one Transformer pass.

        Args:
            x: low-quality faces (N,3,S,S).
            w: fidelity weight of I_F; None for `w_identity`.
            adain: None for `prior_adain`.
            cond: `search`, and what the prior may know of the faces; see its `forward`.

        Returns:
            I_F and I_G (N,3,S,S), equal to the prior's at the two weights bit for bit; logits and features as there.
        """
        weights = (self.w_identity if w is None else w, self.w_generated)
        adain = self.prior_adain if adain is None else adain
        (faithful, generated), logits, lq_feat = self.prior(x, w=weights, adain=adain, **cond)
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
        **cond: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Restore faces.

        Args:
            x: low-quality faces (N,3,S,S) in [-1, 1].
            w: fidelity weight of I_F; None for `w_identity`.
            texture: how much of the texture is added, 0 to 1; at 0 neither aligner nor transfer network is computed.
            adain: None for `prior_adain`.
            search: see `CodeFormer.forward`; it renders by the prior alone.
            cond: what the prior may know of the faces (`identity`, `mask`, `id_scale`).

        Returns:
            the image (N,3,S,S), and the prior's logits and features.
        """
        if not isinstance(texture, Tensor) and texture == 0:
            weight = self.w_identity if w is None else w
            adain = self.prior_adain if adain is None else adain
            with torch.no_grad():
                return cast(Any, self.prior(x, w=weight, adain=adain, search=search, **cond))
        faithful, generated, logits, lq_feat = self.restore_twice(x, w, adain, search=search, **cond)
        return self.tgrn(faithful, self.texture_source(faithful, generated), texture), logits, lq_feat
