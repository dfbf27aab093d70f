"""The command line on pictures and folders: statuses, names, exit codes, and inputs that stay as they are."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from odd_pictures import turned_exif
from PIL import Image
from small_faces import (
    ASTRONAUT_LANDMARKS,
    GROUP_PHOTO,
    Found,
    aligned_face,
    blurred_portrait,
    portrait,
    save_tiny_model,
)

from basicsr.cli import main as cli
from basicsr.cli import restore as inference_codeformer
from basicsr.cli.data_align import crop_faces
from basicsr.faces.face import Face
from basicsr.inference import FaceRestorer
from basicsr.inference.jobs import Job, plan_jobs, skipped_files
from basicsr.inference.report import FileRecord, exit_code, format_table
from basicsr.inference.runner import Runner
from basicsr.utils.image import imread, imwrite

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp('model') / 'tiny.pth')


@pytest.fixture
def run(model, tmp_path):
    """Call the command line in this process; the exit code, the output folder and the summary's records by name."""

    def call(source, *flags, output=tmp_path / 'out'):
        argv = ['-i', str(source), '-o', str(output), '--model', str(model), '--device', 'cpu', *flags]
        code = inference_codeformer.main(argv)
        if code == 2:
            return code, output, {}
        files = json.loads((output / 'summary.json').read_text(encoding='utf-8'))['files']
        return code, output, {Path(entry['input']).relative_to(source).as_posix(): entry for entry in files}

    return call


def faceless() -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8), (0, 0), 3)


