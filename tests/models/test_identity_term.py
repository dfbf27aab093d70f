"""The identity loss in the stages: it reaches what it should, and nothing else (IDENTITY, section 3)."""

from __future__ import annotations

import gc

import pytest
import torch
from small import batch_of, stage_options
from small_recognizer import save_tiny

from basicsr.models import build_model
from basicsr.models.base_model import Prediction
from basicsr.models.identity_term import part_of, restrict
from basicsr.models.schema import check_options
from basicsr.utils.options import OptionError
from basicsr.utils.templates import ffhq_template

REAL = {'mbf512': 'arcface_mbf512.onnx', 'casia128': 'mobilefacenet_casia128.pth'}


@pytest.fixture(params=['random', *(pytest.param(name, marks=pytest.mark.shared) for name in REAL)])
def recognizer(request, tmp_path):
    if request.param == 'random':
        return save_tiny(tmp_path / 'recognizer.pth')
    return request.getfixturevalue('shared') / 'weights' / REAL[request.param]


def options(stage, root, weights, train=(), **identity):
    section = {'type': 'IdentityLoss', 'loss_weight': 0.1, 'weights': str(weights), **identity}
    torch.manual_seed(0)  # of the drawn VQGAN
    return stage_options(stage, root, identity_opt=section, **dict(train))


def identity_gradients(model, batch):
    """The gradient norms that the identity term alone gives, by the first part of the parameters' names."""
    source = batch['in']
    sides = model.net_g.connect_list if 'in_large_de' in batch else ()
    lq_feat, seen = model.net_g.encode(source, sides)
    prediction = Prediction(lq_feat, seen, model.net_g.predict_logits(lq_feat))
    terms = model.identity(prediction, batch, 1, 1.0, None)
    terms['l_ids'].backward()
    norms: dict[str, float] = {}
    for name, parameter in model.net_g.named_parameters():
        norm = 0.0 if parameter.grad is None else parameter.grad.norm().item()
        norms[name.split('.')[0]] = norms.get(name.split('.')[0], 0.0) + norm
    return terms['l_ids'], norms


@pytest.mark.parametrize('stage', [2, 3])
def test_identity_alone_reaches_encoder_transformer_and_fusion_and_nothing_frozen(stage, tmp_path, recognizer):
    model = build_model(options(stage, tmp_path, recognizer))
    term, norms = identity_gradients(model, batch_of(model.opt))
    assert term.item() > 0
    for part in ('encoder', 'feat_emb', 'ft_layers', 'position_emb', 'idx_pred_layer'):
        assert norms[part] > 0, part
    assert (norms['fuse_convs_dict'] > 0) == (stage == 3)
    assert norms['quantize'] == norms['generator'] == 0


