"""The identity loss: its value, where its gradient goes, and what it does to the pixels of real faces."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from small_recognizer import save_onnx, save_tiny, smooth_faces
from torch import Tensor, nn

from basicsr.losses import IdentityLoss, build_loss
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.image import imread, scan_images, to_tensor
from basicsr.utils.templates import ffhq_template

LANDMARKS = torch.from_numpy(ffhq_template(96)).float() + torch.tensor([4.0, -3.0])


@pytest.fixture
def loss(tmp_path: Path) -> IdentityLoss:
    """The loss with a small IResNet of drawn weights and weight 1."""
    return build_loss({'type': 'IdentityLoss', 'loss_weight': 1.0, 'weights': str(save_tiny(tmp_path / 'tiny.pth'))})


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Two batches of faces; the first wants a gradient, and the second would take one."""
    faces = smooth_faces(4)
    return faces[:2].clone().requires_grad_(), faces[2:].clone().requires_grad_()


# ---- the value


def test_the_loss_is_one_minus_the_cosine(tmp_path: Path, loss: IdentityLoss, pair: tuple[Tensor, Tensor]) -> None:
    pred, target = pair
    a, b = loss.embedder(pred), loss.embedder(target)
    expected = 1 - F.cosine_similarity(a, b)
    assert expected.min() > 1e-3
    torch.testing.assert_close(loss(pred, target), expected.mean())
    torch.testing.assert_close(loss.cosine(pred, target), 1 - expected)
    for reduction, value in (('none', expected), ('sum', expected.sum())):
        other = build_loss({'type': 'IdentityLoss', 'weights': str(tmp_path / 'tiny.pth'), 'reduction': reduction})
        torch.testing.assert_close(other(pred, target), 0.1 * value)  # the paper's weight is the default


def test_equal_faces_cost_nothing_and_the_opposite_costs_two(loss: IdentityLoss, pair: tuple[Tensor, Tensor]) -> None:
    pred, _ = pair
    assert loss(pred, pred).item() == pytest.approx(0, abs=1e-6)
    assert loss(pred, embedding=-loss.embedder(pred)).item() == pytest.approx(2)


def test_a_reference_embedding_stands_for_a_target(loss: IdentityLoss, pair: tuple[Tensor, Tensor]) -> None:
    pred, target = pair
    embedding = loss.embedder(target)
    torch.testing.assert_close(loss(pred, embedding=3 * embedding), loss(pred, target))
    one = 1 - F.cosine_similarity(loss.embedder(pred), embedding[:1])
    for shape in (embedding[:1], embedding[0]):
        torch.testing.assert_close(loss(pred, embedding=shape), one.mean())


def test_landmarks_move_both_crops(loss: IdentityLoss, pair: tuple[Tensor, Tensor]) -> None:
    pred, target = pair
    landmarks = LANDMARKS.expand(2, -1, -1)
    expected = 1 - F.cosine_similarity(loss.embedder(pred, landmarks), loss.embedder(target, landmarks))
    torch.testing.assert_close(loss(pred, target, landmarks), expected.mean())
    assert (loss(pred, target, landmarks) - loss(pred, target)).abs() > 1e-4


def test_a_target_of_another_size_is_allowed(loss: IdentityLoss) -> None:
    large = smooth_faces(2, 192)
    small = F.interpolate(large, size=(96, 96), mode='area')
    assert loss(small, large).item() < 0.02


def test_it_is_due_every_so_many_iterations(tmp_path: Path) -> None:
    options = {'type': 'IdentityLoss', 'weights': str(save_tiny(tmp_path / 't.pth')), 'every': 3}
    assert [i for i in range(8) if build_loss(options).is_due(i)] == [0, 3, 6]


# ---- the gradient


def test_the_gradient_goes_to_the_prediction_only(loss: IdentityLoss, pair: tuple[Tensor, Tensor]) -> None:
    pred, target = pair
    loss(pred, target).backward()
    assert target.grad is None
    assert (pred.grad.abs().sum(dim=(1, 2, 3)) > 0).all()
    assert all(parameter.grad is None for parameter in loss.embedder.network.parameters())
    reference = target.clone().requires_grad_()
    assert torch.autograd.grad(loss(pred, embedding=loss.embedder(reference)), reference, allow_unused=True) == (None,)


