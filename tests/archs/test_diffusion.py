"""RIDFR's parts: adapter and attention beside those of diffusers, day 0, UniPC, masks, losses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

pytest.importorskip('diffusers')
pytest.importorskip('transformers')

from basicsr.archs.content_control_arch import ContentControl, Residuals
from basicsr.archs.diffusion_prior import DiffusionPrior, VQCodec
from basicsr.archs.face_id_adapter import FaceIDProjection, Tokens, adapter_state, add_attention, load_adapter
from basicsr.archs.factory import load_network
from basicsr.archs.unipc import draw_start, sample
from basicsr.losses.noise_loss import Noisy, alignment_losses, content_loss, draw_noise
from basicsr.utils.checkpoint import CheckpointError, save_atomic
from experiments.ridfr.prepare import basis
from experiments.ridfr.tiny import write_tiny

VECTOR = 16


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('tiny')
    write_tiny(folder, vector=VECTOR)
    return folder


@pytest.fixture(scope='module')
def prior(root) -> DiffusionPrior:
    return DiffusionPrior(root, root / 'adapter.safetensors', root / 'image_encoder', shortcut=True)


def control_of(prior: DiffusionPrior, condition: str = 'pixel') -> ContentControl:
    torch.manual_seed(0)
    control = ContentControl(dict(prior.unet.config), prior.side, condition)
    control.start_from(prior.unet)
    return control


def trained(control: ContentControl) -> ContentControl:
    """Give the zero layers weights, as training does."""
    for value in control.parameters():
        if not value.any():
            torch.nn.init.normal_(value, std=0.05)
    control.control.conv_in.weight.data[:, 4:] = 0.05
    return control


def identity(prior: DiffusionPrior, count: int, references: int = 1, seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(count, references, VECTOR, generator=generator), dim=-1)
    return prior.tokens(vectors, photos=torch.rand(count, references, 3, 64, 64, generator=generator) * 2 - 1)


def fresh_unet(root: Path):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(root / 'unet')


@pytest.mark.parametrize('shortcut', [True, False])
def test_projection_equals_that_of_diffusers(shortcut):
    from diffusers.models.embeddings import IPAdapterFaceIDPlusImageProjection

    ours = FaceIDProjection(64, VECTOR, 2 * VECTOR, features=48, depth=2, shortcut=shortcut).eval()
    theirs = IPAdapterFaceIDPlusImageProjection(
        embed_dims=64, output_dims=64, hidden_dims=48, id_embeddings_dim=VECTOR, depth=2, heads=1, num_tokens=4
    ).eval()
    state = ours.state_dict()
    renamed = {}
    for key, value in state.items():  # as the converter of diffusers renames a published file
        key = (
            key.replace('perceiver_resampler.', '')
            .replace('proj.0.', 'proj.net.0.proj.')
            .replace('proj.2.', 'proj.net.2.')
        )
        for number in range(2):
            key = key.replace(f'layers.{number}.0.norm1', f'layers.{number}.ln0')
            key = key.replace(f'layers.{number}.0.norm2', f'layers.{number}.ln1')
            key = key.replace(f'layers.{number}.0.to_out', f'layers.{number}.attn.to_out.0')
            key = key.replace(f'layers.{number}.0.to_q', f'layers.{number}.attn.to_q')
            key = key.replace(f'layers.{number}.1.0.', f'layers.{number}.ff.0.')
            key = key.replace(f'layers.{number}.1.1.', f'layers.{number}.ff.1.net.0.proj.')
            key = key.replace(f'layers.{number}.1.3.', f'layers.{number}.ff.1.net.2.')
        if key.endswith('to_kv.weight'):
            place = key.replace('0.to_kv.weight', 'attn.')
            renamed[f'{place}to_k.weight'], renamed[f'{place}to_v.weight'] = value.chunk(2)
        else:
            renamed[key] = value
    theirs.load_state_dict(renamed)
    theirs.shortcut = shortcut
    vectors, features = torch.randn(3, VECTOR), torch.randn(3, 5, 48)
    theirs.clip_embeds = features[None].transpose(0, 1)
    torch.testing.assert_close(ours(vectors, features), theirs(vectors), rtol=0, atol=1e-6)


def test_attention_equals_that_of_diffusers(root):
    from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0

    unet = fresh_unet(root)
    ours = add_attention(unet, 64)
    names = list(unet.attn_processors)
    assert [name.split('_')[0] for name in names] == sorted(
        (name.split('_')[0] for name in names), key=['down', 'up', 'mid'].index
    )
    assert [number % 2 == 1 for number in range(len(names))] == [processor is not None for processor in ours]
    layer = unet.get_submodule(names[1].removesuffix('.processor'))
    theirs = IPAdapterAttnProcessor2_0(layer.inner_dim, 64, num_tokens=(4,), scale=0.7)
    theirs.to_k_ip[0].weight, theirs.to_v_ip[0].weight = ours[1].to_k_ip.weight, ours[1].to_v_ip.weight
    x, text, tokens = torch.randn(2, 9, 32), torch.randn(2, 7, 64), torch.randn(2, 4, 64)
    expected = theirs(layer, x, encoder_hidden_states=(text, [tokens[:, None]]))
    given = (text, tokens, torch.ones(2, 4, dtype=torch.bool), torch.tensor([0.7, 0.7]))
    torch.testing.assert_close(ours[1](layer, x, encoder_hidden_states=given), expected, rtol=0, atol=1e-6)


def test_lora_is_folded_in_exactly(root):
    base, changed = fresh_unet(root), fresh_unet(root)
    load_adapter(changed, root / 'adapter.safetensors', True)
    state = load_file(root / 'adapter.safetensors')
    for number, name in enumerate(base.attn_processors):
        before, after = (unet.get_submodule(name.removesuffix('.processor')) for unet in (base, changed))
        for part in ('q', 'k', 'v', 'out'):
            linear = [layer.to_out[0] if part == 'out' else getattr(layer, f'to_{part}') for layer in (before, after)]
            x = torch.randn(3, linear[0].in_features)
            key = f'ip_adapter.{number}.to_{part}_lora.'
            lora = x @ state[f'{key}down.weight'].T @ state[f'{key}up.weight'].T
            torch.testing.assert_close(linear[1](x), linear[0](x) + lora, rtol=1e-4, atol=1e-5)


def test_bin_and_safetensors_give_the_same_weights(root, tmp_path):
    state = load_file(root / 'adapter.safetensors')
    nested: dict = {'image_proj': {}, 'ip_adapter': {}}
    for key, value in state.items():
        part, name = key.split('.', 1)
        nested[part][name] = value
    torch.save(nested, tmp_path / 'adapter.bin')
    unets = [fresh_unet(root), fresh_unet(root)]
    files = (root / 'adapter.safetensors', tmp_path / 'adapter.bin')
    one, other = (load_adapter(unet, file, True) for unet, file in zip(unets, files, strict=True))
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(unets[0].state_dict(), unets[1].state_dict(), rtol=0, atol=0)


def test_strict_loading_names_the_key(root, tmp_path):
    state = load_file(root / 'adapter.safetensors')
    file, some = tmp_path / 'a.safetensors', 'ip_adapter.1.to_k_ip.weight'

    def refused(changed: dict, words: str) -> None:
        save_file(changed, file)
        with pytest.raises(CheckpointError, match=words):
            load_adapter(fresh_unet(root), file, True)

    refused({key: value for key, value in state.items() if key != some}, f'1 missing .*{some}')
    refused({**state, 'ip_adapter.0.odd': torch.ones(1)}, r'1 unexpected .*ip_adapter\.0\.odd')
    refused({**state, some: torch.ones(2, 2)}, f'1 of another shape .*{some}')
    half = 'ip_adapter.0.to_q_lora.up.weight'
    refused({key: value for key, value in state.items() if key != half}, 'no counterpart')
    refused({'image_proj.latents': torch.ones(1)}, 'IP-Adapter Plus for images')
    wide = FaceIDProjection(128, VECTOR, 32)
    refused(adapter_state(wide, []), 'tokens of 128 numbers, and the U-Net takes 64')


def test_day_0_and_after(prior):
    control = control_of(prior)
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    plain = prior.eps(z, t)
    faces = torch.rand(2, 3, 64, 64) * 2 - 1
    for x in (faces, -faces):
        assert torch.equal(prior.eps(z, t, control(z, t, control.condition_of(x), prior.text)), plain)
    assert torch.equal(control.control.conv_in.weight[:, :4], prior.unet.conv_in.weight)
    before = {key: value.clone() for key, value in prior.state_dict().items()}
    optimizer = torch.optim.AdamW(control.parameters(), lr=1e-2)
    for step in range(3):
        optimizer.zero_grad()
        noisy = draw_noise(prior, z)
        content_loss(prior, control, noisy, control.condition_of(faces)).backward()
        if step == 2:
            assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in control.parameters())
        optimizer.step()
    results = [prior.eps(z, t, control(z, t, control.condition_of(x), prior.text)) for x in (faces, -faces)]
    assert not torch.equal(*results) and not torch.equal(results[0], plain)
    assert all(value.grad is None for value in prior.parameters())
    torch.testing.assert_close(prior.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(('condition', 'channels'), [('pixel', 3), ('latent', 4), ('unshuffle', 192)])
def test_conditions(prior, condition, channels, tmp_path):
    control = trained(control_of(prior, condition))
    assert control.condition_channels == channels
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    shown = prior.encode(x) if condition == 'latent' else control.condition_of(x)
    assert shown.shape == (1, channels, 8, 8)
    save_atomic({'params': control.state_dict(), 'network': control.options}, tmp_path / 'net.pth')
    other = load_network(tmp_path / 'net.pth')
    z, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    torch.testing.assert_close(other(z, t, shown, prior.text), control(z, t, shown, prior.text), rtol=0, atol=0)


def test_unipc_with_the_true_noise_returns_the_latents(prior):
    latents, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    steps = []

    def oracle(z, t):
        steps.append(int(t))
        alpha = prior.alphas[int(t)]
        return (z - alpha.sqrt() * latents) / (1 - alpha).sqrt()

    start = prior.add_noise(latents, noise, torch.tensor([999, 999]))
    torch.testing.assert_close(sample(oracle, prior.alphas, start, 20), latents, rtol=0, atol=1e-5)
    assert steps[0] == 999 and len(steps) == 20 and steps == sorted(steps, reverse=True)
    steps.clear()
    torch.testing.assert_close(sample(oracle, prior.alphas, noise, 20, latents, 0.5), latents, rtol=0, atol=1e-5)
    assert len(steps) == 10 and 400 < steps[0] < 600
    assert torch.equal(draw_start((4, 8, 8), 3, 5)[2], draw_start((4, 8, 8), 1, 5)[0])
    with pytest.raises(RuntimeError, match='not finite at step 1 of 2'):
        sample(lambda z, t: z / 0, prior.alphas, noise, 2)


def test_alphas_are_those_of_diffusers(root, prior):
    from diffusers import DDPMScheduler

    config = json.loads((root / 'scheduler' / 'scheduler_config.json').read_text())
    torch.testing.assert_close(prior.alphas, DDPMScheduler.from_config(config).alphas_cumprod)


def test_masks_strengths_and_mixed_batches(prior):
    z, t = torch.randn(2, 4, 8, 8), torch.tensor([700, 100])
    told = identity(prior, 2, references=2)
    blind = prior.eps(z, t)
    both = prior.eps(z, t, identity=told)
    assert (both - blind).abs().max() > 1e-3
    assert torch.equal(prior.eps(z, t, identity=told.scaled(0)), blind)
    first = Tokens(told.tokens[:, :4], told.mask[:, :4], told.strength)
    masked = told._replace(mask=told.mask.clone().index_fill_(1, torch.arange(4, 8), False))
    one = prior.eps(z, t, identity=first)
    torch.testing.assert_close(prior.eps(z, t, identity=masked), one, rtol=0, atol=1e-5)
    twice = first._replace(tokens=first.tokens.repeat(1, 2, 1), mask=first.mask.repeat(1, 2))
    torch.testing.assert_close(prior.eps(z, t, identity=twice), one, rtol=0, atol=1e-5)
    turned = told._replace(tokens=told.tokens.roll(4, 1))
    torch.testing.assert_close(prior.eps(z, t, identity=turned), both, rtol=0, atol=1e-5)
    nobody = told._replace(mask=told.mask & torch.tensor([[True], [False]]))
    mixed = prior.eps(z, t, identity=nobody)
    torch.testing.assert_close(mixed, torch.stack([both[0], blind[1]]), rtol=0, atol=1e-5)
    alone = prior.eps(z[:1], t[:1], identity=told[:1])
    torch.testing.assert_close(alone, both[:1], rtol=0, atol=1e-5)


def test_alignment_is_the_written_out_sum(prior):
    control = trained(control_of(prior))
    noisy = draw_noise(prior, torch.randn(3, 4, 8, 8))
    assert isinstance(noisy, Noisy)
    condition = control.condition_of(torch.rand(3, 3, 64, 64) * 2 - 1)
    first, second = identity(prior, 3, seed=1), identity(prior, 3, seed=2)
    second = second.scaled(torch.tensor([1.0, 1.0, 0.0]))  # the third face has one reference only
    found = alignment_losses(prior, control, noisy, condition, first, second)
    one, other = (
        prior.eps(noisy.z, noisy.t, control(noisy.z, noisy.t, condition, prior.text), who) for who in (first, second)
    )
    diffusion = ((one - noisy.noise).square().mean() + (other - noisy.noise).square().mean()) / 2
    torch.testing.assert_close(found.diffusion, diffusion)
    torch.testing.assert_close(found.align, (one - other)[:2].square().mean())
    assert set(found.gap) <= {f'eps_gap_{number}' for number in range(1, 5)} and found.gap
    same = alignment_losses(prior, control, noisy, condition, first, first)
    assert same.align.item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ('part', 'change', 'words'),
    [
        ('scheduler/scheduler_config.json', {'prediction_type': 'v_prediction'}, 'v_prediction'),
        ('unet/config.json', {'in_channels': 9}, 'cannot be loaded|takes 9 channels'),
        ('vae', None, 'vae.config.json: missing'),
        ('unet/diffusion_pytorch_model.safetensors', None, 'no .safetensors file'),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(root, tmp_path, part, change, words):
    copy = tmp_path / 'root'
    shutil.copytree(root, copy)
    if change is None:
        shutil.rmtree(copy / part) if (copy / part).is_dir() else (copy / part).unlink()
    else:
        (copy / part).write_text(json.dumps({**json.loads((copy / part).read_text()), **change}))
    with pytest.raises(CheckpointError, match=words):
        DiffusionPrior(copy)


def test_a_plus_adapter_says_what_it_needs(root, tmp_path):
    save_file(load_file(root / 'adapter.safetensors'), tmp_path / 'silent.safetensors')
    with pytest.raises(CheckpointError, match='state shortcut'):
        DiffusionPrior(root, tmp_path / 'silent.safetensors', root / 'image_encoder')
    with pytest.raises(CheckpointError, match='give its CLIP image encoder'):
        DiffusionPrior(root, root / 'adapter.safetensors', shortcut=True)


def test_latents_of_an_autoencoder_of_this_project():
    class Rotated(torch.nn.Module):
        img_size, latent_side = 32, 8

        def to_input(self, x):
            return x

    rows = torch.randn(500, 8) @ torch.diag(torch.tensor([5.0, 4, 3, 2, 1.5, 1.2, 1.1, 1]))
    features = (torch.cat([rows, rows], 1) + 3).reshape(5, 10, 10, 16).permute(0, 3, 1, 2)
    found = basis(features)
    network = Rotated()
    network.encoder = network.generator = torch.nn.Identity()
    codec = VQCodec(network, found['mean'], found['down'], found['up'], patch=2)
    latents = codec.encode(features)
    assert latents.shape == (5, 32, 5, 5)
    assert latents.square().mean().item() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(codec.decode(latents), features, rtol=0, atol=1e-4)


def test_residuals_repeat_and_scale():
    residuals = Residuals([torch.arange(2.0).view(2, 1, 1, 1)])
    assert residuals.repeated(2)[0].flatten().tolist() == [0, 1, 0, 1]
    assert residuals.scaled(3)[0].flatten().tolist() == [0, 3]


def test_without_diffusers_all_else_works(tmp_path):
    """The package is hidden: importing ours costs nothing of it, and what needs it names the extra."""
    code = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('diffusers', 'transformers'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Hidden())
import basicsr.archs, basicsr.losses.noise_loss, basicsr.inference.diffusion_restorer
from basicsr.archs import build_network
try:
    build_network({'type': 'ContentControl', 'unet': {}})
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == 'this needs the package diffusers: pip install "id-codeformer[diffusion]"', (
        done.stderr
    )
