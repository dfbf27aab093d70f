"""Deep metric loss of CodeFormer++: the hard positive, the triplets in closed form, and where gradients go."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from drawing import image
from small_recognizer import save_tiny, smooth_faces
from torch import nn

from basicsr.faces.geometry import ffhq_template
from basicsr.losses import DeepMetricLoss, build_loss
from basicsr.losses.metric_loss import component_mask, hard_positive, low_frequencies


class Pixels(nn.Module):
    """A stand-in for VGG: the picture itself as the only feature."""

    def forward(self, x):
        return {'pixels': x * 2 - 1}


@pytest.fixture
def loss(vgg):
    built = DeepMetricLoss(loss_weight=2.0, weights=vgg, margin=0.3)
    object.__setattr__(built, 'teacher', Pixels())
    return built


def faces(*vectors) -> list[torch.Tensor]:
    """Pictures of one colour (1,3,8,8)."""
    return [torch.tensor(vector, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 8, 8) for vector in vectors]


# ---- I_AP


@pytest.mark.parametrize('size', [64, 192])
def test_the_mask_is_symmetrical_and_covers_the_components(size):
    mask = component_mask(size)
    assert mask.shape == (1, 1, size, size) and mask.min() >= 0 and mask.max() <= 1
    torch.testing.assert_close(mask, mask.flip(3))
    x, y = torch.from_numpy(ffhq_template(size)).round().long().T
    assert (mask[0, 0, y, x] > 0.5).all()  # the corners of the mouth are the farthest from a centre
    assert mask[0, 0, 0].max() < 1e-6 and mask[0, 0, -1].max() < 1e-6


def test_the_mask_follows_landmarks():
    template = torch.from_numpy(ffhq_template(64)).float()
    moved = torch.stack([template, template + torch.tensor([4.0, -2.0])])
    masks = component_mask(64, moved)
    torch.testing.assert_close(masks[:1], component_mask(64), rtol=0, atol=0.06)
    torch.testing.assert_close(masks[1:], masks[:1].roll((-2, 4), (2, 3)), rtol=0, atol=1e-4)


def test_the_hard_positive_has_the_components_of_one_and_the_texture_of_the_other():
    coarse = torch.rand(4, 3, 3, 3) * 2 - 1
    faithful, other = F.interpolate(coarse, size=(64, 64), mode='bicubic').split(2)
    noise = 0.2 * torch.randn(2, 3, 64, 64)
    warped = 0.5 * other + 0.4 + noise
    assert torch.equal(hard_positive(faithful, warped, torch.ones(1, 1, 64, 64)), faithful)
    textured = hard_positive(faithful, warped, torch.zeros(1, 1, 64, 64))
    left, before = ((x - noise - faithful).abs().mean() for x in (textured, warped))
    assert left < 0.05 < 0.4 < before


def test_the_hard_positive_of_mirrored_faces_is_mirrored():
    faithful, warped = image(1, 2, 64), image(2, 2, 64)
    mask = component_mask(64)
    positive = hard_positive(faithful, warped, mask)
    torch.testing.assert_close(hard_positive(faithful.flip(3), warped.flip(3), mask), positive.flip(3))
    assert not hard_positive(faithful.requires_grad_(), warped.requires_grad_(), mask).requires_grad


def test_low_frequencies_are_box_means():
    x = image(1, 1, 32)
    assert low_frequencies(x, 5)[0, 1, 10, 20].item() == pytest.approx(x[0, 1, 8:13, 18:23].mean().item(), abs=1e-6)
    constant = torch.full((1, 3, 32, 32), 0.3)
    torch.testing.assert_close(low_frequencies(constant, 5), constant)


# ---- triplets


def test_texture_triplet_in_closed_form(loss):
    red, green, mixed = faces([1, 0, 0], [0, 1, 0], [1, 1, 0])
    cosine = 0.5**0.5  # of mixed with either
    terms = loss(mixed, gt=red, faithful=green, generated=red, positive=mixed)
    assert terms.texture.item() == pytest.approx(2 * ((1 - cosine) - (1 - cosine) + 0.3), abs=1e-5)
    assert terms.identity is None and terms.texture_active == 1
    terms = loss(red, gt=red, faithful=green, generated=red, positive=mixed)
    assert terms.texture.item() == 0 and terms.texture_active == 0  # 0.29 - 1 + 0.3 is past the margin


def test_the_harder_positive_and_the_nearest_negative_count(loss):
    red, green, mixed, odd = faces([1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0.2, 0])
    one = loss(odd, gt=red, faithful=odd, generated=red, positive=mixed).texture
    assert one.item() == loss(odd, gt=mixed, faithful=odd, generated=red, positive=red).texture.item()
    distance = 1 - F.cosine_similarity(odd, mixed).mean().item()
    assert distance > 1 - F.cosine_similarity(odd, red).mean().item()
    assert one.item() == pytest.approx(2 * (distance + 0.3), abs=1e-5)
    loss.negatives = ('I_F', 'I_G')
    both = loss(odd, gt=red, faithful=green, generated=odd, positive=mixed).texture
    assert both.item() == pytest.approx(one.item(), abs=1e-5)


def test_hinges_are_taken_for_each_face(loss):
    """One face past the margin does not pay for another."""
    red, green = faces([1, 0, 0], [0, 1, 0])
    batch = [torch.cat(pair) for pair in ((red, red), (red, green), (green, red), (red, red), (red, green))]
    terms = loss(*batch)
    assert terms.texture.item() == pytest.approx(2 * (0 + 1 - 0 + 0.3) / 2, abs=1e-5)
    assert terms.texture_active == 0.5


def test_only_the_restored_face_gets_a_gradient(vgg):
    given = [image(seed, 1, 32).requires_grad_() for seed in range(5)]
    DeepMetricLoss(weights=vgg, margin=1.0)(*given).texture.backward()
    assert given[0].grad.any() and all(face.grad is None for face in given[1:])


def test_at_day_0_the_pull_alone_moves_the_face(vgg):
    """The anchor is I_F then, where the push away from I_F has no gradient."""
    loss = DeepMetricLoss(weights=vgg, margin=0.05)
    faithful, gt = image(1, 1, 32), image(2, 1, 32)

    def gradient(gt, positive):
        output = faithful.clone().requires_grad_()
        loss(output, gt, faithful, faithful, positive).texture.backward()
        return output.grad.norm().item()

    pull, push = gradient(gt, gt), gradient(faithful, faithful)
    assert push < 1e-4 * pull


def test_identity_triplet_in_closed_form(vgg, tmp_path):
    path = save_tiny(tmp_path / 'recognizer.pth')
    loss = DeepMetricLoss(weights=vgg, id_recognizer=path, id_weight=3.0, id_margin=0.4, loss_weight=0.5)
    output, gt, generated = smooth_faces(3, 64).split(1)
    terms = loss(output, gt, gt, generated, gt)
    embed = loss.identity.embedder
    cosines = [(embed(output) * embed(other)).sum().item() for other in (generated, gt)]
    assert terms.identity.item() == pytest.approx(0.5 * 3.0 * max(0, cosines[0] - cosines[1] + 0.4), abs=1e-5)
    assert loss(gt, gt, gt, gt, gt).identity.item() == pytest.approx(0.5 * 3.0 * 0.4, abs=1e-5)
    assert not list(loss.parameters()) and not loss.state_dict()


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ({'margin': 3}, "'margin' is 3"),
        ({'id_margin': -1}, "'id_margin' is -1"),
        ({'id_weight': -1}, '0 or more'),
        ({'negatives': ['I_E']}, "unknown negative 'I_E'"),
        ({'negatives': []}, 'one or more'),
        ({'layers': ['relu1_3']}, "no layer 'relu1_3'"),
    ],
)
def test_losses_that_cannot_be(arguments, words, vgg):
    with pytest.raises(ValueError, match=words):
        build_loss({'type': 'DeepMetricLoss', 'weights': str(vgg), **arguments})
