"""Tables of the papers, from a made-up data root to Markdown, CSV and LaTeX; and what the papers' figures are."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from small import CODEFORMER, make_faces
from small_faces import save_tiny_model
from small_recognizer import randomise, save_tiny

from basicsr.archs import build_network
from basicsr.cli.data_pairs import make_pairs, ranges_of
from basicsr.inference.face_restorer import FaceRestorer
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.metrics.pictures import Folder
from basicsr.metrics.protocol import FOLDER, load_protocol
from basicsr.metrics.published import FILE, find_published, load_published
from basicsr.metrics.table import EvaluationError
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.download import sha256_of
from basicsr.utils.image import imread, imwrite
from experiments.paper_tables import reproduce as script
from experiments.paper_tables.comparison import FORMATS, Cell, Comparison, Row
from experiments.paper_tables.folder_restorer import Recipe, planned, restore_folder
from experiments.paper_tables.plans import PLANS, Ours

TABLES = load_published()


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test may fetch the weights of pyiqa's metrics."""
    monkeypatch.setattr('basicsr.metrics.builders.find_spec', lambda name: None)


def pairs(root: Path, protocol: str, faces: Path, size: int = 64) -> Path:
    """DATA/<protocol> with inputs and ground truths of the faces."""
    ranges, seed = ranges_of(protocol)
    make_pairs(faces, root / 'data' / protocol, ranges, size, seed, None)
    return root / 'data' / protocol


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three faces for CelebA-Test, two small networks, and no weights anywhere else."""
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path / 'weights'))
    monkeypatch.chdir(tmp_path)
    pairs(tmp_path, 'celeba_test_harsh', make_faces(tmp_path / 'faces', 3, 96))
    save_tiny_model(tmp_path / 'a.pth')
    save_tiny(tmp_path / 'judge.pth')
    return tmp_path


def run(root: Path, table: str, *more: object) -> list[dict[str, str]]:
    """The rows of the CSV file; `code` is the exit code."""
    args = ['--table', table, '--data', root / 'data', '--out', root / 'out', '--device', 'cpu', *more]
    for metric in ('lpips_alex', 'lpips_vgg'):  # a file that is not there; without, weights would be fetched
        args += ['--weights', f'{metric}={root / "none.pth"}']
    code = script.main(list(map(str, args)))
    with (root / 'out' / f'{table}.csv').open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    return [{**row, 'code': str(code)} for row in rows]


def row_of(rows: list[dict[str, str]], method: str, figures: str, protocol: str = '') -> dict[str, str]:
    found = [
        r for r in rows if r['method'] == method and r['figures'].startswith(figures) and protocol in r['protocol']
    ]
    assert len(found) == 1, (method, figures, [(row['method'], row['figures'], row['protocol']) for row in rows])
    return found[0]


def test_published_and_measured_stand_side_by_side(root: Path, capsys: pytest.CaptureFixture) -> None:
    weights = ('--weights', f'CodeFormer (baseline)={root / "a.pth"}', '--metrics', 'ssim,niqe', '-w', 0.8)
    rows = run(root, 'id_codeformer_1', *weights, '--recognizer', root / 'judge.pth')
    published, ours = (row_of(rows, 'CodeFormer (baseline)', kind) for kind in ('published', 'in-house'))
    assert (published['lpips_vgg'], published['psnr'], published['ids']) == ('0.299', '22.18', '0.60')
    assert published['ssim'] == published['not_run'] == '' and published['pictures'] == 'not stated'
    # The restorer's pictures, by the metrics' own functions.
    data = root / 'data' / 'celeba_test_harsh'
    restorer = FaceRestorer(root / 'a.pth', 'cpu')
    found = {'psnr': 0.0, 'ssim': 0.0}
    for path in sorted((data / 'gt').iterdir()):
        restored = restorer.restore(imread(data / 'lq' / path.name))[0]
        found['psnr'] += calculate_psnr(restored, imread(path)) / 3
        found['ssim'] += calculate_ssim(restored, imread(path)) / 3
    assert float(ours['psnr']) == pytest.approx(found['psnr'], rel=1e-3)
    assert float(ours['ssim']) == pytest.approx(found['ssim'], rel=1e-3)
    assert -1 <= float(ours['ids']) <= 1 and ours['niqe'] == ''
    assert 'lpips_vgg: no weights: ' in ours['not_run'] and 'none.pth' in ours['not_run']
    assert 'niqe: no weights: ' in ours['not_run'] and '--weights niqe=FILE' in ours['not_run']
    # Three pictures are not the set of the paper, and the row says so, with what was used.
    assert ours['figures'] == 'in-house, another experiment' and ours['pictures'] == '3 of 3000'
    assert sha256_of(root / 'a.pth') in ours['about'] and str(data) in ours['about'] and 'w = 0.8' in ours['about']
    assert '3 pictures of 64 pixels' in ours['about']
    assert row_of(rows, 'Degraded input', 'in-house')['psnr'] not in ('', ours['psnr'])
    # What has no weights is named, with the remedy.
    missing = row_of(rows, 'ID-CodeFormer', 'in-house')
    assert 'no weights: experiments/CodeFormer_stage3/models/net_g_latest.pth' in missing['not_run']
    assert missing['psnr'] == '' and missing['code'] == '0' and '--weights "ID-CodeFormer=FILE"' in missing['not_run']
    text = capsys.readouterr().out
    assert text == (root / 'out' / 'id_codeformer_1.md').read_text(encoding='utf-8')
    assert '| CodeFormer (baseline) | published | celeba_test_harsh | not stated |' in text and 'never [' not in text
    assert (root / 'out/evaluation/id_codeformer_1/celeba_test_harsh/report.html').is_file()


def test_only_the_same_set_number_and_size_is_the_same_experiment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kind() -> str:
        return row_of(run(root, 'id_codeformer_1', '--metrics', 'psnr'), 'Degraded input', 'in-house')['figures']

    protocol = load_protocol('celeba_test_harsh')
    monkeypatch.setattr(script, 'SIDE', 64)
    assert kind() == 'in-house, another experiment'  # 3 of 3000
    three = dataclasses.replace(protocol, pictures={**protocol.pictures, 'restored': 3})
    monkeypatch.setattr('experiments.paper_tables.pictures.load_protocol', lambda name: three)
    assert kind() == 'in-house'
    monkeypatch.setattr(script, 'SIDE', 512)
    assert kind() == 'in-house, another experiment'


def test_restorations_are_kept_unless_weights_or_inputs_differ(root: Path) -> None:
    method = 'CodeFormer (baseline)'

    def stamps(file: str) -> dict[Path, int]:
        rows = run(root, 'id_codeformer_1', '--weights', f'{method}={root / file}', '--metrics', 'psnr')
        assert 'w = 0.5' in row_of(rows, method, 'in-house')['about']  # of the protocol
        found = (root / 'out/restored').rglob('*.png')
        return {path: path.stat().st_mtime_ns for path in found}

    first = stamps('a.pth')
    assert len(first) == 3 and stamps('a.pth') == first
    torch.manual_seed(5)
    save_atomic({'params': build_network(CODEFORMER).state_dict()}, root / 'b.pth')
    both = stamps('b.pth')
    assert len(both) == 6 and first.items() <= both.items()
    inputs = sorted((root / 'data/celeba_test_harsh/lq').iterdir())
    later = max(first.values()) + 10**9
    os.utime(inputs[0], ns=(later, later))
    inputs[1].unlink()
    again = stamps('a.pth')
    changed = {path.name for path, stamp in first.items() if again.get(path) not in (None, stamp)}
    gone = {path.name for path in first if path not in again}
    assert (changed, gone) == ({inputs[0].name}, {inputs[1].name})


def test_pictures_of_other_methods_are_given(root: Path) -> None:
    truths = root / 'data' / 'celeba_test_harsh' / 'gt'
    for path in truths.iterdir():
        imwrite(root / 'theirs' / path.name, 255 - imread(path))
    given = ('--restored', f'GFPGAN={root / "theirs"}', '--restored', f'None={root / "nowhere"}')
    rows = run(root, 'id_codeformer_1', *given, '--metrics', 'psnr')
    ours = row_of(rows, 'GFPGAN', 'in-house')
    expected = sum(calculate_psnr(255 - imread(path), imread(path)) for path in truths.iterdir()) / 3
    assert float(ours['psnr']) == pytest.approx(expected, rel=1e-3)
    assert f'{root / "nowhere"} is not there' in row_of(rows, 'None', 'in-house')['not_run']
    assert not [row for row in rows if row['method'] == 'GFPGAN' and row['figures'] == 'published']


def test_what_lfw_cannot_tell_is_told_by_a_set_of_its_own(root: Path) -> None:
    for path in make_faces(root / 'lfw', 2, 64).iterdir():
        imwrite(root / 'data' / 'lfw_test' / 'lq' / path.name, imread(path))
    asked = ('--weights', f'CodeFormer={root / "a.pth"}', '--recognizer', root / 'judge.pth')
    rows = run(root, 'id_codeformer_lfw', *asked, '--synthetic_lfw', '--size', 64, '--metrics', 'ids_lq')
    real = row_of(rows, 'CodeFormer', 'in-house', 'lfw_test')
    assert real['psnr'] == real['ssim'] == real['lpips_vgg'] == real['ids'] == real['fid'] == ''
    assert 'psnr: never: LFW-Test has no ground truth' in real['not_run'] and real['ids_lq'] != ''
    assert 'fid: no weights: ' in real['not_run'] and 'python scripts/fid_statistics.py' in real['not_run']
    synthetic = row_of(rows, 'CodeFormer', 'in-house', 'lfw_synthetic')
    assert synthetic['figures'] == 'in-house, another experiment' and synthetic['pictures'] == '2 of 1711'
    truths = {path.name: imread(path) for path in (root / 'lfw').iterdir()}
    made = {path.name: imread(path) for path in (root / 'out/data/lfw_synthetic_64/gt').iterdir()}
    assert made.keys() == truths.keys() and all((made[name] == truths[name]).all() for name in truths)
    assert float(synthetic['psnr']) > 5 and synthetic['ids'] != '' and synthetic['ssim'] != ''
    assert row_of(rows, 'CodeFormer', 'published')['psnr'] == '26.54'
    published = [row for row in rows if row['figures'] == 'published']
    assert len(published) == 2 and {row['protocol'] for row in published} == {'lfw_test'}
    text = (root / 'out' / 'id_codeformer_lfw.md').read_text(encoding='utf-8')
    assert 'never [1]' in text and '--synthetic_lfw measures' not in text


@pytest.fixture
def people(root: Path) -> Path:
    """Two people with three faces each for CelebRef-HQ-Test, and an IDCodeFormer that listens."""
    faces = sorted(make_faces(root / 'many', 6, 96).iterdir())
    for number, path in enumerate(faces):
        imwrite(root / 'people' / f'p{number // 3}' / path.name, imread(path))
    pairs(root, 'celebref_hq_test', root / 'people')
    network = build_network({**CODEFORMER, 'type': 'IDCodeFormer', 'identity_dim': 16})
    save_atomic({'params': randomise(network).state_dict()}, root / 'id.pth')
    return root


def test_references_are_given_to_networks_that_take_them(people: Path) -> None:
    weights = ('--weights', f'ID-CodeFormer D={people / "id.pth"}', '--recognizer', people / 'judge.pth')
    refused = row_of(run(people, 'ridfr_4', *weights), 'ID-CodeFormer D', 'in-house')
    assert refused['code'] == '1' and 'needs a face recognizer of 16 numbers' in refused['not_run']
    assert 'dlib_resnet gives 128: name it with --reference_recognizer' in refused['not_run']
    told = ('--reference_recognizer', people / 'judge.pth')
    ours = row_of(run(people, 'ridfr_4', *weights, *told), 'ID-CodeFormer D', 'in-house')
    assert float(ours['identity_variance']) > 1e-6 and 'references: 8 of 64 to 512 pixels' in ours['about']
    restored = sorted(path.relative_to(path.parents[1]).as_posix() for path in (people / 'out/restored').rglob('*.png'))
    assert len(restored) == 12 and restored[:2] == ['p0/000__001.png', 'p0/000__002.png']
    plain = row_of(run(people, 'ridfr_4', '--weights', f'ID-CodeFormer D={people / "a.pth"}'), 'ID-CodeFormer D', 'in-')
    assert 'a CodeFormer, which takes no references' in plain['not_run']


def test_one_file_serves_the_rows_of_a_family(people: Path) -> None:
    given = ('--weights', f'ID-CodeFormer={people / "id.pth"}', '--reference_recognizer', people / 'judge.pth')
    rows = run(people, 'ridfr_2', *given, '--recognizer', people / 'judge.pth', '--metrics', 'psnr')
    measured = [row for row in rows if row['figures'] != 'published' and row['psnr']]
    assert [row['method'] for row in measured] == list(PLANS['ridfr_2'].ours)
    assert 'references: 1 of 64 pixels' in measured[0]['about'] and all(row['ids'] for row in measured)
    assert 'musiq: no package: ' in measured[0]['not_run'] and 'RIDFR, references of 64 pixels' in {
        row['method'] for row in rows
    }


@pytest.mark.parametrize(('side', 'least', 'most'), [(None, 96, 96), (64, 64, 64), (0, 64, 96), (128, 96, 96)])
def test_references_have_the_size_that_was_asked_for(
    side: int | None, least: int, most: int, people: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def embed(guide: IdentityConditioner, faces: list[np.ndarray]) -> torch.Tensor:
        seen.extend(face.shape for face in faces)
        return torch.ones(len(faces), 16)

    monkeypatch.setattr(IdentityConditioner, 'embed', embed)
    monkeypatch.setattr('experiments.paper_tables.folder_restorer.LARGEST', 96)
    recipe = Recipe(people / 'id.pth', references=1, side=side, recognizer=str(people / 'judge.pth'), device='cpu')
    photos = Folder.scan(people / 'people', 'ref')
    assert not restore_folder(recipe, photos.files, photos, people / 'x')
    assert len(seen) == 6 and all(least <= height == width <= most for height, width, _ in seen)
    assert len(set(seen)) > 1 or side != 0


def test_references_are_drawn_by_the_name(tmp_path: Path) -> None:
    paths = [tmp_path / f'p/{number}.png' for number in range(5)]
    photos = Folder(tmp_path, {f'p/{path.stem}': path for path in paths})
    names = [f'p/n{number}' for number in range(40)]
    one = planned(names, Recipe(tmp_path, references=1), photos)
    backwards = Folder(tmp_path, dict(reversed(photos.files.items())))
    assert one == planned(names[::-1], Recipe(tmp_path, references=1), backwards)
    assert {path for _, path in one.values()} == set(paths)
    many = planned(['p/a'], Recipe(tmp_path, references=3), photos)
    assert many == {f'p/a__{number}': ('p/a', paths[number]) for number in range(3)}
    with pytest.raises(ValueError, match='q/a: no reference of that name or person'):
        planned(['q/a'], Recipe(tmp_path, references=1), photos)


def test_a_damaged_input_is_named_and_the_others_go_on(root: Path) -> None:
    folder = root / 'data/celeba_test_harsh/lq'
    bad, *_ = sorted(folder.iterdir())
    bad.write_bytes(b'no picture')
    inputs = {path.stem: path for path in folder.iterdir()}
    problems = restore_folder(Recipe(root / 'a.pth', device='cpu'), inputs, None, root / 'x')
    assert len(problems) == 1 and str(bad) in problems[0]
    assert {path.stem for path in (root / 'x').iterdir()} == inputs.keys() - {bad.stem}
    rows = run(root, 'id_codeformer_1', '--weights', f'ID-CodeFormer={root / "a.pth"}', '--metrics', 'psnr')
    ours = row_of(rows, 'ID-CodeFormer', 'in-house')
    assert (ours['pictures'], ours['code']) == ('2 of 3000', '1') and float(ours['psnr']) > 0


def test_a_damaged_reference_is_named_and_the_others_go_on(people: Path) -> None:
    photos = Folder.scan(people / 'people', 'ref')
    bad = photos.files['p0/000']
    bad.write_bytes(b'no picture')
    inputs = {name: path for name, path in photos.files.items() if path != bad}
    recipe = Recipe(people / 'id.pth', references=3, recognizer=str(people / 'judge.pth'), device='cpu')
    problems = restore_folder(recipe, inputs, photos, people / 'x')
    assert len(problems) == 2 and all(str(bad) in problem for problem in problems)
    restored = {path.relative_to(people / 'x').as_posix() for path in (people / 'x').rglob('*.png')}
    assert {f'p0/{a}__{b}.png' for a, b in (('001', '002'), ('002', '001'))} <= restored and len(restored) == 8
    bad.unlink()
    for path in inputs.values():
        path.write_bytes(b'no picture')
    with pytest.raises(ValueError, match='not a readable picture'):
        restore_folder(recipe, inputs, Folder.scan(people / 'people', 'ref'), people / 'y')


@pytest.mark.parametrize('table', sorted(PLANS))
def test_without_anything_a_table_says_what_is_missing(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('CODEFORMER_WEIGHTS', str(tmp_path))
    rows = run(tmp_path, table)
    measured = [row for row in rows if row['figures'] != 'published']
    assert len(rows) - len(measured) == len(TABLES[table].rows) and rows[0]['code'] == '0'
    for row in measured:
        assert all(f'{column}: n' in row['not_run'] for column in TABLES[table].columns.values()), row
        assert re.search('no weights|no data|no pictures', row['not_run']) and row['pictures'].startswith('0 of')
    assert len(measured) == len(PLANS[table].protocols) * len({*TABLES[table].rows, *PLANS[table].ours})
    head = next(line for line in capsys.readouterr().out.splitlines() if line.startswith('| method'))
    assert 'experiment' not in head


def test_latex_is_whole(root: Path, capsys: pytest.CaptureFixture) -> None:
    run(root, 'id_codeformer_lfw', '--format', 'latex')
    text = (root / 'out' / 'id_codeformer_lfw.tex').read_text(encoding='utf-8')
    assert capsys.readouterr().out == text
    bare = re.sub(r'\\[\\{}&%$#_]', '', text)
    depth = 0
    for character in bare:
        depth += {'{': 1, '}': -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and bare.count('$') % 2 == 0 and not set(bare) & set('%#_~^')
    begun, ended = (re.findall(rf'\\{word}\{{([a-z*]+)\}}', text) for word in ('begin', 'end'))
    assert begun == ['table*', 'tabular'] and ended == begun[::-1]
    (columns,) = re.findall(r'\\begin\{tabular\}\{([lr]+)\}', text)
    lines = [line for line in text.splitlines() if line.endswith(r'\\')]
    counts = {len(re.findall(r'(?<!\\)&', line)) for line in lines}
    assert len(lines) == 1 + 2 * 2 + 1 and counts == {len(columns) - 1}
    assert '26.54' in text and r'$\uparrow$' in text


def test_texts_cannot_break_a_table() -> None:
    odd = r'50% of <a_b> & {c} | #1 ~ ^ \d $'
    table = Comparison(odd, ['psnr'], [Row(odd, 'published', odd, '1', {'psnr': Cell('1', odd)}, odd)], [odd])
    markdown, comma, latex = (write(table) for _, write in FORMATS.values())
    cells = [line for line in markdown.splitlines() if line.startswith('|')]
    assert {len(re.findall(r'(?<!\\)\|', line)) for line in cells} == {6} and '<a_b>' not in ''.join(cells)
    assert next(csv.DictReader(comma.splitlines()))['method'] == odd
    assert r'50\% of $<$a\_b$>$ \& \{c\} $|$ \#1 \textasciitilde{} \textasciicircum{} \textbackslash{}d \$' in latex


def test_mistakes_on_the_command_line(root: Path, capsys: pytest.CaptureFixture) -> None:
    for wrong in (['--table', 'ridfr_9'], ['--table', 'ridfr_1', '--weights', 'CodeFormer']):
        with pytest.raises(SystemExit):
            script.main(wrong)
    text = capsys.readouterr().err
    assert all(name in text for name in PLANS) and "'CodeFormer': write NAME=VALUE" in text
    assert script.main(['--table', 'ridfr_1', '--metrics', 'pnsr', '--out', str(root / 'none')]) == 1
    assert "unknown metric 'pnsr'" in capsys.readouterr().err and not (root / 'none').exists()


# ---- the published figures


def test_every_table_has_a_plan_and_every_row_its_figures() -> None:
    assert TABLES.keys() == PLANS.keys()
    for name, table in TABLES.items():
        assert len(set(table.columns.values())) == len(table.columns) and table.remarks, name
        assert table.protocol is None or table.protocol in PLANS[name].protocols
        assert all(load_protocol(protocol) for protocol in PLANS[name].protocols)


# Read off the papers by hand.
CHECKED = {
    ('id_codeformer_1', 'Degraded input'): '0.712 21.53 0.32',
    ('id_codeformer_1', 'ID-CodeFormer'): '0.301 21.95 0.61',
    ('id_codeformer_lfw', 'ID-CodeFormer'): '26.51 0.781 0.233 35.5 0.72',
    ('ridfr_1', 'Face-SPARNet'): '0.291 0.363 0.515 71.740 0.620 0.677 3.870',
    ('ridfr_1', 'RIDFR'): '0.294 0.549 0.656 76.826 0.782 0.776 2.999',
    ('ridfr_2', 'RIDFR, references of 128 pixels'): '0.300 0.548 0.664 76.900 0.794 0.776 3.012',
    ('ridfr_4', 'RIDFR, alignment learning'): '0.1447',
    ('ablation', 'D (Full Model)'): '- -',
    ('codeformer', 'CodeFormer'): '0.299 60.62 0.60 22.18 0.61',
    ('codeformer_lfw', 'CodeFormer'): '52.02',
    ('codeformer_wider', 'CodeFormer'): '39.06',
    ('pmrf', 'CodeFormer'): '53.16 4.649 25.15 0.6700 0.3432 37.28 2.470',
    ('pmrf', 'PMRF'): '37.46 ? 26.37 0.7073 0.3470 30.67 2.030',
    ('pmrf', 'DiffBIR'): '59.06 ? 25.39 ? 0.3878 32.94 2.006',
    ('osdface_wider', 'CodeFormer'): '4.119 38.77 73.41',
    ('osdface_lfw', 'CodeFormer'): '4.438 52.34 75.48',
    ('osdface_webphoto', 'CodeFormer'): '4.627 83.20 74.00',
}


def test_figures_are_those_of_the_papers() -> None:
    for (table, method), figures in CHECKED.items():
        assert ' '.join(TABLES[table].rows[method]) == figures
    assert {name: len(table.rows) for name, table in TABLES.items()} == {
        'id_codeformer_1': 3, 'id_codeformer_lfw': 2, 'ablation': 4, 'ridfr_1': 12, 'ridfr_2': 3,
        'ridfr_3': 2, 'ridfr_4': 3,
        'codeformer': 1, 'codeformer_lfw': 1, 'codeformer_wider': 1, 'pmrf': 5,
        'osdface_wider': 1, 'osdface_lfw': 1, 'osdface_webphoto': 1,
    }  # fmt: skip
    assert not TABLES['ablation'].values('B')
    assert TABLES['pmrf'].values('DiffBIR').keys() == {'fid', 'psnr', 'LPIPS (VGG)', 'Deg', 'LMD'}


def test_the_re_trained_baseline_is_the_row_that_codeformer_published() -> None:
    theirs, ours = TABLES['codeformer'], TABLES['id_codeformer_1']
    row = dict(zip(theirs.columns.values(), theirs.rows['CodeFormer'], strict=True))
    again = dict(zip(ours.columns.values(), ours.rows['CodeFormer (baseline)'], strict=True))
    assert again == {metric: row[metric] for metric in again}
    assert any('digit for digit' in remark for remark in theirs.remarks)


def test_row_a_is_never_the_official_file_and_the_two_celeba_sets_never_meet() -> None:
    assert PLANS['id_codeformer_1'].ours['CodeFormer (baseline)'].weights == 'baseline_CodeFormer_stage3'
    assert PLANS['ablation'].ours['A (Baseline)'].weights == 'baseline_CodeFormer_stage3'
    for name, plan in PLANS.items():
        assert len({'celeba_test_harsh', 'celeba_test_mild'} & {*plan.protocols, TABLES[name].protocol}) < 2


@pytest.mark.shared
def test_every_row_stands_in_its_paper_in_this_order_and_spelling(shared: Path) -> None:
    files = {'ID-CodeFormer paper': '000_id', 'ID-CodeFormer README': '001_id', 'RIDFR paper': '004_ridfr'}
    for name, table in TABLES.items():
        start = next((file for source, file in files.items() if table.source.startswith(source)), None)
        if start is None:
            has_figures = any(table.values(method) for method in table.rows)  # and no paper here to read them in
            assert not has_figures or 'passed on to this project' in table.remarks[0], name
            continue
        text = next((shared / 'seeds').glob(f'{start}*')).read_text(encoding='utf-8')
        lines = [re.findall(r'\d+\.\d+', line.replace('*', '')) for line in text.splitlines()]
        rows = [list(row) for row in table.rows.values()]
        if name == 'ridfr_4':  # one line there
            rows = [[row[0] for row in rows]]
        for row in rows:
            assert row in lines or row in [line[len(line) - len(row) :] for line in lines], (name, row)


def test_the_ancestors_slips_are_said() -> None:
    two = {method: TABLES['ridfr_1'].rows[method] for method in ('VQFR', 'DR2')}
    assert two['VQFR'][4:] == two['DR2'][4:] and two['VQFR'][2:4] != two['DR2'][2:4]
    assert any('VQFR and DR2' in remark for remark in TABLES['ridfr_1'].remarks)
    first = TABLES['id_codeformer_1']
    assert float(first.rows['ID-CodeFormer'][0]) > float(first.rows['CodeFormer (baseline)'][0])
    assert any('minor improvement' in remark for remark in first.remarks)
    assert TABLES['ridfr_2'].rows['RIDFR, references of mixed size'] == TABLES['ridfr_1'].rows['RIDFR']


def test_figures_of_others_have_one_place() -> None:
    assert len(load_protocol('celebref_hq_test').published) == 20
    row = load_protocol('celeba_test_harsh').published[1]
    assert row['source'] == 'ID-CodeFormer paper, table 1' and row['values']['psnr'] == 22.18
    figures = {text for table in TABLES.values() for row in table.rows.values() for text in row if len(text) > 4}
    for path in FOLDER.glob('*.yml'):
        assert not figures & set(re.findall(r'\d+\.\d+', path.read_text(encoding='utf-8'))), path


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (('22.18', 'twenty'), 'id_codeformer_1: CodeFormer .baseline.: 3 figures'),
        (('0.299 22.18 0.60', '0.299 22.18'), 'id_codeformer_1: CodeFormer .baseline.: 3 figures'),
        (('psnr: psnr', 'psnr: pnsr'), "id_codeformer_1: columns: unknown metric 'pnsr'"),
        (('  where: section 4.2\n  protocol: celeba', '  protocol: celeba'), 'id_codeformer_1: a table has source'),
        (('rows:', 'rows: ['), 'cannot be read'),
    ],
)
def test_mistakes_in_the_file_are_named(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    text = FILE.read_text(encoding='utf-8')
    assert change[0] in text
    (tmp_path / 'x.yaml').write_text(text.replace(*change), encoding='utf-8')
    with pytest.raises(EvaluationError, match=message):
        load_published(tmp_path / 'x.yaml')


def test_an_unknown_table_names_those_that_there_are() -> None:
    with pytest.raises(EvaluationError, match=r"no table 'ridfr'.*; there are id_codeformer_1, .*codeformer"):
        find_published('ridfr')


def test_the_best_weights_of_a_run_come_before_its_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ours, models = Ours('run'), Path('experiments/run/models')
    assert ours.place == models / 'net_g_latest.pth'
    models.mkdir(parents=True)
    (models / 'net_g_best.pth').touch()
    assert ours.place == models / 'net_g_best.pth'
