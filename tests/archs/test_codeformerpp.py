"""CodeFormer++ networks: the two pictures of the prior, a neutral start, attention, transfer, files."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawing import fill, image
from small import CODEFORMER, VQGAN, face_crops
from small_faces import aligned_face

from basicsr.archs import CodeFormerPlusPlus, build_network
from basicsr.archs.factory import describe, load_network
from basicsr.archs.tgrn_arch import TGRN, TextureAttention
from basicsr.cli.restore import main
from basicsr.inference import FaceRestorer, onnx_export
from basicsr.utils.checkpoint import CheckpointError, save_atomic
from basicsr.utils.image import imread, imwrite, to_image, to_tensor

ID_CODEFORMER = {**CODEFORMER, 'type': 'IDCodeFormer', 'identity_dim': 16, 'identity_tokens': 2}
IDENTITY = F.normalize(torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(5)), dim=2)
MASK = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.0, 0.0]])


@pytest.fixture(params=[CODEFORMER, ID_CODEFORMER], ids=['CodeFormer', 'IDCodeFormer'])
def network(request) -> CodeFormerPlusPlus:
    """With a drawn prior, and a fresh aligner and transfer network."""
    built = build_network({'type': 'CodeFormerPlusPlus', 'prior': request.param, 'tgrn': {'width': 8}})
    fill(built.prior)
    return built.eval()


def identity_of(network) -> dict[str, torch.Tensor]:
    """Who the faces are, for a prior that listens."""
    return {} if type(network.prior).__name__ == 'CodeFormer' else {'identity': IDENTITY, 'mask': MASK}


@pytest.mark.parametrize('adain', [False, True])
def test_one_encoding_serves_both_pictures(network, adain):
    """Bit for bit what the prior makes of the faces at w = 1 and w = 0, with one encoding and one Transformer pass."""
    faces, known = image(1, 2, 64), identity_of(network)
    calls = []
    network.prior.encoder.register_forward_hook(lambda *_: calls.append('encoder'))
    network.prior.idx_pred_layer.register_forward_hook(lambda *_: calls.append('transformer'))
    faithful, generated, logits, lq_feat = network.restore_twice(faces, adain=adain, **known)
    assert calls == ['encoder', 'transformer']
    with torch.no_grad():
        for w, found in ((1.0, faithful), (0, generated)):
            expected = network.prior(faces, w=w, adain=adain, **known)
            assert torch.equal(found, expected[0])
            assert torch.equal(logits, expected[1]) and torch.equal(lq_feat, expected[2])
    assert not torch.equal(faithful, generated)
    again, free, *_ = network.restore_twice(faces, w=0.0, adain=adain, **known)
    assert torch.equal(again, free) and torch.equal(free, generated)


@torch.no_grad()
@pytest.mark.parametrize('texture', [0, 0.5, 1.0])
def test_a_fresh_network_restores_as_its_prior(network, texture):
    faces, known = image(1, 2, 64), identity_of(network)
    expected = network.prior(faces, w=network.w_identity, adain=True, **known)[0]
    assert torch.equal(network(faces, texture=texture, **known)[0], expected)
    expected = network.prior(faces, w=0.3, adain=False, **known)[0]
    assert torch.equal(network(faces, w=0.3, adain=False, texture=texture, **known)[0], expected)


@torch.no_grad()
def test_texture_scales_what_is_added(network):
    fill(network.tgrn), fill(network.dam)
    faces = image(1, 2, 64)
    none, half, whole = (network(faces, texture=texture)[0] for texture in (0, 0.5, 1.0))
    assert (whole - none).abs().max() > 0.01
    torch.testing.assert_close(half - none, (whole - none) / 2)


@torch.no_grad()
def test_without_texture_nothing_else_is_computed(network):
    def refuse(*_):
        raise AssertionError('computed')

    for part in (network.dam, network.tgrn):
        part.register_forward_pre_hook(refuse)
    generated = []
    network.prior.generator.register_forward_hook(lambda *_: generated.append(1))
    network(image(1, 1, 64), texture=0)
    assert len(generated) == 1
    with pytest.raises(AssertionError, match='computed'):
        network(image(1, 1, 64))


@torch.no_grad()
def test_what_texture_is_taken_from():
    def built(source):
        network = build_network({'type': 'CodeFormerPlusPlus', 'prior': CODEFORMER, 'texture_from': source})
        return fill(network).eval()

    faces = image(1, 1, 64)
    faithful, generated, *_ = built('I_warp').restore_twice(faces)
    network = built('I_warp')
    sources = {'I_F': faithful, 'I_G': generated, 'I_warp': network.align(generated, faithful)}
    for name, source in sources.items():
        torch.testing.assert_close(built(name)(faces)[0], network.tgrn(faithful, source))
    assert not torch.equal(sources['I_warp'], generated)


def test_the_prior_stays_as_it_is(network):
    network.train()
    assert network.tgrn.training and network.dam.training
    assert not any(module.training for module in network.prior.modules())
    assert not any(parameter.requires_grad for parameter in network.prior.parameters())
    network.tgrn.last.weight.data.normal_()
    network(image(1, 1, 64))[0].mean().backward()
    assert all(parameter.grad is None for parameter in network.prior.parameters())


@torch.no_grad()
def test_a_search_reaches_the_first_picture(network):
    def search(logits, render):
        assert torch.equal(render(logits), network.prior(faces, w=1.0, adain=True)[0])
        return logits.roll(1, 2)

    faces = image(1, 2, 64)
    found = network(faces, search=search)
    assert torch.equal(found[0], network.prior(faces, w=1.0, adain=True, search=search)[0])


# ---- texture attention and transfer


@pytest.mark.parametrize('size', [64, 128])
def test_shapes_of_the_transfer_network(size):
    network = TGRN(size, width=8)
    output = network(image(1, 2, size), image(2, 2, size))
    assert output.shape == (2, 3, size, size)
    feat = torch.randn(2, 16, size // 2, size // 2)
    assert TextureAttention(16)(feat, feat).shape == feat.shape


def test_every_layer_learns_once_the_zero_layers_have_moved():
    network = TGRN(64, width=8)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    faithful, warped, gt = (image(seed, 2, 64) for seed in range(3))
    for _ in range(3):
        optimizer.zero_grad()
        (network(faithful, warped) - gt).abs().mean().backward()
        optimizer.step()
    assert [name for name, p in network.named_parameters() if not p.grad.any()] == []


def test_attention_finds_texture_wherever_it_is():
    """The attended part does not depend on where in the texture a token lies."""
    attend = fill(TextureAttention(8, tokens=2)).eval()
    feat, texture = torch.randn(1, 8, 8, 8), torch.randn(1, 8, 2, 2).repeat_interleave(4, 2).repeat_interleave(4, 3)
    attend.gate[-1].bias.data.view(2, -1)[0] = -1e9  # nothing of what lies at the same place
    moved = texture.roll(4, 3)
    torch.testing.assert_close(attend(feat, texture), attend(feat, moved))
    assert not torch.allclose(attend(feat, texture), attend(feat, -texture))


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'tgrn': {'tokens': 1}}, 'tokens 1: must be 2 or more'),
        ({'tgrn': {'width': 12}}, 'width 12: must be a multiple of 8'),
        ({'tgrn': {'heads': 5}}, '5 heads'),
        ({'tgrn': {'token': 8}}, "tgrn: unknown key 'token'.*'tokens'"),
        ({'dam': {'witdh': 8}}, "dam: unknown key 'witdh'.*'width'"),
        ({'dam': {'max_shift': 2}}, 'max_shift 2'),
        ({'prior': {**CODEFORMER, 'n_heads': 2}}, 'prior: .*n_heads'),
        ({'prior': VQGAN}, 'prior: a VQAutoEncoder'),
        ({'prior': None}, 'prior_path'),
        ({'w_identity': 1.5}, 'w_identity 1.5: must be from 0 to 1'),
        ({'texture_from': 'I_w'}, "texture_from: unknown 'I_w'.*I_warp"),
        ({'fix_modules': ['tgr']}, "fix_modules: no sub-module 'tgr'"),
    ],
)
def test_networks_that_cannot_be(options, words):
    with pytest.raises(ValueError, match=words):
        build_network({'type': 'CodeFormerPlusPlus', 'prior': CODEFORMER, **options})


def learnt_transfer(faithful, textured, truth, steps=80) -> TGRN:
    """A small transfer network after some steps of L1 on 32-pixel faces."""
    torch.manual_seed(0)
    network = TGRN(32, width=8)
    optimizer = torch.optim.Adam(network.parameters())
    for step in range(steps):
        optimizer.param_groups[0]['lr'] = 4e-3 * (1 - step / steps)
        chosen = torch.randint(len(truth), (4,))
        loss = (network(faithful[chosen], textured[chosen]) - truth[chosen]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def test_texture_is_transferred():
    """With an ideal generator, held-out faces come nearer to the truth; fed I_F in its place, they hardly do."""
    torch.manual_seed(1)
    truth = face_crops(64, 32) + 0.5 * torch.randn(64, 3, 32, 32)  # texture that nobody can guess
    faithful = F.interpolate(F.interpolate(truth, scale_factor=0.25, mode='area'), size=(32, 32), mode='bicubic')
    generated = truth + 0.1 * torch.randn_like(truth)
    train, held_out = slice(0, 48), slice(48, None)

    def psnr(x):
        return -10 * ((x - truth[held_out]) / 2).square().mean().log10().item()

    gains = []
    for source in (generated, faithful):
        network = learnt_transfer(faithful[train], source[train], truth[train])
        with torch.no_grad():
            gains.append(psnr(network(faithful[held_out], source[held_out])) - psnr(faithful[held_out]))
    assert gains[0] > 1.2  # dB; measured 1.99, and 0.19 for the control
    assert gains[1] < 0.3 * gains[0]


# ---- files


@torch.no_grad()
@pytest.mark.parametrize('prior', [CODEFORMER, {**ID_CODEFORMER, 'recognizer': 'somebody'}])
def test_a_file_tells_its_network(prior, tmp_path):
    options = {
        'type': 'CodeFormerPlusPlus', 'prior': prior,
        'dam': {'width': 16, 'stride': 2, 'max_shift': 0.1, 'integrate': 2},
        'tgrn': {'width': 16, 'tokens': 4, 'heads': 4}, 'w_identity': 0.9, 'w_generated': 0.1, 'prior_adain': False,
        'texture_from': 'I_G',
    }  # fmt: skip
    network = fill(build_network(options)).eval()
    save_atomic({'params': network.state_dict(), 'network': network.options}, tmp_path / 'net.pth')
    again = load_network(tmp_path / 'net.pth')
    assert again.options | {'prior': None} == network.options | {'prior': None}
    assert torch.equal(again(image(1, 1, 64))[0], network(image(1, 1, 64))[0])
    sizes = describe(network.state_dict())
    assert sizes['dam'] == {'width': 16, 'stride': 2} and sizes['tgrn'] == {'width': 16}
    assert sizes['prior']['type'] == prior['type']
    prior_only = CodeFormerPlusPlus(prior_path=str(tmp_path / 'net.pth'))
    assert torch.equal(prior_only.prior.position_emb, network.prior.position_emb)
    assert prior_only.options['prior'] == again.options['prior']


@pytest.mark.parametrize('size', [64, 192])
@pytest.mark.parametrize('stride', [1, 4])
def test_the_keys_tell_the_stride(size, stride):
    prior = {**CODEFORMER, 'img_size': size, 'nf': 32, 'connect_list': None}
    network = build_network({'type': 'CodeFormerPlusPlus', 'prior': prior, 'dam': {'stride': stride}})
    assert describe(network.state_dict())['dam']['stride'] == stride


@torch.no_grad()
def test_the_prior_is_read_from_its_file(tmp_path):
    prior = fill(build_network(CODEFORMER))
    save_atomic({'params_ema': prior.state_dict(), 'network': CODEFORMER}, tmp_path / 'prior.pth')
    network = CodeFormerPlusPlus(prior_path=str(tmp_path / 'prior.pth')).eval()
    assert network.options['prior']['n_head'] == 2
    assert torch.equal(network(image(1, 1, 64))[0], prior.eval()(image(1, 1, 64), w=1, adain=True)[0])
    save_atomic({'params': build_network(VQGAN).state_dict()}, tmp_path / 'vqgan.pth')
    with pytest.raises(CheckpointError, match=r'vqgan\.pth: holds a VQAutoEncoder; the prior must be a CodeFormer'):
        CodeFormerPlusPlus(prior_path=str(tmp_path / 'vqgan.pth'))
    with pytest.raises(CheckpointError, match='does not fit'):
        CodeFormerPlusPlus(prior={**CODEFORMER, 'n_layers': 2}, prior_path=str(tmp_path / 'prior.pth'))


# ---- restoring


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A prior, and CodeFormer++ files of it after stage 1 and stage 2."""
    folder = tmp_path_factory.mktemp('plusplus')
    prior = fill(build_network(CODEFORMER))
    save_atomic({'params_ema': prior.state_dict(), 'network': CODEFORMER}, folder / 'prior.pth')
    network = CodeFormerPlusPlus(prior_path=str(folder / 'prior.pth'), tgrn={'width': 8}, w_identity=0.9)
    fill(network.dam)
    save_atomic({'params': network.state_dict(), 'network': network.options}, folder / 'stage1.pth')
    fill(network.tgrn)
    save_atomic({'params': network.state_dict(), 'network': network.options}, folder / 'stage2.pth')
    imwrite(folder / 'faces' / 'face.png', aligned_face(64))
    return folder


