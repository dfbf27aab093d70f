"""Parts of the work for several machines, and runs that go on where another ended."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from odd_pictures import save, scene
from small_faces import Found, Unchanged, aligned_face

from basicsr.cli import restore
from basicsr.inference import ImageRestorer, resume
from basicsr.inference.face_restorer import choose_device
from basicsr.inference.jobs import Job, plan_jobs, skipped_files
from basicsr.inference.report import FileRecord
from basicsr.inference.resume import Shard
from basicsr.inference.runner import Runner
from basicsr.utils.image import imwrite


class Counting(Unchanged):
    """A stand-in for the face network that counts what it restores."""

    description = 'a stand-in'

    def __init__(self) -> None:
        super().__init__(64)
        self.count = 0

    def restore(self, faces, w=0.8, adain=True):
        self.count += len(faces)
        return super().restore(faces, w, adain)


@pytest.fixture
def network(monkeypatch):
    """The stand-in that the command uses; every picture is an aligned face."""
    network = Counting()
    monkeypatch.setattr(restore, 'build_restorer', lambda args: ImageRestorer(network, Found(), force=True, upscale=1))
    return network


def faces(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        save(aligned_face(64))(folder / name)
    return folder


def summary(output: Path, name: str = 'summary.json') -> dict:
    return json.loads((output / name).read_text(encoding='utf-8'))


def run(source: Path, output: Path, *flags: str) -> int:
    return restore.main(['-i', str(source), '-o', str(output), '--has_aligned', *flags])


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_parts_are_even_disjoint_and_whole(count):
    jobs = [Job(Path(f'{n}.png'), str(n)) for n in range(5)]
    parts = [Shard(number, count).part(jobs) for number in range(1, count + 1)]
    assert sorted(job.name for part in parts for job in part) == [job.name for job in jobs]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize('text', ['0/2', '3/2', '1', 'a/b', '1/0', '-1/2'])
def test_parts_that_are_none_are_usage_errors(text, capsys):
    with pytest.raises(SystemExit) as stop:
        restore.main(['-i', 'a.png', f'--shard={text}'])
    assert stop.value.code == 2 and '--shard' in capsys.readouterr().err


def test_parts_share_a_folder_and_have_their_own_summaries(tmp_path, network):
    source = faces(tmp_path / 'in', 'a.png', 'b.png', 'c.png')
    out = tmp_path / 'out'
    assert [run(source, out, '--shard', f'{n}/4') for n in range(1, 5)] == [0, 0, 0, 0]
    done = [[Path(file['input']).stem for file in summary(out, f'summary_{n}_of_4.json')['files']] for n in range(1, 5)]
    assert done == [['a'], ['b'], ['c'], []] and network.count == 3
    assert summary(out, 'summary_2_of_4.json')['shard'] == '2/4'
    assert run(source, out, '--resume') == 0 and network.count == 3  # whoever did it
    assert len(summary(out)['files']) == 3


def test_results_within_the_input_are_no_inputs_with_any_summary(tmp_path, network):
    source = faces(tmp_path, 'a.png', 'b.png')
    assert run(source, tmp_path, '--shard', '1/2') == 0
    assert [job.name for job in plan_jobs(source, tmp_path)] == ['a', 'b']
    assert skipped_files(source, tmp_path) == []


def test_only_what_is_not_done_is_done_again(tmp_path, network, capsys):
    source, out = faces(tmp_path / 'in', 'a.png', 'b.png', 'c.png', 'd.png'), tmp_path / 'out'
    (source / 'bad.png').write_bytes(b'no picture')
    assert run(source, out) == 1 and network.count == 4
    (out / 'restored_faces' / 'b.png').unlink()
    later = (out / 'restored_faces' / 'c.png').stat().st_mtime + 5
    os.utime(source / 'c.png', (later, later))
    assert run(source, out, '--resume') == 1 and network.count == 6
    said = capsys.readouterr()
    assert '2 file(s) were done by an earlier run' in said.out and 'warning' not in said.err
    files = summary(out)['files']
    assert len(files) == 5 and sum(file['status'] == 'restored' for file in files) == 4
    (source / 'bad.png').unlink()
    os.utime(source / 'c.png', (0, 0))
    assert run(source, out, '--resume') == 0 and network.count == 6
    assert [file['found'][0]['number'] for file in summary(out)['files']] == [0] * 4


@pytest.mark.parametrize('seconds', [1.0, 0.01])
def test_summaries_are_written_by_the_clock_and_not_for_each_file(seconds, tmp_path, monkeypatch):
    """Writing takes a second on this clock, and so at most a twentieth of the time; 1,000 files of any duration."""
    clock, writings = [0.0], []

    def written(*_) -> None:
        clock[0] += 1
        writings.append(clock[0])

    monkeypatch.setattr(resume.time, 'monotonic', lambda: clock[0])
    monkeypatch.setattr(resume, 'write_summary', written)
    run_summary = resume.RunSummary(tmp_path / 'summary.json', {}, [])
    for number in range(1000):
        clock[0] += seconds
        run_summary.note(FileRecord(f'{number}.png', 'restored'))
    assert len(run_summary.records) == 1000
    assert (40 if seconds == 1 else 0) <= len(writings) <= clock[0] / 20


def test_a_killed_run_is_resumed_from_its_last_summary(tmp_path, network, monkeypatch):
    source, out = faces(tmp_path / 'in', *(f'{n}.png' for n in range(6))), tmp_path / 'out'
    monkeypatch.setattr(resume, 'SAVE_EVERY', 0)
    monkeypatch.setattr(resume, 'SAVE_SHARE', 0)
    whole = Runner.run

    def killed(self, jobs):
        for number, record in enumerate(whole(self, jobs)):
            if number == 4:
                monkeypatch.setattr(resume.RunSummary, 'write', lambda self, **more: None)  # as if it were gone
                raise SystemExit(9)
            yield record

    monkeypatch.setattr(Runner, 'run', killed)
    with pytest.raises(SystemExit):
        run(source, out)
    assert len(summary(out)['files']) == 4
    monkeypatch.undo()
    monkeypatch.setattr(restore, 'build_restorer', lambda args: ImageRestorer(network, Found(), force=True, upscale=1))
    before = network.count
    assert run(source, out, '--resume') == 0 and network.count - before == 2


def test_other_settings_and_damaged_summaries_are_said(tmp_path, network, capsys):
    source, out = faces(tmp_path / 'in', 'a.png'), tmp_path / 'out'
    assert run(source, out, '-w', '0.5') == 0
    assert run(source, out, '-w', '0.7', '--resume', '--batch_size', '2') == 0
    assert 'warning: --resume keeps results of other settings: w 0.5 -> 0.7\n' in capsys.readouterr().err
    (out / 'summary.json').write_text('{"files": [{}]}')
    assert run(source, out, '--resume') == 2
    assert 'summary.json is damaged or of another version' in capsys.readouterr().err


def test_without_a_summary_there_is_nothing_to_keep(tmp_path, network):
    source = faces(tmp_path / 'in', 'a.png')
    assert run(source, tmp_path / 'out', '--resume') == 0 and network.count == 1


def test_other_processes_files_in_the_making_stay(tmp_path):
    partial = tmp_path / 'final_results' / '.a.png.0123abcd.part'
    partial.parent.mkdir()
    partial.touch()
    save(scene())(tmp_path / 'in.png')
    restorer = ImageRestorer(Unchanged(64), Found(), upscale=1)
    list(Runner(restorer, tmp_path, shared=True).run([Job(tmp_path / 'in.png', 'in')]))
    assert partial.exists()
    list(Runner(restorer, tmp_path).run([Job(tmp_path / 'in.png', 'in')]))
    assert not partial.exists()


def test_the_gpu_of_a_mac_is_taken_where_there_is_one_or_refused_in_one_line():
    if torch.backends.mps.is_available():
        assert choose_device('mps') == 'mps'
    else:
        with pytest.raises(ValueError, match=r'^.{,80}there is no such mps device here.{,150}; use auto$'):
            choose_device('mps')


def test_faces_are_read_and_written_beside_the_network_in_order_and_few_at_a_time(tmp_path, monkeypatch):
    """With a picture in each place where one can fail: reading, the network, writing."""
    names = [f'{index:02d}' for index in range(13)]
    for name in names:
        imwrite(tmp_path / 'in' / f'{name}.png', aligned_face(48 + int(name)))
    (tmp_path / 'in' / '03.png').write_bytes(b'no picture')
    read, write, waiting, most = Runner._read_aligned, Runner._write, set(), [0]

    class Failing(Unchanged):
        batch_size = 2

        def restore(self, faces, *_, **__):
            if any(len(face) == 48 + 6 for face in faces):
                raise RuntimeError('the network failed')
            return super().restore(faces)

    def reading(self, job):
        waiting.add(job.name)
        most[0] = max(most[0], len(waiting))
        return read(self, job)

    def writing(self, folder, name, *rest):
        if name == '09':
            raise OSError('the disk is full')
        return write(self, folder, name, *rest)

    monkeypatch.setattr(Runner, '_read_aligned', reading)
    monkeypatch.setattr(Runner, '_write', writing)
    runner = Runner(ImageRestorer(Failing(64), force=True), tmp_path / 'out', aligned=True)
    records = []
    for record in runner.run(plan_jobs(tmp_path / 'in', tmp_path / 'out')):
        waiting.discard(Path(record.input).stem)
        records.append(record)
    assert [Path(record.input).stem for record in records] == names
    failed = {Path(record.input).stem: record.message for record in records if record.status == 'failed'}
    assert failed.keys() == {'03', '06', '09'} and 'the disk is full' in failed['09']
    assert sorted(path.stem for path in (tmp_path / 'out' / 'restored_faces').iterdir()) == sorted(
        {*names} - failed.keys()
    )
    assert most[0] <= 5 * Failing.batch_size