def test_the_soft_look_up_has_the_hard_value_bit_for_bit_and_the_gradient_of_the_expected_code(tmp_path):
    net = build_model(stage_options(2, tmp_path)).net_g.eval()
    logits = net.predict_logits(net.encode(torch.rand(2, 3, 64, 64))[0]).detach().requires_grad_()
    hard, soft = net.lookup_codes(logits), net.lookup_codes_ste(logits, tau=0.5)
    assert torch.equal(hard, soft)
    assert torch.equal(net.decode(hard, {}, 0), net.decode(soft, {}, 0))
    probe = torch.randn_like(soft)
    (soft * probe).sum().backward()
    free = logits.detach().double().requires_grad_()
    expected = (free / 0.5).softmax(2) @ net.quantize.codes.double()
    (expected.transpose(1, 2).reshape(probe.shape) * probe).sum().backward()
    torch.testing.assert_close(logits.grad, free.grad.float(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('reach', [['transformer'], ['encoder'], ['cft'], ['encoder', 'cft']])
def test_reach_keeps_the_gradient_within_the_parts_named_and_leaves_it_as_it_is_there(reach, tmp_path):
    weights = save_tiny(tmp_path / 'recognizer.pth')
    gradients, values = [], []
    for chosen in (reach, ['encoder', 'transformer', 'cft']):
        model = build_model(options(3, tmp_path, weights, grad_to=chosen))
        term, _ = identity_gradients(model, batch_of(model.opt))
        gradients.append({name: p.grad for name, p in model.net_g.named_parameters()})
        values.append(term.item())
    assert values[0] == pytest.approx(values[1])
    for name, whole in gradients[1].items():
        if part_of(name) in reach and whole is not None:
            torch.testing.assert_close(gradients[0][name], whole)
        else:
            assert gradients[0][name] is None


@pytest.mark.parametrize('grad_through_skips', [False, True])
def test_the_fused_features_lead_to_the_encoder_only_where_the_options_say_so(grad_through_skips, tmp_path):
    opt = options(3, tmp_path, save_tiny(tmp_path / 'recognizer.pth'), grad_through_skips=grad_through_skips)
    model = build_model(opt)
    batch = batch_of(opt)
    prediction = model.predict(batch['in'], model.net_g.connect_list, None)
    no_codes = prediction._replace(logits=prediction.logits.detach().requires_grad_())
    model.identity(no_codes, batch, 1, 1.0, None)['l_ids'].backward()
    first = next(model.net_g.encoder.parameters())
    assert (first.grad is not None and first.grad.norm() > 0) == grad_through_skips
    model.net_g.zero_grad()
    image = model.net_g.decode(model.net_g.lookup_codes(prediction.logits), prediction.fused(), 1.0)
    model.image_losses(image, batch['gt'], 1)['l_g_pix'].backward()
    assert first.grad is None  # image losses keep the published reach


def test_restrict_gives_the_value_and_gradients_of_the_loss_at_the_parameters_named():
    a, b = (torch.nn.Parameter(torch.tensor([value])) for value in (3.0, 5.0))
    term = restrict((a * a * b).sum(), [a], lambda x: 1024 * x)
    assert term.item() == 45
    term.backward()
    assert a.grad.item() == 30
    assert b.grad is None


def test_an_fp16_overflow_of_a_restricted_term_leaves_out_the_step_and_the_run_goes_on(tmp_path):
    model = build_model(options(2, tmp_path, save_tiny(tmp_path / 'recognizer.pth'), grad_to=['transformer']))
    model.scaler = torch.amp.GradScaler('cpu', init_scale=2.0**127)
    before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
    model.optimize_parameters([batch_of(model.opt)], 1)
    assert all(torch.equal(value, before[name]) for name, value in model.net_g.state_dict().items())
    assert model.scaler.get_scale() < 2.0**127


@pytest.mark.parametrize('stage', [2, 3])
def test_a_step_with_identity_logs_its_parts_and_moves_what_a_step_without_does_not(stage, tmp_path):
    weights = save_tiny(tmp_path / 'recognizer.pth')
    model = build_model(options(stage, tmp_path, weights, loss_weight=1.0, sub_batch=1))
    batch = batch_of(model.opt)
    model.optimize_parameters([batch], 1)
    log = model.log
    assert log['l_ids'] == pytest.approx(1 - log['ids_cosine'])
    assert log['ids_grad'] > 0
    assert 0 < log['ids_share'] < 1
    assert log['ids_seconds'] > 0
    plain = build_model({**model.opt, 'train': {**model.opt['train'], 'identity_opt': None}})
    plain.optimize_parameters([batch], 1)
    assert log['cross_entropy_loss'] == plain.log['cross_entropy_loss']
    head = 'idx_pred_layer.1.weight'
    assert not torch.equal(model.net_g.state_dict()[head], plain.net_g.state_dict()[head])


def test_the_share_is_that_of_the_gradient_at_the_logits(tmp_path):
    """With the code losses all but off, the identity term has all of the gradient; restricted or not."""
    weights = save_tiny(tmp_path / 'recognizer.pth')
    for reach in (['encoder', 'transformer', 'cft'], ['transformer']):
        small = {'feat_loss_weight': 1e-9, 'entropy_loss_weight': 1e-9}
        model = build_model(options(2, tmp_path, weights, small.items(), loss_weight=1.0, grad_to=reach))
        model.optimize_parameters([batch_of(model.opt)], 1)
        assert model.log['ids_share'] > 0.99


def test_identity_falls_when_it_is_trained_alone(tmp_path):
    weights = save_tiny(tmp_path / 'recognizer.pth')
    off = {'feat_loss_weight': 1e-9, 'entropy_loss_weight': 1e-9}
    model = build_model(options(2, tmp_path, weights, off.items(), loss_weight=1.0))
    batch = batch_of(model.opt)
    values = []
    for iteration in range(1, 16):
        model.optimize_parameters([batch], iteration)
        values.append(model.log['l_ids'])
    assert min(values[-5:]) < 0.8 * values[0]


def tensors_with_a_graph() -> int:
    """How many the process holds."""
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) and each.grad_fn is not None for each in gc.get_objects())


@pytest.mark.parametrize('reach', [['encoder', 'transformer', 'cft'], ['transformer']])
def test_an_iteration_leaves_nothing_of_its_graph(reach, tmp_path):
    """A hook that held what it hangs on kept every iteration's logits, until the memory was full."""
    model = build_model(options(2, tmp_path, save_tiny(tmp_path / 'recognizer.pth'), grad_to=reach))
    batch = batch_of(model.opt)
    before = tensors_with_a_graph()
    for iteration in (1, 2):
        model.optimize_parameters([batch], iteration)
    assert tensors_with_a_graph() == before


