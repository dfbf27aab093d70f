"""scripts/reconstruct.py: faces through stage I alone."""

from __future__ import annotations

import pytest
import torch
from small import CODEFORMER, VQGAN, make_faces

from basicsr.archs import build_network
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.image import imread, to_image, to_tensor
from experiments.ablation import reconstruct


def save(path, options):
    torch.manual_seed(0)
    network = build_network(options).eval()
    save_atomic({'params': network.state_dict(), 'network': options}, path)
    return network


def test_a_reconstruction_is_what_the_network_makes_of_the_face(tmp_path, capsys):
    network = save(tmp_path / 'vqgan.pth', VQGAN)
    faces, out = make_faces(tmp_path / 'faces', 3), tmp_path / 'out'
    command = ['--weights', str(tmp_path / 'vqgan.pth'), '-i', str(faces), '-o', str(out)]
    assert reconstruct.main(command) == 0
    assert sorted(path.name for path in out.iterdir()) == ['000.png', '001.png', '002.png']
    with torch.inference_mode():
        wanted, _, _ = network(to_tensor(imread(faces / '001.png'))[None])
        used = {
            int(code)
            for path in faces.iterdir()
            for code in network(to_tensor(imread(path))[None])[2]['min_encoding_indices']
        }
    assert (imread(out / '001.png') == to_image(wanted[0].clamp(-1, 1))).all()
    assert f'{len(used)} of 32 codes used' in capsys.readouterr().out


def test_codes_are_counted_as_they_are_used(tmp_path, capsys, monkeypatch):
    """All alike: one code, perplexity 1."""
    network = save(tmp_path / 'vqgan.pth', VQGAN)
    with torch.no_grad():
        network.quantize.embedding.weight[1:] = 1e6
    monkeypatch.setattr(reconstruct, 'load_network', lambda path: network)
    command = ['--weights', 'x', '-i', str(make_faces(tmp_path / 'faces', 1)), '-o', str(tmp_path / 'out')]
    assert reconstruct.main(command) == 0
    assert capsys.readouterr().out.startswith('1 of 32 codes used (3.1 %), perplexity 1\n')


@pytest.mark.parametrize(('weights', 'faces', 'words'), [
    ('codeformer.pth', 'faces', 'a CodeFormer; the network of stage I is needed'),
    ('none.pth', 'faces', 'none.pth'),
    ('vqgan.pth', 'nowhere', 'nowhere'),
])  # fmt: skip
def test_what_cannot_be_done_is_said(weights, faces, words, tmp_path, capsys):
    save(tmp_path / 'vqgan.pth', VQGAN)
    save(tmp_path / 'codeformer.pth', CODEFORMER)
    make_faces(tmp_path / 'faces', 1)
    command = ['--weights', str(tmp_path / weights), '-i', str(tmp_path / faces), '-o', str(tmp_path / 'out')]
    assert reconstruct.main(command) == 1
    assert words in capsys.readouterr().err
