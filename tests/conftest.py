"""Fixtures and the small networks that tests use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shared() -> Path:
    """The development data beside the repository; tests that need it are skipped where it is not."""
    folder = ROOT.parent / 'shared'
    if not (folder / 'data').is_dir():
        pytest.skip('needs the development data in ../shared')
    return folder


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same generator state."""
    torch.manual_seed(0)
