"""The projected discriminator: what it judges, what is trained, and that it learns."""

from __future__ import annotations

import pytest
import torch
from backbones import backbone_state
from small import make_faces

from basicsr.archs import build_network
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.image import imread, to_tensor


@pytest.fixture(scope='module')
def options(tmp_path_factory):
    """Return options with the first layers of a VGG16 of drawn weights, up to relu4_3."""
    path = tmp_path_factory.mktemp('backbones') / 'vgg16.pth'
    torch.save(backbone_state('vgg16', 23), path)
    return {'type': 'ProjectedDiscriminator', 'ndf': 8, 'n_layers': 2, 'width': 8, 'weights': str(path)}


@pytest.mark.parametrize('share', [0.5, 0.7])
def test_features_have_their_share_of_the_logits(options, share):
    network = build_network({**options, 'feature_share': share})
    patches = build_network({'type': 'VQGANDiscriminator', 'ndf': 8, 'n_layers': 2})
    image = torch.rand(2, 3, 96, 96) * 2 - 1
    pixels = patches(image)[0].numel()
    features = 12**2 + 12**2 + 6**2  # at 48 pixels: 24 pooled to 12, 12, and 6 a side
    logits = network(image)
    repeats = (logits.shape[1] - pixels) / features
    assert repeats == round(share / (1 - share) * pixels / features)
    assert (logits.shape[1] - pixels) / logits.shape[1] == pytest.approx(share, abs=0.1)


def test_the_pretrained_network_is_frozen_and_in_no_state_dict(options):
    network = build_network(options)
    assert not any(key.startswith('features') for key in network.state_dict())
    assert not any(p.requires_grad for p in network.features.parameters())
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    network(image).mean().backward()
    assert image.grad is not None and image.grad.abs().sum() > 0
    assert network.to(torch.float64).features.mean.dtype == torch.float64  # it follows the network


def test_structure_alone_is_learnt_from_the_heads(options, tmp_path):
    torch.manual_seed(0)
    real = torch.stack([to_tensor(imread(path)) for path in sorted(make_faces(tmp_path, 4).iterdir())])
    fake = real.flip(2)  # the same texture, upside down
    network = build_network(options)
    heads = [p for key, p in network.named_parameters() if key.startswith('heads.')]
    optimizer = torch.optim.Adam(heads, 1e-2)

    def gap() -> torch.Tensor:
        return network(real).mean() - network(fake).mean()

    before = gap().item()
    for _ in range(30):
        optimizer.zero_grad()
        (-gap()).backward()
        optimizer.step()
    assert gap().item() > before + 0.1


def test_weights_are_required(options):
    with pytest.raises(CheckpointError, match='needs pretrained weights'):
        build_network({key: value for key, value in options.items() if key != 'weights'})


def test_a_share_of_all_or_none_is_an_error(options):
    for share in (0, 1):
        with pytest.raises(ValueError, match='feature_share'):
            build_network({**options, 'feature_share': share})
