"""Both stages of RIDFR on a tiny drawn diffusion model: losses, gradients, resuming, data, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small import batch_of, make_faces, stage_options
from small_recognizer import save_tiny

pytest.importorskip('diffusers')
pytest.importorskip('transformers')

from basicsr.archs.factory import load_network
from basicsr.cli import train
from basicsr.data import DataError, build_dataset
from basicsr.models import build_model
from basicsr.models.schema import check_options
from basicsr.utils.image import imread, imwrite
from basicsr.utils.options import OptionError
from experiments.ridfr.tiny import write_tiny

DIM = 16


@pytest.fixture(scope='module')
def tiny(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('tiny')
    write_tiny(root, vector=DIM)
    save_tiny(root / 'recognizer.pth')
    return root


def people(root: Path) -> Path:
    """Two people with three photographs each, one with a copy, and somebody with a single one."""
    crops = [imread(path) for path in sorted(make_faces(root / 'crops', 7, 96).iterdir())]
    for number, crop in enumerate(crops):
        person = root / 'people' / ('a', 'b', 'c')[number // 3]
        imwrite(person / f'{number}.png', crop)
    imwrite(root / 'people' / 'a' / 'copy.png', crops[0])
    return root / 'people'


def options(tiny: Path, root: Path, align: bool, **diffusion) -> dict:
    """Of a short run at 64 pixels."""
    opt = stage_options(2, root)
    opt.pop('network_vqgan')
    opt['model_type'] = 'RIDFRModel' if align else 'RIDFRContentModel'
    opt['network_g'] = {'type': 'ContentControl', 'condition': 'pixel'}
    opt['network_diffusion'] = {'root': str(tiny)}
    kept = {key: opt['train'][key] for key in ('total_iter', 'optim_g', 'ema_decay')}
    opt['train'] = {**kept, 'optim_g': {'type': 'AdamW', 'lr': 1e-3}, 'diffusion_opt': diffusion}
    opt['val'] |= {'steps': 2, 'metrics': {'psnr': opt['val']['metrics']['psnr']}}
    opt['val']['val_freq'] = 4
    if align:
        opt['network_diffusion'] |= {
            'adapter': str(tiny / 'adapter.safetensors'), 'image_encoder': str(tiny / 'image_encoder'),
            'shortcut': True, 'recognizer': str(tiny / 'recognizer.pth'),
        }  # fmt: skip
        opt['datasets']['train'] |= {
            'type': 'ReferencePhotoDataset', 'dataroot_gt': str(people(root)), 'references': 2,
        }  # fmt: skip
    return opt


def test_alignment_lowers_the_gap_and_trains_the_content_module_only(tiny, tmp_path):
    """Half of the first gap is reached without alignment too, so the weights are compared with each other."""
    gaps, losses = {}, {}
    for weight in (0, 100):
        opt = options(tiny, tmp_path / str(weight), True, align_weight=weight, identity_dropout=0.0)
        opt['train']['optim_g']['lr'] = 1e-2
        check_options(opt)
        model = build_model(opt)
        batch = batch_of(opt)
        before = {key: value.clone() for key, value in model.prior.state_dict().items()}
        seen = []
        for iteration in range(1, 11):
            model.optimize_parameters([batch], iteration)
            gap = model.log['align'] if weight == 0 else model.log['l_align'] / weight
            seen.append((model.log['l_diffusion'], gap))
        torch.testing.assert_close(model.prior.state_dict(), before, rtol=0, atol=0)
        assert all(p.grad is None for p in model.prior.parameters())
        assert {name.split('.')[0] for name in model.net_g.state_dict()} == {'control'}
        losses[weight] = np.array(seen)[:, 0]
        gaps[weight] = float(np.array(seen)[-5:, 1].mean())
    assert losses[0][-5:].mean() < losses[0][:5].mean()
    assert gaps[100] < 0.7 * gaps[0], gaps


def test_blind_faces_are_left_out_of_the_alignment(tiny, tmp_path):
    opt = options(tiny, tmp_path, True, align_weight=1, identity_dropout=0.1)
    model = build_model(opt)
    batch = batch_of(opt)
    model.dropout = 1.0
    terms = model.generator_losses(batch, 1)
    assert terms['l_align'].item() == 0
    model.dropout = 0.0
    assert model.generator_losses(batch, 1)['l_align'].item() > 0
    nobody = {**batch, 'identity_mask': torch.zeros(2, 2, dtype=torch.bool)}
    torch.manual_seed(1)
    assert model.generator_losses(nobody, 1)['l_align'].item() == 0


def test_a_resumed_run_equals_a_straight_one_bit_for_bit(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = options(tiny, tmp_path, False)
    content['name'] = 'content'
    content['train']['total_iter'] = 1
    train.train(content)
    first = load_network('experiments/content/models/net_g_latest.pth')
    assert first.options['condition'] == 'pixel' and first.img_size == 64
    for name in ('straight', 'resumed'):
        opt = options(tiny, tmp_path, True, align_weight=1)
        opt['name'] = name
        opt['path'] = {'pretrain_network_g': 'experiments/content/models/net_g_latest.pth'}
        if name == 'resumed':
            opt['train']['total_iter'] = 2
            train.train(opt)
            opt['train']['total_iter'] = 4
        train.train(opt, auto_resume=name == 'resumed')
    states = [
        torch.load(f'experiments/{name}/models/net_g_4.pth', weights_only=True) for name in ('straight', 'resumed')
    ]
    for group in ('params', 'params_ema'):
        assert [key for key in states[0][group] if not torch.equal(states[0][group][key], states[1][group][key])] == []
    changed = [key for key, value in states[0]['params_ema'].items() if not torch.equal(value, first.state_dict()[key])]
    assert changed
    assert (tmp_path / 'experiments' / 'straight' / 'validation_val.csv').is_file()


def test_bf16_and_gradient_checkpointing_give_the_same_loss(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr('basicsr.models.base_model.computes_bf16', lambda device: True)
    found = {}
    for name, train_options in (
        ('plain', {}),
        ('checkpointed', {'grad_checkpointing': True}),
        ('bf16', {'precision': 'bf16'}),
    ):
        opt = options(tiny, tmp_path / name, False)
        opt['train'] |= train_options
        model = build_model(opt)
        model.optimize_parameters([batch_of(opt)], 1)
        found[name] = model.log['l_diffusion'], model.log['grad_norm_g']
    assert found['checkpointed'] == pytest.approx(found['plain'], rel=1e-4)
    assert found['bf16'] == pytest.approx(found['plain'], rel=0.05)


@pytest.mark.parametrize(
    ('section', 'key', 'value', 'words'),
    [
        ('network_diffusion', 'root', None, "network_diffusion: 'root' is missing"),
        ('network_diffusion', 'adapter', None, "network_diffusion: 'adapter' is missing"),
        ('train', 'diffusion_opt', {'align_weight': -1}, 'align_weight must be 0 or more'),
        ('train', 'diffusion_opt', {'min_t': 900, 'max_t': 100}, 'min_t 900, max_t 100'),
        ('network_g', 'condition', 'pixels', "did you mean 'pixel'"),
    ],
)
def test_models_that_cannot_be(tiny, tmp_path, section, key, value, words):
    opt = options(tiny, tmp_path, True)
    opt[section][key] = value
    with pytest.raises((OptionError, ValueError), match=words):
        build_model(opt)


def test_data_that_does_not_fit(tiny, tmp_path):
    opt = options(tiny, tmp_path, True)
    opt['datasets']['train'] |= {'gt_size': 32, 'in_size': 32}
    with pytest.raises(OptionError, match='gt_size is 32, and the diffusion model makes faces of 64'):
        build_model(opt)
    opt['datasets']['train'] |= {'gt_size': 64, 'in_size': 64, 'references': 1}
    with pytest.raises(OptionError, match='needs 2 references'):
        build_model(opt)
    opt['train']['diffusion_opt'] = {'align_weigth': 1}
    with pytest.raises(OptionError, match="did you mean 'align_weight'"):
        check_options(opt)


def test_references_are_other_photographs(tmp_path):
    folder = people(tmp_path)
    opt = {'type': 'ReferencePhotoDataset', 'dataroot_gt': str(folder), 'gt_size': 96, 'seed': 3, 'references': 2}
    dataset = build_dataset(opt)
    assert len(dataset) == 7  # three and a copy, and three; the single one is left out
    sharpness = set()
    for v in range(21):
        item = dataset[v]
        own = Path(item['gt_path'])
        others = [Path(path) for path in item['ref_path'].split(';')]
        assert len(set(others)) == 2 and item['identity_mask'].all()
        assert {path.parent for path in others} == {own.parent} and own not in others
        contents = {path.read_bytes() for path in others}
        assert len(contents) == 2 and own.read_bytes() not in contents
        assert item['reference'].shape == (2, 3, 96, 96)
        for path, photo in zip(others, item['reference'], strict=True):
            whole = torch.from_numpy(imread(path).copy()).permute(2, 0, 1).float() / 127.5 - 1
            assert (photo - whole).abs().mean() < 0.1
            sharpness.add(round((photo - whole).abs().mean().item(), 4))
    assert len(sharpness) > 10  # sides differ
    again = build_dataset(opt)
    torch.testing.assert_close(again[5]['reference'], dataset[5]['reference'], rtol=0, atol=0)
    three = build_dataset({**opt, 'references': 3})[0]
    assert three['identity_mask'].tolist() == [True, True, False] and not three['reference'][2].any()
    with pytest.raises(DataError, match='nobody has two different photographs'):
        (tmp_path / 'alone' / 'x').mkdir(parents=True)
        imwrite(tmp_path / 'alone' / 'x' / '0.png', imread(folder / 'c' / '6.png'))
        build_dataset({**opt, 'dataroot_gt': str(tmp_path / 'alone')})


def test_pairs_come_with_other_photographs_of_the_person(tmp_path):
    """Neither the photograph of the truth's name nor a copy of it is a reference, and the same ones come each time."""
    folder = people(tmp_path)
    for name in ('a/0', 'a/1', 'b/3', 'c/6'):
        (tmp_path / 'gt' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'gt' / f'{name}.png').write_bytes((folder / f'{name}.png').read_bytes())
        imwrite(tmp_path / 'lq' / f'{name}.png', imread(folder / f'{name}.png'))
    opt = {'type': 'PairedPhotoDataset', 'dataroot_ref': str(folder), 'references': 3}
    data = build_dataset(opt | {f'dataroot_{side}': str(tmp_path / side) for side in ('lq', 'gt')})
    names = [[Path(path).stem for path in data[v]['ref_path'].split(';') if path] for v in range(4)]
    assert names == [['1', '2'], ['0', '2', 'copy'], ['4', '5'], []]
    assert [data[v]['identity_mask'].sum().item() for v in range(4)] == [2, 3, 2, 0]
    # Of a truth that is written anew, neither the photograph of its name nor a copy of that is a reference.
    imwrite(tmp_path / 'gt' / 'a' / '0.png', imread(folder / 'a' / '0.png') // 2 * 2)
    anew = build_dataset(opt | {f'dataroot_{side}': str(tmp_path / side) for side in ('lq', 'gt')})
    assert [Path(path).stem for path in anew[0]['ref_path'].split(';')] == ['1', '2']
    whole = torch.from_numpy(imread(folder / 'b' / '4.png').copy()).permute(2, 0, 1).float() / 127.5 - 1
    torch.testing.assert_close(data[2]['reference'][0], whole)
    assert data[2]['reference'].shape == (3, 3, 96, 96) and not data[2]['reference'][2].any()
    with pytest.raises(DataError, match='references: 0'):
        build_dataset({**opt, 'references': 0, 'dataroot_lq': str(folder), 'dataroot_gt': str(folder)})


@torch.no_grad()
def test_validation_restores_by_the_photographs_of_a_pair(tiny, tmp_path):
    """Also where the adapter needs photographs; a masked one is ignored, without any the face is restored blind."""
    opt = options(tiny, tmp_path, True, align_weight=1)
    model = build_model(opt)
    batch = batch_of(opt)
    photos, lq = batch['reference'], batch['in']
    blind = model.infer({'lq': lq})
    seen = model.infer({'lq': lq, 'reference': photos[:, :1]})
    assert (seen - blind).abs().max() > 1e-4
    first = torch.tensor([[True, False]] * len(lq))
    torch.testing.assert_close(model.infer({'lq': lq, 'reference': photos, 'identity_mask': first}), seen)
    nobody = torch.zeros_like(first)
    torch.testing.assert_close(model.infer({'lq': lq, 'reference': photos, 'identity_mask': nobody}), blind)
