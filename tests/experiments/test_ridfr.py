"""The small RIDFR experiment at a toy scale: every step, exact resuming, tables and sheets."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from small import VQGAN, make_faces, save_vqgan
from small_faces import aligned_face
from small_recognizer import save_tiny

pytest.importorskip('diffusers')

from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.image import imwrite
from experiments.ridfr import evaluate, recipe
from experiments.ridfr.prepare import REFERENCES
from experiments.ridfr.train import Faces

STEP = {'minutes': 5, 'iterations': 3, 'batch': 2, 'lr': 1e-3, 'ema': 0.9, 'print_every': 1}


@pytest.fixture(scope='module')
def toy(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('ridfr')
    make_faces(root / 'faces', 4, 64)
    state = torch.load(save_vqgan(root / 'params.pth'), weights_only=True)['params']
    save_atomic({'params': state, 'network': {**VQGAN, 'img_size': 64}}, root / 'vqgan.pth')
    save_tiny(root / 'recognizer.pth')
    content = yaml.safe_load((recipe.HERE / 'recipe.yml').read_text())
    content |= {'count': 4, 'recognizer': 'recognizer'}
    content['network'] |= {'block_out_channels': [32, 64], 'norm_num_groups': 8}
    for step in (content['prior'], content['adapter'], content['content'], *content['rows'].values()):
        step |= STEP
    (root / 'recipe.yml').write_text(yaml.safe_dump(content))
    return root


def run(toy: Path, out: Path, *flags: str) -> None:
    paths = [f'faces={toy / "faces"}', f'autoencoder={toy / "vqgan.pth"}', f'recognizer={toy / "recognizer.pth"}']
    assert recipe.main(['--recipe', str(toy / 'recipe.yml'), '--out', str(out), '--set', *paths, *flags]) == 0


def test_the_steps_follow_one_another_and_are_judged(toy, monkeypatch):
    monkeypatch.setattr('experiments.ridfr.train.VECTOR', 16)
    out = toy / 'out'
    run(toy, out)
    faces = Faces(out / 'prepared', 4, 4)
    assert len(faces) == 4 and faces.vectors.shape == (4, REFERENCES, 16)
    found = faces.references(torch.tensor([0, 1]))
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(2, 2))
    with pytest.raises(FileNotFoundError, match='fewer than 5 prepared faces'):
        Faces(out / 'prepared', 5, 4)
    for person in ('a', 'b'):
        for number in range(3):
            imwrite(toy / 'people' / 'multi_id' / person / f'{number}.png', aligned_face(64 + 8 * number))
    argv = ['--out', str(out), '--people', str(toy / 'people'), '--sets', 'multi_id', '--steps', '2', '--inputs', '1']
    argv += ['--recognizer', str(toy / 'recognizer.pth'), '--judge', str(toy / 'recognizer.pth'), '--references', '2']
    assert evaluate.main([*argv, '--publish', str(toy / 'published')]) == 0
    rows = list(csv.DictReader((toy / 'published' / 'figures.csv').open()))
    assert [row['row'] for row in rows] == ['none', 'naive', 'alignment'] * 2
    assert {'alignment less naive', 'multi_id, 2 inputs'} <= {
        part.strip(' |#')
        for line in (toy / 'published' / 'figures.md').read_text().splitlines()
        for part in line.split('|')
    }
    assert (toy / 'published' / 'portrait.jpg').is_file() and (out / 'multi_id.png').is_file()
    # Without identity all references give one face.
    assert evaluate.main([*argv, '--id_scale', '0', '--publish', str(toy / 'blind')]) == 0
    blind = list(csv.DictReader((toy / 'blind' / 'figures.csv').open()))
    assert all(float(row['identity_variance']) == pytest.approx(0, abs=1e-4) for row in blind)
    # A step that was stopped goes on as if it had not been.
    straight = torch.load(out / 'alignment' / 'state.pth', weights_only=True)
    shutil.rmtree(out / 'alignment')
    content = yaml.safe_load((toy / 'recipe.yml').read_text())
    content['rows']['alignment']['iterations'] = 2
    (toy / 'short.yml').write_text(yaml.safe_dump(content))
    run(toy, out, '--steps', 'alignment', '--recipe', str(toy / 'short.yml'))
    run(toy, out, '--steps', 'alignment')
    resumed = torch.load(out / 'alignment' / 'state.pth', weights_only=True)
    for part in ('trained', 'average'):
        assert all(torch.equal(value, resumed[part][key]) for key, value in straight[part].items())


def test_figures_of_an_input():
    class Judge(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.name = torch.nn.Linear(1, 1), 'mean colour'

        def forward(self, faces):
            return torch.nn.functional.normalize(faces.mean((2, 3)) + 1, dim=-1)

    red, green = (np.zeros((64, 64, 3), np.uint8) for _ in range(2))
    red[..., 0], green[..., 1] = 200, 200
    case = evaluate.Case('x', red, red, [red, green, green])
    found = evaluate.Judge(Judge(), None, None)(case, [red, green, green, red, green, red])
    assert found['ids'] == pytest.approx(0.5, abs=0.01) and found['ids_wrong'] == pytest.approx(0, abs=0.01)
    assert found['ids_blind'] == pytest.approx(1, abs=0.01) and found['ids_ref'] == pytest.approx(1, abs=0.01)
    assert found['identity_variance'] == pytest.approx(0.5, abs=0.01)
    by_side = [found[f'ids_{side}'] for side in (64, 128, 'full')]
    assert by_side == pytest.approx([1, 0, 1], abs=0.01)