def written(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


def test_a_folder_with_good_and_bad_files(run, tmp_path, capsys):
    source = tmp_path / 'in'
    imwrite(source / 'good.png', blurred_portrait())
    imwrite(source / 'nobody.png', faceless())
    (source / 'empty.jpg').touch()
    (source / 'text.jpg').write_text('this is no picture')
    (source / 'notes.txt').write_text('not meant to be restored')
    code, output, files = run(source)
    assert code == 1
    statuses = {name: entry['status'] for name, entry in files.items()}
    assert statuses == {'good.png': 'restored', 'nobody.png': 'no_face', 'empty.jpg': 'failed', 'text.jpg': 'failed'}
    assert 'empty' in files['empty.jpg']['message'] and 'not a readable picture' in files['text.jpg']['message']
    assert files['good.png']['faces'] == files['good.png']['restored'] == 1
    expected = ['cropped_faces/good_00.png', 'restored_faces/good_00.png', 'final_results/good.png']
    assert files['good.png']['outputs'] == expected
    assert written(output) == sorted([*expected, 'final_results/nobody.png', 'summary.json'])
    assert imread(output / 'final_results' / 'good.png').shape == (1024, 1024, 3)
    assert np.abs(imread(output / 'final_results' / 'nobody.png')[::2, ::2].astype(int) - faceless()).mean() < 3
    screen = capsys.readouterr().out
    assert 'tiny.pth' in screen
    for name, status in statuses.items():
        assert any(name in line and status in line for line in screen.splitlines())
    assert 'notes.txt' in screen
    assert json.loads((output / 'summary.json').read_text())['skipped'] == ['notes.txt']


def test_six_faces(run):
    source = GROUP_PHOTO
    code, output, files = run(source.parent / source.name, '-s', '1', '--force')
    assert code == 0
    assert files['.']['restored'] == 6
    assert len(written(output / 'restored_faces')) == len(written(output / 'cropped_faces')) == 6
    assert imread(output / 'final_results' / 't1.png').shape == imread(source).shape


def test_aligned_faces(run, tmp_path):
    source = tmp_path / 'in'
    for index in range(3):
        imwrite(source / 'nested' / f'{index}.png', aligned_face(100 + index))
    code, output, files = run(source, '--has_aligned', '--batch_size', '2', '-w', '0.5', '--suffix', 'x')
    assert code == 0 and len(files) == 3
    assert written(output) == [*(f'restored_faces/nested/{i}_x.png' for i in range(3)), 'summary.json']
    assert imread(output / 'restored_faces/nested/0_x.png').shape == (100, 100, 3)
    imwrite(source / 'wide.png', np.zeros((40, 80, 3), np.uint8))
    (source / 'zero.png').touch()
    code, _, files = run(source, '--has_aligned')
    assert code == 1
    assert [entry['status'] for entry in files.values()] == ['restored'] * 3 + ['failed'] * 2
    assert 'square' in files['wide.png']['message']


def test_an_already_sharp_face_is_left_alone_unless_forced(run, tmp_path, capsys):
    source = tmp_path / 'in'
    imwrite(source / 'sharp.png', portrait())
    code, output, files = run(source, '-s', '1')
    assert code == 0
    assert files['sharp.png']['status'] == 'already_sharp' and files['sharp.png']['restored'] == 0
    assert np.array_equal(imread(output / 'final_results' / 'sharp.png'), portrait())
    (face,) = files['sharp.png']['found']
    assert (face['number'], face['status'], face['size']) == (0, 'already_sharp', pytest.approx(168, abs=8))
    left, top, right, bottom = face['box']
    assert left < 205 < 247 < right and top < 100 < 140 < bottom
    assert '--force' in face['message'] and face['message'] in files['sharp.png']['message']
    assert '--force' in capsys.readouterr().out
    code, output, files = run(source, '-s', '1', '--force')
    assert code == 0 and files['sharp.png']['status'] == 'restored'
    assert not np.array_equal(imread(output / 'final_results' / 'sharp.png'), portrait())


@pytest.mark.parametrize('flags', [[], ['--has_aligned']])
def test_a_network_that_fails_gives_a_failed_file_and_no_result(run, tmp_path, monkeypatch, flags):
    def fail(*args):
        raise RuntimeError('the network broke')

    monkeypatch.setattr(FaceRestorer, '_run', fail)
    source = tmp_path / 'in'
    imwrite(source / 'a.png', aligned_face(128))
    imwrite(source / 'b.png', aligned_face(100))
    code, output, files = run(source, *flags)
    assert code == 1
    assert [(entry['status'], entry['message']) for entry in files.values()] == [('failed', 'the network broke')] * 2
    assert written(output) == ['summary.json']


@pytest.mark.parametrize('w', ['-0.1', '1.5', 'nan', 'much'])
def test_w_out_of_range_is_a_usage_error(run, tmp_path, w, capsys):
    imwrite(tmp_path / 'in' / 'a.png', faceless())
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / 'in', '-w', w)
    assert stop.value.code == 2
    assert '-w' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--detection_model', 'tinny'], "did you mean 'tiny'"),
        (['--detection_model', 'retinaface_resnet50', '--weights_dir', 'nowhere'], 'id-codeformer download'),
        (['--bg_upsampler', 'realesrgan', '--weights_dir', 'nowhere'], 'id-codeformer download'),
        (['--model', 'none.pth'], 'no such model file'),
        (['--device', 'quantum'], 'unknown device'),
        (['--batch_size', '0'], 'batch size'),
    ],
)
def test_what_cannot_start_is_said_with_exit_code_2(run, tmp_path, flags, message, capsys):
    imwrite(tmp_path / 'in' / 'a.png', faceless())
    code, output, _ = run(tmp_path / 'in', *flags)
    assert code == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_missing_and_empty_inputs_have_exit_code_2(run, tmp_path, capsys):
    assert run(tmp_path / 'nothing')[0] == 2
    (tmp_path / 'in').mkdir()
    assert run(tmp_path / 'in')[0] == 2
    messages = capsys.readouterr().err
    assert 'no such file or folder' in messages and 'no pictures in it' in messages


