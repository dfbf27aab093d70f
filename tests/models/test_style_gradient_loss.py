"""What the styling path is taught: the gradient of a recognizer, and nothing that any other term says."""

from __future__ import annotations

import pytest
import torch
from small import batch_of, stage_options
from small_recognizer import save_tiny
from torch import nn

from basicsr.models import build_model
from basicsr.utils.options import OptionError


def taught(root, stage=3, grid=4, lesson=(), **train):
    """Options of a stage with an IDCodeFormer that learns of a small recognizer."""
    section = {'weights': str(save_tiny(root / 'recognizer.pth')), **dict(lesson)}
    opt = stage_options(stage, root, style_opt=section, **train)
    opt['network_g'] |= {'type': 'IDCodeFormer', 'identity_dim': 16, 'identity_dropout': 0.0, 'style_grid': grid}
    return opt


def drawn(opt, references=1, faces=2):
    batch = batch_of(opt, faces)
    return {**batch, 'identity': torch.randn(len(batch['gt']), references, 16)}


@pytest.mark.parametrize('grid', [1, 4])
@pytest.mark.parametrize(('stage', 'w'), [(2, 0.0), (3, 0.7)])
def test_the_lesson_is_the_gradient_at_the_unstyled_face_in_closed_form(stage, w, grid, tmp_path):
    opt = taught(tmp_path, stage, grid, {'strength': 0.3, 'loss_weight': 2.0}.items())
    opt['train']['curriculum'] = [{'severity': 'small', 'w': w or 1}]
    model = build_model(opt)
    net, batch = model.net_g, drawn(opt, faces=3)
    for gate in net.id_style.gates.values():
        nn.init.constant_(gate, 0.5)
    terms = model.generator_losses(batch, 1)

    codes = net.lookup_codes(net(batch['in'], code_only=True, identity=batch['identity'])[0])
    seen = net.encode(batch['in'], net.connect_list if w else ())[1]
    embed = model.style_loss.embedder
    people = embed(batch['gt'].roll(-1, 0))  # each is told of the next
    who = net.identify(3, batch['identity'].roll(-1, 0))

    def cosines(change):
        def style(side, feat):
            return net.id_style.styled(feat, change[side])

        return (embed(net.decode_styled(codes, seen, w, style)) * people).sum(1)

    shapes = {side: (3, 2 * net.channels_at[side], grid, grid) for side in net.connect_list}
    still = {side: torch.zeros(shape, requires_grad=True) for side, shape in shapes.items()}
    gradient = torch.cat([g.flatten(1) for g in torch.autograd.grad(cosines(still).sum(), list(still.values()))], 1)
    wanted = 0.3 * gradient.shape[1] ** 0.5 * gradient / gradient.norm(dim=1, keepdim=True)
    said = torch.cat([net.id_style.statistics(side, who).flatten(1) for side in net.connect_list], 1)
    expected = 2 * (said - wanted).square().mean() / 0.09
    torch.testing.assert_close(terms['l_style'], expected, rtol=1e-3, atol=1e-5)
    assert model.log['style_cosine'] == pytest.approx(torch.cosine_similarity(said, wanted).mean().item(), abs=1e-4)
    # The way is a good one: a small step on it brings every face nearer.
    step = {
        side: 1e-3 * part / gradient.norm(dim=1).view(3, 1, 1, 1)
        for side, part in zip(still, _parts(gradient, shapes), strict=True)
    }
    assert (cosines(step) > cosines(still)).all()


def _parts(gradient, shapes):
    sizes = [torch.Size(shape[1:]).numel() for shape in shapes.values()]
    return [part.view(shape) for part, shape in zip(gradient.split(sizes, 1), shapes.values(), strict=True)]


def test_it_trains_the_styling_path_alone_and_is_learnt(tmp_path):
    opt = taught(tmp_path, optim_g={'type': 'Adam', 'lr': 1e-2})
    model = build_model(opt)
    batch = drawn(opt)
    net = model.net_g
    terms = model.generator_losses(batch, 1)
    terms['l_style'].backward()
    assert {name.split('.')[0] for name, p in net.named_parameters() if p.grad is not None} == {'id_style'}
    net.zero_grad()
    adam = torch.optim.Adam(net.id_style.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        terms = model.generator_losses(batch, 1)
        adam.zero_grad()
        terms['l_style'].backward()
        adam.step()
        losses.append(terms['l_style'].item())
    assert losses[0] == pytest.approx(1, abs=1e-3) and losses[-1] < 0.5  # a closed gate says nothing: all is missing
    assert model.log['style_cosine'] > 0.7


def test_who_is_told_nothing_does_not_count(tmp_path):
    opt = taught(tmp_path)
    model = build_model(opt)
    batch = drawn(opt)
    nothing = model.generator_losses({**batch, 'identity_mask': torch.zeros(2, 1)}, 1)
    assert nothing['l_style'] == 0
    nothing['l_style'].backward()  # a gradient of 0, and not none: other processes have one
    assert all(p.grad is not None and not p.grad.any() for p in model.net_g.id_style.parameters())
    for gate in model.net_g.id_style.gates.values():
        nn.init.constant_(gate, 0.5)
    values = []
    for mask in ([[1.0], [0.0]], [[0.0], [1.0]], [[1.0], [1.0]]):
        terms = model.generator_losses({**batch, 'identity_mask': torch.tensor(mask)}, 1)
        values.append(terms['l_style'].item())
    assert values[0] != pytest.approx(values[1], rel=1e-3)
    assert min(values[:2]) < values[2] < max(values[:2])


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'ia_cft': False}, 'needs a network with IA-CFT'),
        ({'strength': 0.0}, 'strength and loss_weight must be above 0'),
        ({'loss_weight': -1.0}, 'strength and loss_weight must be above 0'),
    ],
)
def test_mistakes_are_errors(change, words, tmp_path):
    opt = taught(tmp_path, lesson=[item for item in change.items() if item[0] != 'ia_cft'])
    opt['network_g'] |= {key: value for key, value in change.items() if key == 'ia_cft'}
    with pytest.raises(OptionError, match=words):
        build_model(opt)


def test_the_scale_of_fp16_gradients_does_not_reach_the_lesson(tmp_path):
    opt = taught(tmp_path, precision='fp16')
    model = build_model(opt)
    model.scaler = torch.amp.GradScaler('cpu', init_scale=2.0**40)
    terms = model.generator_losses(drawn(opt), 1)
    assert terms['l_style'].item() == pytest.approx(1, abs=1e-2)


def test_parts_of_identity_can_be_fixed(tmp_path):
    opt = taught(tmp_path)
    opt['network_g']['fix_modules'] = ['quantize', 'generator', 'id_tokens', 'id_layers']
    net = build_model(opt).net_g
    fixed = {name.split('.')[0] for name, p in net.named_parameters() if not p.requires_grad}
    assert fixed == {'quantize', 'generator', 'id_tokens', 'id_layers'}
