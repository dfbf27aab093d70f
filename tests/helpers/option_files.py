"""Option files of the repository."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [ROOT / 'options', *sorted(ROOT.glob('experiments/*/options'))]
OVERLAYS = sorted(path for folder in FOLDERS for path in folder.glob('overlays/*.yml'))
FILES = sorted(
    path
    for folder in FOLDERS
    for path in folder.rglob('*.yml')
    if path.parent.name not in ('eval', 'overlays')  # protocols, and parts of option files
)
