"""Losses: closed forms, gradients, and frozen teachers that stay out of the way."""

from __future__ import annotations

import math
from pathlib import Path

import lpips
import pytest
import torch
import torch.nn.functional as F
from backbones import backbone_state
from safetensors.torch import save_file
from torch import Tensor

from basicsr.archs.vgg_arch import IMAGENET_MEAN, IMAGENET_STD, vgg_layer_names
from basicsr.losses import adaptive_disc_weight, build_loss, code_cross_entropy, code_feature_loss
from basicsr.losses.gan_loss import GAN_TYPES
from basicsr.utils.checkpoint import CheckpointError

LAYERS = {'conv1_2': 0.5, 'relu2_2': 2.0}  # the deepest is layer 8 of 37


@pytest.fixture(scope='session')
def vgg19(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of a random VGG19, as far as `LAYERS` needs them."""
    path = tmp_path_factory.mktemp('backbones') / 'vgg19.pth'
    torch.save(backbone_state('vgg19', 9), path)
    return path


@pytest.fixture(scope='session')
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random AlexNet."""
    path = tmp_path_factory.mktemp('backbones') / 'alexnet.pth'
    torch.save(backbone_state('alexnet', 13), path)
    return path


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Two batches of pictures in [-1, 1]; the first wants a gradient, and the second would take one."""
    a, b = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    return a.requires_grad_(), b.requires_grad_()


# ---- pixel losses


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'none'])
@pytest.mark.parametrize(
    ('kind', 'elements'),
    [('L1Loss', [1.0, 0.0, 2.0]), ('MSELoss', [1.0, 0.0, 4.0]), ('CharbonnierLoss', [1.0, 0.0, 2.0])],
)
def test_pixel_losses_closed_form(kind: str, elements: list[float], reduction: str) -> None:
    loss = build_loss({'type': kind, 'loss_weight': 3.0, 'reduction': reduction})
    result = loss(torch.tensor([1.0, 5.0, -1.0]), torch.tensor([0.0, 5.0, 1.0]))
    expected = {'mean': sum(elements) / 3, 'sum': sum(elements), 'none': elements}[reduction]
    torch.testing.assert_close(result, 3.0 * torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_charbonnier_is_smooth_at_zero() -> None:
    x = torch.zeros(4, requires_grad=True)
    loss = build_loss({'type': 'CharbonnierLoss', 'eps': 0.04})(x, torch.zeros(4))
    loss.backward()
    assert loss.item() == pytest.approx(0.2)
    assert torch.equal(x.grad, torch.zeros(4))


def test_pixel_loss_does_not_broadcast() -> None:
    with pytest.raises(ValueError, match=r'shapes \(2, 3\) and \(3,\) differ'):
        build_loss({'type': 'L1Loss'})(torch.zeros(2, 3), torch.zeros(3))


def test_unknown_names_name_the_nearest() -> None:
    with pytest.raises(KeyError, match=r"unknown loss 'L1Los' \(did you mean 'L1Loss'"):
        build_loss({'type': 'L1Los'})
    with pytest.raises(ValueError, match=r"'means' \(did you mean 'mean'"):
        build_loss({'type': 'L1Loss', 'reduction': 'means'})
    with pytest.raises(ValueError, match=r"'hinges' \(did you mean 'hinge'"):
        build_loss({'type': 'GANLoss', 'gan_type': 'hinges'})


# ---- adversarial losses


def expected_gan(gan_type: str, d: Tensor, real: bool, is_disc: bool) -> Tensor:
    """The formulas, written a second time."""
    if gan_type == 'vanilla':
        return -(torch.sigmoid(d) if real else 1 - torch.sigmoid(d)).log().mean()
    if gan_type == 'lsgan':
        return ((d - (1 if real else 0)) ** 2).mean()
    if gan_type == 'wgan':
        return -d.mean() if real else d.mean()
    if gan_type == 'wgan_softplus':
        return (1 + torch.exp(-d if real else d)).log().mean()
    if is_disc:
        return torch.clamp(1 - d if real else 1 + d, min=0).mean()
    return -d.mean()


@pytest.mark.parametrize('is_disc', [True, False])
@pytest.mark.parametrize('real', [True, False])
@pytest.mark.parametrize('gan_type', GAN_TYPES)
def test_gan_formulas_and_weight(gan_type: str, real: bool, is_disc: bool) -> None:
    d = torch.tensor([[-2.0, -0.3], [0.4, 1.5]])
    loss = build_loss({'type': 'GANLoss', 'gan_type': gan_type, 'loss_weight': 0.25})(d, real, is_disc=is_disc)
    weight = 1.0 if is_disc else 0.25
    torch.testing.assert_close(loss, weight * expected_gan(gan_type, d, real, is_disc))


@pytest.mark.parametrize('gan_type', GAN_TYPES)
def test_gan_gradients_point_the_right_way(gan_type: str) -> None:
    """A step against the gradient raises D on what is to be real, and lowers it on what is to be fake."""
    loss = build_loss({'type': 'GANLoss', 'gan_type': gan_type})
    for real, is_disc, sign in [(True, True, -1), (False, True, 1), (True, False, -1)]:
        d = torch.tensor([0.1, 0.5], requires_grad=True)
        loss(d, real, is_disc=is_disc).backward()
        assert torch.equal(d.grad.sign(), torch.full((2,), float(sign)))


def test_gan_labels_are_options() -> None:
    loss = build_loss({'type': 'GANLoss', 'gan_type': 'lsgan', 'real_label_val': 0.9, 'fake_label_val': 0.1})
    assert loss(torch.full((3,), 0.9), True).item() == 0
    assert loss(torch.full((3,), 0.1), False).item() == 0


# ---- codes and the adaptive weight


def test_code_feature_loss_moves_only_the_encoder() -> None:
    feat, quant = torch.randn(2, 2, 4, 3, 3)
    feat.requires_grad_()
    quant.requires_grad_()
    loss = code_feature_loss(feat, quant)
    loss.backward()
    torch.testing.assert_close(loss, ((quant - feat) ** 2).mean())
    torch.testing.assert_close(feat.grad, 2 * (feat - quant).detach() / feat.numel())
    assert quant.grad is None


def test_code_cross_entropy_closed_form() -> None:
    logits = torch.randn(2, 5, 7)
    codes = torch.randint(7, (2, 5))
    by_hand = -torch.stack([logits[n, p].softmax(0)[codes[n, p]].log() for n in range(2) for p in range(5)]).mean()
    torch.testing.assert_close(code_cross_entropy(logits, codes), by_hand)
    torch.testing.assert_close(code_cross_entropy(torch.zeros(2, 5, 7), codes), torch.tensor(math.log(7)))


def test_adaptive_weight_is_the_clamped_ratio_of_gradient_norms() -> None:
    layer = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    recon = (layer * torch.tensor([3.0, 4.0])).sum()  # gradient norm 5
    gan = (layer * torch.tensor([0.0, 20.0])).sum()  # gradient norm 20
    weight = adaptive_disc_weight(recon, gan, layer)
    assert weight.item() == pytest.approx(5 / (20 + 1e-4))
    assert not weight.requires_grad
    assert layer.grad is None
    assert adaptive_disc_weight(gan, recon, layer).item() == 1.0
    assert adaptive_disc_weight(gan, recon, layer, disc_weight_max=10).item() == pytest.approx(20 / (5 + 1e-4))
    (recon + weight * gan).backward()  # both graphs are still there
    torch.testing.assert_close(layer.grad, torch.tensor([3.0, 4.0 + weight.item() * 20]))


# ---- perceptual loss


def reference_features(path: Path, x: Tensor) -> dict[str, Tensor]:
    """`conv1_2` and `relu2_2` of the network in `path`, written out; `x` is normalised."""
    state = torch.load(path, weights_only=True)

    def conv(index: int, x: Tensor) -> Tensor:
        return F.conv2d(x, state[f'features.{index}.weight'], state[f'features.{index}.bias'], padding=1)

    conv1_2 = conv(2, conv(0, x).relu())
    pooled = F.max_pool2d(conv1_2.relu(), 2)
    return {'conv1_2': conv1_2, 'relu2_2': conv(7, conv(5, pooled).relu()).relu()}


def normalised(x: Tensor) -> Tensor:
    return (x - torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1)) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1)


def test_vgg_layer_names_are_the_published_ones() -> None:
    names = vgg_layer_names('vgg19')
    assert names[:6] == ['conv1_1', 'relu1_1', 'conv1_2', 'relu1_2', 'pool1', 'conv2_1']
    assert (names.index('conv5_4'), names.index('pool5'), len(names)) == (34, 36, 37)
    assert 'conv3_4' not in vgg_layer_names('vgg16')


def test_perceptual_and_style_closed_form(vgg19: Path, pair: tuple[Tensor, Tensor]) -> None:
    opt = {'type': 'PerceptualLoss', 'layer_weights': LAYERS, 'weights': str(vgg19), 'range_norm': True}
    percep, style = build_loss(opt | {'perceptual_weight': 0.1, 'style_weight': 10.0})(*pair)
    ours, theirs = (reference_features(vgg19, normalised((x + 1) / 2)) for x in pair)
    by_hand = sum(k * (ours[name] - theirs[name]).abs().mean() for name, k in LAYERS.items())
    torch.testing.assert_close(percep, 0.1 * by_hand)

    def gram(f: Tensor) -> Tensor:
        return torch.einsum('nchw,ndhw->ncd', f, f) / f[0].numel()

    by_hand = sum(k * (gram(ours[name]) - gram(theirs[name])).abs().mean() for name, k in LAYERS.items())
    torch.testing.assert_close(style, 10.0 * by_hand)


@pytest.mark.parametrize(
    ('criterion', 'distance'),
    [
        ('l2', lambda d: (d**2).mean()),
        ('mse', lambda d: (d**2).mean()),
        ('fro', lambda d: (d**2).sum().sqrt()),
    ],
)
def test_perceptual_criteria(vgg19: Path, pair: tuple[Tensor, Tensor], criterion: str, distance) -> None:
    loss = build_loss(
        {'type': 'PerceptualLoss', 'layer_weights': {'conv1_2': 1}, 'criterion': criterion, 'weights': vgg19}
        | {'use_input_norm': False}
    )
    ours, theirs = (reference_features(vgg19, x)['conv1_2'] for x in pair)
    torch.testing.assert_close(loss(*pair)[0], distance(ours - theirs), rtol=1e-4, atol=0)


def test_perceptual_zero_weights_give_none(vgg19: Path, pair: tuple[Tensor, Tensor]) -> None:
    opt = {'type': 'PerceptualLoss', 'layer_weights': LAYERS, 'weights': vgg19}
    assert build_loss(opt)(*pair)[1] is None
    percep, style = build_loss(opt | {'perceptual_weight': 0, 'style_weight': 1.0})(*pair)
    assert percep is None
    assert style > 0


def test_perceptual_input_scale_shrinks_by_area(vgg19: Path, pair: tuple[Tensor, Tensor]) -> None:
    opt = {'type': 'PerceptualLoss', 'layer_weights': LAYERS, 'weights': vgg19}
    halves = [x.unflatten(3, (32, 2)).unflatten(2, (32, 2)).mean(dim=(3, 5)) for x in pair]
    torch.testing.assert_close(build_loss(opt | {'input_scale': 0.5})(*pair)[0], build_loss(opt)(*halves)[0])
    with pytest.raises(ValueError, match="'input_scale' is 2"):
        build_loss(opt | {'input_scale': 2})


def test_perceptual_builds_no_layer_beyond_the_deepest(vgg19: Path) -> None:
    state = torch.load(vgg19, weights_only=True)
    loss = build_loss({'type': 'PerceptualLoss', 'layer_weights': LAYERS, 'weights': vgg19})
    assert sum(p.numel() for p in loss.teacher.parameters()) == sum(v.numel() for v in state.values())


def test_half_precision_and_safetensors_weights(vgg19: Path, tmp_path: Path, pair: tuple[Tensor, Tensor]) -> None:
    state = {key: value.half() for key, value in torch.load(vgg19, weights_only=True).items()}
    torch.save(state, tmp_path / 'half.pth')
    save_file(state, tmp_path / 'half.safetensors')
    opt = {'type': 'PerceptualLoss', 'layer_weights': LAYERS}
    full, *halves = (
        build_loss(opt | {'weights': path})(*pair)[0]
        for path in (vgg19, tmp_path / 'half.pth', tmp_path / 'half.safetensors')
    )
    assert torch.equal(*halves)
    torch.testing.assert_close(halves[0], full, rtol=1e-2, atol=0)


def test_perceptual_unknown_layer_names_the_nearest(vgg19: Path) -> None:
    with pytest.raises(ValueError, match=r"vgg19 has no layer 'conv12' \(did you mean 'conv1_2'"):
        build_loss({'type': 'PerceptualLoss', 'layer_weights': {'conv12': 1}, 'weights': vgg19})


def test_perceptual_loss_under_autocast_stays_float32(vgg19: Path, pair: tuple[Tensor, Tensor]) -> None:
    loss = build_loss({'type': 'PerceptualLoss', 'layer_weights': LAYERS, 'weights': vgg19})
    with torch.autocast('cpu', dtype=torch.bfloat16):
        result = loss(*pair)[0]
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, loss(*pair)[0], rtol=0.05, atol=0)


# ---- LPIPS


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained':UserWarning")
@pytest.mark.filterwarnings('ignore:Arguments other than a weight enum:UserWarning')
@pytest.mark.parametrize(('net', 'arch'), [('vgg', 'vgg16'), ('alex', 'alexnet'), ('squeeze', 'squeezenet1_1')])
def test_lpips_equals_the_package(net: str, arch: str, tmp_path: Path, pair: tuple[Tensor, Tensor]) -> None:
    state = backbone_state(arch, 100)
    torch.save(state, tmp_path / 'backbone.pth')
    ours = build_loss({'type': 'LPIPSLoss', 'use_input_norm': False, 'net': net, 'weights': tmp_path / 'backbone.pth'})
    package = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    slices = {key: state['features.' + key.split('.', 1)[1]] for key in package.net.state_dict()}
    package.net.load_state_dict(slices)
    theirs = package(*pair)
    result = ours(*pair)
    torch.testing.assert_close(result, theirs.mean(), rtol=1e-4, atol=1e-7)
    expected = torch.autograd.grad(theirs.mean(), pair[0])[0]
    torch.testing.assert_close(torch.autograd.grad(result, pair[0])[0], expected, rtol=1e-3, atol=1e-8)


def test_lpips_normalises_twice_only_where_the_key_says_so(alexnet: Path, pair: tuple[Tensor, Tensor]) -> None:
    """LPIPS normalises by itself; the published default of `use_input_norm` does it again. It must be a choice."""
    opt = {'type': 'LPIPSLoss', 'net': 'alex', 'weights': alexnet}
    once = build_loss(opt | {'use_input_norm': False})
    torch.testing.assert_close(build_loss(opt)(*pair), once(*map(normalised, pair)))
    torch.testing.assert_close(
        build_loss(opt | {'range_norm': True})(*pair), once(*(normalised((x + 1) / 2) for x in pair))
    )
    assert not torch.isclose(build_loss(opt)(*pair), once(*pair), rtol=0.01)


# ---- what holds for every loss with a teacher


@pytest.fixture(params=['PerceptualLoss', 'LPIPSLoss'])
def teacher_opt(request: pytest.FixtureRequest, vgg19: Path, alexnet: Path) -> dict:
    """Options of each loss that owns a teacher."""
    return {
        'PerceptualLoss': {'type': 'PerceptualLoss', 'layer_weights': LAYERS, 'weights': vgg19},
        'LPIPSLoss': {'type': 'LPIPSLoss', 'net': 'alex', 'weights': alexnet, 'loss_weight': 2.0},
    }[request.param]


def value(result: Tensor | tuple[Tensor, Tensor | None]) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


def test_zero_on_equal_pictures_and_gradient_to_the_first_only(teacher_opt: dict, pair: tuple[Tensor, Tensor]) -> None:
    loss = build_loss(teacher_opt)
    assert value(loss(pair[0], pair[0])).item() == 0
    result = value(loss(*pair))
    assert result > 0
    result.backward()
    assert pair[0].grad.abs().sum() > 0
    assert pair[1].grad is None
    assert all(p.grad is None for p in loss.teacher.parameters())


def test_teacher_is_no_part_of_its_owner(teacher_opt: dict) -> None:
    owner = torch.nn.ModuleDict({'net': torch.nn.Linear(2, 2), 'loss': build_loss(teacher_opt)})
    assert set(owner.state_dict()) == {'net.weight', 'net.bias'}
    assert len(list(owner.parameters())) == 2
    owner.load_state_dict({key: torch.zeros_like(v) for key, v in owner.state_dict().items()}, strict=True)
    owner.train()
    assert not any(module.training for module in owner['loss'].teacher.modules())


def test_teacher_follows_its_owner(teacher_opt: dict, pair: tuple[Tensor, Tensor]) -> None:
    owner = torch.nn.ModuleDict({'loss': build_loss(teacher_opt)})
    expected = value(owner['loss'](*pair))
    owner.double()
    assert {p.dtype for p in owner['loss'].teacher.parameters()} == {torch.float64}
    torch.testing.assert_close(value(owner['loss'](*(x.double() for x in pair))).float(), expected)


def test_building_a_teacher_leaves_the_generator_and_the_options_alone(teacher_opt: dict) -> None:
    before, options = torch.get_rng_state(), dict(teacher_opt)
    build_loss(teacher_opt)
    assert torch.equal(torch.get_rng_state(), before)
    assert teacher_opt == options


def test_missing_file_says_how_to_get_it(teacher_opt: dict, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'nothing\.pth: no such weights file.*id-codeformer download'):
        build_loss(teacher_opt | {'weights': tmp_path / 'nothing.pth'})


def test_foreign_weights_are_refused(teacher_opt: dict, tmp_path: Path) -> None:
    torch.save({'features.0.weight': torch.zeros(3, 3)}, tmp_path / 'foreign.pth')
    with pytest.raises(CheckpointError, match=r'foreign\.pth: not the weights of .* features\.0\.weight'):
        build_loss(teacher_opt | {'weights': tmp_path / 'foreign.pth'})


def test_perceptual_loss_without_weights_is_an_error() -> None:
    with pytest.raises(CheckpointError, match="vgg19 needs pretrained weights: give 'weights'"):
        build_loss({'type': 'PerceptualLoss', 'layer_weights': LAYERS})


@pytest.mark.parametrize(
    ('opt', 'name'),
    [
        ({'type': 'LPIPSLoss'}, 'vgg16-397923af.pth'),
        ({'type': 'PerceptualLoss', 'layer_weights': LAYERS, 'weights': 'torchvision'}, 'vgg19-dcbb9e9d.pth'),
    ],
)
def test_failed_download_names_the_file_and_its_place(
    opt: dict, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setenv('https_proxy', 'http://127.0.0.1:9')  # nothing listens there
    monkeypatch.setenv('no_proxy', '')
    with pytest.raises(CheckpointError, match=name) as error:
        build_loss(opt)
    assert str(tmp_path / 'hub' / 'checkpoints' / name) in str(error.value)


def test_torchvision_weights_come_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg19: Path, pair: tuple[Tensor, Tensor]
) -> None:
    cache = tmp_path / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    (cache / 'vgg19-dcbb9e9d.pth').write_bytes(vgg19.read_bytes())
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    opt = {'type': 'PerceptualLoss', 'layer_weights': LAYERS}
    cached, direct = (build_loss(opt | {'weights': weights})(*pair)[0] for weights in ('torchvision', vgg19))
    assert torch.equal(cached, direct)


@pytest.mark.shared
def test_a_real_backbone_tells_blur_from_shift(shared: Path) -> None:
    """On a real face the VGG16 of the development data finds a strong blur worse than a slight change of brightness."""
    from basicsr.utils.image import imread, scan_images, to_tensor

    face = to_tensor(imread(scan_images(shared / 'data' / 'celebref512')[0]))[None]
    loss = build_loss(
        {'type': 'PerceptualLoss', 'layer_weights': {'relu2_2': 1, 'relu3_3': 1}, 'vgg_type': 'vgg16'}
        | {'range_norm': True, 'input_scale': 0.5, 'weights': shared / 'weights' / 'vgg16_features_fp16.pth'}
    )
    blurred = F.interpolate(F.avg_pool2d(face, 16), scale_factor=16, mode='bilinear')
    assert loss(blurred, face)[0] > 2 * loss((face + 0.05).clamp(-1, 1), face)[0]
