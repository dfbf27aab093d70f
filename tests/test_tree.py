"""What is committed: known folders, and no large file but the weights that ship."""

from __future__ import annotations

import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {
    '.ci', '.git', '.github', 'basicsr', 'docs', 'experiments', 'inputs', 'notebooks', 'options', 'scripts', 'tests',
    'weights',
}  # fmt: skip
LARGEST = 2 << 20  # bytes


def test_nothing_lies_in_a_folder_of_its_own():
    ignored = [line.strip('/') for line in (ROOT / '.gitignore').read_text().splitlines()]
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert {name for name in folders - FOLDERS if not any(fnmatch(name, pattern) for pattern in ignored)} == set()


def test_only_weights_are_large():
    done = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, text=True)
    if done.returncode or not done.stdout:
        pytest.skip('not a git checkout, so what is committed is not known')
    tracked = [Path(name) for name in done.stdout.split('\0') if name and (ROOT / name).is_file()]
    large = {path for path in tracked if (ROOT / path).stat().st_size > LARGEST}
    limits = {Path('weights/recognition'): 12e6, Path('weights/small'): 30e6}
    assert {(path.parent, path.suffix) for path in large} == {(folder, '.safetensors') for folder in limits}
    for folder, limit in limits.items():
        assert sum((ROOT / path).stat().st_size for path in large if path.parent == folder) < limit
