"""Restoring by RIDFR from the command line, on a tiny drawn diffusion model: pictures, clips, seeds, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_faces import aligned_face, portrait, save_tiny_model
from small_recognizer import save_tiny

pytest.importorskip('diffusers')
pytest.importorskip('transformers')

from basicsr.archs.content_control_arch import ContentControl
from basicsr.archs.diffusion_prior import DiffusionPrior
from basicsr.cli.restore import main
from basicsr.inference.diffusion_restorer import DiffusionConfig, DiffusionRestorer
from basicsr.utils.checkpoint import CheckpointError, save_atomic
from basicsr.utils.image import imread, imwrite
from experiments.benchmarks.make_video import Scene, write_clip
from experiments.ridfr.tiny import write_tiny

DIM = 16


@pytest.fixture(scope='module')
def here(tmp_path_factory) -> Path:
    """The diffusion model, a content module that does something, a recognizer, a face and a reference."""
    root = tmp_path_factory.mktemp('ridfr')
    write_tiny(root / 'tiny', vector=DIM, recognizer='recognizer')
    prior = DiffusionPrior(root / 'tiny')
    control = ContentControl(dict(prior.unet.config), prior.side)
    control.start_from(prior.unet)
    for value in control.parameters():
        if not value.any():
            torch.nn.init.normal_(value, std=0.05)
    save_atomic({'params': control.state_dict(), 'network': control.options}, root / 'net.pth')
    save_tiny(root / 'recognizer.pth')
    imwrite(root / 'in' / 'face.png', aligned_face(64))
    imwrite(root / 'me.png', portrait())
    return root


def run(here: Path, out: Path, *flags: object, source: Path | None = None, steps: int = 2) -> tuple[int, dict]:
    argv = ['-i', source or here / 'in', '-o', out, '--model', here / 'net.pth', '--diffusion_root', here / 'tiny']
    argv += ['--steps', steps, '--device', 'cpu', '--recognizer', here / 'recognizer.pth', '--id_threshold', -1, *flags]
    code = main([str(word) for word in argv])
    file = out / 'summary.json'
    return code, json.loads(file.read_text()) if file.is_file() else {}


def face_of(out: Path) -> np.ndarray:
    return imread(next((out / 'restored_faces').glob('*.png')))


def test_a_face_with_and_without_reference(here, tmp_path, capsys):
    flags = ('--has_aligned', '--force')
    code, summary = run(here, tmp_path / 'blind', *flags)
    assert code == 0 and 'restored blind' in capsys.readouterr().out
    assert summary['diffusion']['steps'] == 2 and summary['diffusion']['scheduler'] == 'UniPC, linspace'
    assert summary['diffusion']['seed'] == 0 and summary['w'] is None and not summary['who']['references']
    assert run(here, tmp_path / 'again', *flags)[0] == 0
    assert run(here, tmp_path / 'seed', *flags, '--seed', 1)[0] == 0
    code, summary = run(here, tmp_path / 'told', *flags, '--ref', here / 'me.png')
    assert code == 0 and summary['who']['network_is_told'] and list(summary['who']['references']) == ['reference']
    blind, again, seed, told = (face_of(tmp_path / name) for name in ('blind', 'again', 'seed', 'told'))
    assert np.array_equal(blind, again)
    assert not np.array_equal(blind, seed) and not np.array_equal(blind, told)
    assert run(here, tmp_path / 'weak', *flags, '--ref', here / 'me.png', '--id_scale', 0)[0] == 0
    assert np.abs(face_of(tmp_path / 'weak').astype(int) - blind).max() <= 1


def test_a_clip(here, tmp_path):
    write_clip(tmp_path / 'in.mp4', Scene(cv2.resize(portrait(), (256, 256)), 3))
    code, summary = run(here, tmp_path / 'out', '--force', '--ref', here / 'me.png', source=tmp_path / 'in.mp4')
    assert code == 0, summary
    assert (tmp_path / 'out' / 'in.mp4').is_file() or list((tmp_path / 'out').rglob('*.mp4'))


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (('-w', '0.5', '--force'), '-w: belongs to CodeFormer'),
        (('--id_search', '5', '--force'), '--id_search: belongs to CodeFormer'),
        (('--no-adain', '--force'), '--adain: belongs to CodeFormer'),
        ((), 'drawn weights, which restore nothing'),
        (('--adapter', 'none.bin', '--force'), '--adapter none.bin: no such file'),
    ],
)
def test_flags_that_are_refused(here, tmp_path, capsys, flags, words):
    assert run(here, tmp_path / 'out', *flags)[0] == 2
    assert words in capsys.readouterr().err


def test_sampling_flags_are_for_diffusion(here, tmp_path, capsys):
    model = save_tiny_model(tmp_path / 'codeformer.pth')
    assert main(['-i', str(here / 'in'), '-o', str(tmp_path), '--model', str(model), '--seed', '1']) == 2
    assert '--seed: for a diffusion model' in capsys.readouterr().err
    for name, value in (('steps', 1), ('guidance', 0.5), ('content_scale', -1)):
        with pytest.raises(ValueError, match=f'{name} = {value}: must be'):
            DiffusionConfig(**{name: value})


def restorer_of(here: Path, **config) -> DiffusionRestorer:
    return DiffusionRestorer(
        here / 'net.pth', DiffusionConfig(here / 'tiny', steps=2, **config), 'cpu', allow_random=True
    )


def test_a_batch_equals_faces_one_by_one(here):
    restorer = restorer_of(here)
    faces = [aligned_face(64), aligned_face(64)[:, ::-1].copy(), aligned_face(64)[::-1].copy()]
    identity = torch.nn.functional.normalize(torch.randn(3, 1, DIM), dim=-1)
    mask, photos = torch.tensor([[1.0], [0.0], [1.0]]), torch.rand(3, 1, 3, 128, 128) * 2 - 1
    together = restorer.restore(faces, identity=identity, mask=mask, photos=photos)
    for number, face in enumerate(faces):
        part = slice(number, number + 1)
        known = {} if number == 1 else {'identity': identity[part], 'mask': mask[part], 'photos': photos[part]}
        alone = restorer.restore(face, **known)[0]
        assert np.abs(alone.astype(int) - together[number]).max() <= 1
    assert not np.array_equal(together[0], restorer.restore(faces[0])[0])


def test_guidance_and_starting_from_a_codeformer(here, tmp_path):
    face = aligned_face(64)
    known = {
        'identity': torch.nn.functional.normalize(torch.ones(1, 1, DIM), dim=-1),
        'photos': torch.zeros(1, 1, 3, 128, 128),
    }
    plain = restorer_of(here).restore(face, **known)[0]
    guided = restorer_of(here, guidance=1.000001).restore(face, **known)[0]
    assert np.abs(plain.astype(int) - guided).max() <= 1
    assert not np.array_equal(plain, restorer_of(here, guidance=3.0).restore(face, **known)[0])
    model = save_tiny_model(tmp_path / 'codeformer.pth')
    started = restorer_of(here, start_from=str(model), start_share=0.5).restore(face)[0]
    assert started.shape == (64, 64, 3) and not np.array_equal(started, restorer_of(here).restore(face)[0])


def test_what_is_no_content_module_is_refused(here, tmp_path):
    model = save_tiny_model(tmp_path / 'codeformer.pth')
    with pytest.raises(CheckpointError, match='holds a CodeFormer, not a ContentControl'):
        DiffusionRestorer(model, DiffusionConfig(here / 'tiny'), 'cpu', allow_random=True)
    write_tiny(tmp_path / 'larger', size=128, vector=DIM)
    with pytest.raises(CheckpointError, match=r'latent side 8, and .* has 16'):
        DiffusionRestorer(here / 'net.pth', DiffusionConfig(tmp_path / 'larger'), 'cpu', allow_random=True)
