"""Ablations from plan to table: trained and judged once, resumed, crashed, told of references; and their arithmetic."""

from __future__ import annotations

import copy
import csv
import functools
import itertools
import shutil
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small import CODEFORMER, stage_options
from small_recognizer import save_tiny, smooth_faces

import basicsr.cli.train
from basicsr.archs import build_network
from basicsr.inference import FaceRestorer
from basicsr.metrics import METRICS
from basicsr.metrics.pictures import Folder
from basicsr.metrics.table import EvaluationError
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils import options as option_files
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.image import MARGIN, TILE, TITLE, enlarged, imread, imwrite, to_image, to_tensor
from basicsr.utils.options import dump_options
from experiments.ablation import run as script
from experiments.ablation import stages
from experiments.ablation.judge import Embedded, Job, run_job
from experiments.ablation.plan import PlanError, load_plan
from experiments.ablation.results import Results, read_results
from experiments.ablation.stages import check_shared, parts_of, run_process, trainings_of
from experiments.ablation.tables import write_tables
from experiments.references import own_references, wrong_references

PLANS = sorted((Path(__file__).resolve().parents[2] / 'experiments' / 'ablation' / 'plans').glob('*.yml'))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with option files of stages I and II, pairs of two people, and a judge, of which tests get a copy."""
    folder = tmp_path_factory.mktemp('work')
    for stage in (1, 2):
        opt = stage_options(stage, folder)
        opt['datasets'].pop('val')
        if stage == 2:
            at_stage_1 = 'experiments/stage1/models/net_g_latest.pth'
            opt['network_vqgan']['model_path'] = opt['network_g']['vqgan_path'] = at_stage_1
        (folder / f'stage{stage}.yml').write_text(dump_options(opt))
    faces = smooth_faces(8, 64)
    for number, face in enumerate(faces):
        name = f'p{number // 4}/{number % 4}.png'
        imwrite(folder / 'gt' / name, to_image(face))
        imwrite(folder / 'lq' / name, to_image(face * 0.5))
    save_tiny(folder / 'judge.pth')
    return folder


@pytest.fixture
def here(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, as `work` prepared it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(work, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.glob('stage*.yml'):
        file.write_text(file.read_text().replace(str(work), str(tmp_path)))
    return tmp_path


def write_plan(here: Path, **changes: object) -> Path:
    plan = {
        'rows': {'A': {'stages': ['stage1.yml', 'stage2.yml']}, 'input': {'pictures': 'lq'}},
        'w': 0,
        'sets': {'people': {'lq': 'lq', 'gt': 'gt', 'ref': 'gt'}},
        'metrics': ['psnr', 'ids', 'niqe'],
        'judge': {'recognizer': str(here / 'judge.pth'), 'weights': {'niqe': 'nowhere.npz'}},
        **changes,
    }
    (here / 'plan.yml').write_text(yaml.safe_dump(plan, sort_keys=False))
    return here / 'plan.yml'


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What would be started in processes of their own, and runs in this one instead, which spares the imports."""
    started: list[str] = []

    def in_this_process(command: list[str], log: Path) -> tuple[int, str]:
        started.append(f'train {Path(command[3]).stem}' if 'train.py' in command[1] else 'judge')
        if 'train.py' not in command[1]:
            return script.main(command[2:]), ''
        try:
            code = basicsr.cli.train.main(command[2:])
        finally:
            torch.set_grad_enabled(True)
        return code, 'exit code 1: no data' if code else ''

    monkeypatch.setattr(stages, 'run_process', in_this_process)
    monkeypatch.setattr(script, 'run_process', in_this_process)
    return started


