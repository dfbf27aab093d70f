"""Both stages of RIDFR (Fang et al., arXiv 2507.10943): the content module, then alignment learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from basicsr.archs.content_control_arch import ContentControl, Residuals
from basicsr.archs.diffusion_prior import STEPS, DiffusionPrior
from basicsr.archs.face_id_adapter import Tokens
from basicsr.archs.unipc import draw_start, sample
from basicsr.losses.noise_loss import Noisy, alignment_losses, content_loss, draw_noise
from basicsr.models.base_model import BaseModel, Batch, Terms
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.face_crop import image_encoder_crop
from basicsr.utils.options import OptionError
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class RIDFRContentModel(BaseModel):
    """Stage "content": equation 2, without identity. Only the content module is trained and saved.

    Options: `network_diffusion` (the frozen prior: `root`; `adapter` and the others are of the next stage),
    `train:diffusion_opt` (`min_t`, `max_t`: range of the steps). Logs `l_diffusion`.

    Raises:
        OptionError: no prior, faces of another side than its own, or a value out of its range.
        CheckpointError: see `DiffusionPrior`.
    """

    LOSS_SECTIONS = frozenset({'diffusion_opt'})

    has_identity: ClassVar[bool] = False
    """True if the stage uses the identity adapter."""

    def __init__(self, opt: Mapping[str, Any], device: torch.device | str = 'cpu', is_train: bool = True) -> None:
        super().__init__(opt, device, is_train)
        given = opt.get('network_diffusion') or {}
        if not given.get('root'):
            raise OptionError("network_diffusion: 'root' is missing, the folder of the diffusion model (docs/RIDFR.md)")
        adapter = (given.get('adapter'), given.get('image_encoder'), given.get('shortcut')) if self.has_identity else ()
        self.prior = DiffusionPrior(given['root'], *adapter).to(self.device)
        config = {key: value for key, value in self.prior.unet.config.items() if not key.startswith('_')}
        codec = self.prior.codec
        sizes = {'latent_side': self.prior.side, 'reduction': codec.reduction, 'patch': codec.patch}
        network = {'unet': config, **sizes, **opt['network_g']}
        self.net_g = cast(ContentControl, self.add_network('net_g', network, self.train_opt.get('ema_decay') or 0))
        if not (opt.get('path') or {}).get('pretrain_network_g'):
            self.net_g.start_from(self.prior.unet)
            for average in self.averages.values():
                average.load_state_dict(self.net_g.state_dict())
        section = self.train_opt.get('diffusion_opt') or {}
        self.min_t, self.max_t = int(section.get('min_t') or 0), int(section.get('max_t') or STEPS)
        if not 0 <= self.min_t < self.max_t <= STEPS:
            raise OptionError(
                f'train:diffusion_opt: min_t {self.min_t}, max_t {self.max_t}; 0 <= min_t < max_t <= {STEPS}'
            )
        if is_train:
            self.init_training(section)

    def init_training(self, section: Mapping[str, Any]) -> None:
        """Set up the optimiser; check the faces' side."""
        faces = (self.opt.get('datasets') or {}).get('train') or {}
        for key in ('gt_size', 'in_size'):
            if faces.get(key) not in (None, self.prior.size):
                raise OptionError(
                    f'datasets:train:{key} is {faces[key]}, and the diffusion model makes faces of {self.prior.size}'
                )
        if self.train_opt.get('grad_checkpointing'):
            self.net_g.control.enable_gradient_checkpointing()
            self.prior.unet.enable_gradient_checkpointing()
        self.add_optimizer('optim_g', self.net_g)

    @property
    def codebook_size(self) -> int:
        """0: there are no codes."""
        return 0

    def condition_of(self, faces: Tensor) -> Tensor:
        """Return the content module's condition (N,k,s,s) of degraded faces (N,3,S,S)."""
        return self.prior.encode(faces) if self.net_g.condition == 'latent' else self.net_g.condition_of(faces)

    def draw(self, batch: Batch) -> tuple[Noisy, Tensor]:
        """Return noisy latents of a batch's good faces, and the condition by the degraded ones."""
        with torch.no_grad(), self.autocast():
            latents = self.prior.encode(batch['gt'], draw=True).float()
            condition = self.condition_of(batch['in']).float()
        return draw_noise(self.prior, latents, self.min_t, self.max_t), condition

    def generator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Return the loss of the stage."""
        noisy, condition = self.draw(batch)
        with self.autocast():
            return {'l_diffusion': content_loss(self.prior, self.net_g, noisy, condition)}

    def identity_of(self, batch: Batch) -> Tokens | None:
        """Return the identity by which validation restores; None restores blind."""
        return None

    @torch.no_grad()
    def infer(self, batch: Batch) -> Tensor:
        """Restorations by `val:steps` steps (20), from the noise of seed 0."""
        lq = batch['lq']
        network = cast(ContentControl, self.get_bare_model())
        condition, identity = self.condition_of(lq), self.identity_of(batch)

        def eps(z: Tensor, t: Tensor) -> Tensor:
            residuals: Residuals = network(z, t, condition, self.prior.text)
            return self.prior.eps(z, t, residuals, identity).float()

        shape = (self.prior.channels, self.prior.side, self.prior.side)
        noise = draw_start(shape, len(lq), self.seed).to(lq)
        with self.autocast():
            z = sample(eps, self.prior.alphas, noise, int((self.opt.get('val') or {}).get('steps') or 20))
        return self.prior.decode(z)


@MODEL_REGISTRY.register()
class RIDFRModel(RIDFRContentModel):
    """Stage "align": equations 4 to 6. Two references of a person should give one restoration.

    `train:diffusion_opt`: `align_weight` (lambda, 1 in the paper; 0, the default, is naive fine-tuning),
    `identity_dropout` (share of faces trained blind, 0.1), `min_t`, `max_t`. `network_diffusion`: `adapter` is the
    identity module, `recognizer` (weights, a pack or a name) the recognizer that it was trained with. The data gives
    photographs (`reference`, two a face). Logs `l_diffusion`, `l_align` and `eps_gap_1` to `_4`, the root mean square
    of the difference by quarters of the steps.

    Raises:
        OptionError: one reference only, no adapter, or a value out of its range.
    """

    has_identity = True

    def init_training(self, section: Mapping[str, Any]) -> None:
        """Set up weights and recognizer, too."""
        super().init_training(section)
        given = self.opt['network_diffusion']
        if not given.get('adapter'):
            raise OptionError("network_diffusion: 'adapter' is missing, the file of the identity module")
        faces = (self.opt.get('datasets') or {}).get('train') or {}
        if int(faces.get('references') or 1) < 2:
            raise OptionError('datasets:train:references: alignment learning needs 2 references a face')
        self.align_weight = float(section.get('align_weight') or 0)
        self.dropout = float(section.get('identity_dropout', 0.1))
        if self.align_weight < 0 or not 0 <= self.dropout < 1:
            raise OptionError('train:diffusion_opt: align_weight must be 0 or more, identity_dropout from 0 to below 1')
        self.embedder = FaceEmbedder(given.get('recognizer') or self.prior.recognizer).to(self.device)
        vector = cast(Any, self.prior.projection).proj[0].in_features
        if self.embedder.dim != vector:
            raise OptionError(
                f'network_diffusion:recognizer gives {self.embedder.dim} numbers, the adapter takes {vector}; it needs '
                'the recognizer that it was trained with'
            )
        self.crop = image_encoder_crop() if self.prior.crops_photos else None

    @torch.no_grad()
    def references_of(self, batch: Batch) -> tuple[Tokens, Tokens]:
        """Return the identity by the first and by the second references of a batch; a share of the faces blind."""
        photos = batch['reference']  # (N,R,3,S,S)
        if photos.shape[1] < 2:
            raise OptionError('datasets:train:references: alignment learning needs 2 references a face')
        mask = batch.get('identity_mask')
        kept = (torch.rand(len(photos)) >= self.dropout).float().to(photos.device)
        first, second = (
            self.tokens_of(photos[:, part], None if mask is None else mask[:, part]).scaled(kept)
            for part in (slice(0, 1), slice(1, 2))
        )
        return first, second

    def tokens_of(self, photos: Tensor, mask: Tensor | None) -> Tokens:
        """Return the identity of photographs (N,R,3,S,S); mask (N,R) of those that there are, None means all."""
        flat, count = photos.flatten(0, 1), photos.shape[:2]
        vectors, crops = self.embedder(flat), flat if self.crop is None else self.crop(flat)
        return self.prior.tokens(vectors.unflatten(0, count), mask, crops.unflatten(0, count))

    def generator_losses(self, batch: Batch, iteration: int) -> Terms:
        """Return the loss of the stage, equation 6."""
        noisy, condition = self.draw(batch)
        first, second = self.references_of(batch)
        with self.autocast():
            found = alignment_losses(self.prior, self.net_g, noisy, condition, first, second)
        self.log |= found.gap
        terms = {'l_diffusion': found.diffusion}
        if self.align_weight:
            return terms | {'l_align': self.align_weight * found.align}
        self.log['align'] = found.align.item()
        return terms

    def identity_of(self, batch: Batch) -> Tokens | None:
        """Return the identity by a batch's photographs, else by its embeddings where the adapter needs no more."""
        if 'reference' in batch:
            return self.tokens_of(batch['reference'], batch.get('identity_mask'))
        vectors = batch.get('identity')
        if vectors is None or self.prior.projection is None or self.prior.image_encoder is not None:
            return None
        return self.prior.tokens(vectors.float(), batch.get('identity_mask'))
