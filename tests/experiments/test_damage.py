"""Statistics of damage: closed forms, and the table of real faces beside those of a training."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from small_faces import aligned_face

from basicsr.utils.image import imwrite
from experiments.measurements import damage


def test_a_cosine_has_its_energy_in_its_octave():
    wave = 10 * np.cos(2 * np.pi * 20 * np.arange(256) / 256)
    energy = damage.spectrum(np.broadcast_to(wave, (256, 256)))
    assert max(energy, key=lambda band: energy[band]) == '16 to 32 cycles (dB)'
    assert energy['16 to 32 cycles (dB)'] == pytest.approx(10 * np.log10(10**2 / 2), abs=0.01)


@pytest.mark.parametrize('sigma', [2.0, 10.0])
def test_noise_is_measured_and_edges_are_none(sigma):
    edges = np.broadcast_to(np.repeat([60.0, 180.0], 128), (256, 256)).astype(np.float32)
    assert damage.noise(edges) == 0
    noisy = edges + np.random.default_rng(0).normal(0, sigma, edges.shape).astype(np.float32)
    assert damage.noise(noisy) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize('side', [8, 13])
def test_blocks_of_any_size_are_found(side):
    smooth = cv2.GaussianBlur(np.random.default_rng(0).uniform(0, 255, (256, 256)).astype(np.float32), (0, 0), 6)
    small = cv2.resize(smooth, (256 // side, 256 // side), interpolation=cv2.INTER_AREA)
    blocky = np.kron(small, np.ones((side, side), np.float32))
    assert damage.blocks(smooth) < 1.5 < 4 < damage.blocks(blocky)


def test_the_table_says_what_the_training_misses(tmp_path, capsys):
    for number in range(6):
        imwrite(tmp_path / 'clean' / f'{number}.png', np.roll(aligned_face(256), 9 * number, axis=1))
        imwrite(tmp_path / 'real' / f'{number}.png', np.full((256, 256, 3), 90, np.uint8))  # smoother than any face
    folders = ['--real', str(tmp_path / 'real'), '--clean', str(tmp_path / 'clean')]
    assert damage.main([*folders, '--limit', '4']) == 0
    rows = {line.split(' | ')[0].strip('| '): line.split(' | ')[3] for line in capsys.readouterr().out.splitlines()[2:]}
    assert rows['32 to 64 cycles (dB)'].startswith('100%, 0%') and len(rows) == damage.BANDS + 2
    assert damage.main(['--real', str(tmp_path / 'none'), '--clean', str(tmp_path / 'clean')]) == 1
