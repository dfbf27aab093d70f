"""Memory settings of the process: a command may change them, the library does not."""

from __future__ import annotations

import numpy as np
import pytest
from small_faces import save_tiny_model

from basicsr.cli import restore
from basicsr.inference import FaceRestorer, face_restorer
from basicsr.utils import memory


class Allocator:
    """Stands for the C library, and records what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def mallopt(self, parameter: int, value: int) -> None:
        self.told.append('mallopt')

    def malloc_trim(self, pad: int) -> None:
        self.told.append('trim')


@pytest.fixture
def allocator(monkeypatch: pytest.MonkeyPatch) -> Allocator:
    stand_in = Allocator()
    monkeypatch.setattr(memory, '_glibc', lambda: stand_in)
    monkeypatch.setattr(memory, '_kept', False)
    return stand_in


def test_the_library_leaves_the_allocator_alone_and_the_command_does_not(
    tmp_path, allocator: Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_restorer, 'GAPS_MATTER', 64)
    model = save_tiny_model(tmp_path / 'tiny.pth')
    faces = FaceRestorer(model, 'cpu')
    faces.restore(np.zeros((64, 64, 3), np.uint8))
    assert not allocator.told
    restore.build_restorer(
        restore.build_parser().parse_args(['-i', '.', '--has_aligned', '--device', 'cpu', '--model', str(model)])
    )
    assert allocator.told == ['mallopt', 'mallopt']
    faces.restore(np.zeros((64, 64, 3), np.uint8))
    assert set(allocator.told[2:]) == {'trim'}


def test_a_small_network_gives_nothing_back_between_its_layers(tmp_path, allocator: Allocator) -> None:
    """It takes a tenth of its time, and the gaps that its activations leave are small."""
    faces = FaceRestorer(save_tiny_model(tmp_path / 'tiny.pth'), 'cpu')
    memory.keep_freed_memory()
    faces.restore(np.zeros((64, 64, 3), np.uint8))
    assert 'trim' not in allocator.told
