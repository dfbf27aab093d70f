"""Losses that options add to a stage, and losses that a stage does not compute."""

from __future__ import annotations

import pytest
import torch
from small import batch_of, stage_options
from torch import nn

from basicsr.models import build_model
from basicsr.models.image_losses import name_of
from basicsr.models.schema import check_options
from basicsr.utils.options import OptionError
from basicsr.utils.registry import LOSS_REGISTRY

LISTED = {'type': 'CharbonnierLoss', 'loss_weight': 2.0, 'eps': 0.01}


def charbonnier(output, gt):
    return 2 * ((output - gt).square() + 0.01).sqrt().mean()


def terms_of(model, batch, iteration=1):
    terms = model.generator_losses(batch, iteration)
    return terms


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_a_listed_loss_is_a_term_of_every_stage(stage, tmp_path):
    opt = stage_options(stage, tmp_path, losses=[LISTED], net_d_start_iter=9)
    check_options(opt)
    model, batch = build_model(opt), batch_of(opt)
    plain = terms_of(build_model({**opt, 'train': {**opt['train'], 'losses': None}}), batch)
    w = {'w': float(stage == 3)} if stage > 1 else {}
    output = model.net_g(batch['gt' if stage == 1 else 'in'], **w)[0]
    terms = terms_of(model, batch)
    assert terms.keys() - plain.keys() == {'l_charbonnier'}
    assert terms['l_charbonnier'].item() == pytest.approx(charbonnier(output, batch['gt']).item(), rel=1e-5)
    for name, term in plain.items():
        torch.testing.assert_close(terms[name], term)