def restored(files, out, *flags) -> np.ndarray:
    """The aligned face after the command."""
    arguments = ['-i', str(files / 'faces'), '-o', str(out), '--has_aligned', '--force', '--device', 'cpu', *flags]
    assert main(arguments) == 0
    return imread(out / 'restored_faces' / 'face.png')


def test_the_command_restores_by_the_file(files, tmp_path):
    given = {
        'prior': ['--model', str(files / 'prior.pth'), '-w', '0.9'],
        'none': ['--model', str(files / 'stage2.pth'), '--texture', '0'],
        'whole': ['--model', str(files / 'stage2.pth')],
        'faithful': ['--model', str(files / 'stage2.pth'), '--texture', '0', '-w', '1', '--no-adain'],
    }
    faces = {name: restored(files, tmp_path / name, *flags) for name, flags in given.items()}
    assert np.array_equal(faces['none'], faces['prior'])  # at the weight that it was trained with
    assert np.abs(faces['whole'].astype(int) - faces['none']).mean() > 1
    assert not np.array_equal(faces['faithful'], faces['none'])
    flags = json.loads((tmp_path / 'whole' / 'summary.json').read_text())
    assert (flags['w'], flags['adain']) == (0.9, True)
    network = load_network(files / 'stage2.pth')
    with torch.no_grad():
        expected = to_image(network(to_tensor(imread(files / 'faces' / 'face.png'))[None])[0][0])
    assert np.abs(faces['whole'].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--model', 'stage1.pth'], 'stage 1 only.*train stage 2, or give the prior itself'),
        (['--model', 'prior.pth', '--texture', '0.5'], 'texture: .*adds no texture'),
    ],
)
def test_what_cannot_be_restored_with(flags, words, files, tmp_path, capsys):
    flags = [flags[0], str(files / flags[1]), *flags[2:]]
    assert main(['-i', str(files / 'faces'), '-o', str(tmp_path), '--has_aligned', '--device', 'cpu', *flags]) == 2
    assert re.search(words, capsys.readouterr().err)


