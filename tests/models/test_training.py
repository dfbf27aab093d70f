"""Whole runs: files, validation, resuming, launching, several processes."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small import make_faces, stage_options

from basicsr.cli import train
from basicsr.cli import validate as test_command
from basicsr.models import BaseModel, build_model
from basicsr.utils import dist
from basicsr.utils.checkpoint import CheckpointError, load_state_dict_file
from basicsr.utils.image import imread, imwrite

ROOT = Path(__file__).resolve().parents[2]


def write(opt, path: Path) -> str:
    path.write_text(yaml.safe_dump(opt))
    return str(path)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parameters(folder: Path, label) -> dict[str, torch.Tensor]:
    file = folder / 'models' / f'net_g_{label}.pth'
    return {
        f'{key}/{name}': t for key in ('params', 'params_ema') for name, t in load_state_dict_file(file, key).items()
    }


@pytest.mark.parametrize('stage', [1, 2, 3])
def test_a_run_leaves_what_users_look_for(stage, workplace):
    """LESSONS 1 and 4: validation runs in every stage, and one CPU process is enough."""
    opt = stage_options(stage, workplace)
    assert train.main(['-opt', write(opt, workplace / 'opt.yml')]) == 0
    folder = workplace / 'experiments' / f'stage{stage}'
    for name in ('models/net_g_2.pth', 'models/net_g_4.pth', 'models/net_g_latest.pth', 'training_states/4.state'):
        assert (folder / name).is_file()
    assert list((workplace / 'tb_logger' / f'stage{stage}').glob('events.*'))
    with (folder / 'validation_val.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['iter'] for row in rows] == ['2', '4']
    assert all(0 < float(row['psnr']) < 100 and -1 <= float(row['ssim']) <= 1 for row in rows)
    assert (folder / 'visualization' / 'grid_val_4.png').is_file()
    saved = yaml.safe_load((folder / 'options.yml').read_text())
    assert saved['train'] == opt['train']
    assert {'commit', 'torch', 'python'} <= set(json.loads((folder / 'environment.json').read_text()))
    assert set(torch.load(folder / 'models/net_g_latest.pth', weights_only=True)) >= {'params', 'params_ema'}
    assert not list(folder.rglob('*.part'))


@pytest.mark.parametrize(('stage', 'workers'), [(1, 0), (2, 0), (3, 0), (3, 2)])
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(stage, workers, workplace):
    codebook = {'codebook_warmup': {'iters': 1, 'samples': 256}, 'codebook_ema': {'decay': 0.9}}
    codebook = codebook if stage == 1 else {}
    opt = stage_options(stage, workplace, total_iter=6, **codebook)
    opt['datasets']['train']['num_worker_per_gpu'] = workers
    train.train({**opt, 'name': 'straight'})
    train.train({**opt, 'name': 'resumed', 'train': {**opt['train'], 'total_iter': 2}})
    train.train({**opt, 'name': 'resumed'}, auto_resume=True)
    straight, resumed = (parameters(Path('experiments') / name, 'latest') for name in ('straight', 'resumed'))
    assert straight.keys() == resumed.keys()
    different = [name for name in straight if not torch.equal(straight[name], resumed[name])]
    assert different == []
    start = parameters(Path('experiments/straight'), 2)
    assert any(not torch.equal(start[name], straight[name]) for name in straight)


def test_a_resumed_run_has_the_options_that_it_is_given(workplace):
    opt = stage_options(2, workplace, total_iter=1, optim_g={'type': 'AdamW', 'lr': 1e-3, 'betas': [0.9, 0.99]})
    train.train(opt)
    state = Path('experiments/stage2/training_states/1.state')
    changed = {**opt, 'train': {**opt['train'], 'optim_g': {'type': 'AdamW', 'lr': 1e-3, 'betas': [0.5, 0.9]}}}
    model = build_model(changed)
    assert model.resume_training(state) == 1
    (group,) = model.optimizers['optim_g'].param_groups
    assert tuple(group['betas']) == (0.5, 0.9) and model.optimizers['optim_g'].state
    of_fp16 = build_model({**opt, 'train': {**opt['train'], 'precision': 'fp16'}})
    assert of_fp16.resume_training(state) == 1 and of_fp16.scaler.get_scale() > 1


def test_going_back_leaves_the_abandoned_training_behind(workplace):
    opt = stage_options(2, workplace, total_iter=6)
    opt['val']['best'] = {'metric': 'psnr'}
    train.train(opt)
    states, record = Path('experiments/stage2/training_states'), Path('experiments/stage2/models/net_g_best.json')
    record.write_text(json.dumps(json.loads(record.read_text()) | {'value': 99.0, 'iteration': 6}))
    train.train({**opt, 'path': {'resume_state': str(states / '2.state')}, 'train': {**opt['train'], 'total_iter': 3}})
    assert {path.name for path in states.iterdir()} >= {'2.state', '3.state', '4.state.undone', '6.state.undone'}
    assert json.loads(record.read_text())['value'] < 99
    model = train.train({**opt, 'train': {**opt['train'], 'total_iter': 4}}, auto_resume=True)
    assert (
        'resumed from experiments/stage2/training_states/3.state'
        in next(Path('experiments/stage2').glob('*.log')).read_text()
    )
    assert model.opt['train']['total_iter'] == 4


def test_the_log_file_has_what_was_said_before_there_was_one(workplace):
    opt = stage_options(2, workplace, total_iter=1)
    assert train.main(['-opt', write(opt, workplace / 'opt.yml')]) == 0
    said = Path('experiments/stage2/train_stage2.log').read_text()
    assert said.count('trained parameters') == 1 and said.index('trained parameters') < said.index('iteration 1')


def test_a_second_run_has_a_board_of_its_own(workplace):
    opt = stage_options(2, workplace, total_iter=1)
    train.train(opt)
    shutil.rmtree('experiments')
    train.train(opt)
    boards = [path for path in Path('tb_logger').iterdir() if path.is_dir()]
    assert len(boards) == 2 and all(len(list(board.iterdir())) == 1 for board in boards)


@pytest.mark.parametrize(
    ('section', 'key', 'value', 'words'),
    [
        ('train', 'optim_g', {'type': 'SGD', 'lr': 1e-3, 'momentum': 0.9}, 'it has no momentum'),
        ('network_g', 'fix_modules', ['quantize', 'generator', 'encoder'], 'parameter group'),
    ],
)
def test_a_state_of_another_optimiser_is_an_error(section, key, value, words, workplace):
    opt = stage_options(2, workplace, total_iter=1)
    train.train(opt)
    model = build_model({**opt, section: {**opt[section], key: value}})
    with pytest.raises(CheckpointError, match=rf'1\.state: the state of optim_g is of another optimiser.*{words}'):
        model.resume_training('experiments/stage2/training_states/1.state')


def test_a_second_run_of_a_name_sets_the_first_aside(workplace):
    opt = write(stage_options(2, workplace, total_iter=1), workplace / 'opt.yml')
    assert train.main(['-opt', opt]) == 0
    assert train.main(['-opt', opt]) == 0
    assert len(list((workplace / 'experiments').glob('stage2_archived_*'))) == 1


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ('train:total_iters=3', 'total_iter'),
        ('datasets:train:dataroot_gt=nowhere', 'nowhere'),
        ('network_vqgan:model_path=nowhere.pth', 'nowhere.pth'),
        ('path:resume_state=nowhere.state', 'nowhere.state'),
        ('network_g:nf=20', 'multiples of 32'),
        ('datasets:train:gt_size=32', 'datasets:train:gt_size is 32, and network_g needs 64'),
        ('manual_seed=-1', 'manual_seed must be 0 or more'),
        ('train:accumulate=-1', 'train:accumulate must be 1 or more'),
        ('train:total_iter=-3', 'train:total_iter must be 1 or more'),
        ('val:metrics:psnr=3', 'val:metrics:psnr: a section with a type, not 3'),
        ('datasets:val=3', 'datasets:val: a section with a type, not 3'),
        ('datasets:train:blur_sigma=[3, 1]', 'blur_sigma'),
        ('train:lr=[1,', 'not valid YAML'),
    ],
)
def test_mistakes_end_in_one_line_and_exit_code_1(change, words, workplace, capfd):
    opt = stage_options(2, workplace)
    assert train.main(['-opt', write(opt, workplace / 'opt.yml'), '--force_yml', change]) == 1
    said = capfd.readouterr().err
    assert words in said
    assert 'Traceback' not in said


@pytest.mark.parametrize(('kind', 'words'), [
    ('small', r"val: .*003\.png is 32x32 pixels, and network_g restores 64x64; .*make_val_pairs\.py --size 64"),
    ('damaged', r'003\.png: not a readable picture'), ('gone', 'dataroot_lq: .*val/lq: no such folder'),
    ('alone', r'1 files have no partner .*003\.png'),
])  # fmt: skip
def test_validation_sets_are_checked_before_the_first_iteration(kind, words, workplace, monkeypatch, capfd):
    opt = stage_options(2, workplace)
    pairs = {key: make_faces(workplace / 'val' / key, 4) for key in ('lq', 'gt')}
    opt['datasets']['val'] |= {f'dataroot_{key}': str(folder) for key, folder in pairs.items()}
    if kind == 'small':
        for folder in pairs.values():
            imwrite(folder / '003.png', imread(folder / '003.png')[::2, ::2])
    elif kind == 'damaged':
        (pairs['gt'] / '003.png').write_bytes((pairs['gt'] / '003.png').read_bytes()[:60])
    elif kind == 'gone':
        shutil.rmtree(pairs['lq'])
    else:
        (pairs['lq'] / '003.png').unlink()
    monkeypatch.setattr(BaseModel, 'optimize_parameters', None)
    assert train.main(['-opt', write(opt, workplace / 'opt.yml')]) == 1
    said = capfd.readouterr().err
    assert re.search(words, said) and 'Traceback' not in said
    assert not (workplace / 'experiments' / 'stage2').exists()


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        (
            'weights/CodeFormer/vqgan_code1024.pth',
            "no such file; 'python scripts/download_pretrained_models.py training'",
        ),
        (
            'weights/CodeFormer/codeformer.pth',
            "no such file; 'python scripts/download_pretrained_models.py CodeFormer'",
        ),
        ('experiments/stage2/models/net_g_latest.pth', "no such file; the training called 'stage2' makes it"),
        ('mine.pth', 'mine.pth: no such file\n'),
    ],
)
def test_missing_weights_name_the_command_that_brings_them(path, words, workplace, capfd):
    opt = write(stage_options(3, workplace), workplace / 'opt.yml')
    assert train.main(['-opt', opt, '--force_yml', f'path:pretrain_network_g={path}']) == 1
    assert f'{path}: ' in (said := capfd.readouterr().err) and words in said


def test_debug_saves_often_under_another_name(workplace):
    opt = stage_options(2, workplace, total_iter=9)
    opt['logger'] = {'save_checkpoint_freq': 100}
    assert train.main(['-opt', write(opt, workplace / 'opt.yml'), '--debug']) == 0
    assert (workplace / 'experiments' / 'debug_stage2' / 'training_states' / '8.state').is_file()


def test_launcher_pytorch_works_without_a_launcher(workplace):
    """LESSONS 12, by the command users type."""
    opt = write(stage_options(2, workplace, total_iter=1), workplace / 'opt.yml')
    command = [sys.executable, str(ROOT / 'basicsr' / 'train.py'), '-opt', opt, '--launcher', 'pytorch']
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (workplace / 'experiments/stage2/models/net_g_latest.pth').is_file()


def test_two_processes_equal_one_with_the_double_batch(workplace, monkeypatch):
    """Weights after steps of plain gradient descent, which are sums of gradients."""
    opt = stage_options(2, workplace, total_iter=2, optim_g={'type': 'SGD', 'lr': 0.1})
    opt['val'] = None
    double = {**opt, 'name': 'one', 'datasets': {'train': {**opt['datasets']['train'], 'batch_size_per_gpu': 4}}}
    assert train.main(['-opt', write(double, workplace / 'one.yml')]) == 0
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    arguments = ['-opt', write({**opt, 'name': 'two'}, workplace / 'two.yml'), '--launcher', 'pytorch']
    assert dist.launch(ROOT / 'basicsr' / 'train.py', arguments, processes=2) == 0
    one, two = (parameters(workplace / 'experiments' / name, 'latest') for name in ('one', 'two'))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_test_command_judges_saved_weights(workplace):
    opt = stage_options(2, workplace, total_iter=1)
    path = write(opt, workplace / 'opt.yml')
    assert test_command.main(['-opt', path]) == 1
    assert train.main(['-opt', path]) == 0
    assert test_command.main(['-opt', path, '--weights', 'experiments/stage2/models/net_g_latest.pth']) == 0
    with (workplace / 'results/stage2/validation_val.csv').open() as file:
        row = next(csv.DictReader(file))
    assert float(row['psnr']) > 0
    assert row['weights'] == 'experiments/stage2/models/net_g_latest.pth'