def test_inputs_are_never_written_over_nor_results_read_again(run, tmp_path):
    folder = tmp_path / 'pictures'
    imwrite(folder / 'a.png', blurred_portrait())
    imwrite(folder / 'b.png', faceless())
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for _ in range(2):
        _, _, files = run(folder, '-s', '1', output=folder)
        assert sorted(files) == ['a.png', 'b.png']
    assert {path: path.read_bytes() for path in before} == before
    code, _, _ = run(folder / 'final_results', '-s', '1', output=folder)
    assert code == 2


def test_files_of_one_name_do_not_share_results(run, tmp_path):
    source = tmp_path / 'in'
    imwrite(source / 'a.jpg', aligned_face(64))
    imwrite(source / 'a.png', 255 - aligned_face(64))
    imwrite(source / 'a.jpg.png', aligned_face(64)[::-1])
    imwrite(source / 'sub' / 'a.png', aligned_face(64)[:, ::-1])
    _, output, files = run(source, '--has_aligned')
    outputs = [entry['outputs'][0] for entry in files.values()]
    assert len(set(outputs)) == 4
    assert written(output / 'restored_faces') == sorted(name.removeprefix('restored_faces/') for name in outputs)
    assert 'sub/a.png' in written(output / 'restored_faces')


def test_colours_keep_their_order(run, tmp_path):
    red = np.zeros((50, 60, 3), np.uint8)
    red[:, :, 0] = 220
    imwrite(tmp_path / 'in' / 'red.png', red)
    _, output, files = run(tmp_path / 'in', '-s', '1')
    assert files['red.png']['status'] == 'no_face'
    assert np.array_equal(imread(output / 'final_results' / 'red.png'), red)


def test_flags_reach_the_restorer(model, tmp_path):
    parse = inference_codeformer.build_parser().parse_args
    args = parse(['-i', 'x', '--fidelity_weight', '0.3', '--no-adain', '--model', str(model), '--draw_box', '--force'])
    restorer = inference_codeformer.build_restorer(args)
    faces, canvas = restorer.faces, restorer.canvas
    assert (faces.w, faces.adain, canvas.draw_box, faces.force) == (0.3, False, True, True)
    defaults = parse(['-i', 'x', '--model', str(model)])
    restorer = inference_codeformer.build_restorer(defaults)
    faces, upscale = restorer.faces, restorer.canvas.upscale
    assert (faces.w, upscale, faces.adain, parse(['-i', 'x']).model) == (0.8, 2, True, 'auto')
    assert (defaults.output_path, defaults.bg_upsampler, defaults.bg_tile) == ('results', 'None', 400)


def test_plans_and_skipped_files(tmp_path):
    for name in ('b.png', 'a.v2.jpg', 'sub/c.webp', '.hidden.png', 'readme.md'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [job.name for job in plan_jobs(tmp_path, tmp_path / 'out')] == ['a.v2', 'b', 'sub/c']
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'summary.json').touch()
    assert skipped_files(tmp_path, tmp_path / 'out') == ['readme.md']


def test_results_of_runs_with_other_outputs_are_passed_over(run, tmp_path):
    imwrite(tmp_path / 'a.png', aligned_face(80))
    for output in ('first', 'second'):
        code, _, files = run(tmp_path, '--has_aligned', output=tmp_path / output)
        assert code == 0 and list(files) == ['a.png']
    (tmp_path / 'first' / 'summary.json').unlink()  # now they are pictures like any others
    assert [job.name for job in plan_jobs(tmp_path, tmp_path / 'third')] == ['a', 'first/restored_faces/a']