def test_every_start_iter_and_sub_batch(tmp_path):
    weights = save_tiny(tmp_path / 'recognizer.pth')
    model = build_model(options(2, tmp_path, weights, every=2, start_iter=2, sub_batch=1))
    batch = batch_of(model.opt)
    decoded = []
    model.net_g.generator.register_forward_pre_hook(lambda _, args: decoded.append(len(args[0])))
    due = []
    for iteration in range(1, 7):
        model.optimize_parameters([batch], iteration)
        due.append('l_ids' in model.log)
    assert due == [False, False, False, True, False, True]
    assert decoded == [1, 1]


def test_no_image_is_decoded_without_an_identity_loss(tmp_path):
    model = build_model(stage_options(2, tmp_path))
    decoded = []
    model.net_g.generator.register_forward_pre_hook(lambda *_: decoded.append(1))
    model.optimize_parameters([batch_of(model.opt)], 1)
    assert decoded == []


def test_accumulated_and_bf16_iterations_have_the_term_too(tmp_path, monkeypatch):
    monkeypatch.setattr('basicsr.models.base_model.computes_bf16', lambda device: True)
    weights = save_tiny(tmp_path / 'recognizer.pth')
    exact = build_model(options(2, tmp_path, weights))
    batch = batch_of(exact.opt)
    exact.optimize_parameters([batch], 1)
    accumulated = build_model(exact.opt)
    accumulated.optimize_parameters([{key: value[i : i + 1] for key, value in batch.items()} for i in range(2)], 1)
    assert accumulated.log['l_ids'] == pytest.approx(exact.log['l_ids'], rel=1e-3)
    reduced = build_model({**exact.opt, 'train': {**exact.opt['train'], 'precision': 'bf16'}})
    reduced.optimize_parameters([batch], 1)
    assert reduced.log['l_ids'] == pytest.approx(exact.log['l_ids'], rel=0.5)  # some codes fall otherwise


def test_stage1_takes_an_identity_loss_on_its_reconstructions(tmp_path):
    weights = save_tiny(tmp_path / 'recognizer.pth')
    model = build_model(options(1, tmp_path, weights, {'net_d_start_iter': 9}.items(), every=2))
    batch = batch_of(model.opt)
    model.optimize_parameters([batch], 1)
    assert 'l_ids' not in model.log
    model.optimize_parameters([batch], 2)
    assert 0 < model.log['l_ids'] < 0.2


def test_the_seeds_stage_trains_image_and_code_losses_together(tmp_path):
    weights = save_tiny(tmp_path / 'recognizer.pth')
    opt = options(3, tmp_path, weights, {'fidelity_weight': 0.7, 'curriculum': None}.items())
    opt = {**opt, 'model_type': 'CodeFormerModel'}
    opt['datasets']['train']['type'] = 'FFHQBlindDataset'
    check_options(opt)
    model = build_model(opt)
    assert model.curriculum.at(10**6).w == 0.7
    model.optimize_parameters([batch_of(opt)], 1)
    assert {'l_g_pix', 'cross_entropy_loss', 'l_ids'} <= set(model.log)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'grad_to': ['encoders']}, "did you mean 'encoder'"),
        ({'tau': 0.0}, 'tau'),
        ({'sub_batch': 0}, 'sub_batch'),
        ({'reduction': 'none'}, 'reduction'),
        ({'taus': 1.0}, 'taus'),
        ({'weights': 'nowhere.pth'}, 'nowhere.pth'),
    ],
)
def test_mistakes_are_errors(change, words, tmp_path):
    opt = options(2, tmp_path, **{'weights': save_tiny(tmp_path / 'recognizer.pth'), **change})
    with pytest.raises((OptionError, ValueError), match=words):
        check_options(opt)
        build_model(opt)


def conditioned(stage, root, references, train=()):
    """Options and a batch of a stage with an IDCodeFormer, whose new outputs are not zero, and drawn references."""
    opt = options(stage, root, save_tiny(root / 'recognizer.pth'), train, sub_batch=1)
    opt['network_g'] |= {'type': 'IDCodeFormer', 'identity_dim': 16, 'identity_dropout': 0.0}
    model = build_model(opt)
    with torch.no_grad():
        for name, parameter in model.net_g.named_parameters():
            if '.out.' in name or '.gates.' in name:
                parameter.normal_(std=0.3)
    batch = batch_of(opt)
    return model, {**batch, 'identity': torch.randn(len(batch['gt']), references, 16)}