def test_stages_are_shared_rows_crash_and_the_rest_goes_on(here: Path, calls: list[str], capsys) -> None:
    options = yaml.safe_load((here / 'stage2.yml').read_text())
    options['datasets']['train']['dataroot_gt'] = 'gone'
    (here / 'broken.yml').write_text(dump_options({**options, 'name': 'broken'}))
    rows = {
        'A': {'stages': ['stage1.yml', 'stage2.yml']},
        'bad': {'stages': ['stage1.yml', 'broken.yml']},
        'B': {'stages': ['stage1.yml', {'opt': 'stage2.yml', 'force_yml': ['train:entropy_loss_weight=1']}]},
        'input': {'pictures': 'lq'},
    }
    arguments = ['--plan', str(write_plan(here, rows=rows)), '--out', 'out', '--device', 'cpu', '--publish', 'docs/x']
    assert script.main(arguments) == 1
    assert [call.partition('_s0')[0] for call in calls] == [
        'train stage1', 'train stage2', 'judge', 'train broken', 'train stage2', 'judge', 'judge'
    ]  # fmt: skip
    assert calls[1] != calls[4]  # two stages of one file, with other options
    found = {row['row']: row for row in read_results(here / 'out' / 'results.csv')}
    assert [row['status'] for row in found.values()] == ['done', 'failed', 'done', 'done']
    assert found['bad']['reason'].endswith('exit code 1: no data') and 'broken' in found['bad']['reason']
    assert found['A']['iterations'] == '4+4' and found['A']['data'] == 'faces+faces' and found['A']['pictures'] == '8'
    assert float(found['A']['train_seconds']) > 0 and len(found['A']['sha256']) == 16 and found['input']['w'] == ''
    expected = np.mean([10 * np.log10(255**2 / np.square(_pair(here, i)).mean()) for i in range(8)])
    assert float(found['input']['psnr']) == pytest.approx(expected, rel=1e-4)
    text = (here / 'docs' / 'x.md').read_text(encoding='utf-8')
    assert '| A |' in text and '- bad, seed 0: failed: stage broken_s0_' in text
    assert 'not run: niqe: nowhere.npz' in text
    assert ET.parse(here / 'docs' / 'x_people_identity.svg').getroot().tag.endswith('svg')
    with (here / 'out' / 'stages.csv').open() as file:
        assert [row['code'] for row in csv.DictReader(file)] == ['0', '0', '1', '0']

    calls.clear()
    assert script.main([*arguments, '--rows', 'A', 'B', 'input']) == 0  # all is done
    assert not calls and '| B |' in capsys.readouterr().out
    (here / 'lq' / 'p0' / '0.png').unlink()
    assert script.main([*arguments, '--set', 'w=0.5', '--rows', 'A']) == 0  # not that yet
    assert calls == ['judge']


def test_changed_pictures_and_judges_are_judged_anew(here: Path, calls: list[str]) -> None:
    arguments = ['--plan', str(write_plan(here, rows={'input': {'pictures': 'lq'}})), '--out', 'out', '--device', 'cpu']

    def judged() -> int:
        calls.clear()
        assert script.main(arguments) == 0
        return len(calls)

    assert [judged(), judged()] == [1, 0]
    for name in ('lq', 'gt'):
        imwrite(here / name / 'p0' / '0.png', imread(here / name / 'p0' / '1.png'))
        assert [judged(), judged()] == [1, 0]
    save_tiny(here / 'judge.pth', seed=7)
    assert [judged(), judged()] == [1, 0]


def test_a_row_whose_folder_is_gone_is_left_out(here: Path, calls: list[str]) -> None:
    rows = {'input': {'pictures': 'lq'}, 'truth': {'pictures': 'bicubic'}}
    sets = {'people': {'lq': 'lq', 'gt': 'gt', 'bicubic': 'gt'}}
    write_plan(here, rows=rows, sets=sets, metrics=['ids'])
    arguments = ['--plan', 'plan.yml', '--out', 'out', '--device', 'cpu']
    assert script.main(arguments) == 0 and '| truth |' in (here / 'out' / 'results.md').read_text()
    shutil.rmtree(here / 'out' / 'rows' / 'truth_people__0')
    assert script.main([*arguments, '--rows', 'input']) == 0
    assert '| truth |' not in (here / 'out' / 'results.md').read_text()


