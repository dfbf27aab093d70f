"""Seeded damage to checkpoints and option files: they are used, or refused in one line that names them."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.fuzzing.checkpoints_and_options import checkpoint_seeds, load, option_seeds, read_options

CASES = 60


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One of four kinds of damage."""
    raw, place = bytearray(data), rng.randrange(len(data))
    kind = rng.randrange(4)
    if kind == 0:
        raw[place] ^= 1 << rng.randrange(8)
    elif kind == 1:
        raw[place : place + 16] = rng.randbytes(16)
    elif kind == 2:
        raw[place : place + 64] = b''
    else:
        del raw[place:]
    return bytes(raw)


@pytest.mark.parametrize(('seeds', 'attempt'), [(checkpoint_seeds, load), (option_seeds, read_options)])
def test_damaged_files_are_used_or_named(
    seeds: Callable[[Path], list[Path]], attempt: Callable[[Path, Path], str], tmp_path: Path
) -> None:
    (tmp_path / 'seeds').mkdir()
    rng = random.Random(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        paths = seeds(tmp_path / 'seeds')
        wrong = {path.name: said for path in paths if (said := attempt(path, tmp_path))}
        for number in range(CASES):
            origin = rng.choice(paths)
            file = tmp_path / f'{number}_{origin.name}'
            file.write_bytes(damaged(origin.read_bytes(), rng))
            if said := attempt(file, tmp_path):
                wrong[file.name] = said
    assert wrong == {}


def test_an_error_that_says_too_little_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'x.pth').write_bytes(b'junk')
    assert load(tmp_path / 'x.pth', tmp_path) == ''
    monkeypatch.setattr('basicsr.utils.checkpoint._said', lambda error: '\nusing weights_only=False may help')
    assert 'does not say enough in one line' in load(tmp_path / 'x.pth', tmp_path)
