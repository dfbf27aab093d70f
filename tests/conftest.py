"""Fixtures and the small networks that tests use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from backbones import backbone_state

if 'PYTEST_XDIST_WORKER' in os.environ:  # each of several workers, and what it starts, has a core to itself
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shared() -> Path:
    """The development data beside the repository; tests that need it are skipped where it is not."""
    folder = ROOT.parent / 'shared'
    if not (folder / 'data').is_dir():
        pytest.skip('needs the development data in ../shared')
    return folder


@pytest.fixture(scope='session', autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of this project is written to the user's cache, or found there."""
    fonts = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'matplotlib'  # slow to list
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MPLCONFIGDIR', os.environ.get('MPLCONFIGDIR') or str(fonts))
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same generator state."""
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first layers of a VGG16 with drawn weights."""
    path = tmp_path_factory.mktemp('backbones') / 'vgg16.pth'
    torch.save(backbone_state('vgg16', 9), path)
    return path