def _pair(here: Path, number: int) -> np.ndarray:
    name = f'p{number // 4}/{number % 4}.png'
    return imread(here / 'lq' / name).astype(float) - imread(here / 'gt' / name)


def test_a_begun_stage_goes_on(here: Path, calls: list[str]) -> None:
    plan = load_plan(write_plan(here))
    training = trainings_of(plan.rows['A'], 0, ())[0]
    arguments = ['--plan', 'plan.yml', '--out', 'out', '--device', 'cpu', '--set', 'rows:A:stages=[stage1.yml]']
    script.main(arguments)  # an autoencoder cannot restore: the row fails, its stage is trained
    run = training.checkpoint.parents[1]
    whole = training.checkpoint.read_bytes()
    assert 'not a CodeFormer' in read_results(here / 'out' / 'results.csv')[0]['reason']
    training.checkpoint.unlink()
    for state in ('training_states/4.state', 'models/net_g_4.pth'):
        (run / state).unlink()
    script.main(arguments)
    assert (run / 'environment_2.json').is_file() and not list(run.parent.glob('*archived*'))
    assert training.checkpoint.read_bytes() == whole
    assert sum(call.startswith('train') for call in calls) == 2


def test_names_of_runs_follow_their_options(here: Path) -> None:
    row = load_plan(write_plan(here)).rows['A']
    first, second = trainings_of(row, 0, ())
    assert second.options['network_g']['vqgan_path'] == str(first.checkpoint)
    assert first.name.startswith('stage1_s0_') and first.options['name'] == first.name
    again = trainings_of(row, 0, ['train:ema_decay=0.9'])  # what it is anyway
    assert [t.name for t in again] == [first.name, second.name]
    other = trainings_of(row, 0, ['datasets:train:seed=3', 'network_vqgan:codebook_size=32', 'train:ema_decay=0.8'])
    assert not {t.name for t in other} & {first.name, second.name}
    assert 'network_vqgan' not in other[0].options and 'seed' not in other[0].options['datasets']['train']
    assert trainings_of(row, 1, ())[0].options['manual_seed'] == 1
    plan = yaml.safe_load((here / 'plan.yml').read_text())
    plan['rows']['A']['stages'][0] = {'opt': 'stage1.yml', 'seed': 0}  # one codebook for all seeds
    (here / 'plan.yml').write_text(yaml.safe_dump(plan))
    fixed = trainings_of(load_plan(here / 'plan.yml').rows['A'], 1, ())
    assert fixed[0].name == first.name and fixed[1].name != second.name


def test_a_stage_that_leads_nowhere_is_an_error(here: Path) -> None:
    elsewhere = ['network_g:vqgan_path=a.pth', 'network_vqgan:model_path=a.pth']
    changed = {'opt': 'stage2.yml', 'force_yml': elsewhere}
    row = load_plan(write_plan(here, rows={'A': {'stages': ['stage1.yml', changed]}})).rows['A']
    with pytest.raises(PlanError, match=r'row A: no later stage goes on from stage1\.yml'):
        trainings_of(row, 0, ())


def test_a_mistyped_change_is_an_error(here: Path) -> None:
    plan = load_plan(write_plan(here, force_yml=['train:ema_decy=0.5']))
    with pytest.raises(PlanError, match=r"'train:ema_decy' stands in no option file .*'train:ema_decay'"):
        check_shared(plan)


# ---- references


def conditioned(path: Path, dim: int = 16) -> Path:
    """An IDCodeFormer whose new outputs are drawn, so that references change what it restores."""
    network = build_network({**CODEFORMER, 'type': 'IDCodeFormer', 'identity_dim': dim})
    for name, value in network.named_parameters():
        if name.startswith('id_'):
            torch.nn.init.normal_(value, std=0.3)
    save_atomic({'params_ema': network.state_dict(), 'network': {'n_head': CODEFORMER['n_head']}}, path)
    return path