def test_an_interrupted_run_says_what_is_left(model, tmp_path, capsys, monkeypatch):
    for name in ('a', 'b', 'c'):
        imwrite(tmp_path / 'in' / f'{name}.png', aligned_face(80))
    run_all = Runner.run

    def interrupted(self, jobs):
        yield next(run_all(self, jobs))
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, 'run', interrupted)
    argv = ['-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), '--model', str(model), '--device', 'cpu']
    assert inference_codeformer.main([*argv, '--has_aligned', '--batch_size', '1']) == 130
    assert 'interrupted; 2 of 3 files were not done' in capsys.readouterr().err
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert (summary['planned'], summary['counts']) == (3, {'restored': 1})


def test_the_exit_code_and_the_table():
    done = [FileRecord('in/a.png', 'restored', 2, 1), FileRecord('in/b.png', 'already_sharp', 1, 0)]
    assert exit_code(done) == 0
    for status in ('no_face', 'uncertain', 'failed'):
        assert exit_code([*done, FileRecord('in/c.png', status)]) == 1
    assert exit_code([]) == 1
    *_, last = table = format_table(done, 'in').splitlines()
    assert len(table) == 4 and table[1].split() == ['a.png', 'restored', '2', '1']
    assert last == '2 file(s): 1 already_sharp, 1 restored'


def test_the_pictures_in_inputs_are_all_done(run, tmp_path):
    """What the README's command restores, here with a network of 128 pixels and random weights."""
    path = save_tiny_model(tmp_path / 'tiny128.pth', img_size=128, ch_mult=[1, 1, 2, 2])
    code, _, files = run(ROOT / 'inputs', '--model', str(path))
    assert code == 0
    assert {entry['status'] for entry in files.values()} <= {'restored', 'already_sharp'}
    assert sum(entry['status'] == 'restored' for entry in files.values()) >= len(files) - 1


def test_the_script_in_its_own_process(model, tmp_path):
    imwrite(tmp_path / 'in' / 'ü b.png', blurred_portrait())
    command = [sys.executable, ROOT / 'inference_codeformer.py', '-i', tmp_path / 'in', '-o', tmp_path / 'out']
    done = subprocess.run([*command, '--model', model, '--device', 'cpu'], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'out' / 'final_results' / 'ü b.png').is_file()
    assert '1 file(s): 1 restored' in done.stdout


def test_faces_are_cropped_for_training(tmp_path, capsys):
    imwrite(tmp_path / 'in' / 'person' / 'one.png', portrait())
    imwrite(tmp_path / 'in' / 'nobody.png', faceless())
    (tmp_path / 'in' / 'clip.mp4').write_bytes(b'not looked into')
    lying = Image.fromarray(np.rot90(portrait()))
    lying.save(tmp_path / 'in' / 'lying.webp', exif=turned_exif(), lossless=True)
    imwrite(tmp_path / 'in' / 'over.png', np.rot90(portrait(), 2))
    command = [sys.executable, ROOT / 'scripts' / 'crop_align_face.py', '-i', tmp_path / 'in', '-o', tmp_path / 'out']
    done = subprocess.run([*command, '--size', '96'], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    names = ['lying_00.png', 'over_00.png', 'person/one_00.png']
    assert written(tmp_path / 'out') == names
    turned, over, upright = (imread(tmp_path / 'out' / name).astype(int) for name in names)
    assert np.abs(upright - turned).mean() < 2
    assert np.abs(upright - over).mean() < 20 < 60 < np.abs(upright - over[::-1, ::-1]).mean()
    assert 'clip.mp4' not in done.stdout + done.stderr
    assert imread(tmp_path / 'out' / 'person' / 'one_00.png').shape == (96, 96, 3)
    assert 'nobody.png: no face found' in done.stdout
    assert cli.run('data align', ['-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'in' / 'out')]) == 2
    assert 'inside' in capsys.readouterr().err


def test_a_face_whose_landmarks_are_uncertain_is_not_cut_out(tmp_path):
    imwrite(tmp_path / 'in' / 'one.png', portrait())
    certain = Face(np.zeros(4), 1.0, ASTRONAUT_LANDMARKS)
    detector = Found(certain, replace(certain, consistent=False))
    assert crop_faces(Job(tmp_path / 'in' / 'one.png', 'one'), detector, tmp_path / 'out', 64, 0) == (1, 1)
    assert written(tmp_path / 'out') == ['one_00.png']
