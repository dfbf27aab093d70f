"""The command that restores: its inputs, its output, its progress, and how it ends when it is stopped."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from odd_pictures import save, scene
from small_faces import Found, Unchanged

from basicsr.cli import restore
from basicsr.inference import ImageRestorer
from basicsr.inference.jobs import expand_inputs
from basicsr.inference.runner import Runner
from basicsr.utils import progress as progress_module
from basicsr.utils.console import PatientStream, patient_streams, printable
from basicsr.utils.errors import MissingExtraError
from basicsr.utils.progress import progress, show_progress, track
from basicsr.utils.stopping import SignalInterrupt, stop_signals

NO_FACE = 1  # exit code where the pictures have no face


class Described(Unchanged):
    """A stand-in for the face network that the command can name."""

    description = 'a stand-in'


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    """Restoration without networks: every picture has no face."""
    restorer = ImageRestorer(Described(64), Found(), upscale=1)
    monkeypatch.setattr(restore, 'build_restorer', lambda args: restorer)


def summary_of(output: Path) -> dict:
    return json.loads((output / 'summary.json').read_text(encoding='utf-8'))


def pictures(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        save(scene(8, 8))(folder / name)
    return folder


# What is read and where it goes


def test_inputs_may_be_several_files_folders_and_patterns(tmp_path):
    source = pictures(tmp_path / 'in', 'a.png', 'b.png', 'c.jpg', '[1].png')
    (source / 'notes.txt').touch()
    pictures(tmp_path / 'other', 'a.png')
    given = [str(source / '*.png'), str(source / '[1].png'), str(tmp_path / 'other')]
    assert restore.main(['-i', *given, '-i', str(source / 'c.jpg'), '-o', str(tmp_path / 'out')]) == NO_FACE
    summary = summary_of(tmp_path / 'out')
    assert len(summary['input_path']) == 4 and summary['planned'] == 5
    written = sorted(path.relative_to(tmp_path / 'out' / 'final_results') for path in tmp_path.glob('out/**/*.png'))
    assert [path.as_posix() for path in written] == ['[1].png', 'a.png', 'b.png', 'c.png', 'other/a.png']
    assert expand_inputs([str(source / '*')]) == sorted(
        source / name for name in ('a.png', 'b.png', 'c.jpg', '[1].png')
    )


def test_a_pattern_that_nothing_matches_is_an_error(tmp_path, capsys):
    pictures(tmp_path, 'a.png')
    assert restore.main(['-i', str(tmp_path / '*.jpg'), '-o', str(tmp_path / 'out')]) == 2
    assert 'no picture, clip or folder matches' in capsys.readouterr().err


def test_the_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    pictures(tmp_path / 'in', 'a.png', '~$a.png')
    assert restore.main(['-i', '~/in', '-o', '~/out']) == NO_FACE
    assert summary_of(tmp_path / 'out')['planned'] == 2
    monkeypatch.chdir(tmp_path / 'in')
    assert expand_inputs(['~$a.png']) == [Path('~$a.png')]
    flags = ['--model', '--bg_upsampler', '--weights_dir', '--ref', '--recognizer', '--calibration']
    args = restore.build_parser().parse_args(['-i', 'x', *(part for flag in flags for part in (flag, '~/file'))])
    wanted = str(tmp_path / 'file')
    values = (args.model, args.bg_upsampler, args.weights_dir, *args.ref, args.recognizer, args.calibration)
    assert values == (wanted,) * 6


@pytest.mark.parametrize(('name', 'words'), [('out.png', 'looks like a file'), ('a.txt', 'a file; -o names a folder')])
def test_an_output_that_is_a_file_or_looks_like_one_is_refused(tmp_path, capsys, name, words):
    pictures(tmp_path, 'a.png')
    (tmp_path / 'a.txt').touch()
    assert restore.main(['-i', str(tmp_path / 'a.png'), '-o', str(tmp_path / name)]) == 2
    assert words in capsys.readouterr().err
    (tmp_path / 'folder.png').mkdir()
    assert restore.main(['-i', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'folder.png')]) == NO_FACE


def test_paths_of_unset_variables_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path, 'a.png')
    for flags, words in (
        (['-i', '', '-o', 'out'], '-i: an empty path'),
        (['-i', 'a.png', '-o', ''], '-o: an empty path'),
    ):
        assert restore.main(flags) == 2
        assert words in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']


@pytest.mark.parametrize('flag', ['-s', '--max_megapixels'])
@pytest.mark.parametrize('value', ['0', '-1', 'nan', 'inf'])
def test_sizes_that_are_none_are_usage_errors(flag, value):
    with pytest.raises(SystemExit) as stop:
        restore.main(['-i', 'a.png', f'{flag}={value}'])
    assert stop.value.code == 2


# How it ends


@pytest.mark.parametrize(('name', 'code'), [('SIGTERM', 143), ('SIGHUP', 129), ('SIGINT', 130)])
def test_a_signal_leaves_a_summary_of_what_is_done(tmp_path, monkeypatch, capsys, request, name, code):
    source, run = pictures(tmp_path / 'in', 'a.png', 'b.png', 'c.png'), Runner.run

    def stopped(self, jobs):
        for number, record in enumerate(run(self, jobs)):
            if number == 2:
                os.kill(os.getpid(), getattr(signal, name))
                os.kill(os.getpid(), signal.SIGTERM)  # systems send several
            yield record

    monkeypatch.setattr(Runner, 'run', stopped)
    usual = {'SIGINT': signal.default_int_handler}  # whoever began the tests may ignore signals, as nohup does
    before = signal.signal(getattr(signal, name), usual.get(name, signal.SIG_DFL))
    request.addfinalizer(lambda: signal.signal(getattr(signal, name), before))
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    assert restore.main(['-i', str(source), '-o', str(tmp_path / 'out')]) == code
    summary = summary_of(tmp_path / 'out')
    assert [Path(entry['input']).name for entry in summary['files']] == ['a.png', 'b.png']
    assert summary['stopped_by'] == name and summary['planned'] == 3
    assert '1 of 3 files were not done' in capsys.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == handlers
    assert not list(tmp_path.rglob('*.part'))


def test_a_signal_while_networks_are_loaded_leaves_a_summary_too(tmp_path, monkeypatch):
    def stopped(args):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError('the signal came too late')

    monkeypatch.setattr(restore, 'build_restorer', stopped)
    source = pictures(tmp_path / 'in', 'a.png')
    assert restore.main(['-i', str(source), '-o', str(tmp_path / 'out')]) == 143
    assert summary_of(tmp_path / 'out')['files'] == [] and summary_of(tmp_path / 'out')['planned'] == 1


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT'])
def test_a_signal_after_the_last_file_is_said_and_the_summary_is_whole(tmp_path, monkeypatch, capsys, name):
    source, write = pictures(tmp_path / 'in', 'a.png'), restore.save_summary

    def interrupted(*args, **more):
        os.kill(os.getpid(), getattr(signal, name))
        return write(*args, **more)

    monkeypatch.setattr(restore, 'save_summary', interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert restore.main(['-i', str(source), '-o', str(tmp_path / 'out')]) == 128 + getattr(signal, name)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(summary_of(tmp_path / 'out')['files']) == 1
    assert 'error: interrupted when all files were done' in capsys.readouterr().err


@pytest.mark.parametrize('number', [0, 1])
def test_a_signal_that_was_dropped_while_a_file_is_restored_still_counts(tmp_path, monkeypatch, capsys, number):
    source, run = pictures(tmp_path / 'in', 'a.png', 'b.png'), Runner.run

    def dropped(self, jobs):
        for place, record in enumerate(run(self, jobs)):
            if place == number:
                with suppress(SignalInterrupt):  # as Python does in __del__ and in callbacks of C
                    os.kill(os.getpid(), signal.SIGTERM)
            yield record

    monkeypatch.setattr(Runner, 'run', dropped)
    assert restore.main(['-i', str(source), '-o', str(tmp_path / 'out')]) == 143
    summary = summary_of(tmp_path / 'out')
    assert len(summary['files']) == number + 1 and summary['stopped_by'] == 'SIGTERM'
    said = '1 of 2 files were not done' if number == 0 else 'interrupted when all files were done'
    assert said in capsys.readouterr().err


def test_an_ignored_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_signals():
            os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(SignalInterrupt), stop_signals():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


class Full(io.StringIO):
    """A stream on a full disk."""

    def write(self, text=''):
        raise OSError(errno.ENOSPC, 'No space left on device')

    flush = write


@pytest.mark.parametrize('stream', [None, Full(), 'closed'])
def test_closed_and_full_streams_do_not_stop_the_work(tmp_path, monkeypatch, stream):
    if stream == 'closed':
        stream = io.StringIO()
        stream.close()
    source = pictures(tmp_path / 'in', 'a.png')
    (source / 'bad.png').write_bytes(b'no picture')
    monkeypatch.setattr(sys, 'stderr', stream)
    monkeypatch.setattr(sys, 'stdout', stream)
    assert restore.main(['-i', str(source), '-o', str(tmp_path / 'out')]) == 1
    assert [entry['status'] for entry in summary_of(tmp_path / 'out')['files']] == ['no_face', 'failed']


@pytest.mark.parametrize('streams', ['>/dev/full 2>/dev/full', '>&- 2>&-', '| true'])
def test_the_interpreter_ends_well_with_streams_that_take_nothing(tmp_path, streams):
    code = (
        'import sys; from basicsr.utils.console import patient_streams\n'
        'with patient_streams():\n'
        '    for _ in range(5000): print("x" * 100); print("y", file=sys.stderr)\n'
        f'    result = open({str(tmp_path / "result")!r}, "w"); assert result.fileno() > 2\n'
        '    result.write("done"); result.close()\n'
    )
    (tmp_path / 'code.py').write_text(code)
    script = tmp_path / 'run.sh'
    script.write_text(f'{sys.executable} {tmp_path / "code.py"} {streams}\nexit ${{PIPESTATUS[0]}}\n')
    root = Path(__file__).parents[2]
    done = subprocess.run(['bash', str(script)], env={**os.environ, 'PYTHONPATH': str(root)}, check=False, timeout=120)
    assert done.returncode == 0 and (tmp_path / 'result').read_text() == 'done'


def test_letters_that_the_screen_has_not_are_shown_as_escapes():
    raw = io.BytesIO()
    stream = PatientStream(io.TextIOWrapper(raw, encoding='ascii'))
    stream.write('ü漢\udcff')
    stream.flush()
    assert raw.getvalue() == rb'\xfc\u6f22\udcff'


def test_a_missing_package_is_nothing_begun(tmp_path, monkeypatch, capsys):
    def lacking(args):
        raise MissingExtraError('this needs the package x: pip install "id-codeformer[upsample]"')

    monkeypatch.setattr(restore, 'build_restorer', lacking)
    assert restore.main(['-i', str(pictures(tmp_path / 'in', 'a.png')), '-o', str(tmp_path / 'out')]) == 2
    assert capsys.readouterr().err.startswith('error: this needs the package x') and not (tmp_path / 'out').exists()


# Progress


class Heard(io.StringIO):
    """A stream that is no terminal, and says when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.event = threading.Event()

    def write(self, text):
        written = super().write(text)
        if '\n' in text:
            self.event.set()
        return written