def job_of(here: Path, **changes: object) -> Job:
    given = {
        'label': 'x', 'checkpoint': str(here / 'net.pth'), 'folders': {'lq': 'lq', 'gt': 'gt', 'ref': 'gt'}, 'w': 0.5,
        'adain': True, 'color_fix': False, 'references': 'own', 'search': 0, 'recognizer': str(here / 'judge.pth'),
        'count': 2, 'vary': 0, 'metrics': ['psnr'], 'judge': {'recognizer': str(here / 'judge.pth'), 'weights': {}},
        'device': 'cpu', 'out': str(here / 'job'), **changes,
    }  # fmt: skip
    Job(**given).save(here / 'job.json')
    return Job(**given)


def test_references_are_other_photographs_of_the_person_or_of_another(here: Path) -> None:
    photos = Folder.scan(here / 'gt', 'gt')

    def names(paths: list[Path]) -> list[str]:
        return [path.relative_to(here / 'gt').as_posix() for path in paths]

    assert names(own_references(photos, 'p0/1', 2)) == ['p0/0.png', 'p0/2.png']
    assert len(own_references(photos, 'p0/1', 9)) == 3
    assert names(own_references(photos, 'p0/1', 1, 'next')) == ['p0/2.png']
    assert names(own_references(photos, 'p0/3', 1, 'next')) == ['p0/0.png']
    assert names(own_references(photos, 'p0/0', 2, 'even')) == ['p0/1.png', 'p0/2.png']
    assert names(wrong_references(photos, 'p0/1', 2)) == ['p1/0.png', 'p1/1.png']
    vectors = Embedded(FaceEmbedder(here / 'judge.pth'))(own_references(photos, 'p0/1', 2))
    embedder = FaceEmbedder(here / 'judge.pth')
    assert torch.equal(vectors[1], embedder(to_tensor(imread(here / 'gt/p0/2.png'))[None])[0])


def test_a_network_is_told_of_references(here: Path) -> None:
    conditioned(here / 'net.pth')
    results = {}
    for whose in ('own', 'wrong', ''):
        job_of(here, references=whose, vary=3 if whose else 0, out=str(here / f'job_{whose}'))
        run_job(here / 'job.json')
        results[whose] = imread(here / f'job_{whose}' / 'restored' / 'p0' / '1.png')
    assert not any(np.array_equal(results[a], results[b]) for a, b in (('own', 'wrong'), ('own', ''), ('wrong', '')))
    photos, embed = Folder.scan(here / 'gt', 'gt'), Embedded(FaceEmbedder(here / 'judge.pth'))
    identity = embed(own_references(photos, 'p0/1', 2))[None]
    network = FaceRestorer(here / 'net.pth', device='cpu', color_fix=False)
    expected = network.restore(imread(here / 'lq/p0/1.png'), w=0.5, identity=identity)[0]
    assert np.abs(results['own'].astype(int) - expected).max() <= 1
    assert sorted(path.name for path in (here / 'job_own' / 'varied' / 'p0').iterdir())[:3] == [
        '0__0.png', '0__1.png', '0__2.png'
    ]  # fmt: skip
    found = yaml.safe_load((here / 'job_own' / 'result.json').read_text())
    towards = found['metrics']['towards']
    assert towards['low'] <= towards['mean'] <= towards['high']
    cosines = {'restored': [], 'blind': []}
    for folder, values in cosines.items():
        for name in photos.files:
            face = embed([here / 'job_own' / folder / f'{name}.png'])[0]
            values.append(float((embed(own_references(photos, name, 2)) @ face).mean()))
    difference = np.mean(cosines['restored']) - np.mean(cosines['blind'])
    assert towards['mean'] == pytest.approx(difference, abs=1e-5) and difference != 0
    assert 'towards' not in yaml.safe_load((here / 'job_' / 'result.json').read_text())['metrics']
    assert found['metrics']['identity_variance']['mean'] > 0 and found['metrics']['identity_variance']['count'] == 8