def test_texture_is_from_0_to_1(files, capsys):
    with pytest.raises(ValueError, match=r'texture = 1\.5: must be from 0 to 1'):
        FaceRestorer(files / 'stage2.pth', 'cpu', texture=1.5)
    with pytest.raises(SystemExit):
        main(['-i', 'x', '--texture', '2'])
    assert 'outside 0 to 1' in capsys.readouterr().err


def test_references_and_precision_reach_the_prior(tmp_path):
    prior = fill(build_network(ID_CODEFORMER | {'recognizer': 'somebody'}))
    options = {'type': 'CodeFormerPlusPlus', 'prior': ID_CODEFORMER | {'recognizer': 'somebody'}, 'tgrn': {'width': 8}}
    network = fill(build_network(options))
    network.prior.load_state_dict(prior.state_dict())
    save_atomic({'params': network.state_dict(), 'network': network.options}, tmp_path / 'net.pth')
    restorer = FaceRestorer(tmp_path / 'net.pth', 'cpu')
    assert restorer.takes_identity and restorer.told_by == ('somebody', 16)
    blind, known = (restorer.restore(aligned_face(64), identity=identity)[0] for identity in (None, IDENTITY[:1]))
    assert not np.array_equal(blind, known)
    half = FaceRestorer(tmp_path / 'net.pth', 'cpu', 'bf16').restore(aligned_face(64))[0]
    mixed = FaceRestorer(tmp_path / 'net.pth', 'cpu', 'mixed').restore(aligned_face(64))[0]
    assert np.abs(half.astype(int) - blind).mean() < 16  # drawn weights; 10 as measured
    assert 0 < np.abs(mixed.astype(int) - blind).mean() < 2  # the same codes


def test_exported_program_takes_any_w_and_any_number_of_faces(files):
    """The way to ONNX takes half a minute more, and `export_onnx.py` compares each file that it writes."""
    network = load_network(files / 'stage2.pth')
    program = onnx_export.trace(onnx_export.Restoration(network))
    for count, w in ((1, 0.0), (3, 0.7)):
        x = image(count, count, 64)
        found, _ = program.module()(x, torch.tensor(w))
        with torch.no_grad():
            torch.testing.assert_close(found, network(x, w=torch.tensor(w))[0])
