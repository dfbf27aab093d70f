"""The notebooks run from top to bottom with what is in the repository."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / 'notebooks').glob('*.ipynb'))


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip('nbclient', reason='runs notebooks')
    pytest.importorskip('ipykernel', reason='is the kernel of notebooks')
    nbformat = pytest.importorskip('nbformat', reason='reads notebooks')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.get('outputs') for cell in notebook.cells), 'clear the outputs before committing'
    nbclient.NotebookClient(notebook, timeout=300, resources={'metadata': {'path': str(path.parent)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get('outputs', ())]
    assert sum('image/png' in output.get('data', {}) for output in shown) == 2
    assert any("['restored']" in output.get('text', '') for output in shown)