def test_one_reference_a_face_is_judged_without_an_identity_variance(here: Path) -> None:
    conditioned(here / 'net.pth')
    for folder in ('lq', 'gt'):
        for path in (here / folder).glob('p*/*.png'):
            if path.stem not in ('0', '1'):
                path.unlink()
    job_of(here, vary=2, metrics=['psnr'])
    run_job(here / 'job.json')
    found = yaml.safe_load((here / 'job' / 'result.json').read_text())
    assert found['not_run']['identity_variance'] == 'no face has two references'
    assert found['metrics']['psnr']['mean'] > 0 and 'identity_variance' not in found['metrics']


def test_faces_that_all_lack_a_reference_are_an_error(here: Path) -> None:
    conditioned(here / 'net.pth')
    for name in ('0', '1', '2', '3'):
        (here / 'gt' / 'p1' / f'{name}.png').rename(here / 'gt' / f'{name}.png')
    for path in (here / 'lq' / 'p0').iterdir():
        path.unlink()
    job_of(here)
    with pytest.raises(PlanError, match=r'gt: no face of .*lq has a reference there'):
        run_job(here / 'job.json')


def test_codes_are_searched_for_people_by_a_network_that_cannot_be_told(here: Path) -> None:
    torch.manual_seed(0)
    save_atomic({'params_ema': build_network(CODEFORMER).state_dict()}, here / 'net.pth')
    job_of(here, search=4)
    run_job(here / 'job.json')
    assert yaml.safe_load((here / 'job' / 'result.json').read_text())['metrics']['towards']['mean'] > 0


def test_the_colours_of_the_input_are_kept_where_the_plan_says_so(here: Path, calls: list[str]) -> None:
    conditioned(here / 'net.pth')
    kept = {}
    for fix in (False, True):
        write_plan(here, rows={'D': {'checkpoint': 'net.pth'}}, metrics=['psnr'], color_fix=fix)
        assert script.main(['--plan', 'plan.yml', '--out', f'out{fix}', '--device', 'cpu']) == 0
        restored = imread(here / f'out{fix}' / 'rows' / 'D_people_0_0' / 'restored' / 'p0' / '1.png')
        kept[fix] = np.abs(restored.mean((0, 1)) - imread(here / 'lq/p0/1.png').mean((0, 1))).max()
    assert kept[True] < 3 < kept[False]


@pytest.mark.parametrize(
    ('network', 'recognizer', 'message'),
    [('plain', 'judge.pth', 'takes no references'), (64, 'judge.pth', 'takes embeddings of 64 numbers')],
)
def test_what_cannot_be_told(here: Path, network: str | int, recognizer: str, message: str) -> None:
    if network == 'plain':
        save_atomic({'params_ema': build_network(CODEFORMER).state_dict()}, here / 'net.pth')
    else:
        conditioned(here / 'net.pth', int(network))
    job_of(here, recognizer=str(here / recognizer))
    with pytest.raises(PlanError, match=message):
        run_job(here / 'job.json')
    assert script.main(['--job', str(here / 'job.json')]) == 0
    assert message in yaml.safe_load((here / 'result.json').read_text())['error']


# ---- processes


def test_why_a_process_failed(tmp_path: Path) -> None:
    python = [sys.executable, '-c']
    said = 'import sys; print("2026 ERROR: disk full"); print("bye"); sys.exit(1)'
    assert run_process([*python, said], tmp_path / 'log') == (1, 'exit code 1: disk full')
    assert run_process([*python, 'raise KeyError("x")'], tmp_path / 'log') == (1, "exit code 1: KeyError: 'x'")
    code, reason = run_process([*python, 'import os; os.kill(os.getpid(), 9)'], tmp_path / 'log')
    assert (code, reason) == (-signal.SIGKILL, 'killed by SIGKILL')
    assert run_process([*python, 'print("fine")'], tmp_path / 'log') == (0, '')
    assert 'disk full' in (tmp_path / 'log').read_text()


