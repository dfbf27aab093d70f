"""Write a tiny diffusion model with drawn weights, in the layout of the real ones, for tests and smoke runs.

    python -m experiments.ridfr.tiny --size 64 -o weights/tiny_diffusion

The folder has `unet`, `vae`, `text_encoder`, `scheduler`, `image_encoder`, and an adapter of the Plus kind in published
key names (`adapter.safetensors`, with LoRA of rank 8). It restores nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from basicsr.archs.diffusion_prior import RANDOM_MARK
from basicsr.archs.face_id_adapter import FaceIDProjection, adapter_state, add_attention
from experiments.ridfr.train import SCHEDULE

DIM, FEATURES, VECTOR, RANK = 64, 48, 512, 8


def write_tiny(root: Path, size: int = 64, seed: int = 0, vector: int = VECTOR, recognizer: str = '') -> None:
    """Write the folder.

    Args:
        root: of the results.
        size: side of the faces in pixels, a multiple of 16.
        seed: of the weights.
        vector: numbers of the recognizer that the adapter takes.
        recognizer: its name, if the adapter is to state it.
    """
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=size // 8,
        block_out_channels=(32, 64),
        down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
        up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D'),
        layers_per_block=1,
        cross_attention_dim=DIM,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    unet.save_pretrained(root / 'unet')
    make_vae: Any = AutoencoderKL  # its annotations are of one block
    vae = make_vae(
        down_block_types=('DownEncoderBlock2D',) * 4,
        up_block_types=('UpDecoderBlock2D',) * 4,
        block_out_channels=(16, 16, 32, 32),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=size,
    )
    vae.save_pretrained(root / 'vae')
    text = CLIPTextConfig(
        vocab_size=100,
        hidden_size=DIM,
        intermediate_size=128,
        bos_token_id=98,
        eos_token_id=99,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    CLIPTextModel(text).save_pretrained(root / 'text_encoder')
    vision = CLIPVisionConfig(
        hidden_size=FEATURES,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        num_hidden_layers=3,
        num_attention_heads=4,
    )
    CLIPVisionModelWithProjection(vision).save_pretrained(root / 'image_encoder')
    (root / 'scheduler').mkdir(parents=True, exist_ok=True)
    (root / 'scheduler' / 'scheduler_config.json').write_text(json.dumps({**SCHEDULE, RANDOM_MARK: True}, indent=1))
    state = adapter_state(FaceIDProjection(DIM, vector, 2 * vector, FEATURES, depth=2), add_attention(unet, DIM))
    for number, name in enumerate(unet.attn_processors):
        if f'ip_adapter.{number}.to_v_ip.weight' in state:
            state[f'ip_adapter.{number}.to_v_ip.weight'] = (
                20 * state[f'ip_adapter.{number}.to_v_ip.weight']
            )  # to be felt
        layer: Any = unet.get_submodule(name.removesuffix('.processor'))
        for part in ('q', 'k', 'v', 'out'):
            out, into = (layer.to_out[0] if part == 'out' else getattr(layer, f'to_{part}')).weight.shape
            state[f'ip_adapter.{number}.to_{part}_lora.down.weight'] = torch.randn(RANK, into) / into**0.5
            state[f'ip_adapter.{number}.to_{part}_lora.up.weight'] = 0.1 * torch.randn(out, RANK)
    stated = {'shortcut': 'true', **({'recognizer': recognizer} if recognizer else {})}
    save_file(state, root / 'adapter.safetensors', stated)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description='Write a tiny diffusion model with drawn weights.')
    parser.add_argument('--size', type=int, default=64, help='side of the faces (default: 64)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('-o', '--output', type=Path, default=Path('weights/tiny_diffusion'))
    args = parser.parse_args(argv)
    write_tiny(args.output, args.size, args.seed)
    return 0


if __name__ == '__main__':
    sys.exit(main())
