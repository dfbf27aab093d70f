"""Find the files that come with the package, and the folder of downloaded weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path

WEIGHTS_VARIABLE = 'CODEFORMER_WEIGHTS'
PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = PACKAGE / 'assets'
"""Folder of the packaged files in a wheel; a clone has them beside the package."""


def packaged(name: str) -> Path:
    """Find a folder that comes with the package, in a clone, an editable install or a wheel.

    Args:
        name: `options` or `weights` (the embedded model and the manifest).
    """
    return (INSTALLED if INSTALLED.is_dir() else PACKAGE.parent) / name


def cache_folder() -> Path:
    """Return this project's folder in the user's cache, as the system's custom has it."""
    if sys.platform == 'win32':
        base = os.environ.get('LOCALAPPDATA') or Path.home() / 'AppData' / 'Local'
    elif sys.platform == 'darwin':
        base = Path.home() / 'Library' / 'Caches'
    else:
        base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    return Path(base) / 'id-codeformer'


def weights_folder() -> Path:
    """Return the folder of downloaded weights.

    It is the folder that the environment variable CODEFORMER_WEIGHTS names, else `weights` of the clone, else
    `weights` in the user's cache.
    """
    named = os.environ.get(WEIGHTS_VARIABLE)
    if named:
        return Path(named).expanduser()
    return cache_folder() / 'weights' if INSTALLED.is_dir() else packaged('weights')


def find_packaged(path: str | os.PathLike) -> Path:
    """Find a file by its path in the repository, such as `options/small/VQGAN_128_stage1.yml`.

    Returns:
        `path` where that is there; else the packaged file or downloaded weights of that name; else `path`.
    """
    given = Path(path)
    if given.exists() or given.is_absolute() or not given.parts:
        return given
    first, *rest = given.parts
    folders = {'options': [packaged('options')], 'weights': [weights_folder(), packaged('weights')]}.get(first, [])
    return next((place for folder in folders if (place := folder.joinpath(*rest)).exists()), given)