def test_in_stage_2_its_gradient_reaches_all_that_is_trained_and_nothing_else(tmp_path):
    opt = stage_options(2, tmp_path, losses=[LISTED])
    model, batch = build_model(opt), batch_of(opt)
    terms_of(model, batch)['l_charbonnier'].backward()
    reached = {name.split('.')[0] for name, p in model.net_g.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {'encoder', 'position_emb', 'feat_emb', 'ft_layers', 'idx_pred_layer'} | (
        {'generator'} if any(p.requires_grad for p in model.net_g.generator.parameters()) else set()
    )


def test_when_it_is_due_and_how_many_faces_it_sees(tmp_path):
    opt = stage_options(2, tmp_path, losses=[{**LISTED, 'every': 2, 'start_iter': 3, 'sub_batch': 1, 'name': 'l_mine'}])
    opt['train']['losses'].append({'type': 'L1Loss', 'every': None, 'loss_weight': None})
    check_options(opt)
    model, batch = build_model(opt), batch_of(opt)
    assert ['l_mine' in terms_of(model, batch, iteration) for iteration in range(1, 8)] == [
        False, False, False, True, False, True, False,
    ]  # fmt: skip
    first = charbonnier(model.net_g(batch['in'], w=0)[0][:1], batch['gt'][:1])
    assert terms_of(model, batch, 4)['l_mine'].item() == pytest.approx(first.item(), rel=1e-5)


def test_losses_of_two_parts_and_a_loss_that_has_its_own_turns(tmp_path, monkeypatch):
    class TwoLoss(nn.Module):
        def __init__(self, every: int = 7, has_style: bool = True) -> None:
            super().__init__()
            self.every, self.has_style = every, has_style

        def forward(self, pred, target):
            return (pred - target).mean() * 0 + self.every, torch.ones(()) if self.has_style else None

    monkeypatch.setitem(LOSS_REGISTRY._entries, 'TwoLoss', TwoLoss)
    listed = [{'type': 'TwoLoss', 'every': 1}, {'type': 'TwoLoss', 'has_style': False, 'name': 'l_other', 'every': 3}]
    opt = stage_options(2, tmp_path, losses=listed)
    check_options(opt)
    terms = terms_of(build_model(opt), batch_of(opt), 3)
    assert {name: terms[name].item() for name in terms if name.startswith(('l_two', 'l_other'))} == {
        'l_two': 1, 'l_two_style': 1, 'l_other': 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ('kind', 'name'), [('L1Loss', 'l_l1'), ('LPIPSLoss', 'l_lpips'), ('MyEdgeLoss', 'l_my_edge'), ('Focal', 'l_focal')]
)
def test_names_in_the_log(kind, name):
    assert name_of({'type': kind}) == name
    assert name_of({'type': kind, 'name': 'l_x'}) == 'l_x'


def test_a_listed_loss_may_be_the_only_one_on_pictures(tmp_path):
    opt = stage_options(1, tmp_path, pixel_opt=None, losses=[LISTED])
    model = build_model(opt)
    model.optimize_parameters([batch_of(opt)], 1)
    assert {'l_charbonnier', 'd_weight'} <= model.log.keys()
    opt['train']['losses'] = [{**LISTED, 'every': 2}]
    with pytest.raises(OptionError, match='due in every iteration'):
        build_model(opt)


@pytest.mark.parametrize(
    ('stage', 'key', 'value'),
    [
        (1, 'alignment_opt', {'loss_weight': 1.0}), (1, 'style_opt', {'strength': 0.1}),
        (1, 'cross_entropy_loss', True), (1, 'feat_loss_weight', 1.0),
        (2, 'pixel_opt', {'type': 'L1Loss'}), (2, 'perceptual_opt', {'type': 'LPIPSLoss'}),
        (2, 'gan_opt', {'type': 'GANLoss', 'gan_type': 'hinge'}), (2, 'codebook_opt', {'loss_weight': 1.0}),
        (3, 'codebook_opt', {'loss_weight': 1.0}),
    ],
)  # fmt: skip
def test_a_loss_that_the_stage_does_not_compute_is_an_error(stage, key, value, tmp_path):
    opt = stage_options(stage, tmp_path, **{key: value})
    with pytest.raises(OptionError, match=f'train:{key}: .* does not compute this loss.*remove it.*train:losses'):
        check_options(opt)
    opt['train'][key] = None
    check_options(opt)


@pytest.mark.parametrize(
    ('entry', 'words'),
    [
        ({'type': 'GANLoss', 'gan_type': 'hinge'}, 'train:losses:0: GANLoss .*train:gan_opt and network_d'),
        ({'type': 'CharbonierLoss'}, "train:losses:0: unknown type .*did you mean 'CharbonnierLoss'"),
        ({'type': 'CharbonnierLoss', 'ep': 1}, "train:losses:0: unknown key 'ep'.*did you mean 'eps'"),
        ({'type': 'CharbonnierLoss', 'every': 'x'}, 'train:losses:0:every must be int'),
        ('CharbonnierLoss', "train:losses:0: a section with a type, not 'CharbonnierLoss'"),
    ],
)
def test_wrong_entries_are_named(entry, words, tmp_path):
    with pytest.raises(OptionError, match=words):
        check_options(stage_options(2, tmp_path, losses=[entry]))


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ([{'every': 0}], 'l_charbonnier: every and sub_batch must be 1 or more'),
        ([{'sub_batch': 0}], 'l_charbonnier: every and sub_batch must be 1 or more'),
        ([{}, {}], "two losses are called 'l_charbonnier'"),
        ([{'name': 'l_g_pix'}], "two losses are called 'l_g_pix'"),
        ([{'name': 'l_ids'}], "two losses are called 'l_ids'"),
    ],
)
def test_entries_that_cannot_be_are_named(changes, words, tmp_path):
    opt = stage_options(3, tmp_path, losses=[{**LISTED, **change} for change in changes])
    with pytest.raises(OptionError, match=words):
        build_model(opt)


def test_end_to_end_the_losses_on_pictures_reach_encoder_and_transformer(tmp_path):
    """On the same picture, bit for bit; the published losses reach the fusion alone."""
    reached, values = {}, {}
    published = stage_options(3, tmp_path, use_adaptive_weight=False)
    for end_to_end in (False, True):
        opt = {**published, 'train': {**published['train'], 'end_to_end': end_to_end}}
        check_options(opt)
        model, batch = build_model(opt), batch_of(opt)
        terms = terms_of(model, batch)
        values[end_to_end] = {name: terms[name].item() for name in ('l_g_pix', 'l_g_gan')}
        (terms['l_g_pix'] + terms['l_g_gan']).backward()
        trained = [name for name, p in model.net_g.named_parameters() if p.grad is not None and p.grad.any()]
        reached[end_to_end] = {name.split('.')[0] for name in trained} - {'generator', 'quantize'}
    assert values[False] == values[True]
    assert reached[False] == {'fuse_convs_dict'}
    assert reached[True] == {
        'fuse_convs_dict', 'encoder', 'position_emb', 'feat_emb', 'ft_layers', 'idx_pred_layer',
    }  # fmt: skip
