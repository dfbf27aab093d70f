"""Python of the guides, run as its readers run it: as a file, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python_of(page: str, heading: str = '') -> str:
    """Return the Python blocks of a page of `docs` as one text, those after a heading only if one is given."""
    text = (ROOT / 'docs' / page).read_text(encoding='utf-8')
    if heading:
        text = re.split(r'^## ', text.split(f'## {heading}\n', 1)[1], flags=re.MULTILINE)[0]
    blocks = re.findall(r'^```python\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    assert blocks, f'{page}: no Python'
    return '\n'.join(blocks)


def run_python(code: str, folder: Path, **environment: str) -> str:
    """Run code in a folder and return what it prints."""
    file = folder / 'guide.py'
    file.write_text(code, encoding='utf-8')
    command = [sys.executable, str(file)]
    done = subprocess.run(
        command,
        env={**os.environ, 'PYTHONPATH': str(ROOT), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
