"""The benchmark runs, at sizes whose figures mean nothing, and its page says what its figures say."""

from __future__ import annotations

import csv
import math
import os

import numpy as np
import pytest
import torch
from small import stage_options

from basicsr.models import build_model
from basicsr.utils.memory import keep_freed_memory, peak_memory
from experiments.benchmarks import bf16, many_files, memory
from experiments.benchmarks import run as benchmark
from experiments.benchmarks.cases import FULL, TINY, Setup, count_flops
from experiments.benchmarks.page import TEXTS, latest, number, verdict
from experiments.benchmarks.run import MEASUREMENTS


@pytest.fixture(scope='module')
def setup(tmp_path_factory):
    tiny = Setup(tmp_path_factory.mktemp('benchmark'), TINY, 2, 64, (1, 2), 4, (('tiny', '', 'fp32'),))
    tiny.prepare()
    return tiny


def read(path):
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_script_adds_rows_and_writes_the_page(tmp_path):
    table, page = tmp_path / 'figures.csv', tmp_path / 'page.md'
    command = ['--tiny', '--csv', str(table), '--page', str(page), '--only']
    assert benchmark.main([*command, 'forward']) == 0
    rows = read(table)
    (fp32, bf16) = (row for row in rows if row['figure'] == 'time of a face')
    assert (fp32['measurement'], fp32['case'], bf16['case']) == ('forward', 'fp32', 'bf16')
    assert float(fp32['best']) > 0
    assert all(fp32[name] for name in ('commit', 'torch', 'machine', 'date'))
    text = page.read_text(encoding='utf-8')
    assert '## Forward' in text and f'| fp32 | time of a face | {number(fp32["best"])} |' in text
    assert benchmark.main([*command, 'none']) == 0
    assert len(read(table)) == len(rows) and page.read_text(encoding='utf-8') == text


@pytest.mark.parametrize('name', ['forward', 'memory', 'plusplus', 'batch', 'picture', 'video'])
def test_measurements_are_finite_and_complete(name, setup):
    threads = torch.get_num_threads()
    rows = MEASUREMENTS[name](setup)
    assert torch.get_num_threads() == threads
    assert {row.measurement for row in rows} == {name}
    assert all(math.isfinite(value) and value > 0 for row in rows for value in (row.best, row.median))
    if name == 'memory':
        assert [row.case for row in rows] == ['fp32', 'bf16'] and rows[0].best > 0.05
    if name == 'video':
        assert '4 frames' in rows[0].note and rows[1].best <= 1


@pytest.fixture
def few_shards(monkeypatch):
    """Two cores, which may be one, and one run on a core in place of all such runs."""
    cores = [*getattr(os, 'sched_getaffinity', lambda pid: [])(0)] * 2
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: cores, raising=False)
    run, times = many_files._sharded, {}

    def run_once(setup, *parts):
        if len(parts) not in times:
            times[len(parts)] = run(setup, *parts)
        return times[len(parts)]

    monkeypatch.setattr(many_files, '_sharded', run_once)


@pytest.mark.parametrize('name', ['embedded', 'convolutions', 'pairs', 'references', 'shards', 'png', 'x264'])
def test_measurements_of_single_questions_have_figures(name, setup, few_shards):
    threads = torch.get_num_threads()
    try:
        rows = MEASUREMENTS[name](setup)
    finally:
        torch.set_num_threads(threads)
    assert rows and {row.measurement for row in rows} == {name}
    assert all(math.isfinite(value) for row in rows for value in (row.best, row.median))
    if name == 'embedded':  # no way to run it changes the picture
        assert all(float(row.note.rpartition(' ')[2]) < 1e-4 for row in rows if 'difference' in row.note)


def test_shards_at_once_need_two_cores(setup, monkeypatch):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {3}, raising=False)
    monkeypatch.setattr(many_files, '_sharded', None)
    (row,) = MEASUREMENTS['shards'](setup)
    assert (row.measurement, row.figure, row.note) == ('shards', 'not run', 'needs Linux and two cores')
    assert math.isnan(row.best) and math.isnan(row.median)


