"""Aligned faces in, restored faces out, by RIDFR: content module and identity on a frozen diffusion model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from basicsr.archs.content_control_arch import ContentControl
from basicsr.archs.diffusion_prior import DiffusionPrior
from basicsr.archs.face_id_adapter import Tokens
from basicsr.archs.factory import load_network
from basicsr.archs.unipc import draw_start, sample
from basicsr.inference.face_restorer import (
    AUTO_PRECISION,
    MIXED,
    PRECISIONS,
    FaceRestorer,
    check_options,
    choose_device,
)
from basicsr.inference.tasks import RESTORE
from basicsr.recognition.face_crop import image_encoder_crop
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.folders import weights_folder
from basicsr.utils.progress import track

ROOT = Path('sd15')
ADAPTERS = {'ip-adapter-faceid-plusv2_sd15.bin': True, 'ip-adapter-faceid-plus_sd15.bin': False}
"""Published adapters of the Plus kind, and whether they have the shortcut, which their files do not say."""
ADAPTER_FOLDER, IMAGE_ENCODER = Path('ip_adapter'), Path('ip_adapter') / 'image_encoder'
LEAST_STEPS, MOST_STEPS = 2, 1000


@dataclass(frozen=True)
class DiffusionConfig:
    """Settings of the sampling.

    Attributes:
        root: folder of the diffusion model, see `DiffusionPrior`; None for `sd15` in the weights folder.
        adapter: file of the identity adapter; None for the one in `root`, or a published one in the weights folder;
            with neither, faces are restored blind.
        steps: of UniPC.
        seed: of the noise, which is the same for every face.
        guidance: 1 uses the prediction with identity; above, its difference to the blind one is multiplied by this.
        content_scale: factor of the content module's residuals.
        start_from: model of a CodeFormer whose restorations sampling starts from in place of noise; None: noise.
        start_share: share of the steps that are left to do then.
    """

    root: str | os.PathLike | None = None
    adapter: str | os.PathLike | None = None
    steps: int = 20
    seed: int = 0
    guidance: float = 1.0
    content_scale: float = 1.0
    start_from: str | None = None
    start_share: float = 0.5

    def __post_init__(self) -> None:
        for name, wrong, limits in (
            ('steps', not LEAST_STEPS <= self.steps <= MOST_STEPS, f'{LEAST_STEPS} to {MOST_STEPS}'),
            ('guidance', not self.guidance >= 1, '1 or more'),
            ('content_scale', not self.content_scale >= 0, '0 or more'),
            ('start_share', not 0 < self.start_share <= 1, 'above 0, up to 1'),
        ):
            if wrong:
                raise ValueError(f'{name} = {getattr(self, name)}: must be {limits}')


def find_adapter(root: Path, folder: Path, given: str | os.PathLike | None) -> tuple[Path | None, bool | None]:
    """Return the identity adapter and its shortcut, as far as its name tells; None where there is no adapter.

    Raises:
        FileNotFoundError: the one that was asked for is not there.
    """
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise FileNotFoundError(f'--adapter {path}: no such file')
        return path, ADAPTERS.get(path.name)
    places = [root / 'adapter.safetensors', *(folder / ADAPTER_FOLDER / name for name in ADAPTERS)]
    path = next((place for place in places if place.is_file()), None)
    return path, None if path is None else ADAPTERS.get(path.name)


class DiffusionRestorer(FaceRestorer):
    """Restores aligned faces in batches, as `FaceRestorer` does, by sampling from a diffusion model.

    The result depends on face, identity and seed, not on the batch.

    Args:
        model: checkpoint of a `ContentControl`.
        config: settings of the sampling.
        device, precision, batch_size, weights_dir, color_fix: as there.
        allow_random: take a folder that is marked as one of drawn weights.

    Raises:
        CheckpointError: the file holds another network, or does not fit the diffusion model.
        ValueError: as there; or drawn weights.
    """

    def __init__(
        self,
        model: str | os.PathLike,
        config: DiffusionConfig | None = None,
        device: str = 'auto',
        precision: str = 'fp32',
        batch_size: int = 8,
        weights_dir: str | os.PathLike | None = None,
        color_fix: bool | None = None,
        allow_random: bool = False,
    ) -> None:
        config = config or DiffusionConfig()
        precision = 'fp32' if precision == AUTO_PRECISION else precision
        check_options(precision, batch_size, 'torch', None)
        self.device, self.precision, self.batch_size = choose_device(device), precision, batch_size
        if precision == MIXED:
            raise ValueError('precision mixed: a diffusion prior has no codes; use fp32 or bf16')
        if precision == 'fp16' and not self.device.startswith('cuda'):
            raise ValueError('precision fp16 needs a CUDA device; use bf16 or fp32 on the CPU')
        folder = Path(weights_folder() if weights_dir is None else weights_dir)
        root = Path(config.root) if config.root is not None else folder / ROOT
        control = load_network(model, self.device)
        if not isinstance(control, ContentControl):
            raise CheckpointError(f'{model}: holds a {type(control).__name__}, not a ContentControl (RIDFR)')
        adapter, shortcut = find_adapter(root, folder, config.adapter)
        encoder = next((place for place in (root / 'image_encoder', folder / IMAGE_ENCODER) if place.is_dir()), None)
        self.prior = DiffusionPrior(root, adapter, encoder, shortcut).to(self.device)
        if self.prior.is_random and not allow_random:
            raise ValueError(f'{root}: drawn weights, which restore nothing; --force takes them all the same')
        _check_fit(control, self.prior, model)
        dtype = PRECISIONS[precision]
        self.network = control.to(dtype)
        self.prior.unet.to(dtype)
        self.config = config
        self.task, self.backend, self.color_fix, self.follows_input = RESTORE, 'torch', bool(color_fix), False
        self.size = self.input_size = control.img_size
        self.takes_identity = self.prior.projection is not None
        self.needs_photos = self.prior.image_encoder is not None
        vector = cast(Any, self.prior.projection).proj[0].in_features if self.takes_identity else None
        self.told_by = (self.prior.recognizer if self.takes_identity else None, vector)
        self.default_w, self.default_adain = 1.0, False
        self.crop = image_encoder_crop().to(self.device) if self.prior.crops_photos else None
        self.first = None
        if config.start_from is not None:
            self.first = FaceRestorer(config.start_from, device, precision, batch_size, weights_dir)
        sampling = {key: value for key, value in asdict(config).items() if key not in ('root', 'adapter')}
        self.settings = {
            **sampling, 'scheduler': 'UniPC, linspace', 'diffusion_root': str(root),
            'adapter': None if adapter is None else str(adapter),
        }  # fmt: skip
        self.description = f'{model} (RIDFR) on {root}, {self.size}x{self.size} pixels, {precision} on {self.device}'

    def restore(
        self,
        faces: Sequence[np.ndarray] | np.ndarray,
        w: float | None = None,
        adain: bool | None = None,
        identity: Tensor | None = None,
        mask: Tensor | None = None,
        id_scale: float = 1.0,
        search: None = None,
        photos: Tensor | None = None,
    ) -> list[np.ndarray]:
        """Restore aligned faces.

        Args:
            faces: as in `FaceRestorer.restore`.
            w, adain: accepted, without effect: they belong to CodeFormer.
            identity: embeddings (N,R,D), or (N,D), of the recognizer in `told_by`.
            mask: which references there are (N,R); None means all.
            id_scale: strength of the identity, 0 to 2.
            search: None; there are no codes.
            photos: aligned photographs of the references (N,R,3,S,S) in [-1, 1], if `needs_photos`.

        Returns:
            RGB uint8 (size,size,3), one for each face.

        Raises:
            ValueError: identity that does not fit the faces or the adapter.
            RuntimeError: values that are not finite; the message names step and seed.
        """
        if search is not None:
            raise ValueError('a search for codes belongs to CodeFormer; leave it out')
        shown = self._shown(faces)
        self._check_identity(len(shown), identity, mask, id_scale)
        tokens = None
        if identity is not None:
            vectors = identity[:, None] if identity.ndim == 2 else identity
            tokens = self._tokens(vectors, mask, photos).scaled(id_scale)
        begun = None if self.first is None else [self.first.restore(face.fitted)[0] for face in shown]
        restored: list[np.ndarray] = []
        for start in track(range(0, len(shown), self.batch_size), 'batch'):
            part = slice(start, start + self.batch_size)
            batch = torch.stack([face.input for face in shown[part]]).to(self.device)
            first = None if begun is None else torch.from_numpy(np.stack(begun[part])).to(self.device)
            restored += self._sampled(batch, None if tokens is None else tokens[part], first)
        return self._finished(restored, shown)

    def _tokens(self, vectors: Tensor, mask: Tensor | None, photos: Tensor | None) -> Tokens:
        """Return the identity of references."""
        if photos is not None:
            photos = photos.to(self.device)
            if self.crop is not None:
                photos = self.crop(photos.flatten(0, 1)).unflatten(0, photos.shape[:2])
        tokens = self.prior.tokens(vectors.to(self.device), None if mask is None else mask.to(self.device), photos)
        return tokens._replace(tokens=tokens.tokens.to(PRECISIONS[self.precision]))

    @torch.no_grad()
    def _sampled(self, batch: Tensor, identity: Tokens | None, first: Tensor | None) -> list[np.ndarray]:
        """Return restorations of faces (N,3,S,S) in [-1, 1]; `first` (N,h,w,3) uint8 is where sampling starts."""
        prior, control, config = self.prior, cast(ContentControl, self.network), self.config
        condition = prior.encode(batch) if control.condition == 'latent' else control.condition_of(batch)
        dtype = PRECISIONS[self.precision]

        def eps(z: Tensor, t: Tensor) -> Tensor:
            residuals = control(z.to(dtype), t, condition, prior.text).scaled(config.content_scale)
            if identity is None or config.guidance == 1:
                return prior.eps(z.to(dtype), t, residuals, identity).float()
            both = Tokens(*(field.repeat(2, *([1] * (field.ndim - 1))) for field in identity))
            both = both._replace(strength=torch.cat([identity.strength, 0 * identity.strength]))
            both_eps = prior.eps(z.to(dtype).repeat(2, 1, 1, 1), t, residuals.repeated(2), both)
            conditioned, blind = both_eps.float().chunk(2)
            return blind + config.guidance * (conditioned - blind)

        noise = draw_start((prior.channels, prior.side, prior.side), len(batch), config.seed).to(self.device)
        start = None
        if first is not None:
            pictures = first.permute(0, 3, 1, 2).float() / 127.5 - 1
            side = (self.size, self.size)
            pictures = torch.nn.functional.interpolate(pictures, size=side, mode='bicubic', antialias=True)
            start = prior.encode(pictures.clamp(-1, 1))
        try:
            z = sample(eps, prior.alphas, noise, config.steps, start, config.start_share)
        except RuntimeError as error:
            raise RuntimeError(f'{error} (seed {config.seed})') from error
        return self._pictures(prior.decode(z))


def _check_fit(control: ContentControl, prior: DiffusionPrior, source: str | os.PathLike) -> None:
    """Raise CheckpointError where a content module belongs to another diffusion model."""
    own = {'channels': control.latent_channels, 'latent side': control.latent_side, 'face side': control.img_size}
    its = {'channels': prior.channels, 'latent side': prior.side, 'face side': prior.size}
    for name, value in own.items():
        if value != its[name]:
            raise CheckpointError(
                f'{source}: {name} {value}, and {prior.root} has {its[name]}; give the model that it was trained on'
            )
