"""An ONNX file where a checkpoint is wanted is called what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from basicsr.cli import restore
from basicsr.utils.archive import is_onnx
from basicsr.utils.checkpoint import DamagedError, read_checkpoint
from basicsr.utils.image import imwrite

onnx = pytest.importorskip('onnx', reason='writes an ONNX file')


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An intact ONNX model."""
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in 'xy']
    graph = onnx.helper.make_graph([onnx.helper.make_node('Identity', ['x'], ['y'])], 'graph', values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph, producer_name='pytorch'), tmp_path / 'codeformer.onnx')
    return tmp_path / 'codeformer.onnx'


@pytest.mark.parametrize('name', ['codeformer.onnx', 'codeformer.pth'])
def test_an_onnx_file_under_model_is_named(file: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = file.rename(file.with_name(name))
    imwrite(file.parent / 'a.png', np.zeros((8, 8, 3), np.uint8))
    argv = ['-i', str(file.parent / 'a.png'), '-o', str(file.parent / 'out'), '--model', str(path), '--device', 'cpu']
    assert restore.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'{name}: an ONNX file' in line and 'give the checkpoint (.pth or .safetensors)' in line
    assert 'damaged' not in line


def test_other_files_are_no_onnx(file: Path, tmp_path: Path) -> None:
    assert is_onnx(file.read_bytes()[:64])
    for head in (b'', b'\x08', b'PK\x03\x04', b'\x80\x02\x8a\n', b'\x08\0\0\0\0\0\0\0{"a"', b'\x08\x07\x00\x00'):
        assert not is_onnx(head)
    (tmp_path / 'text.pth').write_bytes(b'\x08\x07 nothing at all')
    with pytest.raises(DamagedError, match='damaged or not a checkpoint'):
        read_checkpoint(tmp_path / 'text.pth')
