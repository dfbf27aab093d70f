"""Frozen latent diffusion model with an identity adapter: what RIDFR restores with, and never trains.

A folder in the layout of diffusers: `unet`, `scheduler`, `vae`, `text_encoder`. In place of `vae` there may be
`vqgan` (a stage I autoencoder of this project with principal components of its features), and in place of
`text_encoder` the file `empty_prompt.safetensors`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.archs.content_control_arch import Residuals
from basicsr.archs.face_id_adapter import FaceIDProjection, Tokens, load_adapter
from basicsr.archs.factory import load_network
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.utils.checkpoint import CheckpointError, read_checkpoint, read_metadata
from basicsr.utils.errors import extra

STEPS = 1000
PROMPT_LENGTH = 77
RANDOM_MARK = 'drawn_weights'
"""Key of the scheduler's configuration that marks a folder of drawn weights, which restores nothing."""
PUBLISHED_RECOGNIZER = 'buffalo_l'
"""Recognizer of the published FaceID adapters, an InsightFace pack."""


class KLCodec(nn.Module):
    """Latents of a variational autoencoder of diffusers; images are (N,3,S,S) in [-1, 1].

    Args:
        vae: `AutoencoderKL`.
    """

    patch = 1

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae
        self.reduction = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = int(vae.config.latent_channels)

    def encode(self, x: Tensor, draw: bool = False) -> Tensor:
        """Return the latents (N,C,s,s), the mean or a sample drawn by torch's generator."""
        drawn = self.vae.encode(x).latent_dist
        noise = torch.randn(drawn.mean.shape).to(drawn.mean) if draw else 0
        return (drawn.mean + drawn.std * noise) * self.vae.config.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """Return images of latents."""
        return self.vae.decode(z / self.vae.config.scaling_factor).sample


class VQCodec(nn.Module):
    """Latents of a stage I autoencoder: principal components of its features, not quantized, blocks as channels.

    Args:
        network: the autoencoder.
        mean: of the features (E,).
        down: (C,E), see `experiments.ridfr.prepare.basis`.
        up: (E,C).
        patch: side of the blocks (space to depth).
    """

    mean: Tensor
    down: Tensor
    up: Tensor

    def __init__(self, network: VQAutoEncoder, mean: Tensor, down: Tensor, up: Tensor, patch: int) -> None:
        super().__init__()
        self.network, self.patch = network, patch
        self.reduction = network.img_size // network.latent_side
        self.channels = len(down) * patch**2
        for name, value in (('mean', mean), ('down', down), ('up', up)):
            self.register_buffer(name, value)

    def encode(self, x: Tensor, draw: bool = False) -> Tensor:
        """Return the latents (N,C,s,s)."""
        features = self.network.encoder(self.network.to_input(x)) - self.mean[:, None, None]
        return self.blocks(torch.einsum('nehw,ce->nchw', features, self.down))

    def blocks(self, z: Tensor) -> Tensor:
        """Return components (N,C/p^2,ps,ps) with blocks as channels (N,C,s,s)."""
        return F.pixel_unshuffle(z, self.patch)

    def decode(self, z: Tensor) -> Tensor:
        """Return images of latents."""
        z = F.pixel_shuffle(z, self.patch)
        return self.network.generator(torch.einsum('nchw,ec->nehw', z, self.up) + self.mean[:, None, None])


class PatchFeatures(nn.Module):
    """Image features without an encoder: patches of a reduced picture, and where they lie.

    It stands for CLIP where none is at hand.

    Args:
        side: to which pictures are reduced, pixels.
        patch: side of a patch.
    """

    def __init__(self, side: int, patch: int) -> None:
        super().__init__()
        self.side, self.patch = side, patch
        x = torch.linspace(-1, 1, side // patch)
        y, x = torch.meshgrid(x, x, indexing='ij')
        self.register_buffer('places', torch.stack([x, y, x**2, y**2]).flatten(1).T, persistent=False)

    @property
    def width(self) -> int:
        """Numbers of a patch."""
        return 3 * self.patch**2 + 4

    def forward(self, photos: Tensor) -> Tensor:
        """(N,3,S,S) in [-1, 1] -> (N,L,width)."""
        small = F.interpolate(photos, size=(self.side, self.side), mode='bilinear', antialias=True)
        patches = F.pixel_unshuffle(small, self.patch).flatten(2).transpose(1, 2)
        return torch.cat([patches, self.get_buffer('places').expand(len(photos), -1, -1)], 2)


def _read_config(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f'{path}: missing; expected a folder in the layout of diffusers (docs/RIDFR.md)')
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f'{path}: damaged ({error})') from error


def _load_part(root: Path, part: str, kind: Any) -> Any:
    """Load a part of the folder from safetensors only."""
    folder = root / part
    _read_config(folder, 'config.json')
    if not list(folder.glob('*.safetensors')):
        raise CheckpointError(f'{folder}: no .safetensors file, and others are not read; fetch that form of the model')
    try:
        return kind.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(f'{folder}: cannot be loaded ({str(error).splitlines()[0]})') from error