def test_lines_with_the_time_left_are_written_where_there_is_no_terminal(monkeypatch):
    heard = Heard()
    monkeypatch.setattr(sys, 'stderr', heard)
    monkeypatch.setattr(progress_module, 'LINE_EVERY', 0.01)
    with show_progress(), progress(4, 'frame', 'a\x1b[31m.mp4') as step:
        step()
        assert heard.event.wait(30)
    line = heard.getvalue().splitlines()[-1]
    assert r'a\x1b[31m.mp4' in line and '1/4' in line and '<' in line and '\x1b' not in heard.getvalue()


def test_a_bar_on_a_terminal_shows_names_without_their_escapes(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, 'stderr', screen)
    monkeypatch.setattr(progress_module, 'DELAY', 0)
    with show_progress(), progress(2, 'frame', '\x1b]0;title\x07.mp4') as step:
        step()
        step()
    assert '2/2' in screen.getvalue() and '\x07' not in screen.getvalue() and '\x1b]' not in screen.getvalue()


def test_nothing_is_shown_where_nobody_asked(monkeypatch):
    heard = Heard()
    monkeypatch.setattr(sys, 'stderr', heard)
    assert list(track(range(3), 'tile')) == [0, 1, 2]
    with show_progress(), patient_streams():
        assert list(track([7], 'tile')) == [7]
    assert heard.getvalue() == '' and printable('a\nb') == r'a\nb'


@pytest.mark.parametrize(('seconds', 'text'), [(40, '40 s'), (720, '12 min'), (10800, '3 h')])
def test_durations_are_for_people(seconds, text):
    assert restore.duration(seconds) == text


def test_what_is_slow_is_announced_with_an_estimate(monkeypatch, capsys):
    def upsampler(device):
        return SimpleNamespace(
            model=SimpleNamespace(device=SimpleNamespace(type=device)), seconds_a_megapixel=lambda: 60
        )

    restorer = ImageRestorer(Unchanged(), Found(), bg_upsampler=upsampler('cpu'))
    restore.say_slow(restorer)
    assert 'some 60 s for each megapixel' in (said := capsys.readouterr().out) and '12 min for a photograph' in said
    restore.say_slow(ImageRestorer(Unchanged(), Found(), bg_upsampler=upsampler('cuda')))
    restore.say_slow(ImageRestorer(Unchanged(), Found()))
    assert capsys.readouterr().out == ''