def test_convolutions_in_bf16_leave_the_embedded_model_within_a_few_levels():
    face = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    exact, near = (build().restore(face, 0.5)[0].astype(int) for build in (bf16.WAYS['fp32'], bf16.convolutions_only))
    assert 0 < np.abs(exact - near).max() < 16


def test_every_measurement_has_its_place_on_the_page():
    assert set(MEASUREMENTS) == set(TEXTS)


def test_a_measurement_that_fails_is_a_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, 'alone', lambda *args: (_ for _ in ()).throw(RuntimeError('no more memory')))
    table = tmp_path / 'figures.csv'
    arguments = ['--tiny', '--csv', str(table), '--page', str(tmp_path / 'page.md'), '--only', 'memory']
    assert benchmark.main(arguments) == 1
    assert [(row['figure'], row['note']) for row in read(table)] == [('failed', 'no more memory')]


def test_unknown_measurements_are_named(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(['--only', 'foward'])
    assert "no measurement 'foward'" in capsys.readouterr().err


def test_work_is_that_of_the_published_network():
    """NETWORKS.md has 810 GFLOP; in inference the convolutions after enlargements need 4 of 9 multiplications."""
    trained, inferred = (count_flops(FULL, training) for training in (True, False))
    assert trained == pytest.approx(813, abs=5)
    enlargements = sum(
        2 * c * c * 9 * side**2 for c, side in ((512, 32), (256, 64), (256, 128), (128, 256), (128, 512))
    )
    assert trained - inferred == pytest.approx(5 / 9 * enlargements / 1e9, rel=0.01)


def test_rows_of_the_last_run_count():
    def row(case, best, measurement='forward'):
        return {'measurement': measurement, 'case': case, 'figure': 'share of the product', 'best': best}

    rows = [row('fp32', '0.5'), row('bf16', '0.5'), row('x', '1', 'start'), row('fp32', '0.9')]
    assert latest(rows) == [rows[3], rows[2]]
    assert [verdict(one) for one in rows] == [
        'at least 0.8: missed',
        'at least 0.6: missed',
        '',
        'at least 0.8: reached',
    ]


def test_peak_memory_grows_with_what_is_held():
    before = peak_memory()
    held = torch.ones(before // 4)  # as much as the process ever held, on top of what it holds
    assert peak_memory() - before > 200e6
    assert held[-1] == 1


def test_keeping_freed_memory_changes_no_result():
    keep_freed_memory()
    x = torch.arange(10**7, dtype=torch.float64)
    assert (x + x).sum().item() == 10**7 * (10**7 - 1)


def test_live_storage_counts_what_is_alive_and_its_peak():
    """Views share storage; what autograd keeps for the backward pass counts, and is freed by it."""
    counter = memory.LiveStorage()
    with memory.without_values(), counter:
        weight = torch.zeros(1000, requires_grad=True)
        assert counter.live == counter.peak == 4000
        view = weight.view(10, 100)
        assert counter.live == 4000
        kept = (view * view).exp()  # which keeps its result for the backward pass; the product is gone
        assert (counter.live, counter.peak) == (8000, 12000)
        kept.sum().backward()
        del kept, view
        assert counter.live == 8000  # the weight and its gradient
        assert counter.peak > 12000


def test_measuring_computes_one_iteration_and_reports_the_process(tmp_path, monkeypatch):
    built, opt = [], stage_options(2, tmp_path)
    monkeypatch.setattr(memory, 'build_model', lambda *args: built.append(build_model(*args)) or built[0])
    held = memory.measured(opt, 3)
    assert held == pytest.approx(peak_memory() / 1e9, abs=0.1)
    (model,) = built
    steps = {int(state['step']) for state in model.optimizers['optim_g'].state.values()}
    assert steps == {1} and math.isfinite(model.log['cross_entropy_loss'])
