"""The recipe of the embedded model, and the figures its checkpoints are judged by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from small import make_faces, stage_options
from small_faces import aligned_face

from basicsr.archs.factory import load_network
from basicsr.models.schema import check_options
from basicsr.recognition.registry import SHIPPED
from basicsr.utils.image import imread, imwrite
from basicsr.utils.options import load_options
from experiments.small_model import judge, judge_tasks, recipe


def test_gradient_energy_of_a_ramp_is_eight_times_its_slope():
    ramp = np.broadcast_to(np.arange(0, 256, 2, dtype=np.uint8)[None, :, None], (128, 128, 3))
    inner = judge.gradient_energy(np.ascontiguousarray(ramp), 128)
    assert inner == pytest.approx(8 * 2 * 126 / 128, rel=1e-3)  # mirrored at the two border columns, where it is 0


def test_models_are_held_beside_official_restorations(tmp_path, capsys):
    for folder in ('lq', 'official'):
        imwrite(tmp_path / folder / 'face.png', aligned_face(512))
    arguments = ['--input', tmp_path / 'lq', '--official', tmp_path / 'official', '--output', tmp_path / 'out']
    assert judge.main([*map(str, arguments), '--side', '64', '--w', '0', '1']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(' | ')[0] for line in lines[2:]] == ['| input', '| small w=0', '| small w=1', '| official']
    assert lines[2].split(' | ')[1:] == lines[5].split(' | ')[1:]  # equal pictures
    assert imread(tmp_path / 'out' / 'sheet.png').shape == (64, 4 * 64, 3)


def test_faces_of_several_people_may_share_a_name(tmp_path):
    for folder in ('lq', 'gt'):
        imwrite(tmp_path / folder / 'ann' / '0.png', aligned_face(128))
        imwrite(tmp_path / folder / 'bea' / '0.png', np.flip(aligned_face(128), 0).copy())
    inputs = judge.read_faces(tmp_path / 'lq', tmp_path / 'lq')
    truth = judge.read_faces(tmp_path / 'gt', tmp_path / 'lq')
    assert set(inputs) == {'ann/0', 'bea/0'}
    assert all(np.array_equal(truth[name], face) and face.shape == (512, 512, 3) for name, face in inputs.items())
    assert not np.array_equal(inputs['ann/0'], inputs['bea/0'])


def test_both_tasks_are_measured_on_faces_in_colour(tmp_path):
    imwrite(tmp_path / 'in' / 'face.png', aligned_face(256))
    imwrite(tmp_path / 'in' / 'grey.png', judge_tasks.grey(aligned_face(256)))
    assert judge_tasks.main(['--input', str(tmp_path / 'in'), '--output', str(tmp_path / 'out')]) == 0
    lines = (tmp_path / 'out' / 'tasks.md').read_text().splitlines()
    assert lines[0] == '| mean absolute error, levels | 1 faces |'
    grey, colourized, white, filled, _ = (float(line.split('|')[2]) for line in lines[2:])
    assert 0 < colourized < grey and 0 < filled < white
    assert imread(tmp_path / 'out' / 'tasks.png').shape[1] > 5 * 128


def test_restorations_are_held_against_the_truth(tmp_path):
    truth = {str(i): np.roll(aligned_face(512), 8 * i, axis=1) for i in range(3)}
    blurred = {name: cv2.GaussianBlur(face, (0, 0), 6) for name, face in truth.items()}
    itself, worse = judge.compare(truth, truth, {}), judge.compare(blurred, truth, {})
    assert itself['laplacian_128'] == itself['laplacian_256'] == 1 and itself['psnr_128'] == np.inf
    assert worse['laplacian_256'] < worse['laplacian_128'] < 0.5 and worse['psnr_128'] < 40
    vectors = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    moved = judge.statistics(vectors + torch.tensor([3.0, 0, 0, 4.0]))
    assert judge.frechet_distance(judge.statistics(vectors), moved) == pytest.approx(25, abs=1e-3)


def test_faces_are_resized_once(tmp_path):
    faces = make_faces(tmp_path / 'faces', 2)
    for suffix in ('.jpg', '.webp'):
        recipe.resize(faces, tmp_path / 'out', 96, suffix)
        written = sorted((tmp_path / 'out').glob(f'*{suffix}'))
        assert [Image.open(file).size for file in written] == [(96, 96)] * 2
        written[0].write_bytes(b'kept')
        recipe.resize(faces, tmp_path / 'out', 96, suffix)
        assert written[0].read_bytes() == b'kept'


def write_recipe(folder, options):
    (folder / 'stage.yml').write_text(yaml.safe_dump(options))
    content = {
        'paths': {'faces': str(folder / 'faces')},
        'steps': [
            {'resize': {'source': '{faces}', 'target': str(folder / 'small'), 'size': 64}},
            {'train': {'options': str(folder / 'stage.yml'), 'minutes': 5, 'set': ['train:ema_decay=0.5']}},
            {'release': {'source': 'experiments/stage1/models/net_g_latest.pth', 'target': 'out/net.safetensors'}},
        ],
    }
    (folder / 'recipe.yml').write_text(yaml.safe_dump(content))
    return ['--recipe', str(folder / 'recipe.yml')]


def test_the_steps_of_a_recipe_run_in_turn_and_leave_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = stage_options(1, tmp_path)
    options['datasets']['train']['dataroot_gt'] = str(tmp_path / 'small')
    arguments = write_recipe(tmp_path, options)
    assert recipe.main([*arguments, '--force_yml', 'train:total_iter=2']) == 0
    assert (tmp_path / 'experiments' / 'stage1' / 'models' / 'net_g_latest.pth').exists()
    assert recipe.newest(tmp_path / 'experiments' / 'stage1') == 2
    assert load_network(tmp_path / 'out' / 'net.safetensors').img_size == 64


def weights_in(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield every `weights` of options, at any depth."""
    for key, value in options.items():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, Mapping):
                yield from weights_in(entry)
            elif key == 'weights' and entry:
                yield str(entry)


@pytest.mark.parametrize('name', ['recipe.yml', 'gpu.yml'])
def test_the_trainings_of_the_recipes_have_valid_options(name):
    content = yaml.safe_load((recipe.HERE / name).read_text())
    trainings = [step['train'] for step in content['steps'] if 'train' in step]
    assert trainings
    for training in trainings:
        changes = [change.format(**content['paths']) for change in training['set']]
        opt = load_options(recipe.HERE / 'options' / training['options'], changes)
        check_options(opt)
        assert content['paths']['start'] in str(opt)
        assert set(weights_in(opt)) <= {*content['paths'].values(), SHIPPED}  # no path of its own
    assert '{recognizer}' in str(trainings)


def test_a_recipe_without_its_data_says_what_to_give(tmp_path, capsys):
    arguments = write_recipe(tmp_path, {})
    (tmp_path / 'none').mkdir()
    assert recipe.main([*arguments, '--set', f'faces={tmp_path / "none"}']) == 1
    assert 'no pictures; give --set faces=FOLDER' in capsys.readouterr().err
    assert recipe.main([*arguments, '--set', 'face=x']) == 1
    assert '--set face: no such path; the recipe has faces' in capsys.readouterr().err
