"""The networks against figures of the published ones: keys, shapes, outputs, losses and gradients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from drawing import fill, image
from torch import Tensor, nn

from basicsr.archs import build_network
from basicsr.losses.basic_loss import code_cross_entropy, code_feature_loss

GOLDEN = json.loads((Path(__file__).parents[1] / 'golden' / 'golden.json').read_text())
SHAPES = json.loads((Path(__file__).parents[1] / 'golden' / 'state_dict_shapes.json').read_text())
VQGAN = {'type': 'VQAutoEncoder', 'img_size': 512, 'nf': 64, 'ch_mult': [1, 2, 2, 4, 4, 8], 'quantizer': 'nearest'}
OPTIONS = {
    'VQAutoEncoder(img_size=512,nf=64,ch_mult=[1,2,2,4,4,8],quantizer=nearest,codebook_size=1024)': VQGAN,
    'VQGANDiscriminator(nc=3,ndf=64,n_layers=4)': {'type': 'VQGANDiscriminator'},
    'CodeFormer(dim_embd=512,n_head=8,n_layers=9,codebook_size=1024,latent_size=256,connect_list=[32,64,128,256])': {
        'type': 'CodeFormer'
    },
    'CodeFormer(dim_embd=256,n_layers=3,codebook_size=512,connect_list=[64,256])': {
        'type': 'CodeFormer',
        'dim_embd': 256,
        'n_layers': 3,
        'codebook_size': 512,
        'connect_list': ['64', '256'],
    },
}


@pytest.fixture(scope='module')
def codeformer() -> nn.Module:
    """The published network, of which stage II trains the encoder and the Transformer."""
    network = build_network({'type': 'CodeFormer', 'fix_modules': ['quantize', 'generator', 'fuse_convs_dict']})
    return fill(network.to(memory_format=torch.channels_last))  # the layout that is computed fastest


@pytest.fixture(scope='module')
def autoencoder(codeformer) -> nn.Module:
    """The published autoencoder; what is drawn for a key of both networks is alike, and drawn once."""
    network = build_network(VQGAN).eval().to(memory_format=torch.channels_last)
    network.load_state_dict({key: codeformer.state_dict()[key] for key in network.state_dict()})
    return network


def picture(seed: int) -> Tensor:
    """A picture in the layout of the networks."""
    return image(seed).to(memory_format=torch.channels_last)


def assert_matches(tensor: Tensor, figures: dict) -> None:
    """2e-4 relative to the largest value: the 64 sampled values, mean and deviation."""
    tensor = tensor.detach().double().flatten()
    tolerance = 2e-4 * figures['absmax']
    assert tensor.numel() == figures['numel']
    at = torch.tensor([int(index) for index in figures['at']])
    torch.testing.assert_close(tensor[at], torch.tensor(list(figures['at'].values())).double(), rtol=0, atol=tolerance)
    for name in ('mean', 'std'):
        assert getattr(tensor, name)().item() == pytest.approx(figures[name], abs=tolerance)


@pytest.mark.parametrize('name', SHAPES)
def test_keys_and_shapes_are_the_published_ones(name):
    with torch.device('meta'):
        network = build_network(OPTIONS[name])
    assert {key: list(value.shape) for key, value in network.state_dict().items()} == SHAPES[name]


@torch.inference_mode()
def test_autoencoder_equals_published(autoencoder):
    golden = GOLDEN['vqgan']
    recon, loss, stats = autoencoder(picture(golden['image_seed']))
    assert_matches(recon, golden['recon'])
    assert loss.item() == pytest.approx(golden['codebook_loss'], rel=2e-4)
    assert stats['perplexity'].item() == pytest.approx(golden['perplexity'], rel=2e-4)
    assert stats['mean_distance'].item() == pytest.approx(golden['mean_distance'], rel=2e-4)
    assert stats['min_encoding_indices'].flatten()[: len(golden['indices'])].tolist() == golden['indices'] or (
        stats['min_encoding_indices'].flatten()[:: 256 // len(golden['indices'])].tolist() == golden['indices']
    )


@torch.inference_mode()
def test_discriminator_equals_published():
    golden = GOLDEN['discriminator_eval']
    network = fill(build_network({'type': 'VQGANDiscriminator'})).eval()
    assert_matches(network(image(golden['image_seed'])), golden['out'])


@torch.inference_mode()
@pytest.mark.parametrize('name', ['codeformer_w0', 'codeformer_w0.8_adain'])
def test_codeformer_equals_published(name, codeformer):
    golden = GOLDEN[name]
    out, logits, lq_feat = codeformer.eval()(picture(golden['image_seed']), w=golden['w'], adain=golden['adain'])
    assert_matches(out, golden['out'])
    assert_matches(logits, golden['logits'])
    assert_matches(lq_feat, golden['lq_feat'])


def test_stage2_losses_and_gradients_equal_published(codeformer, autoencoder):
    golden = GOLDEN['stage2_step']
    network = codeformer.train()
    with torch.no_grad():
        quant, _, stats = autoencoder.quantize(autoencoder.encoder(picture(golden['image_seed_gt'])))
    logits, lq_feat = network(picture(golden['image_seed_in']), code_only=True)
    feature_loss = code_feature_loss(lq_feat, quant)
    entropy = code_cross_entropy(logits, stats['min_encoding_indices'].view(1, -1))
    assert feature_loss.item() == pytest.approx(golden['l_feat_encoder'], rel=2e-4)
    # The published option weighs the cross entropy by 0.5.
    assert 0.5 * entropy.item() == pytest.approx(golden['cross_entropy_loss'], rel=2e-4)
    (feature_loss + 0.5 * entropy).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert len(gradients) == golden['n_grads']
    assert sorted({name.split('.')[0] for name in gradients}) == golden['trainable']
    for name, norm in golden['grad_norm'].items():
        assert gradients[name].norm().item() == pytest.approx(norm, rel=2e-4), name
