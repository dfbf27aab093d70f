"""spandrel loads the networks of this project, and they restore as they do here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from drawing import fill
from guides import python_of, run_python
from safetensors.torch import save_file
from small import CODEFORMER
from small_faces import aligned_face

from basicsr.archs import build_network
from basicsr.inference import FaceRestorer
from basicsr.inference.face_restorer import load_restorer
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.folders import packaged
from basicsr.utils.image import resized_tensor

spandrel = pytest.importorskip('spandrel', reason='needs spandrel, of the extra upsample')

from basicsr.integrations.spandrel import install

ROOT = Path(__file__).resolve().parents[2]
PERSONAL = {**CODEFORMER, 'type': 'IDCodeFormer', 'identity_dim': 16, 'out_scale': 2}
STYLED = {**PERSONAL, 'condition_transformer': False, 'style_grid': 4, 'out_scale': 1, 'n_head': 4}
TEXTURED = {'type': 'CodeFormerPlusPlus', 'prior': CODEFORMER, 'tgrn': {'width': 8}, 'w_identity': 0.7}


@pytest.fixture(autouse=True)
def loader(monkeypatch):
    """A loader with the networks; spandrel is left as it was."""
    monkeypatch.setattr(
        spandrel.ModelLoader, 'load_state_dict_from_file', spandrel.ModelLoader.load_state_dict_from_file
    )
    registry = spandrel.MAIN_REGISTRY.copy()
    install(registry)
    return spandrel.ModelLoader(registry=registry)


def as_spandrel(model, face: np.ndarray) -> np.ndarray:
    """Restore an RGB uint8 face as spandrel's hosts do."""
    output = model(torch.from_numpy(face).permute(2, 0, 1)[None].float() / 255)
    return (output[0].permute(1, 2, 0) * 255).round().numpy()


def check_alike(model, path: Path) -> None:
    """The descriptor restores as `FaceRestorer` does, at the network's size and larger."""
    restorer = FaceRestorer(path, device='cpu', color_fix=False)
    size = model.model.img_size
    assert model.scale == restorer.size // size
    face = aligned_face(size)
    expected = restorer.restore(face)[0].astype(float)
    assert np.abs(as_spandrel(model, face) - expected).max() <= 1
    photo = aligned_face(2 * restorer.size)  # whose reduced levels lie between whole ones, on which codes may turn
    larger = as_spandrel(model, photo)
    small = torch.from_numpy(restorer.restore(photo)[0]).permute(2, 0, 1)[None] / 255
    expected = resized_tensor(small, len(larger))[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255
    assert np.abs(larger - expected).max() <= 2


@pytest.mark.parametrize(
    'options', [CODEFORMER, PERSONAL, STYLED, TEXTURED], ids=['CodeFormer', 'IDCodeFormer', 'styled', 'CodeFormer++']
)
@pytest.mark.parametrize('suffix', ['.safetensors', '.pth'])
def test_every_network_restores_as_here(options, suffix, loader, tmp_path):
    """Files state the number of heads, here 2 or 4, which shapes do not tell."""
    path, network = tmp_path / f'net{suffix}', fill(build_network(options))
    if suffix == '.pth':
        save_atomic({'params_ema': network.state_dict(), 'network': options}, path)
    else:
        save_file(network.state_dict(), path, {'network': json.dumps(options)})
    check_alike(loader.load_from_file(path), path)


def test_the_embedded_model_restores_as_here(loader):
    path = packaged('weights') / 'small' / 'codeformer_128.safetensors'
    model = loader.load_from_file(path)
    assert model.architecture.id == 'IDCodeFormer'
    check_alike(model, path)


def test_the_lines_of_the_guide_serve_all_loaders(tmp_path):
    save_atomic(fill(build_network(PERSONAL)).state_dict(), tmp_path / 'net.pth')
    load = "import spandrel\nprint(spandrel.ModelLoader().load_from_file('net.pth').architecture.id)"
    said = run_python(f'{python_of("integrations.md", "spandrel")}\n{load}', tmp_path)
    assert said.split() == ['IDCodeFormer']


def test_a_state_dict_alone_is_enough_for_eight_heads(loader, tmp_path):
    network = fill(build_network({**PERSONAL, 'n_head': 8})).eval()
    model = loader.load_from_state_dict(network.state_dict())
    save_atomic(network.state_dict(), tmp_path / 'net.pth')
    assert model.model.ft_layers[0].self_attn.num_heads == 8
    check_alike(model, tmp_path / 'net.pth')


def test_ours_comes_before_the_published_codeformer_and_once(tmp_path):
    class Published(spandrel.Architecture):
        def __init__(self):
            super().__init__(id='CodeFormer', detect=lambda state: 'position_emb' in state)

        def load(self, state_dict):
            raise AssertionError('of other sizes')

    for first in (True, False):
        registry = spandrel.ArchRegistry()
        if first:
            registry.add(spandrel.ArchSupport.from_architecture(Published()))
        install(registry)
        install(registry)
        if not first:
            registry.add(spandrel.ArchSupport.from_architecture(Published()))
        order = [support.architecture.id for support in registry.architectures('detection')]
        assert order == ['IDCodeFormer', 'CodeFormer']


def test_the_fidelity_weight_is_that_of_install(loader, tmp_path):
    save_atomic({'params': fill(build_network(CODEFORMER)).state_dict(), 'network': CODEFORMER}, tmp_path / 'net.pth')
    registry = spandrel.ArchRegistry()
    install(registry, w=0.0)
    model = spandrel.ModelLoader(registry=registry).load_from_file(tmp_path / 'net.pth')
    x = torch.randint(256, (1, 3, 64, 64)) / 255
    with torch.no_grad():
        expected = load_restorer(tmp_path / 'net.pth')(x * 2 - 1, w=0, adain=True)[0]
    torch.testing.assert_close(model(x), (expected / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match='w = 2'):
        install(registry, w=2)


def test_other_networks_are_left_to_spandrel(loader):
    with pytest.raises(spandrel.UnsupportedModelError):
        loader.load_from_state_dict({'position_emb': torch.zeros(4, 4), 'x': torch.zeros(1)})