SAVES = """
import pathlib, signal, sys
def leave(*_):
    pathlib.Path('saved').touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
pathlib.Path('ready').touch()
while True:
    signal.pause()
"""


def test_a_training_may_save_when_the_ablation_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wait = subprocess.Popen.wait

    def interrupted(process: subprocess.Popen, timeout: float | None = None) -> int:
        while not Path('ready').exists():
            with suppress(subprocess.TimeoutExpired):
                wait(process, 0.02)
        monkeypatch.setattr(subprocess.Popen, 'wait', wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, 'wait', interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_process([sys.executable, '-c', SAVES], tmp_path / 'log')
    assert Path('saved').exists()


# ---- tables


@pytest.mark.parametrize('name', ['small', 'mild', 'references', 'identity_loss', 'identity_loss_stage3'])
def test_published_results_have_a_figure_in_each_column_of_figures(name: str) -> None:
    rows = read_results(ROOT / f'experiments/ablation/figures/{name}.csv')
    assert rows and {row['status'] for row in rows} == {'done'}
    for column in ('psnr', 'ssim', 'ids', 'towards', 'identity_variance', 'judge_seconds'):
        [float(row[column]) for row in rows if row.get(column)]


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('row,set,w,seed\nA,s,0,0\nA,s,0\n', 'line 3: 3 cells for 4 columns'),
        ('row,set,w,seed\nA,s,0,0\nA,s,0,1,9\n', 'line 3: 5 cells for 4 columns'),
        ('row,set,w,seed,\nA,s,0,0,9\n', 'line 2: 5 cells for 5 columns, 1 without a name'),
    ],
)
def test_results_that_were_joined_by_hand_are_an_error(here: Path, text: str, words: str) -> None:
    (here / 'x.csv').write_text(text)
    with pytest.raises(EvaluationError, match=words):
        read_results(here / 'x.csv')


def test_tables_are_the_figures_of_seeds_and_pictures(here: Path) -> None:
    rows = {'A': {'stages': ['stage1.yml']}, 'B': {'stages': ['stage2.yml']}, 'C': {'stages': ['stage2.yml']}}
    rows |= {'input': {'pictures': 'lq'}}
    plan = load_plan(write_plan(here, rows=rows, metrics=['psnr', 'ids'], seeds=[0, 1], baseline=['A', 'B']))
    results, folders = Results(here / 'results.csv'), {}
    rng = np.random.default_rng(0)
    ids = {('A', '0'): rng.random(20), ('A', '1'): rng.random(20)}
    ids |= {('B', seed): ids['A', seed] + 0.125 for seed in '01'}
    ids |= {('C', '1'): ids['B', '1'] + 0.25, ('input', '0'): (ids['A', '0'] + ids['A', '1']) / 2 - 0.5}
    for (row, seed), values in ids.items():
        path = here / f'{row}{seed}.csv'
        lines = [f'x,p/{number},{20 + number},{value!r}' for number, value in enumerate(values.tolist())]
        path.write_text('\n'.join(['restored,picture,psnr,ids', *lines]))
        result = {'row': row, 'set': 'people', 'w': '0', 'seed': seed, 'parts': 'identity_loss' if row == 'B' else ''}
        result |= {
            'iterations': '' if row == 'input' else '5+5',
            'status': 'done',
            'pictures': '20',
            'ids': repr(float(values.mean())),
            'psnr': '29.5',
        }
        result |= {f'ids_{key}': '0.25' for key in ('p5', 'p25', 'p50', 'lost')}
        results.put(result)
        folders[row, 'people', '0', seed] = path
    text = write_tables(here / 'x', read_results(here / 'results.csv'), folders, plan)
    means = [ids['B', seed].mean() for seed in '01']
    row = next(line for line in text.splitlines() if line.startswith('| B |'))
    assert row.startswith('| B | ✓ |  |  | 29.50 ± 0.00 |')
    assert f'{np.mean(means):.4f} ± {abs(means[0] - means[1]) / np.sqrt(2):.4f}' in row
    assert row.endswith('| +0.1250 (+0.1250 to +0.1250) |  |')
    row = next(line for line in text.splitlines() if line.startswith('| C |'))  # of seed 1 alone, as what it is less
    assert row.endswith('| +0.3750 (+0.3750 to +0.3750) | +0.2500 (+0.2500 to +0.2500) |')
    row = next(line for line in text.splitlines() if line.startswith('| input |'))  # of no seed: less both seeds' mean
    assert '| -0.5000 (-0.5000 to -0.5000) |' in row
    with (here / 'x_differences.csv').open() as file:
        found = {line['metric']: line for line in csv.DictReader(file) if line['row'] == 'B'}
    assert found['ids']['mean'] == '0.125' and found['psnr']['mean'] == '0' and found['ids']['seeds'] == '2'
    dots = ET.parse(here / 'x_people_quality.svg').getroot().findall('.//{*}circle')
    assert len(dots) == 6
    assert 'B, w = 0' in (here / 'x_people_identity.svg').read_text()


