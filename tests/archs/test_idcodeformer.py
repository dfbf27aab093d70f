"""The identity-conditioned network: day-0 equality, what conditioning does, where gradients go (IDENTITY, 4 and 5)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small import CODEFORMER

from basicsr.archs import CodeFormer, IDCodeFormer, build_network
from basicsr.archs.factory import load_network
from basicsr.archs.identity import Identity
from basicsr.models.schema import check_options
from basicsr.utils.checkpoint import load_state, save_atomic
from basicsr.utils.options import OptionError

PARTS = [(True, True), (True, False), (False, True), (False, False)]


def faces(count=2):
    return torch.rand(count, 3, 64, 64) * 2 - 1


def embeddings(*shape):
    return F.normalize(torch.randn(*shape, 32), dim=-1)


def fresh(condition_transformer=True, ia_cft=True, **options):
    """An IDCodeFormer with a CodeFormer's parameters, and that CodeFormer."""
    base = build_network(CODEFORMER).eval()
    for module in base.fuse_convs_dict.modules():  # so that the fusion does something
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight, std=0.1)
    opt = {**CODEFORMER, 'type': 'IDCodeFormer', 'identity_dim': 32, **options}
    network = build_network({**opt, 'condition_transformer': condition_transformer, 'ia_cft': ia_cft}).eval()
    load_state(network, base.state_dict(), strict=False)
    return network, base


def awake(**options):
    """An IDCodeFormer whose zero-initialised outputs and gates are not zero, as after some training."""
    network, _ = fresh(**options)
    with torch.no_grad():
        for cross in network.id_layers:
            cross.out.weight.normal_(std=0.3)
            cross.out.bias.normal_(std=0.3)
        for gate in network.id_style.gates.values():
            gate.fill_(0.3)
    return network


def test_what_is_known_of_a_face_is_what_its_most_trusted_reference_tells():
    who = Identity(torch.eye(3)[None], torch.tensor([[1.0, 0.0, 0.2]]))
    assert who.max_confidence.tolist() == [1]
    assert torch.allclose(who.mean, torch.tensor([[1.0, 0.0, 0.2]]) / 1.04**0.5)
    assert who.only(2).max_confidence.tolist() == pytest.approx([0.2])


