"""Both stages of CodeFormer++: loss sums, where gradients go, resuming, and what they refuse."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from drawing import fill
from small import CODEFORMER, batch_of, stage_options

from basicsr.archs import build_network
from basicsr.archs.face_aligner_arch import warp
from basicsr.archs.factory import load_network
from basicsr.cli import train
from basicsr.losses.registration_loss import residual_bend, similarity, smoothness
from basicsr.models import build_model
from basicsr.models.codeformer_joint_model import every_second
from basicsr.models.codeformerpp_model import random_bend
from basicsr.models.image_losses import random_window
from basicsr.models.schema import check_options
from basicsr.utils.checkpoint import load_state_dict_file, save_atomic
from basicsr.utils.options import OptionError

MODELS = {1: 'CodeFormerPPAlignModel', 2: 'CodeFormerPPModel'}


def options(stage: int, root: Path, **changes) -> dict:
    """Of a short run at 64 pixels, whose prior has drawn weights."""
    opt = stage_options(3, root, curriculum=None)
    save_atomic({'params': fill(build_network(CODEFORMER)).state_dict(), 'network': CODEFORMER}, root / 'prior.pth')
    opt['name'], opt['model_type'] = f'plusplus{stage}', MODELS[stage]
    opt['network_g'] = {
        'type': 'CodeFormerPlusPlus', 'prior_path': str(root / 'prior.pth'), 'dam': {'width': 8}, 'tgrn': {'width': 8},
    }  # fmt: skip
    opt.pop('network_vqgan'), opt.pop('network_d')
    kept = {key: opt['train'][key] for key in ('total_iter', 'optim_g', 'ema_decay')}
    opt['train'] = kept | ({'pixel_opt': {'type': 'L1Loss'}} if stage == 2 else {}) | changes
    return opt


def of_both_damages(opt):
    batch = batch_of(opt)
    assert not torch.equal(batch['in'], batch['in_large_de'])
    return batch


def test_stage_1_in_closed_form(tmp_path):
    weights = {'type': 'RegistrationLoss', 'smooth_weight': 0.3, 'bend_weight': 0.7}
    opt = options(1, tmp_path, registration_opt=weights, bend={'prob': 1.0, 'deviation': 0.05})
    check_options(opt)
    model = build_model(opt)
    fill(model.net_g.dam)
    batch = of_both_damages(opt)
    torch.manual_seed(7)
    terms = model.generator_losses(batch, 1)
    torch.manual_seed(7)
    torch.rand(2)
    bend = random_bend(2, 64, 0.05)
    faithful, generated, *_ = model.net_g.restore_twice(every_second(batch['in'], batch['in_large_de'], 1))
    generated = warp(generated, bend, 'bicubic')
    phi = model.net_g.dam(generated, faithful)
    expected = {
        'l_lncc': 1 - similarity(warp(generated, phi), faithful),
        'l_smooth': 0.3 * smoothness(phi),
        'l_bend': 0.7 * residual_bend(phi, bend).mean(),
    }
    torch.testing.assert_close(terms, expected)
    assert model.log['lncc'] == pytest.approx(1 - terms['l_lncc'].item(), abs=1e-5)
    assert model.log['lncc_before'] == pytest.approx(similarity(generated, faithful).item(), abs=1e-5)
    assert model.log['shift'] == pytest.approx(2 * phi.norm(dim=1).mean().item(), rel=1e-4)


def test_faces_that_are_not_bent_have_no_known_bend(tmp_path):
    model = build_model(options(1, tmp_path, bend={'prob': 0.0}))
    terms = model.generator_losses(batch_of(model.opt), 1)
    assert set(terms) == {'l_lncc', 'l_smooth'}


def test_stage_2_sums_what_its_options_ask_for(tmp_path, vgg):
    metric = {'type': 'DeepMetricLoss', 'weights': str(vgg), 'margin': 0.3, 'loss_weight': 2.0}
    opt = options(2, tmp_path, metric_opt=metric)
    check_options(opt)
    model = build_model(opt)
    fill(model.net_g.dam), fill(model.net_g.tgrn)
    batch = of_both_damages(opt)
    terms = model.generator_losses(batch, 2)
    assert set(terms) == {'l_g_pix', 'l_dml'}
    output = model.net_g(every_second(batch['in'], batch['in_large_de'], 2))[0]
    assert terms['l_g_pix'].item() == pytest.approx((output - batch['gt']).abs().mean().item(), rel=1e-5)
    assert 0 <= model.log['dml_active'] <= 1
    opt['train'].pop('metric_opt')
    assert set(build_model(opt).generator_losses(batch, 2)) == {'l_g_pix'}


def test_texture_is_transferred_in_a_window_of_the_faces(tmp_path, vgg):
    metric = {'type': 'DeepMetricLoss', 'weights': str(vgg), 'margin': 0.3}
    model = build_model(options(2, tmp_path, metric_opt=metric, crop=32))
    fill(model.net_g.dam), fill(model.net_g.tgrn)
    batch = batch_of(model.opt)
    torch.manual_seed(3)
    terms = model.generator_losses(batch, 1)
    torch.manual_seed(3)
    faithful, generated = model.restore_twice(batch, 1)
    warped = model.net_g.texture_source(faithful, generated)
    gt, faithful, warped = random_window(32, batch['gt'], faithful, warped)
    assert model.output.shape == (2, 3, 32, 32) and torch.equal(model.target, gt)
    torch.testing.assert_close(model.output, model.net_g.tgrn(faithful, warped))
    assert terms['l_g_pix'].item() == pytest.approx((model.output - gt).abs().mean().item(), rel=1e-5)
    assert terms['l_dml'].item() > 0
    with pytest.raises(OptionError, match='train:crop 30: the texture transfer needs a multiple of 4'):
        build_model(options(2, tmp_path, crop=30))


@pytest.mark.parametrize(('stage', 'part'), [(1, 'dam'), (2, 'tgrn')])
def test_a_stage_trains_its_part_alone(stage, part, tmp_path):
    opt = options(stage, tmp_path, total_iter=3, bend={'prob': 1.0} if stage == 1 else None)
    model = build_model(opt)
    before = {key: value.clone() for key, value in model.net_g.state_dict().items()}
    batch = batch_of(opt)
    for iteration in (1, 2, 3):
        model.optimize_parameters([batch], iteration)
    changed = {key for key, value in model.net_g.state_dict().items() if not torch.equal(value, before[key])}
    assert changed and {key.split('.')[0] for key in changed} == {part}
    (group,) = model.optimizers['optim_g'].param_groups
    assert {id(p) for p in group['params']} == {id(p) for p in getattr(model.net_g, part).parameters()}
    assert not any(module.training for module in model.net_g.prior.modules())


def test_stage_2_learns_with_a_discriminator(tmp_path):
    gan = {'gan_opt': {'type': 'GANLoss', 'gan_type': 'hinge'}, 'optim_d': {'type': 'Adam', 'lr': 1e-3}}
    opt = options(2, tmp_path, **gan) | {'network_d': {'type': 'VQGANDiscriminator', 'ndf': 8, 'n_layers': 2}}
    model = build_model(opt)
    fill(model.net_g.tgrn)
    model.optimize_parameters([batch_of(opt)], 1)
    assert {'l_g_gan', 'l_d_real', 'l_d_fake', 'd_weight', 'grad_norm_d'} <= set(model.log)


@pytest.mark.parametrize('stage', [1, 2])
def test_a_step_in_bf16(stage, tmp_path, monkeypatch):
    monkeypatch.setattr('basicsr.models.base_model.computes_bf16', lambda device: True)
    opt = options(stage, tmp_path, precision='bf16')
    model = build_model(opt)
    part = fill(model.net_g.dam if stage == 1 else model.net_g.tgrn)
    before = part.state_dict()['flow.weight' if stage == 1 else 'last.weight'].clone()
    model.optimize_parameters([batch_of(opt)], 1)
    after = part.state_dict()['flow.weight' if stage == 1 else 'last.weight']
    assert torch.isfinite(after).all() and not torch.equal(after, before)
    assert torch.isfinite(model.infer(batch_of(opt) | {'lq': batch_of(opt)['in']})).all()


def test_stages_follow_one_another_and_resume_bit_for_bit(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    for stage in (1, 2):
        opt = options(stage, tmp_path, total_iter=4)
        opt['val']['val_freq'] = opt['logger']['save_checkpoint_freq'] = 4
        if stage == 2:  # the prior is that of stage 1
            opt['network_g'].pop('prior_path')
            opt['path'] = {'pretrain_network_g': 'experiments/straight1/models/net_g_latest.pth'}
        opt['train']['scheduler'] = {'type': 'CosineAnnealingRestartLR', 'periods': [4]}
        check_options(opt)
        train.train({**opt, 'name': f'straight{stage}'})
        train.train({**opt, 'name': f'resumed{stage}', 'train': {**opt['train'], 'total_iter': 2}})
        train.train({**opt, 'name': f'resumed{stage}'}, auto_resume=True)
        for key in ('params', 'params_ema'):
            straight, resumed = (
                load_state_dict_file(f'experiments/{name}{stage}/models/net_g_latest.pth', key)
                for name in ('straight', 'resumed')
            )
            assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []
        assert (tmp_path / f'experiments/straight{stage}/validation_val.csv').is_file()
    first, second = (load_network(f'experiments/straight{stage}/models/net_g_latest.pth') for stage in (1, 2))
    assert first.registers and not first.transfers_texture and second.transfers_texture
    assert torch.equal(first.dam.flow.weight, second.dam.flow.weight)
    assert second.options['prior']['n_head'] == 2
    assert 'untrained' not in caplog.text


def test_stage_2_without_stage_1_is_warned_about(tmp_path, caplog):
    opt = options(2, tmp_path)
    with caplog.at_level(logging.WARNING, 'basicsr'):
        build_model(opt)
    assert 'the aligner is untrained' in caplog.text
    caplog.clear()
    opt['network_g']['texture_from'] = 'I_G'
    build_model(opt)
    assert 'the aligner is untrained' not in caplog.text


@pytest.mark.parametrize(
    ('section', 'key', 'value', 'words'),
    [
        ('network_g', 'prior_path', None, 'network_g:prior_path is missing.*download'),
        ('train', 'grad_checkpointing', True, 'train:grad_checkpointing'),
        ('train', 'bend', {'prob': 2.0}, 'train:bend: prob must be from 0 to 1'),
    ],
)
def test_models_that_cannot_be(section, key, value, words, tmp_path):
    opt = options(1, tmp_path)
    opt[section][key] = value
    with pytest.raises(OptionError, match=words):
        build_model(opt)


def test_faces_of_another_side_than_the_prior_are_refused(tmp_path):
    opt = options(1, tmp_path)
    opt['datasets']['train'] |= {'gt_size': 32, 'in_size': 32}
    with pytest.raises(OptionError, match='gt_size is 32, and network_g needs 64'):
        build_model(opt)


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        ('registration_opt', {'type': 'RegistrationLoss', 'smooth': 1.0}, "did you mean 'smooth_weight'"),
        ('metric_opt', {'type': 'DeepMetricLos'}, "did you mean 'DeepMetricLoss'"),
        ('bend', {'probability': 0.5}, 'probability'),
    ],
)
def test_mistyped_options_name_the_nearest(key, value, words, tmp_path):
    opt = options(2 if key == 'metric_opt' else 1, tmp_path)
    opt['train'][key] = value
    with pytest.raises(OptionError, match=words):
        check_options(opt)