@pytest.mark.parametrize('kind', ['iresnet', 'onnx'])
@pytest.mark.parametrize('landmarks', [None, LANDMARKS.double().expand(2, -1, -1)])
@pytest.mark.parametrize('side', [96, 192])
def test_the_gradient_is_that_of_finite_differences(
    tmp_path: Path, kind: str, landmarks: Tensor | None, side: int
) -> None:
    """Through warp, network and loss in float64, at a side that is enlarged and one that is filtered and shrunk."""
    weights = save_tiny(tmp_path / 't.pth') if kind == 'iresnet' else save_onnx(tmp_path / 't.onnx')
    loss = build_loss({'type': 'IdentityLoss', 'weights': str(weights), 'reduction': 'none'}).double()
    faces = smooth_faces(4, side).double()
    points = None if landmarks is None else landmarks * (side / 96)
    pred = faces[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, faces[2:], points), pred, fast_mode=True)
    gradient = torch.autograd.grad(loss(pred, faces[2:], points).sum(), pred)[0]
    step, place = 1e-6, (1, 2, side // 2, side // 2)
    up, down = (pred.detach().clone() for _ in range(2))
    up[place] += step
    down[place] -= step
    slope = (loss(up, faces[2:], points).sum() - loss(down, faces[2:], points).sum()) / (2 * step)
    assert gradient[place].abs() > 1e-8
    torch.testing.assert_close(gradient[place], slope, rtol=1e-4, atol=1e-9)


def test_small_batches_add_up_to_the_whole(loss: IdentityLoss) -> None:
    pred, target = smooth_faces(4), smooth_faces(4, seed=1)
    whole, parts = pred.clone().requires_grad_(), pred.clone().requires_grad_()
    loss(whole, target).backward()
    for half in (slice(0, 2), slice(2, 4)):
        (loss(parts[half], target[half]) / 2).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


# ---- precision, compilation, ownership


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(loss: IdentityLoss, pair: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    pred, target = pair
    expected = loss(pred, target)
    gradient = torch.autograd.grad(expected, pred)[0]
    with torch.autocast('cpu', dtype=dtype):
        found = loss(pred, target)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    assert torch.equal(torch.autograd.grad(found, pred)[0], gradient)


def test_half_precision_pictures_get_a_gradient_of_their_own_type(loss: IdentityLoss) -> None:
    pred, target = smooth_faces(2).bfloat16().requires_grad_(), smooth_faces(2, seed=1)
    value = loss(pred, target)
    value.backward()
    assert (value.dtype, pred.grad.dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(value, loss(pred.float(), target))


@pytest.mark.parametrize('landmarks', [None, LANDMARKS.expand(2, -1, -1)])
def test_the_loss_compiles_whole(loss: IdentityLoss, pair: tuple[Tensor, Tensor], landmarks: Tensor | None) -> None:
    pred, target = pair
    compiled = torch.compile(loss, backend='aot_eager', fullgraph=True)
    expected, found = loss(pred, target, landmarks), compiled(pred, target, landmarks)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(value, pred)[0] for value in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def test_the_recognizer_is_no_part_of_its_owner(loss: IdentityLoss) -> None:
    owner = nn.ModuleDict({'loss': loss, 'network': nn.Conv2d(3, 3, 1)}).train()
    assert set(owner.state_dict()) == {'network.weight', 'network.bias'}
    assert len(list(owner.parameters())) == 2
    assert not any(module.training for module in loss.embedder.network.modules())


class Step(nn.Module):
    """A network and its loss in one module, as DistributedDataParallel wants it."""

    def __init__(self, loss: IdentityLoss) -> None:
        super().__init__()
        self.network, self.loss = nn.Conv2d(3, 3, 1), loss

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return self.loss(self.network(x).tanh(), target)


def test_distributed_training_sees_the_network_only(tmp_path: Path, loss: IdentityLoss) -> None:
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/meet', rank=0, world_size=1)
    try:
        step = nn.parallel.DistributedDataParallel(Step(loss))
        step(smooth_faces(2), smooth_faces(2, seed=1)).backward()
        assert [name for name, _ in step.module.named_parameters()] == ['network.weight', 'network.bias']
        assert all(parameter.grad.abs().sum() > 0 for parameter in step.parameters())
    finally:
        torch.distributed.destroy_process_group()


# ---- faults


def test_a_loss_without_a_recognizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"give 'weights'.*arcface_r50"):
        build_loss({'type': 'IdentityLoss'})
    with pytest.raises(CheckpointError, match=r'nowhere\.pth: no such file'):
        build_loss({'type': 'IdentityLoss', 'weights': str(tmp_path / 'nowhere.pth')})


@pytest.mark.parametrize(('option', 'message'), [({'every': 0}, 'every'), ({'reduction': 'mena'}, "'mean'")])
def test_bad_options_are_errors(tmp_path: Path, option: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss({'type': 'IdentityLoss', 'weights': str(save_tiny(tmp_path / 't.pth')), **option})


def test_targets_that_do_not_fit_are_errors(loss: IdentityLoss, pair: tuple[Tensor, Tensor]) -> None:
    pred, target = pair
    for arguments in ({}, {'target': target, 'embedding': torch.ones(2, 16)}):
        with pytest.raises(ValueError, match='a target picture or a target embedding'):
            loss(pred, **arguments)
    for embedding in (torch.ones(2, 128), torch.ones(3, 16)):
        with pytest.raises(ValueError, match=r'predictions of \(2, 16\) by arcface_r10'):
            loss(pred, embedding=embedding)
    with pytest.raises(ValueError, match=r'predictions of \(2, 16\)'):
        loss(pred, smooth_faces(3))


# ---- real faces


@pytest.mark.shared
@pytest.mark.parametrize(
    ('teacher', 'judge'),
    [
        ('arcface_mbf512.onnx', 'mobilefacenet_casia128.pth'),
        ('mobilefacenet_casia128.pth', 'arcface_mbf512.onnx'),
    ],
)
def test_pixels_that_follow_the_loss_become_the_person_for_another_recognizer(
    shared: Path, teacher: str, judge: str
) -> None:
    """One face's pixels are optimised towards another person: the loss vanishes, and a second recognizer agrees."""
    folders = sorted((shared / 'data/celebref512').iterdir())
    start, target = (
        F.interpolate(to_tensor(imread(scan_images(folder)[0]))[None], size=(128, 128), mode='area')
        for folder in folders[1::-1]
    )
    loss = build_loss({'type': 'IdentityLoss', 'loss_weight': 1.0, 'weights': str(shared / 'weights' / teacher)})
    other = FaceEmbedder(shared / 'weights' / judge)
    pixels = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([pixels], lr=0.03)
    before = loss(pixels, target).item()
    embedding = loss.embedder(target)
    for _ in range(40):
        optimizer.zero_grad()
        loss(pixels.clamp(-1, 1), embedding=embedding).backward()
        optimizer.step()
    with torch.no_grad():
        result = pixels.clamp(-1, 1)
        after = loss(result, target).item()
        cosines = [float((other(x) * other(target)).sum()) for x in (start, result)]
    assert before > 0.8
    assert after < 0.01
    assert cosines[0] < 0.2
    assert cosines[1] > 0.5
