"""The script for a GPU runs on the CPU with sizes cut; what fails is a row, and the others go on."""

from __future__ import annotations

import json
import math

import pytest
import torch

from experiments.benchmarks import gpu
from experiments.benchmarks.cases import TINY, Setup
from experiments.benchmarks.gpu import GROUPS, OFFICIAL_MS, Bench, Measured


@pytest.fixture(scope='module')
def bench(tmp_path_factory):
    setup = Setup(tmp_path_factory.mktemp('gpu'), TINY, 2, 64)
    setup.prepare()
    return Bench(setup, 'cpu', (1, 2), 0.0, 1)


@pytest.mark.parametrize('name', ['precisions', 'batches', 'pictures', 'training'])
def test_groups_have_figures(name, bench):
    with torch.no_grad() if name != 'training' else torch.enable_grad():
        rows = list(GROUPS[name](bench))
    assert {row.group for row in rows} == {name} and len({row.case for row in rows}) == len(rows)
    done = [row for row in rows if row.milliseconds is not None]
    assert all(0 < (row.milliseconds or 0) < math.inf for row in done)
    assert all('fp16' in row.case and row.note.startswith('failed') for row in rows if row not in done)


def test_a_row_that_fails_does_not_end_its_group(bench, monkeypatch):
    build = Bench.network

    def broken(self, dtype, *layout):
        if dtype == torch.bfloat16:
            raise KeyError('a kernel that no type of error was foreseen for')
        return build(self, dtype, *layout)

    monkeypatch.setattr(Bench, 'network', broken)
    with torch.no_grad():
        rows = {row.case: row for row in gpu.precisions(bench)}
    assert 'a kernel that' in rows['bf16, NCHW'].note and rows['bf16, NCHW'].milliseconds is None
    assert rows['fp32, channels-last'].milliseconds and len(rows) == 8


def test_results_are_one_folder_and_failures_are_in_it(tmp_path, capsys):
    command = ['--device', 'cpu', '--tiny', '--out', str(tmp_path), '--only']
    assert gpu.main([*command, 'graphs']) == 1
    found = json.loads((tmp_path / 'gpu.json').read_text(encoding='utf-8'))
    assert [row['case'] for row in found['rows']] == ['bf16, batch 1', 'fp16, batch 1']
    assert all('CUDA graphs need a CUDA device' in row['note'] for row in found['rows'])
    assert '## Graphs' in (tmp_path / 'gpu.md').read_text(encoding='utf-8')
    assert gpu.main([*command, 'precisions,batches', '--minutes', '0']) == 1
    found = json.loads((tmp_path / 'gpu.json').read_text(encoding='utf-8'))
    assert [row['note'] for row in found['rows']] == ['not run: the time was over'] * 2
    with pytest.raises(SystemExit):
        gpu.main([*command, 'precision'])
    assert "no group 'precision'" in capsys.readouterr().err


def test_the_page_compares_faces_with_the_published_figure():
    rows = [Measured('precisions', 'fp16', OFFICIAL_MS / 4, 1.0), Measured('pictures', 'all', OFFICIAL_MS / 4, 1.0)]
    text = gpu.as_markdown(rows, {'device': 'd', 'torch': 't', 'commit': 'c', 'seconds': 1})
    assert '| fp16 | 13.9 | 1 |  | 4 |  |' in text and '| all | 13.9 | 1 |  |  |  |' in text


def test_pasting_on_the_device_puts_a_face_where_its_mask_is():
    """A face that is the picture itself, cut out, changes nothing where it is pasted."""
    canvas = torch.rand(1, 3, 8, 8)
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing='ij')
    grid = ((2 * torch.stack([columns, rows], -1).float() + 1) / 8 - 1)[None]
    pasted = gpu.paste_on_device(canvas, canvas.clone(), torch.ones(1, 1, 8, 8), grid)
    assert torch.allclose(pasted, canvas, atol=1e-5)
    left = gpu.paste_on_device(canvas, torch.zeros_like(canvas), torch.zeros(1, 1, 8, 8), grid)
    assert torch.equal(left, canvas)