def alphas_of(config: dict[str, Any], where: Path) -> Tensor:
    """Return the products of (1 - beta) up to each step, (1000,), of a scheduler's configuration.

    Raises:
        CheckpointError: another model than noise prediction over 1000 steps.
    """
    kind = config.get('prediction_type', 'epsilon')
    if kind != 'epsilon':
        raise CheckpointError(
            f"{where}: prediction_type is '{kind}'; only models that predict noise (epsilon) are used"
        )
    if config.get('num_train_timesteps', STEPS) != STEPS:
        raise CheckpointError(f'{where}: {config["num_train_timesteps"]} steps; expected {STEPS}')
    start, end = config.get('beta_start', 0.00085), config.get('beta_end', 0.012)
    schedule = config.get('beta_schedule', 'scaled_linear')
    if schedule == 'scaled_linear':
        betas = torch.linspace(start**0.5, end**0.5, STEPS, dtype=torch.float64) ** 2
    elif schedule == 'linear':
        betas = torch.linspace(start, end, STEPS, dtype=torch.float64)
    else:
        raise CheckpointError(f"{where}: beta_schedule '{schedule}'; expected scaled_linear or linear")
    return (1 - betas).cumprod(0).float()


class DiffusionPrior(nn.Module):
    """Frozen autoencoder, U-Net with identity adapter, image encoder and empty prompt.

    It is no registered network, and in no checkpoint.

    Args:
        root: folder of the model.
        adapter: file of the identity adapter; None restores without identity.
        image_encoder: folder of the CLIP image encoder, for a Plus adapter.
        shortcut: of a Plus adapter, see `FaceIDProjection`; published files do not say.

    Attributes:
        size: side S of the faces, pixels.
        side: side s of the latents.
        channels: channels C of the latents.
        text: embedding of the empty prompt (1,L,D).
        recognizer: name of the recognizer whose vectors the adapter takes; its file may state it.
        alphas: see `alphas_of`.
        is_random: the folder is marked as one of drawn weights.

    Raises:
        CheckpointError: a part is missing, damaged or of another model; the message says which.
        MissingExtraError: without the extra `diffusion`.
    """

    alphas: Tensor
    text: Tensor

    def __init__(
        self,
        root: str | Path,
        adapter: str | Path | None = None,
        image_encoder: str | Path | None = None,
        shortcut: bool | None = None,
    ) -> None:
        super().__init__()
        with extra('diffusion'):
            from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        self.root = root = Path(root)
        schedule = _read_config(root / 'scheduler', 'scheduler_config.json')
        self.register_buffer('alphas', alphas_of(schedule, root / 'scheduler'))
        self.is_random = bool(schedule.get(RANDOM_MARK))
        self.unet = _load_part(root, 'unet', UNet2DConditionModel)
        self.codec = self._load_codec(root)
        config = self.unet.config
        if config.in_channels != self.codec.channels:
            raise CheckpointError(
                f'{root}: the U-Net takes {config.in_channels} channels, its autoencoder gives {self.codec.channels}'
            )
        self.register_buffer('text', self._empty_prompt(root))
        if self.text.shape[-1] != config.cross_attention_dim:
            raise CheckpointError(
                f'{root}: the text has {self.text.shape[-1]} numbers a token, the U-Net takes '
                f'{config.cross_attention_dim}'
            )
        self.projection: FaceIDProjection | None = None
        self.image_encoder: Any = None
        self.recognizer = PUBLISHED_RECOGNIZER
        if adapter is not None:
            self._load_adapter(adapter, image_encoder, shortcut)
        self.requires_grad_(False).eval()

    def _load_codec(self, root: Path) -> KLCodec | VQCodec:
        if not (root / 'vqgan').is_dir():
            with extra('diffusion'):
                from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
            return KLCodec(_load_part(root, 'vae', AutoencoderKL))
        network = load_network(root / 'vqgan' / 'autoencoder.safetensors')
        found = read_checkpoint(root / 'vqgan' / 'basis.safetensors')
        if not isinstance(network, VQAutoEncoder) or {'mean', 'down', 'up'} - found.keys():
            raise CheckpointError(f'{root / "vqgan"}: expected a VQAutoEncoder, and mean, down and up of its features')
        channels, patch = len(found['down']), 1
        while channels * patch**2 < self.unet.config.in_channels:
            patch += 1
        return VQCodec(network, found['mean'], found['down'], found['up'], patch)

    @staticmethod
    def _empty_prompt(root: Path) -> Tensor:
        """Return the embedding of the empty prompt (1,L,D); the text encoder runs once and is dropped."""
        stored = root / 'empty_prompt.safetensors'
        if stored.is_file():
            return read_checkpoint(stored)['text'].float()
        with extra('diffusion'):
            from transformers import CLIPTextModel
        encoder = _load_part(root, 'text_encoder', CLIPTextModel).eval()
        config = encoder.config
        ids = torch.full((1, PROMPT_LENGTH), config.eos_token_id)
        ids[0, 0] = config.bos_token_id
        with torch.no_grad():
            return encoder(ids).last_hidden_state.float()

    def _load_adapter(self, adapter: str | Path, image_encoder: str | Path | None, shortcut: bool | None) -> None:
        stated = read_metadata(adapter) if Path(adapter).suffix == '.safetensors' else {}
        self.recognizer = stated.get('recognizer', PUBLISHED_RECOGNIZER)
        if shortcut is None and 'shortcut' in stated:
            shortcut = stated['shortcut'] == 'true'
        projection = load_adapter(self.unet, adapter, bool(shortcut))
        if projection.takes_features:
            if shortcut is None:
                raise CheckpointError(
                    f'{adapter}: state shortcut (true for plusv2, false for plus); the file does not say'
                )
            if image_encoder is None:
                raise CheckpointError(f'{adapter}: a Plus adapter; give its CLIP image encoder (image_encoder)')
            self.image_encoder = self._load_image_encoder(Path(image_encoder))
        self.projection = projection

    @staticmethod
    def _load_image_encoder(folder: Path) -> Any:
        config = _read_config(folder, 'config.json')
        if config.get('_class_name') == PatchFeatures.__name__:
            return PatchFeatures(int(config['side']), int(config['patch']))
        with extra('diffusion'):
            from transformers import CLIPVisionModelWithProjection
        return _load_part(folder, '', CLIPVisionModelWithProjection)

    @property
    def crops_photos(self) -> bool:
        """True if the image encoder is shown the crop of `image_encoder_crop`, not the whole aligned face."""
        return self.image_encoder is not None and not isinstance(self.image_encoder, PatchFeatures)

    @property
    def side(self) -> int:
        """Side s of the latents."""
        return int(self.unet.config.sample_size)

    @property
    def channels(self) -> int:
        """Channels C of the latents."""
        return self.codec.channels

    @property
    def size(self) -> int:
        """Side S of the faces in pixels."""
        return self.side * self.codec.patch * self.codec.reduction

    @torch.no_grad()
    def encode(self, x: Tensor, draw: bool = False) -> Tensor:
        """Return the latents (N,C,s,s) of faces (N,3,S,S) in [-1, 1]; with `draw` a sample of their distribution."""
        return self.codec.encode(x, draw)

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the faces (N,3,S,S) in [-1, 1] of latents, in float32."""
        with torch.autocast(z.device.type, enabled=False):
            return self.codec.decode(z.float()).clamp(-1, 1)

    def add_noise(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return noisy latents z_t of z_0 (N,C,s,s) at steps t (N,)."""
        alpha = self.alphas[t][:, None, None, None]
        return alpha.sqrt() * z + (1 - alpha).sqrt() * noise

    @torch.no_grad()
    def tokens(self, vectors: Tensor, mask: Tensor | None = None, photos: Tensor | None = None) -> Tokens:
        """Return the identity of references.

        Args:
            vectors: unit vectors (N,R,V).
            mask: (N,R), above 0 where there is a reference; None: everywhere.
            photos: crops for the image encoder (N,R,3,S,S) in [-1, 1], for a Plus adapter.

        Raises:
            ValueError: no adapter, or photographs that it needs are missing.
        """
        if self.projection is None:
            raise ValueError('no identity adapter is loaded')
        features = None
        if self.image_encoder is not None:
            if photos is None:
                raise ValueError('a Plus adapter needs the photographs of the references')
            features = self._features(photos.flatten(0, 1))
        number, references = vectors.shape[:2]
        tokens = self.projection(vectors.flatten(0, 1).float(), features).unflatten(0, (number, references))
        valid = torch.ones_like(vectors[..., 0], dtype=torch.bool) if mask is None else mask > 0
        return Tokens(
            tokens.flatten(1, 2), valid.repeat_interleave(tokens.shape[2], 1), torch.ones_like(tokens[:, 0, 0, 0])
        )

    def _features(self, photos: Tensor) -> Tensor:
        """Return the image encoder's last but one layer (N,L,E) of crops (N,3,S,S)."""
        if isinstance(self.image_encoder, PatchFeatures):
            return self.image_encoder(photos)
        side = self.image_encoder.config.image_size
        x = F.interpolate(photos, size=(side, side), mode='bicubic', antialias=True, align_corners=False).clamp(-1, 1)
        mean, std = x.new_tensor([[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]])
        x = (x / 2 + 0.5 - mean[:, None, None]) / std[:, None, None]
        return self.image_encoder(x, output_hidden_states=True).hidden_states[-2]

    def eps(self, z: Tensor, t: Tensor, residuals: Residuals | None = None, identity: Tokens | None = None) -> Tensor:
        """Predict the noise (N,C,s,s) in latents.

        Args:
            z: (N,C,s,s).
            t: steps (N,), or one for all ().
            residuals: of the content module.
            identity: None predicts blind.
        """
        text = self.text.to(z.dtype).expand(len(z), -1, -1)
        hidden: Any = text if identity is None else (text, *identity)
        given: dict[str, Any] = {}
        if residuals is not None:
            given = {
                'down_block_additional_residuals': tuple(residuals[:-1]),
                'mid_block_additional_residual': residuals[-1],
            }
        return self.unet(z, t, encoder_hidden_states=hidden, return_dict=False, **given)[0]