@pytest.mark.parametrize('parts', PARTS)
@pytest.mark.parametrize('w', [0, 0.7])
@torch.no_grad()
def test_on_day_0_it_restores_as_the_codeformer_it_loads_bit_for_bit(parts, w):
    network, base = fresh(*parts)
    x = faces()
    expected = base(x, w=w, adain=True)
    for identity in (None, embeddings(2), embeddings(2, 3)):
        for mine, theirs in zip(network(x, w=w, adain=True, identity=identity), expected, strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize('parts', PARTS)
def test_every_new_key_has_a_new_prefix_and_nothing_else_is_missing(parts):
    network, base = fresh(*parts)
    new = set(network.state_dict()) - set(base.state_dict())
    assert set(base.state_dict()) <= set(network.state_dict())
    assert all(name.startswith('id_') for name in new)
    assert bool(new) == any(parts)


@torch.no_grad()
def test_none_an_all_masked_row_and_a_dropped_identity_are_the_same():
    network, x = awake(identity_dropout=0.999999), faces()
    blind = network(x, w=0.5)
    masked = network(x, w=0.5, identity=embeddings(2, 3), mask=torch.zeros(2, 3))
    dropped = network.train()(x, w=0.5, identity=embeddings(2))
    for a, b, c in zip(blind, masked, dropped, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a, c)
    one = network.eval()(x, w=0.5, identity=embeddings(2, 1), mask=torch.tensor([[True], [False]]))
    torch.testing.assert_close(one[0][1], blind[0][1])
    assert not torch.allclose(one[0][0], blind[0][0], atol=1e-3)


@torch.no_grad()
def test_nobodys_style_is_not_computed_and_the_image_is_the_same_bit_for_bit(monkeypatch):
    network, x = awake().eval(), faces()
    masked = network(x, w=0.5, identity=embeddings(2), mask=torch.zeros(2, 1))
    monkeypatch.setattr(network.id_style, 'forward', lambda *_: pytest.fail('computed'))
    assert torch.equal(network(x, w=0.5)[0], masked[0])


@torch.no_grad()
def test_dropout_drops_its_share_in_training_and_nothing_otherwise():
    network, _ = fresh(identity_dropout=0.25)
    identity = embeddings(4000)
    assert network.identify(4000, identity).max_confidence.all()
    assert network.train().identify(4000, identity).max_confidence.float().mean().item() == pytest.approx(
        0.75, abs=0.03
    )


@torch.no_grad()
def test_the_order_of_references_and_what_is_behind_the_mask_do_not_matter():
    network, x, identity = awake(), faces(), embeddings(2, 4)
    mask = torch.tensor([[True, True, False, True], [True, False, True, True]])
    expected = network(x, w=0.5, identity=identity, mask=mask)[0]
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(network(x, w=0.5, identity=identity[:, order], mask=mask[:, order])[0], expected)
    noise = identity.where(mask[..., None], torch.tensor(float('nan')))
    torch.testing.assert_close(network(x, w=0.5, identity=noise, mask=mask)[0], expected)


@torch.no_grad()
def test_a_confidence_of_0_is_masked_and_of_1_is_there_bit_for_bit():
    network, x, identity = awake(), faces(), embeddings(2, 3)
    mask = torch.tensor([[True, False, True], [False, False, True]])

    def restored(mask):
        return network(x, 0.5, identity=identity, mask=mask)[0]

    assert torch.equal(restored(mask.float()), restored(mask))
    assert torch.equal(restored(torch.ones(2, 3)), restored(None))
    assert torch.equal(restored(torch.zeros(2, 3)), network(x, 0.5)[0])


@torch.no_grad()
def test_a_confidence_in_between_leads_from_blind_to_known_step_by_step():
    network, identity = awake(), embeddings(1)
    cross, style, side = network.id_layers[0], network.id_style, network.connect_list[0]
    torch.nn.init.eye_(cross.out.weight)  # so that the heads, of which each goes straight, stay apart
    x, position = torch.randn(4, 1, 32), torch.randn(4, 1, 32)
    feat = torch.randn(1, network.channels_at[side], side, side)
    seen, styled = [], []
    for confidence in (0.0, 0.01, 0.3, 0.8, 1.0):
        who = network.identify(1, identity, torch.tensor([[confidence]]))
        seen.append(cross(x, position, *network.id_tokens(who)))
        styled.append(style(side, feat, who))
        torch.testing.assert_close(styled[-1], confidence * style(side, feat, network.identify(1, identity)))
    away = [(answer - seen[0]).norm().item() for answer in seen]
    near = [(answer - seen[-1]).norm().item() for answer in seen]
    assert away == sorted(set(away)) and near == sorted(set(near), reverse=True)


@torch.no_grad()
def test_a_doubtful_reference_counts_less_than_a_certain_one():
    network, identity = awake(), embeddings(1, 2)
    means = [network.identify(1, identity, torch.tensor([[1.0, c]])).mean for c in (0.0, 0.25, 1.0)]
    nearness = [(mean * identity[:, 1]).sum().item() for mean in means]
    assert nearness == sorted(nearness)
    torch.testing.assert_close(means[1], F.normalize(identity[:, 0] + 0.25 * identity[:, 1]))


def test_gradients_under_any_confidence_are_finite_and_reach_it():
    network, identity = awake().train(), embeddings(2, 2)
    network.identity_dropout = 0
    confidence = torch.tensor([[0.0, 0.4], [1e-42, 1.0]], requires_grad=True)
    image, logits, _ = network(faces(), w=0.5, identity=identity, mask=confidence)
    (logits.square().mean() + image.square().mean()).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    assert confidence.grad.isfinite().all() and confidence.grad[0, 1] != 0


@pytest.mark.parametrize('value', [-0.1, 1.1, 2, float('nan')])
def test_a_confidence_out_of_range_is_an_error(value):
    network, _ = fresh()
    with pytest.raises(ValueError, match='from 0 to 1'):
        network(faces(), identity=embeddings(2), mask=torch.tensor([[0.5], [value]]))


@torch.no_grad()
def test_confidence_in_a_compiled_and_in_an_exported_network():
    class Known(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x, identity, mask):
            return self.network(x, w=0.5, identity=identity, mask=mask)[0]

    torch.compiler.reset()
    known = Known(awake()).eval()
    compiled = torch.compile(known, backend='aot_eager', fullgraph=True)
    exported = torch.export.export(known, (faces(), embeddings(2, 1), torch.ones(2, 1)), strict=False).module()
    for mask in (torch.tensor([[0.3], [1.0]]), torch.tensor([[0.0], [0.7]])):
        given = faces(), embeddings(2, 1), mask
        torch.testing.assert_close(compiled(*given), known(*given))
        torch.testing.assert_close(exported(*given), known(*given))


@torch.no_grad()
def test_nobody_known_is_finite_and_alike_in_float16():
    network = awake()
    image, logits, _ = network.half()(faces().half(), w=0.5)
    expected = network.float()(faces(), w=0.5)
    torch.testing.assert_close(logits.float(), expected[1], atol=0.1, rtol=0)
    assert image.isfinite().all()


@torch.no_grad()
def test_one_reference_of_each_face_is_a_list_of_one():
    network, x, identity = awake(), faces(), embeddings(2)
    assert torch.equal(network(x, identity=identity)[0], network(x, identity=identity[:, None])[0])


@torch.no_grad()
def test_another_person_changes_codes_and_image_and_only_of_that_face():
    network, x, identity = awake(), faces(), embeddings(2)
    other = identity.clone()
    other[0] = embeddings(1)[0]
    image, logits, feat = network(x, w=0.5, identity=identity)
    changed, changed_logits, same_feat = network(x, w=0.5, identity=other)
    assert torch.equal(feat, same_feat)
    assert (logits[0] - changed_logits[0]).abs().max() > 1e-3
    assert (image[0] - changed[0]).abs().max() > 1e-3
    torch.testing.assert_close(logits[1], changed_logits[1])


@torch.no_grad()
def test_id_scale_0_is_the_published_transformation_and_more_is_more():
    network, x, identity = awake(), faces(), embeddings(2)
    unstyled, _ = fresh(ia_cft=False)
    load_state(unstyled, {k: v for k, v in network.state_dict().items() if 'id_style' not in k})
    plain = unstyled(x, w=0.5, identity=identity)[0]
    assert torch.equal(network(x, w=0.5, identity=identity, id_scale=0)[0], plain)
    steps = [(network(x, w=0.5, identity=identity, id_scale=s)[0] - plain).abs().mean().item() for s in (0.1, 0.5, 2)]
    assert 0 < steps[0] < steps[1] < steps[2]


@torch.no_grad()
def test_the_styling_path_is_the_closed_form():
    network, identity = awake(), embeddings(2)
    style, side = network.id_style, network.connect_list[0]
    feat = torch.randn(2, network.channels_at[side], side, side) * 3 + 1
    who = network.identify(2, identity)
    told = style.shared(identity * 32**0.5)  # numbers of variance 1
    gamma, beta = style.heads[str(side)](told[..., None, None]).chunk(2, dim=1)
    normal = F.instance_norm(feat, eps=1e-5)
    torch.testing.assert_close(style(side, feat, who), 0.3 * (gamma * normal + beta), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_with_a_grid_every_place_of_the_face_is_styled_for_itself():
    network, identity = awake(style_grid=4), embeddings(2)
    style, side = network.id_style, max(network.connect_list)
    feat = torch.zeros(2, network.channels_at[side], side, side)  # so that beta is what remains
    who = network.identify(2, identity)
    maps = style.shared(identity * 32**0.5).view(2, -1, 4, 4)
    beta = style.heads[str(side)](maps).chunk(2, dim=1)[1]
    styled = style(side, feat, who)
    torch.testing.assert_close(styled.mean((2, 3)), 0.3 * beta.mean((2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(styled[..., 0, 0], 0.3 * beta[..., 0, 0])  # corners are not interpolated
    assert styled.std((2, 3)).min() > 1e-3
    everywhere = awake(style_grid=1)
    assert everywhere.id_style(side, feat, who).std((2, 3)).max() < 1e-6


def test_a_grid_of_no_places_is_an_error():
    with pytest.raises(ValueError, match='style_grid 0'):
        fresh(style_grid=0)


def test_gradients_reach_tokens_query_key_value_null_and_gate():
    network = awake().train()
    network.identity_dropout = 0
    image, logits, _ = network(faces(), w=0.5, identity=embeddings(2), detach_16=True)
    (logits.square().mean() + image.square().mean()).backward()
    cross = network.id_layers[0]
    for part in (network.id_tokens.mlp[0], cross.q, cross.k, cross.v, cross.out, network.id_style.shared[0]):
        assert part.weight.grad.abs().max() > 0
    assert network.id_tokens.null.grad.abs().max() > 0
    assert all(gate.grad.abs().max() > 0 for gate in network.id_style.gates.values())


def test_on_day_0_the_outputs_and_gates_have_gradients_so_that_training_can_start():
    network, _ = fresh()
    network.train().identity_dropout = 0
    image, logits, _ = network(faces(), w=0.5, identity=embeddings(2))
    (logits.square().mean() + image.square().mean()).backward()
    assert all(cross.out.weight.grad.abs().max() > 0 for cross in network.id_layers)
    assert all(gate.grad.abs().max() > 0 for gate in network.id_style.gates.values())


@pytest.mark.parametrize('parts', PARTS[:3])
def test_a_checkpoint_tells_its_parts_and_sizes(parts, tmp_path):
    network, _ = fresh(*parts, identity_tokens=3, style_grid=4)
    save_atomic({'params': network.state_dict(), 'network': {'n_head': 2}}, tmp_path / 'net.pth')
    loaded = load_network(tmp_path / 'net.pth')
    assert isinstance(loaded, IDCodeFormer)
    x, identity = faces(), embeddings(2)
    assert torch.equal(loaded(x, w=0.5, identity=identity)[0], network(x, w=0.5, identity=identity)[0])


def test_codeformer_itself_takes_no_identity():
    network = build_network(CODEFORMER)
    assert type(network) is CodeFormer
    with pytest.raises(TypeError, match='identity'):
        network(faces(), identity=embeddings(2))


@pytest.mark.parametrize(
    ('identity', 'mask'),
    [((3,), None), ((2, 3), (2, 2)), ((2, 3), (3, 3)), ((2, 3), (2,))],
)
def test_shapes_that_do_not_fit_are_errors(identity, mask):
    network, _ = fresh()
    with pytest.raises(ValueError, match='for 2 faces'):
        network(faces(), identity=embeddings(*identity), mask=None if mask is None else torch.ones(mask))


def test_options_know_the_arguments_of_both_classes(tmp_path):
    from small import stage_options

    opt = stage_options(2, tmp_path)
    opt['network_g'] |= {'type': 'IDCodeFormer', 'identity_dim': 32, 'identity_tokens': 3}
    check_options(opt)
    opt['network_g']['identity_token'] = 3
    with pytest.raises(OptionError, match="did you mean 'identity_tokens'"):
        check_options(opt)