# ---- plans


@pytest.fixture(scope='module')
def parse() -> Callable[[str], Any]:
    """Parser of option files that parses each once; the plans build on the same ones."""
    return functools.cache(option_files.parse_value)


@pytest.mark.parametrize('path', PLANS, ids=lambda path: path.stem)
def test_the_plans_are_whole(path: Path, monkeypatch: pytest.MonkeyPatch, parse: Callable[[str], Any]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(option_files, 'parse_value', lambda text: copy.deepcopy(parse(text)))
    plan = load_plan(path)
    check_shared(plan)
    trained = {name: trainings_of(row, 0, plan.force_yml) for name, row in plan.rows.items() if row.stages}
    assert set(plan.metrics) <= set(METRICS)
    for trainings in trained.values():
        for before, training in itertools.pairwise(trainings):
            options = training.options
            start = options['path'].get('pretrain_network_g') or options['network_g'].get('vqgan_path')
            assert start == str(before.checkpoint), 'each stage goes on from the one before'
    if path.stem in ('small', 'longer', 'mild', 'full'):
        parts = {name: parts_of(trainings) for name, trainings in trained.items()}
        every = ('identity_loss', 'transformer', 'ia_cft')
        for name in 'ABCD' if path.stem in ('mild', 'full') else 'ABD':
            assert parts[name] == every[: 'ABCD'.index(name)]
        names = {name: [training.name for training in trainings] for name, trainings in trained.items()}
        data = {name: trainings[-1].options['datasets']['train']['dataroot_gt'] for name, trainings in trained.items()}
        if path.stem == 'full':
            assert names['C'][:-1] == names['D'][:-1] and names['B'][-2] != names['C'][-2], 'C and D share stage II'
            assert set(data.values()) == {'datasets/people'}
        elif path.stem in ('small', 'longer'):
            assert len({tuple(name[:-1]) for name in names.values()}) == 1, 'all rows go on from one stage II'
            last = [trainings[-1].options for trainings in trained.values()]
            faces = [(o['train']['total_iter'], o['datasets']['train']['batch_size_per_gpu']) for o in last]
            assert set(faces) == {(600, 8)}, 'equal budgets'
        else:
            assert names['C'][:-1] == names['B'] and names['D'][:-1] == names['C'], 'each goes on from the one before'
            assert data['A'] == data['B'] != data['C'] == data['D'] == 'datasets/people'
    if path.stem == 'mild':
        assert len({trainings[0].name for trainings in trained.values()}) == 1


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ('rows:A:stage=[x]', "rows:A: unknown key 'stage'"),
        ('rows:A:checkpoint=x.pth', 'one of stages, checkpoint, pictures is needed, not stages and checkpoint'),
        ('rows:A:references=perhaps', "references: 'perhaps'"),
        ('rows:A:search=3', 'which needs references'),
        ('rows:A:vary=1', 'rows:A: vary is 0'),
        ('rows:A:references=true', "references:recognizer is missing; row 'A'"),
        ('baseline=B', "no row 'B'"),
        ('baseline=[A, B]', "no row 'B'"),
        ('w=2', 'from 0 to 1'),
        ('metrics=[pnsr]', "unknown metric 'pnsr'"),
        ('sets:people:gt=~', "'gt', a folder, is missing"),
        ('sets:a b={lq: x, gt: y}', "a set's name"),
        ('references={vary: 1}', 'vary is 0'),
        ('rows:input:pictures=gt', "rows:input:pictures: 'gt'; lq, bicubic, reconstruction"),
        ('rows:A:parts=[ids]', "parts: unknown 'ids'"),
    ],
)
def test_mistakes_in_a_plan(here: Path, change: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert script.main(['--plan', str(write_plan(here)), '--set', change, '--out', 'out']) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


def test_a_limited_set_is_judged_without_complaints(here: Path, calls: list[str]) -> None:
    rows = {'input': {'pictures': 'lq'}}
    write_plan(here, rows=rows, sets={'few': {'lq': 'lq', 'gt': 'gt', 'limit': 2}}, metrics=['psnr'])
    assert script.main(['--plan', 'plan.yml', '--out', 'out', '--device', 'cpu']) == 0
    row = read_results(here / 'out' / 'results.csv')[0]
    assert (row['pictures'], row['problems']) == ('2', '0')


def test_rows_with_references_are_judged_where_there_are_some_and_shown_beside_others(
    here: Path, calls: list[str]
) -> None:
    conditioned(here / 'net.pth')
    rows = {'input': {'pictures': 'lq'}, 'D': {'checkpoint': 'net.pth', 'references': True, 'vary': 0}}
    sets = {'people': {'lq': 'lq', 'gt': 'gt', 'ref': 'gt'}, 'strangers': {'lq': 'lq', 'gt': 'gt'}}
    references = {'recognizer': str(here / 'judge.pth'), 'vary': 2}
    write_plan(here, rows=rows, sets=sets, metrics=['psnr'], references=references)
    assert script.main(['--plan', 'plan.yml', '--out', 'out', '--device', 'cpu']) == 0
    assert not (here / 'out' / 'rows' / 'D_people_0_0' / 'varied').exists()
    results = {(row['row'], row['set']): row for row in read_results(here / 'out' / 'results.csv')}
    assert set(results) == {('input', 'people'), ('input', 'strangers'), ('D', 'people')}
    ends = [float(results['D', 'people'][f'towards{end}']) for end in ('', '_low', '_high')]
    text = (here / 'out' / 'results.md').read_text()
    assert text.count('towards whom it is told of') == 1 and '{:+.4f} ({:+.4f} to {:+.4f})'.format(*ends) in text
    side = TILE + 2 * MARGIN
    shown, strangers = (imread(here / 'out' / f'faces_{name}.png')[TITLE:] for name in sets)
    tiles = [[shown[y : y + side, x : x + side] for x in range(0, 4 * side, side)] for y in range(0, 6 * side, side)]
    assert shown.shape[:2] == (6 * side, 4 * side) and strangers.shape[:2] == (6 * side, 2 * side)
    names = ['p0/0', 'p0/1', 'p0/2', 'p1/0', 'p1/1', 'p1/2']  # every 8/6th of eight
    reference = {'p0/0': 'p0/1', 'p1/0': 'p1/1'}
    restored = here / 'out' / 'rows' / 'D_people_0_0' / 'restored'
    for row, name in zip(tiles, names, strict=True):
        other = reference.get(name, f'{name[:2]}/0')
        for tile, folder, which in zip(row, ('lq', restored, 'gt', 'gt'), (name, name, name, other), strict=True):
            assert np.array_equal(tile, enlarged(imread(here / folder / f'{which}.png')))
