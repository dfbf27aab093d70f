"""The three stages: their loss sums, schedules, and what they refuse."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from drawing import image
from small import VQGAN, batch_of, stage_options

from basicsr.archs import build_network
from basicsr.models import NonFiniteLossError, build_model
from basicsr.models.codebook_ema import CodebookEMA, kmeans
from basicsr.models.codeformer_joint_model import PUBLISHED_CURRICULUM
from basicsr.models.schedule import Curriculum, Phase, learning_rate
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.options import OptionError


def total(model, batch, iteration=1):
    model.optimize_parameters([batch], iteration)
    return sum(value for name, value in model.log.items() if name.startswith(('l_', 'cross')) and '_d_' not in name)


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_real_steps_lower_the_loss_of_a_batch(stage, tmp_path):
    opt = stage_options(stage, tmp_path, net_d_start_iter=100)
    model = build_model(opt)
    batch = batch_of(opt)
    first = total(model, batch)
    for _ in range(20):
        last = total(model, batch)
    assert last < 0.8 * first


@pytest.mark.parametrize('stage', [1, 3])
def test_image_losses_see_a_window_of_images_of_twice_the_side(stage, tmp_path):
    opt = stage_options(stage, tmp_path, crop=48, losses=[{'type': 'L1Loss', 'name': 'l_whole'}])
    opt['network_g'] = {**opt['network_g'], 'out_scale': 2}
    opt['datasets']['train'] |= {'gt_size': 128, 'in_size': 64}
    if stage == 3:
        double = {**VQGAN, 'out_scale': 2}
        save_atomic({'params': build_network(double).state_dict()}, tmp_path / 'vqgan.pth')
        opt['network_vqgan'] = {**double, 'model_path': str(tmp_path / 'vqgan.pth')}
    model = build_model(opt)
    batch = batch_of(opt)
    seen = []
    model.gan.net_d.register_forward_hook(lambda module, given, out: seen.append(given[0].detach().clone()))
    listed = model.image_losses.losses[-1].loss
    whole = []
    listed.register_forward_hook(lambda module, given, out: whole.append(given))
    total(model, batch)
    ((restored, target),) = whole  # losses of train:losses see the faces whole
    assert restored.shape == (2, 3, 128, 128) and torch.equal(target, batch['gt'])
    fake, real, again = seen
    assert {picture.shape for picture in seen} == {(2, 3, 48, 48)}
    assert torch.equal(fake, again)
    windows = batch['gt'].unfold(2, 48, 1).unfold(3, 48, 1).permute(2, 3, 0, 1, 4, 5)  # (rows,columns,N,3,48,48)
    assert (windows == real).flatten(2).all(2).sum() == 1  # one window of the ground truth, the same for all faces
    trained = any('detail' in key and p.grad is not None for key, p in model.net_g.named_parameters())
    assert trained == (stage == 1)


def test_a_window_larger_than_the_images_is_an_error(tmp_path):
    with pytest.raises(OptionError, match='train:crop 65: use a side from 1 to 64'):
        build_model(stage_options(1, tmp_path, crop=65))


def test_sizes_that_do_not_fit_twice_the_side_are_an_error(tmp_path):
    opt = stage_options(1, tmp_path)
    opt['network_g'] = {**opt['network_g'], 'out_scale': 2}
    with pytest.raises(OptionError, match='gt_size is 64, and network_g needs 128'):
        build_model(opt)


def test_stage1_loss_is_the_sum_of_its_terms(tmp_path):
    opt = stage_options(1, tmp_path, use_adaptive_weight=False, disc_weight=0.3, codebook_opt={'loss_weight': 2.0})
    model = build_model(opt)
    batch = batch_of(opt)
    terms = model.generator_losses(batch, 1)
    output, codebook, _ = model.net_g(batch['gt'])
    assert set(terms) == {'l_g_pix', 'l_codebook', 'l_g_gan'}
    assert terms['l_g_pix'].item() == pytest.approx((output - batch['gt']).abs().mean().item(), rel=1e-5)
    assert terms['l_codebook'].item() == pytest.approx(2 * codebook.item(), rel=1e-5)
    assert terms['l_g_gan'].item() == pytest.approx(-0.3 * model.gan.net_d(output).mean().item(), rel=1e-4)


def test_stage3_terms_in_closed_form(tmp_path):
    weights = {'feat_loss_weight': 2.0, 'entropy_loss_weight': 0.25, 'use_adaptive_weight': False, 'disc_weight': 0.3}
    opt = stage_options(3, tmp_path, curriculum=[{'severity': 'small', 'w': 0.7}], **weights)
    model = build_model(opt)
    batch = batch_of(opt)
    terms = model.generator_losses(batch, 1)
    output, logits, feat = model.net_g(batch['in'], w=0.7)
    tokens, codes = feat.flatten(2).transpose(1, 2), model.target_codes(batch)
    real, fake = (model.gan.net_d(picture) for picture in (batch['gt'], output))
    expected = {
        'l_g_pix': (output - batch['gt']).abs().mean(),
        'l_g_gan': -0.3 * fake.mean(),
        'l_feat_encoder': 2 * (tokens - model.net_g.quantize.codes[codes]).square().mean(),
        'cross_entropy_loss': -0.25 * logits.log_softmax(2).gather(2, codes[..., None]).mean(),
        'l_d_real': (1 - real).relu().mean(),
        'l_d_fake': (1 + fake).relu().mean(),
    }
    torch.testing.assert_close(terms | model.discriminator_losses(batch, 1), expected, rtol=1e-4, atol=1e-6)


def test_adaptive_weight_balances_gradients_at_the_last_layer(tmp_path):
    opt = stage_options(1, tmp_path, use_adaptive_weight=True, scale_adaptive_gan_weight=0.5)
    model = build_model(opt)
    batch = batch_of(opt)
    terms = model.generator_losses(batch, 1)
    last = model.net_g.generator.blocks[-1].weight
    pix, gan = (torch.autograd.grad(terms[name], last, retain_graph=True)[0].norm() for name in ('l_g_pix', 'l_g_gan'))
    expected = 0.5 * min(1.0, (pix / (gan / model.log['d_weight'] + 1e-4)).item())
    assert model.log['d_weight'] == pytest.approx(expected, rel=1e-3)


def test_discriminator_starts_after_its_iteration(tmp_path):
    opt = stage_options(1, tmp_path, net_d_start_iter=1)
    model = build_model(opt)
    before = model.networks['net_d'].main[0].weight.clone()
    model.optimize_parameters([batch_of(opt)], 1)
    assert 'l_g_gan' not in model.log
    assert torch.equal(model.networks['net_d'].main[0].weight, before)
    model.optimize_parameters([batch_of(opt)], 2)
    assert {'l_g_gan', 'l_d_real', 'l_d_fake'} <= set(model.log)
    assert not torch.equal(model.networks['net_d'].main[0].weight, before)


def test_generator_waits_for_its_turn(tmp_path):
    opt = stage_options(1, tmp_path, net_d_iters=2)
    model = build_model(opt)
    before = model.net_g.encoder.blocks[0].weight.clone()
    model.optimize_parameters([batch_of(opt)], 1)
    assert torch.equal(model.net_g.encoder.blocks[0].weight, before)
    model.optimize_parameters([batch_of(opt)], 2)
    assert not torch.equal(model.net_g.encoder.blocks[0].weight, before)


@pytest.mark.parametrize(
    ('iters', 'samples', 'codes', 'fits'),
    [(1, 9999, 512, True), (1, 9999, 513, False), (2, 512, 513, False), (2, 513, 1024, True), (2, 513, 1025, False)],
)
def test_a_warmup_that_gathers_too_few_features_is_an_error(iters, samples, codes, fits, tmp_path):
    """An iteration has 512: two faces of 16x16 positions."""
    opt = stage_options(1, tmp_path, codebook_warmup={'iters': iters, 'samples': samples})
    opt['network_g'] = {**opt['network_g'], 'codebook_size': codes}
    with nullcontext() if fits else pytest.raises(OptionError, match=f'features for {codes} codes; raise iters or'):
        build_model(opt)


def test_codebook_warmup_ends_in_centres_of_the_features(tmp_path):
    opt = stage_options(1, tmp_path, codebook_warmup={'iters': 2, 'samples': 512}, net_d_start_iter=9)
    model = build_model(opt)
    batch = batch_of(opt)
    model.optimize_parameters([batch], 1)
    assert 'l_codebook' not in model.log
    model.optimize_parameters([batch], 2)
    assert len(model.features) == 512
    random = model.net_g.quantize.distances(model.net_g.encoder(batch['gt'])).amin(1).mean()
    model.before_iteration(3)
    after = model.net_g.quantize.distances(model.net_g.encoder(batch['gt'])).amin(1).mean()
    assert after < 0.5 * random
    assert torch.equal(model.averages['net_g'].quantize.codes, model.net_g.quantize.codes)


def test_averaged_codes_become_the_means_of_their_features_and_unused_ones_start_again():
    codes = torch.tensor([[0.0, 0], [1, 1], [50, 50]])
    average = CodebookEMA(codes, decay=0.5, dead_code_threshold=0.1)
    features = torch.tensor([[0.0, 2], [0, 4], [3, 1], [5, 1]])
    average.update(features, torch.tensor([0, 0, 1, 1]))
    # shares: half of 1/3 and half of 1/2; sums: half of code/3 and half of the mean feature of the batch
    expected = torch.tensor([[0, 0 / 6 + 6 / 8], [1 / 6 + 8 / 8, 1 / 6 + 2 / 8]]) / (1 / 6 + 1 / 4)
    torch.testing.assert_close(codes[:2], expected)
    for _ in range(5):
        average.update(features, torch.tensor([0, 0, 1, 1]))
    assert (codes[2] == features).all(1).any()
    torch.testing.assert_close(codes[:2], torch.tensor([[0.0, 3], [4, 1]]), atol=0.1, rtol=0)


def test_an_averaged_codebook_is_trained_without_gradient(tmp_path):
    opt = stage_options(1, tmp_path, codebook_ema={'decay': 0.9}, net_d_start_iter=9)
    model = build_model(opt)
    before = model.net_g.quantize.codes.clone()
    model.optimize_parameters([batch_of(opt)], 1)
    assert model.net_g.quantize.codes.grad is None
    assert not torch.equal(model.net_g.quantize.codes, before)
    assert torch.equal(model.averages['net_g'].quantize.codes, model.net_g.quantize.codes)


def test_kmeans_finds_separate_clusters():
    centres = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    points = (centres.repeat(50, 1) + 0.01 * torch.randn(150, 2))[torch.randperm(150)]
    best = min(torch.cdist(centres, kmeans(points, 3, seed=seed)).amin(1).max().item() for seed in range(5))
    assert best < 0.01
    with pytest.raises(ValueError, match='2 points for 3 centres'):
        kmeans(points[:2], 3)


def test_stage2_trains_encoder_and_transformer_only(tmp_path):
    opt = stage_options(2, tmp_path)
    model = build_model(opt)
    before = {name: p.clone() for name, p in model.net_g.named_parameters()}
    model.optimize_parameters([batch_of(opt)], 1)
    changed = {name.split('.')[0] for name, p in model.net_g.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {'encoder', 'feat_emb', 'ft_layers', 'idx_pred_layer', 'position_emb'}
    average = dict(model.averages['net_g'].named_parameters())
    name = 'feat_emb.weight'
    torch.testing.assert_close(average[name], 0.9 * before[name] + 0.1 * model.net_g.feat_emb.weight.detach())


def test_target_codes_need_weights(tmp_path):
    """LESSONS 2: codes of a randomly initialised VQGAN mean nothing."""
    opt = stage_options(2, tmp_path)
    for broken in (
        {**opt, 'network_vqgan': None},
        {
            **opt,
            'network_vqgan': {**opt['network_vqgan'], 'model_path': None},
            'network_g': opt['network_g'] | {'vqgan_path': None},
        },
    ):
        with pytest.raises(OptionError, match='no target codes'):
            build_model(broken)


def test_target_codes_need_the_same_codebook(tmp_path):
    opt = stage_options(2, tmp_path)
    with pytest.raises(OptionError, match='codebook'):
        build_model({**opt, 'network_g': {**opt['network_g'], 'vqgan_path': None}})


def test_latent_codes_need_a_codebook_that_is_not_random_and_fits(tmp_path):
    """LESSONS 2 through the other door."""
    opt = stage_options(2, tmp_path)
    train = {**opt['datasets']['train'], 'latent_gt_path': 'codes.pth'}
    latent = {**opt, 'network_vqgan': None, 'datasets': {'train': train}}
    with pytest.raises(OptionError, match='random'):
        build_model({**latent, 'network_g': {**opt['network_g'], 'vqgan_path': None}})
    target_codes = build_model(latent).target_codes
    for codes in (torch.full((1, 256), 32), torch.zeros(1, 64, dtype=torch.long)):
        with pytest.raises(OptionError, match='latent_gt_path'):
            target_codes({'latent_gt': codes})


def test_latent_script_takes_no_network_of_a_later_stage(tmp_path, capsys):
    from basicsr.cli import data_latents as generate_latent_gt

    opt = stage_options(2, tmp_path)
    build_model(opt).save(1, tmp_path)
    faces, weights = opt['datasets']['train']['dataroot_gt'], str(tmp_path / 'models' / 'net_g_1.pth')
    arguments = ['-i', faces, '-o', str(tmp_path / 'codes.pth'), '--vqgan', weights]
    assert generate_latent_gt.main(arguments) == 2
    assert 'stage I' in capsys.readouterr().err


def test_latent_file_gives_the_codes_of_the_teacher(tmp_path):
    """LESSONS 5: the latent-code script works, and its codes are those computed on the way."""
    from basicsr.cli import data_latents as generate_latent_gt

    opt = stage_options(2, tmp_path)
    target = tmp_path / 'codes.pth'
    faces = opt['datasets']['train']['dataroot_gt']
    assert generate_latent_gt.main(['-i', faces, '-o', str(target), '--vqgan', str(tmp_path / 'vqgan.pth')]) == 0
    computed = build_model(opt).target_codes(batch_of(opt, 6))
    opt['datasets'] = {'train': {**opt['datasets']['train'], 'latent_gt_path': str(target)}}
    model = build_model({**opt, 'network_vqgan': None})
    batch = batch_of(opt, 6)
    assert torch.equal(model.target_codes(batch), computed)
    model.optimize_parameters([batch], 1)
    assert model.log['cross_entropy_loss'] > 0


def test_curriculum_crosses_every_published_boundary(tmp_path):
    """LESSONS 3: the published stage III asks for an image loss at w = 0 at iteration 120,000."""
    opt = stage_options(3, tmp_path, curriculum=None)
    model = build_model(opt)
    batch = batch_of(opt)
    seen = {}
    for iteration in (1, 40000, 40001, 80000, 80001, 120000, 120001, 120015, 120016):
        model.optimize_parameters([batch], iteration)
        seen[iteration] = 'l_g_pix' in model.log
        assert 'cross_entropy_loss' in model.log
    assert [iteration for iteration, image_losses in seen.items() if image_losses] == [1, 40000, 40001, 80000, 120015]
    assert [model.curriculum.at(i).w for i in (40000, 40001, 80001, 10**6)] == [1.0, 1.3, 0.0, 1.3]


def test_several_w_take_turns(tmp_path):
    opt = stage_options(3, tmp_path, curriculum=[{'severity': 'small', 'w': [0.5, 0]}])
    model = build_model(opt)
    used, decode = [], model.net_g.decode
    model.net_g.decode = lambda codes, seen, w, identity: used.append(w) or decode(codes, seen, w, identity)
    for iteration in (1, 2, 3):
        model.optimize_parameters([batch_of(opt)], iteration)
        assert 'l_g_pix' in model.log
    assert used == [0, 0.5, 0]
    mixed = Phase(None, 'mixed', [0, 1.0, 1.3], small_every=15)
    assert [mixed.weight(iteration) for iteration in (15, 30, 45, 60)] == [1.0, 1.3, 0, 1.0]


def test_stage3_uses_the_large_degradation_for_code_losses_only(tmp_path):
    opt = stage_options(3, tmp_path, curriculum=[{'severity': 'mixed', 'w': 1.0, 'small_every': 2}])
    model = build_model(opt)
    batch = batch_of(opt)
    inputs = []
    model.net_g.encoder.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    model.optimize_parameters([batch], 1)
    model.optimize_parameters([batch], 2)
    assert torch.equal(inputs[0], batch['in_large_de'])
    assert torch.equal(inputs[1], batch['in'])


def test_both_severities_take_turns_in_a_batch(tmp_path):
    opt = stage_options(3, tmp_path, curriculum=[{'severity': 'both', 'w': 0.5}])
    model = build_model(opt)
    batch = batch_of(opt, 3)
    before = {key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)}
    inputs = []
    model.net_g.encoder.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    for iteration in (1, 2):
        model.optimize_parameters([batch], iteration)
    mild, heavy = batch['in'], batch['in_large_de']
    assert torch.equal(inputs[0], torch.stack([heavy[0], mild[1], heavy[2]]))
    assert torch.equal(inputs[1], torch.stack([mild[0], heavy[1], mild[2]]))
    assert all(torch.equal(batch[key], value) for key, value in before.items())
    assert 'l_g_pix' in model.log and model.curriculum.at(1).w == 0.5
    opt['datasets']['train']['batch_size_per_gpu'] = 1
    with pytest.raises(OptionError, match='batch_size_per_gpu to 2 or more'):
        build_model(opt)


def test_the_discriminator_learns_from_its_own_loss_alone(tmp_path):
    opt = stage_options(3, tmp_path, optim_d={'type': 'SGD', 'lr': 1e-3})
    model, batch = build_model(opt), batch_of(opt)
    before = [p.detach().clone() for p in model.networks['net_d'].parameters()]
    model.generator_losses(batch, 1)
    loss = sum(model.discriminator_losses(batch, 1).values())
    expected = torch.autograd.grad(loss, list(model.networks['net_d'].parameters()))
    model.optimize_parameters([batch], 1)
    rate = model.learning_rate('optim_d', 1)
    for old, p, gradient in zip(before, model.networks['net_d'].parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), old - rate * gradient, rtol=1e-3, atol=1e-7)


def test_draws_follow_from_seed_rank_and_iteration(tmp_path, monkeypatch):
    opt, rank = stage_options(2, tmp_path), [0]
    monkeypatch.setattr('basicsr.models.base_model.get_rank', lambda: rank[0])

    def draws(seed, of_rank, iteration):
        model, drawn = build_model({**opt, 'manual_seed': seed}), []
        model.before_iteration = lambda _: drawn.append(torch.rand(4))
        rank[0] = of_rank
        model.optimize_parameters([batch_of(opt)], iteration)
        rank[0] = 0
        return tuple(drawn[0].tolist())

    cases = [(0, 0, 1), (0, 0, 2), (0, 1, 1), (1, 0, 1), (2**32, 0, 1)]
    assert len({draws(*case) for case in cases}) == len(cases)
    assert draws(*cases[1]) == draws(*cases[1])


@pytest.mark.parametrize(
    ('phases', 'words'),
    [
        ([{'severity': 'small'}], 'w > 0'),
        ([{'severity': 'both'}], 'w > 0'),
        ([{'severity': 'mixed', 'w': [0, 0]}], 'w > 0'),
        ([{'severity': 'small', 'w': [0.8, '0']}], 'list of numbers'),
        ([{'severity': 'smal', 'w': 1}], 'severity'),
        ([{'severity': 'large'}, {'severity': 'large'}], 'until'),
        ([{'severity': 'large', 'until': 5}, {'severity': 'large', 'until': 5}, {'severity': 'large'}], 'rise'),
        ([{'severity': 'large', 'untill': 5}], "did you mean 'until'"),
    ],
)
def test_curriculum_mistakes_are_named(phases, words):
    with pytest.raises(OptionError, match=words):
        Curriculum(phases)


def test_the_published_curriculum_is_the_one_of_the_published_training():
    phases = Curriculum(PUBLISHED_CURRICULUM).phases
    assert [phase.severity for phase in phases] == ['small', 'small', 'large', 'mixed']
    assert [phase.until for phase in phases[:3]] == [40000, 80000, 120000] and phases[-1].small_every == 15
    assert [phase.w for phase in phases if phase.severity != 'large'] == [1.0, 1.3, 1.3]


def test_learning_rates_in_closed_form():
    steps = {'type': 'MultiStepLR', 'milestones': [10, 20], 'gamma': 0.5}
    assert [learning_rate(i, 1.0, steps) for i in (1, 10, 11, 20, 21)] == [1, 1, 0.5, 0.5, 0.25]
    cosine = {'type': 'CosineAnnealingRestartLR', 'periods': [10, 10], 'restart_weights': [1, 0.5], 'eta_min': 0.2}
    assert learning_rate(1, 1.0, cosine) == pytest.approx(1.0)
    assert learning_rate(6, 1.0, cosine) == pytest.approx(0.6)
    assert learning_rate(11, 1.0, cosine) == pytest.approx(0.2 + 0.5 * 0.8)
    assert learning_rate(21, 1.0, cosine) == pytest.approx(0.2)
    assert [learning_rate(i, 1.0, None, warmup=4) for i in (1, 2, 4, 5)] == [0.25, 0.5, 1, 1]


def test_ema_in_closed_form(tmp_path):
    """The average after n steps is d^n times the first weights plus (1 - d) times the sum of d^(n-k) w_k."""
    decay, steps = 0.9, 4
    opt = stage_options(1, tmp_path, ema_decay=decay)
    model = build_model(opt)
    batch = batch_of(opt)
    network = model.net_g
    weights = [{name: value.detach().clone() for name, value in network.named_parameters()}]
    for iteration in range(1, steps + 1):
        model.optimize_parameters([batch], iteration)
        weights.append({name: value.detach().clone() for name, value in network.named_parameters()})
    factors = [decay**steps, *((1 - decay) * decay ** (steps - k) for k in range(1, steps + 1))]
    for name, average in model.averages['net_g'].named_parameters():
        expected = sum(factor * kept[name] for factor, kept in zip(factors, weights, strict=True))
        torch.testing.assert_close(average, expected)
    moved = [name for name in weights[0] if not torch.equal(weights[0][name], weights[-1][name])]
    assert len(moved) > len(weights[0]) / 2


def test_accumulated_gradients_equal_the_whole_batch(tmp_path):
    opt = stage_options(2, tmp_path)
    whole, parts = build_model(opt), build_model(opt)
    parts.net_g.load_state_dict(whole.net_g.state_dict())
    batch = batch_of(opt, 4)
    whole.optimize_parameters([batch], 1)
    halves = [{key: value[i : i + 2] for key, value in batch.items()} for i in (0, 2)]
    parts.optimize_parameters(halves, 1)
    for (name, a), b in zip(whole.net_g.named_parameters(), parts.net_g.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_clipping_bounds_the_gradient(tmp_path):
    opt = stage_options(2, tmp_path, grad_clip=1e-3)
    model = build_model(opt)
    model.optimize_parameters([batch_of(opt)], 1)
    norms = torch.stack([p.grad.norm() for p in model.net_g.parameters() if p.grad is not None])
    assert norms.norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_bf16_runs_and_keeps_weights_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr('basicsr.models.base_model.computes_bf16', lambda device: True)
    opt = stage_options(3, tmp_path, precision='bf16', grad_checkpointing=True)
    model = build_model(opt)
    kinds = set()
    model.net_g.encoder.blocks[0].register_forward_hook(lambda _, args, out: kinds.add(out.dtype))
    model.optimize_parameters([batch_of(opt)], 1)
    assert kinds == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in model.net_g.parameters())
    assert model.output.dtype == torch.float32
    with pytest.raises(OptionError, match="did you mean 'bf16'"):
        build_model(stage_options(2, tmp_path, precision='bf'))


def test_processors_without_bf16_train_in_fp32_and_say_so(tmp_path, monkeypatch, caplog):
    """They would imitate it, twenty times slower."""
    monkeypatch.setattr('basicsr.models.base_model.computes_bf16', lambda device: False)
    model = build_model(stage_options(2, tmp_path, precision='bf16'))
    assert model.amp_dtype is None
    assert 'this processor has no bf16' in caplog.text


def test_a_loss_that_is_not_finite_stops_and_changes_nothing(tmp_path):
    opt = stage_options(2, tmp_path)
    model = build_model(opt)
    batch = batch_of(opt)
    batch['in'] = torch.full_like(image(1, 2, 64), float('nan'))
    before = model.net_g.feat_emb.weight.clone()
    with pytest.raises(NonFiniteLossError, match=r'iteration 7.*cross_entropy_loss.*000\.png'):
        model.optimize_parameters([batch], 7)
    assert torch.equal(model.net_g.feat_emb.weight, before)


def test_a_gradient_that_is_not_finite_stops_and_changes_nothing(tmp_path):
    opt = stage_options(2, tmp_path)
    model = build_model(opt)
    weight = model.net_g.feat_emb.weight
    weight.register_hook(lambda gradient: gradient * float('nan'))
    before = weight.clone()
    with pytest.raises(NonFiniteLossError, match=r'gradient \(optim_g\).*iteration 3'):
        model.optimize_parameters([batch_of(opt)], 3)
    assert torch.equal(weight, before)


def test_an_fp16_overflow_leaves_out_the_step_and_the_run_goes_on(tmp_path):
    opt = stage_options(1, tmp_path, net_d_iters=2)
    model = build_model(opt)
    model.scaler = torch.amp.GradScaler('cpu', init_scale=2.0**127)
    before = model.net_g.encoder.blocks[0].weight.clone()
    model.optimize_parameters([batch_of(opt)], 1)  # the generator is not due
    model.optimize_parameters([batch_of(opt)], 2)
    assert torch.equal(model.net_g.encoder.blocks[0].weight, before)
    assert model.scaler.get_scale() < 2.0**127


def test_discriminator_and_its_loss_come_together(tmp_path):
    with pytest.raises(OptionError, match='both network_d and train:gan_opt'):
        build_model(stage_options(1, tmp_path, gan_opt=None))


def test_a_generator_that_is_fixed_cannot_be_trained(tmp_path):
    with pytest.raises(OptionError, match='fix_modules'):
        build_model(stage_options(3, tmp_path, fix_generator=False))


@pytest.mark.parametrize('stage', [2, 3])
def test_validation_reads_the_low_quality_side_only(stage, tmp_path):
    """LESSONS 1."""
    model = build_model(stage_options(stage, tmp_path), is_train=False)
    assert model.infer({'lq': image(1, 1, 64)}).shape == (1, 3, 64, 64)
    assert not model.optimizers


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('stage', [1, 2, 3])
@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
def test_stages_learn_on_cuda(stage, precision, tmp_path):
    opt = stage_options(stage, tmp_path, precision=precision, net_d_start_iter=30)
    model = build_model(opt, 'cuda')
    batch = batch_of(opt)
    first = total(model, batch)
    for _ in range(30):
        last = total(model, batch)
    model.optimize_parameters([batch], 31)
    assert last < 0.8 * first
