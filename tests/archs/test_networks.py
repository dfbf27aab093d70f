"""Networks at small sizes, where golden figures do not reach."""

from __future__ import annotations

import pytest
import torch
from drawing import fill, image
from small import CODEFORMER, DISCRIMINATOR, SIZES, VQGAN

from basicsr.archs import build_network
from basicsr.archs.codeformer_arch import adaptive_instance_normalization
from basicsr.archs.factory import load_network
from basicsr.archs.quantizer import GumbelQuantizer, VectorQuantizer, perplexity
from basicsr.utils.checkpoint import CheckpointError, save_atomic


@pytest.mark.parametrize('size', [64, 128])
def test_sizes_follow_from_the_arguments(size):
    network = fill(build_network({**CODEFORMER, 'img_size': size, 'attn_resolutions': [size // 4]})).eval()
    out, logits, feat = network(image(1, 2, size), w=0.5)
    assert out.shape == (2, 3, size, size)
    assert logits.shape == (2, (size // 4) ** 2, 32)
    assert feat.shape == (2, 32, size // 4, size // 4)


@pytest.mark.parametrize('options', [VQGAN, CODEFORMER])
def test_a_detail_head_starts_as_the_network_without_it_enlarged(options, tmp_path):
    plain = fill(build_network(options)).eval()
    double = build_network({**options, 'out_scale': 2}).eval()
    missing, unexpected = double.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert {name.rpartition('.')[0] for name in missing} == {'generator.detail.0', 'generator.detail.2'}
    given = image(1, 2, 64)
    small, large = plain(given)[0], double(given)[0]
    assert large.shape == (2, 3, 128, 128)
    enlarged = torch.nn.functional.interpolate(small, scale_factor=2.0, mode='bicubic', align_corners=False)
    assert torch.equal(large, enlarged)
    fill(double)
    assert (double(given)[0] - large).abs().mean() > 0.01
    save_atomic({'params': double.state_dict(), 'network': options}, tmp_path / 'double.pth')
    assert torch.equal(load_network(tmp_path / 'double.pth')(given)[0], double(given)[0])


def test_pictures_of_the_outputs_side_are_reduced_by_area_for_the_encoder():
    network = fill(build_network({**CODEFORMER, 'out_scale': 2})).eval()
    given = image(1, 1, 128)
    reduced = (given[..., ::2, ::2] + given[..., 1::2, ::2] + given[..., ::2, 1::2] + given[..., 1::2, 1::2]) / 4
    torch.testing.assert_close(network(given, w=1)[0], network(reduced, w=1)[0])
    plain = build_network(CODEFORMER)
    assert plain.to_input(given) is given
    with pytest.raises(ValueError, match='out_scale 3: use 1 or 2'):
        build_network({**VQGAN, 'out_scale': 3})


def test_fixed_modules_of_stage_one_are_not_trained():
    network = build_network({**VQGAN, 'fix_modules': ['encoder', 'quantize']})
    assert {name.split('.')[0] for name, p in network.named_parameters() if p.requires_grad} == {'generator'}
    network = build_network({**VQGAN, 'fix_modules': ['encoder.blocks.0']})
    assert {name.split('.')[1] for name, p in network.encoder.named_parameters() if not p.requires_grad} == {'0'}
    with pytest.raises(ValueError, match="no sub-module 'decoder'"):
        build_network({**VQGAN, 'fix_modules': ['decoder']})


def test_code_only_is_the_first_half():
    network = fill(build_network(CODEFORMER)).eval()
    _, logits, feat = network(image(1, 1, 64), w=1)
    only = network(image(1, 1, 64), code_only=True)
    assert len(only) == 2
    assert torch.equal(only[0], logits)
    assert torch.equal(only[1], feat)


def test_no_fusion_is_computed_at_w_zero():
    network = fill(build_network(CODEFORMER))
    calls = []
    network.fuse_convs_dict['32'].register_forward_hook(lambda *_: calls.append(1))
    network(image(1, 1, 64), w=0)
    assert not calls
    network(image(1, 1, 64), w=0.1)
    assert calls


def test_w_scales_the_fusion_of_one_block():
    block = fill(build_network(CODEFORMER)).fuse_convs_dict['32']
    enc, dec = torch.randn(2, 1, 32, 8, 8)
    at = {w: block(enc, dec, w) for w in (0.0, 0.5, 1.0)}
    assert torch.equal(at[0.0], dec)
    torch.testing.assert_close(at[0.5] - dec, 0.5 * (at[1.0] - dec))


def test_detach_decides_where_image_gradients_go():
    network = fill(build_network(CODEFORMER))
    network(image(1, 1, 64), w=1)[0].sum().backward()
    reached = {name.split('.')[0] for name, p in network.named_parameters() if p.grad is not None}
    assert reached == {'fuse_convs_dict'}


def test_adain_takes_over_the_moments():
    content, style = torch.randn(2, 4, 8, 8), 3 * torch.randn(2, 4, 8, 8) + 1
    out = adaptive_instance_normalization(content, style)
    torch.testing.assert_close(out.mean((2, 3)), style.mean((2, 3)))
    torch.testing.assert_close(out.std((2, 3)), style.std((2, 3)), rtol=1e-3, atol=1e-3)


def test_grad_checkpointing_changes_no_gradient():
    grads = []
    for enable in (False, True):
        network = fill(build_network(CODEFORMER))
        network.set_grad_checkpointing(enable)
        calls = []
        network.encoder.blocks[1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        network(image(1, 1, 64), code_only=True)[0].square().mean().backward()
        grads.append(network.encoder.blocks[0].weight.grad)
        assert len(calls) == 1 + enable
    torch.testing.assert_close(*grads)


def test_quantizer_finds_nearest_codes_and_passes_gradients():
    quantizer = VectorQuantizer(4, 2)
    quantizer.embedding.weight.data = torch.tensor([[0.0, 0], [1, 0], [0, 1], [5, 5]])
    z = torch.tensor([[0.9, 0.1], [0.1, 0.2]]).t().reshape(1, 2, 1, 2).requires_grad_()
    z_q, loss, stats = quantizer(z)
    assert stats['min_encoding_indices'].flatten().tolist() == [1, 0]
    error = ((0.1**2 + 0.1**2) + (0.1**2 + 0.2**2)) / 4
    assert loss.item() == pytest.approx(1.25 * error)
    (gradient,) = torch.autograd.grad(z_q.sum(), z)
    assert torch.equal(gradient, torch.ones_like(z))


def test_beta_weighs_the_term_that_is_named():
    """LESSONS 7: the published training has beta on the codebook term, the paper on the commitment term."""
    gradients = {}
    for term in ('codebook', 'commitment'):
        quantizer = VectorQuantizer(1, 1, beta=0.25, beta_on=term)
        quantizer.embedding.weight.data = torch.zeros(1, 1)
        z = torch.ones(1, 1, 1, 1, requires_grad=True)
        quantizer(z)[1].backward()
        gradients[term] = (z.grad.item(), quantizer.embedding.weight.grad.item())
    assert gradients == {'codebook': (2.0, -0.5), 'commitment': (0.5, -2.0)}


def test_perplexity_counts_equally_used_codes():
    assert perplexity(torch.arange(8), 32).item() == pytest.approx(8, rel=1e-4)
    assert perplexity(torch.zeros(8, dtype=torch.long), 32).item() == pytest.approx(1, rel=1e-4)


def test_gumbel_quantizer_trains_softly_and_evaluates_by_index():
    quantizer = GumbelQuantizer(8, 4)
    z = torch.randn(2, 4, 3, 3, requires_grad=True)
    quantizer.train()(z)[0].sum().backward()
    assert z.grad.abs().sum() > 0
    z_q, _, stats = quantizer.eval()(z)
    indices = quantizer.proj(z).argmax(1)
    assert torch.equal(stats['min_encoding_indices'].view(2, 3, 3), indices)
    assert torch.equal(z_q, quantizer.embed.weight[indices].permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'latent_size': 64}, 'latent_size'),
        ({'connect_list': ['48']}, '48'),
        ({'fix_modules': ['generater']}, "'generator'"),
        ({'img_size': 66}, 'img_size'),
        ({'nf': 20}, 'nf'),
        ({'quantizer': 'x'}, 'quantizer'),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        build_network({**CODEFORMER, **changes})


def test_unknown_network_names_the_nearest():
    with pytest.raises(KeyError, match="did you mean 'CodeFormer'"):
        build_network({'type': 'CodeFormr'})


@pytest.mark.parametrize(
    'options',
    [
        VQGAN,
        CODEFORMER,
        DISCRIMINATOR,
        {'type': 'VQAutoEncoder', **SIZES, 'quantizer': 'gumbel'},
        {**CODEFORMER, 'img_size': 128, 'ch_mult': [1, 2, 2, 4], 'res_blocks': 2, 'n_layers': 2, 'connect_list': [64]},
    ],
)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_loader_tells_network_and_sizes_from_the_file(options, suffix, tmp_path):
    import safetensors.torch

    network = fill(build_network(options))
    path = tmp_path / f'net{suffix}'
    if suffix == '.pth':
        state = {f'module.{key}': value for key, value in network.state_dict().items()}
        save_atomic({'params': {}, 'params_ema': state}, path)
    else:
        safetensors.torch.save_file(network.state_dict(), path)
    loaded = load_network(path)
    assert type(loaded) is type(network)
    assert not loaded.training
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in loaded.state_dict().items())
    if options['type'] == 'CodeFormer':
        assert (loaded.img_size, loaded.connect_list) == (network.img_size, network.connect_list)
        assert loaded.encoder.taps == network.encoder.taps


def test_loader_takes_the_heads_that_a_checkpoint_states(tmp_path):
    network = fill(build_network(CODEFORMER))
    save_atomic({'params': network.state_dict(), 'network': CODEFORMER}, tmp_path / 'net.pth')
    loaded = load_network(tmp_path / 'net.pth')
    assert loaded.ft_layers[0].self_attn.num_heads == CODEFORMER['n_head']


class Hostile:
    """Runs code when unpickled by an unsafe loader."""

    def __reduce__(self):
        return print, ('this must not run',)


@pytest.mark.parametrize('kind', ['missing', 'empty', 'text', 'byte', 'truncated', 'foreign', 'hostile', 'list'])
def test_bad_checkpoints_give_one_clear_error(kind, tmp_path, capsys):
    path = tmp_path / 'net.pth'
    if kind == 'truncated':
        save_atomic(build_network(VQGAN).state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == 'foreign':
        save_atomic({'state_dict': {'layer.weight': torch.zeros(3)}}, path)
    elif kind == 'hostile':
        torch.save({'params': Hostile()}, path)
    elif kind == 'list':
        save_atomic([1, 2], path)
    elif kind != 'missing':
        path.write_bytes({'empty': b'', 'text': b'hello world', 'byte': b'j'}[kind])
    with pytest.raises(CheckpointError, match=r'net\.pth'):
        load_network(path)
    assert 'must not run' not in capsys.readouterr().out


def test_strict_loading_reports_keys(tmp_path):
    from basicsr.utils.checkpoint import load_state

    network = build_network(VQGAN)
    state = {key: value for key, value in network.state_dict().items() if key != 'encoder.blocks.0.bias'}
    state |= {'extra': torch.zeros(1), 'encoder.blocks.0.weight': torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r'1 missing .*1 unexpected .*1 mismatched'):
        load_state(network, state)
    report = load_state(network, state, strict=False)
    assert (report.missing, report.unexpected) == (['encoder.blocks.0.bias'], ['extra'])
    assert len(report.mismatched) == 1
    assert len(report.used) == len(network.state_dict()) - 2


def test_small_networks_keep_the_mean_colour():
    """With one channel a group the last normalisation would give every picture the same mean colour."""
    network = fill(build_network(VQGAN)).eval()
    feat = torch.randn(4, 32, 16, 16) + torch.randn(4, 32, 1, 1)
    means = network.generator(feat).mean((2, 3))
    assert means.std(0).min() > 0.05


@pytest.mark.parametrize('fused', [0.0, 0.7])
def test_inference_computes_what_training_does(fused):
    """Without gradients, activations are overwritten and enlargements are done by transposed convolutions."""
    network = fill(build_network(CODEFORMER)).eval()
    x = image(1, 2, 64)
    trained = network(x, w=fused, adain=True)
    with torch.inference_mode():
        inferred = network(x, w=fused, adain=True)
    for one, other in zip(trained, inferred, strict=True):
        torch.testing.assert_close(other, one.detach(), rtol=1e-4, atol=1e-4)


def test_loading_draws_no_random_numbers(tmp_path):
    save_atomic({'params': build_network(CODEFORMER).state_dict(), 'network': CODEFORMER}, tmp_path / 'net.pth')
    before = torch.get_rng_state()
    load_network(tmp_path / 'net.pth')
    assert torch.equal(torch.get_rng_state(), before)