@pytest.mark.parametrize('stage', [2, 3])
def test_a_conditioned_network_is_trained_with_the_identities_of_its_batch(stage, tmp_path):
    model, batch = conditioned(stage, tmp_path, 1)
    before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
    model.optimize_parameters([batch], 1)
    known = model.log['cross_entropy_loss'], model.log['l_ids']
    moved = {name for name, value in model.net_g.state_dict().items() if not torch.equal(value, before[name])}
    for part in ('id_tokens.mlp.0.weight', 'id_layers.0.q.weight', 'id_style.gates.32', 'ft_layers.0.linear1.weight'):
        assert part in moved
    model.net_g.load_state_dict(before)
    model.optimize_parameters([{**batch, 'identity': -batch['identity']}], 1)
    assert (model.log['cross_entropy_loss'], model.log['l_ids']) != known
    model.net_g.load_state_dict(before)
    unknown = {key: value for key, value in batch.items() if key != 'identity'}
    model.optimize_parameters([unknown], 1)
    assert model.log['cross_entropy_loss'] != known[0]


@pytest.mark.parametrize(('stage', 'w'), [(2, 0.0), (3, 0.7)])
def test_both_terms_in_closed_form(stage, w, tmp_path):
    """Faces at the w of the phase: the first against its ground truth; under its first and under its second reference.

    The second face has no second reference, and does not count in the alignment.
    """
    train = {'alignment_opt': {'loss_weight': 0.3, 'sub_batch': 2}, 'curriculum': [{'severity': 'small', 'w': w or 1}]}
    model, batch = conditioned(stage, tmp_path, 3, train.items())
    batch['identity_mask'] = torch.tensor([[True, True, True], [True, False, True]])
    batch['landmarks'] = torch.from_numpy(ffhq_template(64)).float() + torch.randn(2, 5, 2)
    terms = model.generator_losses(batch, 1)
    first, embed = batch['in'][:1], model.identity.loss.embedder
    restored, one, other = (
        model.net_g(first, w=w, identity=batch['identity'][:1, part])[0] for part in (slice(3), slice(1), slice(1, 2))
    )
    cosine = (embed(restored, batch['landmarks'][:1]) * embed(batch['gt'][:1], batch['landmarks'][:1])).sum()
    assert terms['l_ids'].item() == pytest.approx(0.1 * (1 - cosine.item()), rel=1e-3)
    assert terms['l_align'].item() == pytest.approx(0.3 * (one - other).square().mean().item(), rel=1e-3)


def test_what_is_new_learns_faster_where_the_options_say_so(tmp_path):
    steps = []
    for scale in (1, 4):
        torch.manual_seed(0)
        model, batch = conditioned(2, tmp_path, 1, [('id_lr_scale', scale)])
        before = {name: value.clone() for name, value in model.net_g.state_dict().items()}
        torch.manual_seed(1)
        model.optimize_parameters([{**batch, 'identity': torch.ones(len(batch['gt']), 1, 16)}], 1)
        steps.append({name: value - before[name] for name, value in model.net_g.state_dict().items()})
    for name, step in steps[0].items():
        torch.testing.assert_close(steps[1][name], step * (4 if name.startswith('id_') else 1), rtol=1e-3, atol=1e-6)
    assert any(step.any() for name, step in steps[0].items() if name.startswith('id_'))


@pytest.mark.parametrize('stage', [2, 3])
def test_alignment_is_zero_for_equal_references_and_falls_when_trained(stage, tmp_path):
    alone = {'alignment_opt': {'loss_weight': 1.0, 'sub_batch': 2}, 'entropy_loss_weight': 1e-6}
    model, batch = conditioned(stage, tmp_path, 2, alone.items())
    same = batch['identity'][:, :1].repeat(1, 2, 1)
    model.optimize_parameters([{**batch, 'identity': same}], 1)
    assert model.log['l_align'] == 0
    values = []
    for iteration in range(2, 12):
        model.optimize_parameters([batch], iteration)
        values.append(model.log['l_align'])
    assert values[0] > 0
    assert min(values[-3:]) < 0.7 * values[0]


def test_alignment_says_what_it_needs(tmp_path):
    section = {'alignment_opt': {'loss_weight': 1.0}}
    with pytest.raises(OptionError, match='IDCodeFormer'):
        build_model(stage_options(2, tmp_path, **section))
    model, batch = conditioned(2, tmp_path, 1, section.items())
    with pytest.raises(OptionError, match='two references'):
        model.optimize_parameters([batch], 1)
