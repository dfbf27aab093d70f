"""Training cannot be lost: kills, signals, full disks, damaged checkpoints, lost data, dead processes."""

from __future__ import annotations

import csv
import errno
import json
import multiprocessing
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from killing import Moments, at_iteration, die, run, start, tiny_options, write_options
from small import make_faces
from tensorboard.summary.writer.record_writer import RecordWriter

from basicsr.cli import train
from basicsr.models import BaseModel, NonFiniteLossError, build_model, loop
from basicsr.models.checkpoints import Best, newest_usable, read_saved, rotate
from basicsr.models.loop import Run, data_problem
from basicsr.models.schema import check_options
from basicsr.utils import slurm, workers
from basicsr.utils.checkpoint import CheckpointError, read_checkpoint, save_atomic
from basicsr.utils.files import InUseError, lock
from basicsr.utils.logger import get_root_logger
from basicsr.utils.options import OptionError

ROOT = Path(__file__).resolve().parents[2]


def newest_readable(folder: Path, networks: Iterable[str]) -> tuple[Path | None, list[str]]:
    """Find the newest state that can be read."""
    return newest_usable(folder, lambda path: read_saved(path, list(networks)))


@pytest.fixture(scope='module')
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('survival')


def count_moments(target: Path) -> None:
    moments = Moments(0, die)
    moments.watch()
    step = BaseModel.save

    def noted(self, *arguments) -> None:
        step(self, *arguments)
        target.write_text(str(moments.count))

    BaseModel.save = noted


def kill_at(moment: int) -> None:
    Moments(moment, die).watch()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As `killing` runs trainings, so that those here are equal to them bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope='module')
def straight(root) -> Path:
    """The folder of a run that nothing interrupted; `moments.txt` beside its options says how many moments it had."""
    options = write_options(root, tiny_options(root))
    assert run(root / 'straight', ['-opt', options], count_moments, root / 'moments.txt') == 0
    return root / 'straight' / 'experiments' / 'tiny'


def weights(folder: Path, label='latest') -> dict[str, torch.Tensor]:
    """All trained parameters of a run's networks."""
    return {
        f'{path.stem}/{key}/{name}': value
        for path in sorted((folder / 'models').glob(f'net_?_{label}.pth'))
        for key in ('params', 'params_ema')
        for name, value in read_checkpoint(path).get(key, {}).items()
    }


def assert_same(folder: Path, other: Path, label='latest') -> None:
    one, two = weights(folder, label), weights(other, label)
    assert len(one) > 40
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def judged(folder: Path) -> list[tuple[str, str]]:
    with (folder / 'validation_val.csv').open() as file:
        return [(row['iter'], row['psnr']) for row in csv.DictReader(file)]


def labels(folder: Path) -> list[str]:
    return sorted(path.stem.removeprefix('net_g_') for path in (folder / 'models').glob('net_g_*.pth'))


def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(root, straight):
    moments = int((root / 'moments.txt').read_text())
    assert moments > 60
    draw = random.Random(0)
    place, codes = root / 'killed', []
    while 0 not in codes:
        moment = draw.randint(1, moments // 3)
        codes.append(run(place, ['-opt', str(root / 'tiny.yml'), '--auto_resume'], kill_at, moment))
        assert codes[-1] in (0, -signal.SIGKILL), (place / 'said.txt').read_text()
    folder = place / 'experiments' / 'tiny'
    assert len(codes) > 4
    assert_same(folder, straight)
    assert_same(folder, straight, 'best')
    assert labels(folder) == labels(straight)
    assert (folder / 'models/net_g_best.json').read_text() == (straight / 'models/net_g_best.json').read_text()
    assert not list(folder.rglob('*.part'))


def test_the_command_killed_twice(root, straight):
    """As users do it, by the processes they start."""
    place = root / 'command'
    place.mkdir()
    command = [sys.executable, str(ROOT / 'basicsr' / 'train.py'), '-opt', str(root / 'tiny.yml'), '--auto_resume']
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    for iteration in (3, 5):
        with subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert any(f'iteration {iteration} ' in line for line in process.stderr)
            process.kill()
        assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert 'resumed from experiments/tiny/training_states/4.state' in done.stderr
    assert_same(place / 'experiments' / 'tiny', straight)


def test_a_save_killed_at_any_step_leaves_a_whole_checkpoint(tmp_path, monkeypatch):
    """The second of two saves, with its rotation, at each of its moments; then the first one again."""
    model = build_model(tiny_options(tmp_path))
    torch.set_num_threads(1)
    monkeypatch.setattr(os, 'fsync', lambda number: None)  # which takes a while, and matters when the power goes only
    base, folder = tmp_path / 'base', tmp_path / 'experiments'

    def fill(value: float) -> None:
        with torch.no_grad():
            for network in (*model.networks.values(), *model.averages.values()):
                for parameter in network.parameters():
                    parameter.fill_(value)

    for iteration in (1, 2):
        fill(iteration)
        model.save(iteration, base)
    ended, seen = None, set()
    for moment in range(1, 100):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(base, folder)
        child = os.fork()
        if not child:
            kill_at(moment)
            for iteration in (3, 2):  # 2 is overwritten, as by a run that went back
                fill(10 + iteration)
                model.save(iteration, folder)
                rotate(folder, iteration, 2)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        path, _ = newest_readable(folder, model.networks)
        assert model.resume_training(path) == int(path.stem)
        values = {p.flatten()[0].item() for n in (*model.networks.values(),) for p in n.parameters()}
        expected = {'1': {1}, '2': {2, 12}, '3': {13}}[path.stem]
        assert len(values) == 1
        assert values <= expected
        seen |= values
        if ended == 0:
            break
    assert ended == 0
    assert seen == {2, 13}
    assert moment > 20


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_after_the_iteration_and_leaves(number, tmp_path, straight, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    options = write_options(tmp_path, tiny_options(tmp_path))
    step = BaseModel.optimize_parameters
    before = signal.getsignal(number)

    def signalled(model, batches, iteration) -> None:
        if iteration == 3:
            os.kill(os.getpid(), number)
        step(model, batches, iteration)

    monkeypatch.setattr(BaseModel, 'optimize_parameters', signalled)
    assert train.main(['-opt', options]) == 128 + number
    said = capfd.readouterr().err
    assert 'iteration 3 is saved, --auto_resume goes on from it' in said
    assert number.name in said
    assert signal.getsignal(number) == before
    folder = tmp_path / 'experiments' / 'tiny'
    assert (folder / 'training_states' / '3.state').is_file()
    assert not (folder / 'validation_val.csv').exists()  # due at 3, and left to the resumed run
    monkeypatch.setattr(BaseModel, 'optimize_parameters', step)
    assert train.main(['-opt', options, '--auto_resume']) == 0
    assert_same(folder, straight)
    assert judged(folder) == judged(straight)


def test_a_second_signal_leaves_at_once(root, straight):
    assert run(root / 'twice', ['-opt', str(root / 'tiny.yml')], at_iteration, 3, signal_twice) == 143
    assert [path.name for path in (root / 'twice/experiments/tiny/training_states').iterdir()] == ['2.state']


def signal_twice() -> None:
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope='module')
def stopped(root, straight) -> Path:
    """Where a run stopped after iteration 5, with checkpoints of 4 and 5."""
    assert run(root / 'stopped', ['-opt', str(root / 'tiny.yml')], at_iteration, 5, terminate) == 143
    return root / 'stopped'


@pytest.fixture
def place(stopped, tmp_path, monkeypatch) -> Path:
    """A copy of it to work in; the run's folder."""
    shutil.copytree(stopped, tmp_path / 'copy')
    monkeypatch.chdir(tmp_path / 'copy')
    return tmp_path / 'copy' / 'experiments' / 'tiny'


def resume(root: Path, *changes: str) -> int:
    return train.main(
        ['-opt', str(root / 'tiny.yml'), '--auto_resume', *(['--force_yml', *changes] if changes else [])]
    )


@pytest.mark.parametrize(
    ('file', 'left'), [('models/net_g_5.pth', 0.6), ('models/net_d_5.pth', 0), ('training_states/5.state', 0.99)]
)
def test_a_truncated_checkpoint_is_passed_over_and_named(file, left, root, straight, place, capfd):
    os.truncate(place / file, int((place / file).stat().st_size * left))
    assert resume(root) == 0
    warning = next(line for line in capfd.readouterr().err.splitlines() if 'WARNING' in line and file in line)
    assert 'training_states/4.state' in warning
    assert warning.partition('WARNING')[2] in (place / 'train_tiny.log').read_text()
    assert_same(place, straight)


def flip(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 0x10
    path.write_bytes(content)


def zero(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    start = int(len(content) * share)
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    path.write_bytes(content)


@pytest.mark.parametrize('damage', [flip, zero])
@pytest.mark.parametrize(
    ('file', 'share'), [('models/net_g_5.pth', 0.5), ('models/net_d_5.pth', 0.3), ('training_states/5.state', 0.4)]
)
def test_a_checkpoint_with_flipped_or_zeroed_bytes_is_passed_over_and_named(
    damage, file, share, straight, place, capfd, monkeypatch
):
    damage(place / file, share)
    path, problems = newest_readable(place, ['net_g', 'net_d'])
    assert path == place / 'training_states/4.state'
    assert len(problems) == 1
    assert f'{file}: damaged: its record' in problems[0]


def junk(*keys, value):
    """A change of a training state: another value at a path of keys."""

    def change(state: dict) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


JUNK = {
    'optimizers a text': junk('optimizers', value='junk'),
    'optimizer a number': junk('optimizers', 'optim_g', value=3),
    'no groups': junk('optimizers', 'optim_g', 'param_groups', value=[{}]),
    'parameters a number': junk('optimizers', 'optim_g', 'param_groups', 0, 'params', value=3),
    'moment a text': junk('optimizers', 'optim_g', 'state', 0, 'exp_avg', value='junk'),
    'moment of another shape': junk('optimizers', 'optim_g', 'state', 0, 'exp_avg', value=torch.zeros(7, 7)),
    'moment not finite': junk('optimizers', 'optim_g', 'state', 0, 'exp_avg', value=torch.tensor(float('nan'))),
    'a parameter a list': junk('optimizers', 'optim_d', 'state', 0, value=[1]),
    'scaler a text': junk('scaler', value='x'),
    'extra nothing': junk('extra', value=None),
    'extra empty': junk('extra', value={}),
    'features a text': junk('extra', 'features', value='x'),
    'features flat': junk('extra', 'features', value=torch.zeros(3)),
    'warming a text': junk('extra', 'warming', value='yes'),
    'iteration a text': junk('iter', value='5'),
    'iteration of another file': junk('iter', value=4),
}


@pytest.fixture(scope='module')
def resumed(root):
    """A model that takes up one training state after another."""
    return build_model(tiny_options(root))


@pytest.mark.parametrize('kind', JUNK)
def test_junk_in_a_training_state_is_passed_over_and_named(kind, resumed, place):
    path = place / 'training_states' / '5.state'
    state = read_checkpoint(path)
    JUNK[kind](state)
    save_atomic(state, path)
    found, problems = newest_usable(place, resumed.resume_training)
    assert found == place / 'training_states' / '4.state'
    assert len(problems) == 1 and '5.state: ' in problems[0]
    assert resumed.resume_training(found) == 4


def test_a_run_whose_records_are_all_damaged_goes_on(root, straight, place, capfd):
    """State, best record and CSV at once: one warning each, no traceback, and the same end."""
    state = read_checkpoint(place / 'training_states/5.state')
    JUNK['moment a text'](state)
    save_atomic(state, place / 'training_states/5.state')
    (place / 'models/net_g_best.json').write_text('{"judged": "x", "value": []}')
    (place / 'validation_val.csv').write_bytes(b'iter,psnr\r\n3,\xff\xfe')
    assert resume(root) == 0
    said = capfd.readouterr().err
    assert 'Traceback' not in said
    assert '5.state: it holds something else than a run saves' in said and 'training_states/4.state' in said
    assert 'net_g_best.json: cannot be read' in said
    assert 'validation_val.csv: damaged' in said
    assert_same(place, straight)
    assert (place / 'validation_val_before_6.csv').read_bytes().endswith(b'\xff\xfe')
    assert [iteration for iteration, _ in judged(place)] == ['6', '7']


@pytest.mark.parametrize(
    'text',
    ['', '[]', '3', '{"judged": "x"}', '[' * 100_000, '{"metric": "psnr", "dataset": "val", "value": "x"}', '\0'],
)
def test_a_damaged_record_of_the_best_is_looked_for_anew(text, tmp_path, caplog):
    (tmp_path / 'models').mkdir()
    (tmp_path / 'models/net_g_best.json').write_text(text)
    opt = {'val': {'metrics': {'psnr': {'type': 'calculate_psnr'}}}, 'datasets': {'val': {}}}
    best = Best(opt, tmp_path)
    assert best.judged == 0 and best.record == {}
    assert 'net_g_best.json: cannot be read' in caplog.text


def test_no_whole_checkpoint_is_an_error_and_touches_nothing(root, place, capfd):
    for path in (place / 'training_states').iterdir():
        path.write_bytes(b'')
    before = sorted(path for path in place.rglob('*') if path.is_file())
    assert resume(root) == 1
    assert 'no checkpoint to go on from is whole' in capfd.readouterr().err
    assert sorted(path for path in place.rglob('*') if path.is_file()) == before


def test_checkpoints_of_other_options_are_no_reason_to_go_further_back(root, place, capfd):
    assert resume(root, 'network_g:codebook_size=32') == 1
    assert 'net_g_5.pth does not fit VQAutoEncoder' in capfd.readouterr().err


def limit_files(size: int) -> None:
    at_iteration(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))


def test_a_file_that_cannot_be_written_to_the_end(root, straight):
    """The system's own refusal, in the middle of a network."""
    place = root / 'limited'
    assert run(place, ['-opt', str(root / 'tiny.yml')], limit_files, 100_000) == 1
    said = (place / 'said.txt').read_text()
    assert re.search(
        r'ERROR: experiments/tiny: the checkpoint of iteration 3 cannot be written \(File too large.*keep_last.*'
        r'training_states/2.state is whole',
        said,
    )
    assert 'Traceback' not in said
    folder = place / 'experiments/tiny'
    assert not list(folder.rglob('*.part'))
    assert newest_readable(folder, ['net_g', 'net_d'])[0] == folder / 'training_states/2.state'
    assert run(place, ['-opt', str(root / 'tiny.yml'), '--auto_resume']) == 0
    assert_same(folder, straight)


def test_a_full_disk_is_named_as_such(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    options = write_options(tmp_path, tiny_options(tmp_path))
    flush, calls = os.fsync, []

    def full(number: int) -> None:
        calls.append(number)
        if len(calls) == 5:  # the second network of the second checkpoint
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(number)

    monkeypatch.setattr(os, 'fsync', full)
    assert train.main(['-opt', options]) == 1
    said = capfd.readouterr().err
    assert 'iteration 4 cannot be written (No space left on device); free space there' in said
    folder = tmp_path / 'experiments/tiny'
    assert not list(folder.rglob('*.part'))
    assert newest_readable(folder, ['net_g', 'net_d'])[0] == Path(folder / 'training_states/2.state')


@pytest.mark.parametrize('written', [0, 1, 3, 9])
def test_a_full_disk_under_tensorboard_does_not_end_the_training(written, straight, tmp_path, monkeypatch, capfd):
    """Whatever was written before it filled up."""
    monkeypatch.chdir(tmp_path)
    options = write_options(tmp_path, tiny_options(tmp_path, logger={'use_tb_logger': True}))
    records = []
    write = RecordWriter.write

    def full(self, data: bytes) -> None:
        records.append(data)
        if len(records) > written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(self, data)

    monkeypatch.setattr(RecordWriter, 'write', full)
    assert train.main(['-opt', options]) == 0
    said = capfd.readouterr().err
    assert said.count('tb_logger/tiny: no more is written for TensorBoard ([Errno 28] No space left on device)') == 1
    assert 'Traceback' not in said and len(records) > written
    assert_same(tmp_path / 'experiments/tiny', straight)


def test_a_tensorboard_folder_that_cannot_be_made_does_not_end_the_training(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'tb_logger').write_text('')
    opt = tiny_options(tmp_path, logger={'use_tb_logger': True}, train={'total_iter': 1, 'codebook_warmup': None})
    assert train.main(['-opt', write_options(tmp_path, opt)]) == 0
    assert capfd.readouterr().err.count('tb_logger/tiny: no more is written for TensorBoard') == 1


@pytest.mark.parametrize('kind', ['file', 'elsewhere'])
def test_a_folder_that_cannot_be_written_to_is_said_before_training(kind, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    options = write_options(tmp_path, tiny_options(tmp_path))
    if kind == 'file':
        (tmp_path / 'experiments').write_text('')
    else:
        (tmp_path / 'experiments').symlink_to('/proc/self')
    monkeypatch.setattr(BaseModel, 'optimize_parameters', None)
    assert train.main(['-opt', options]) == 1
    said = capfd.readouterr().err
    assert 'experiments/tiny: the folder cannot be written' in said
    assert 'permissions' in said


def test_a_folder_inside_that_is_read_only_is_said_before_training(root, place, monkeypatch, capfd):
    shutil.rmtree(place / 'visualization')
    (place / 'visualization').symlink_to('/proc/self')
    monkeypatch.setattr(BaseModel, 'optimize_parameters', None)
    assert resume(root) == 1
    assert 'experiments/tiny: the folder cannot be written' in capfd.readouterr().err


@pytest.mark.parametrize('workers', [0, 2])
def test_data_that_vanish_are_named_and_the_state_is_saved(workers, straight, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    opt = tiny_options(tmp_path, val={'val_freq': 0})
    opt['datasets']['train'] |= {'num_worker_per_gpu': workers, 'num_prefetch_queue': 1}
    options = write_options(tmp_path, opt)
    step = BaseModel.optimize_parameters
    at_iteration(3, lambda: (tmp_path / 'faces').rename(tmp_path / 'gone'))
    try:
        assert train.main(['-opt', options]) == 1
    finally:
        BaseModel.optimize_parameters = step
    said = capfd.readouterr().err
    assert re.search(r'ERROR: .*No such file.*faces/00\d\.png', said)
    saved = int(re.search(r'iteration (\d) is saved', said)[1])
    assert saved >= 3
    assert 'Traceback' not in said
    (tmp_path / 'gone').rename(tmp_path / 'faces')
    assert train.main(['-opt', options, '--auto_resume']) == 0
    assert_same(tmp_path / 'experiments/tiny', straight)


def test_a_data_worker_killed_by_the_system(straight, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    opt = tiny_options(tmp_path)
    opt['datasets']['train']['num_worker_per_gpu'] = 2
    options = write_options(tmp_path, opt)
    step = BaseModel.optimize_parameters
    at_iteration(3, lambda: multiprocessing.active_children()[0].kill())
    try:
        assert train.main(['-opt', options]) == 1
    finally:
        BaseModel.optimize_parameters = step
    said = capfd.readouterr().err
    assert re.search(r'ERROR: DataLoader worker .*num_worker_per_gpu.*/dev/shm', said)
    assert 'is saved, --auto_resume goes on from it' in said
    assert train.main(['-opt', options, '--auto_resume']) == 0
    assert_same(tmp_path / 'experiments/tiny', straight)


TRAINER_WITH_WORKERS = """
import multiprocessing, sys
from basicsr.data import build_dataloader, build_dataset
multiprocessing.set_start_method(sys.argv[1])
section = {
    'type': 'FFHQBlindDataset', 'dataroot_gt': sys.argv[2], 'gt_size': 32,
    'num_worker_per_gpu': 2, 'batch_size_per_gpu': 2,
}
batches = iter(build_dataloader(build_dataset(section), section))
next(batches)
print(*(worker.pid for worker in batches._workers), flush=True)
input()
"""


@pytest.mark.skipif(not hasattr(os, 'pidfd_open'), reason="needs pidfd_open, of Linux, to wait for others' children")
@pytest.mark.parametrize('method', ['fork', 'forkserver'])
def test_data_workers_end_with_a_killed_trainer(method, tmp_path):
    """Python 3.14 starts them by forkserver, where their parent, the server, lives as long as they do."""
    faces = str(make_faces(tmp_path / 'faces', 2, 32))
    command = [sys.executable, '-c', TRAINER_WITH_WORKERS, method, faces]
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as trainer:
        alive = {os.pidfd_open(int(pid)): int(pid) for pid in trainer.stdout.readline().split()}
        assert len(alive) == 2
        trainer.kill()
    while alive and (ended := select.select(list(alive), [], [], 30)[0]):
        for descriptor in ended:
            os.close(descriptor)
            del alive[descriptor]
    for descriptor, pid in alive.items():
        os.kill(pid, signal.SIGKILL)
        os.close(descriptor)
    assert not alive, 'data workers outlive the trainer by 30 s'


def test_the_end_of_a_process_is_seen_where_the_system_does_not_report_it(monkeypatch):
    monkeypatch.delattr(os, 'pidfd_open', raising=False)
    monkeypatch.setattr(workers, 'POLL_S', 0.01)
    with subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE) as other:
        waiting = threading.Thread(target=workers._wait_for, args=(other.pid,), daemon=True)
        waiting.start()
        assert waiting.is_alive()
    waiting.join(30)
    assert not waiting.is_alive()


def test_what_workers_say_is_cut_down_to_its_reason():
    from basicsr.data import DataError

    wrapped = DataError(
        'Caught DataError in DataLoader worker process 0.\nTrace\nbasicsr.data.common.DataError: a.png: no'
    )
    assert str(data_problem(wrapped)) == 'a.png: no'
    other = KeyError('x')
    assert data_problem(other) is other


@pytest.mark.parametrize('error', [ConnectionResetError(104, 'Connection reset by peer'), EOFError()])
def test_a_worker_that_dies_in_the_middle_of_a_batch_is_named(error):
    """The torn connection may be noticed before the signal of the worker's death is."""
    assert re.search(r'DataLoader worker .*num_worker_per_gpu.*/dev/shm', str(data_problem(error)))
    lived = ConnectionResetError('Caught ConnectionResetError in DataLoader worker process 0.\nTrace')
    assert data_problem(lived) is lived


def test_the_death_of_a_worker_is_the_reason_for_what_it_leads_to():
    said = []
    death = RuntimeError('DataLoader worker (pid 1) is killed by signal: Killed.')
    begun = SimpleNamespace(
        accumulate=1,
        stop=SimpleNamespace(worker_error=death),
        halt_if_asked=lambda done, failure: said.append((done, failure)),
    )

    def batches():
        yield from ()
        raise FileNotFoundError('a socket')

    assert Run.fetch(cast(Run, begun), batches(), 3) == [] and said == [(3, death)]


def test_two_runs_of_one_name_at_once(tmp_path):
    script = (
        'import sys; from basicsr.utils.files import lock; held = lock(sys.argv[1], "x"); print(1, flush=True); input()'
    )
    command = [sys.executable, '-c', script, str(tmp_path / 'lock')]
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as other:
        assert other.stdout.readline() == '1\n'
        with pytest.raises(InUseError, match='the run is going on in another process'):
            lock(tmp_path / 'lock', 'the run')
        other.kill()
    lock(tmp_path / 'lock', 'the run').close()


# Rotation and the best weights.


def fake_checkpoints(folder: Path, *iterations: int) -> None:
    for iteration in iterations:
        for path in (
            f'models/net_g_{iteration}.pth',
            f'models/net_d_{iteration}.pth',
            f'training_states/{iteration}.state',
        ):
            save_atomic({}, folder / path)


def kept(folder: Path) -> list[int]:
    return sorted(int(path.stem) for path in (folder / 'training_states').iterdir())


@pytest.mark.parametrize(
    ('newest', 'last', 'every', 'expected'),
    [
        (60, 1, None, [60]),
        (60, 3, None, [40, 50, 60]),
        (60, 1, 20, [20, 40, 60]),
        (60, 9, None, [10, 20, 30, 40, 50, 60]),
        (40, 1, None, [40, 50, 60]),
    ],
)
def test_rotation_keeps_the_last_and_the_round_ones(newest, last, every, expected, tmp_path):
    fake_checkpoints(tmp_path, 10, 20, 30, 40, 50, 60)
    save_atomic({}, tmp_path / 'models/net_g_7.pth')  # its state is gone: a rotation that was interrupted
    for name in ('net_g_latest.pth', 'net_g_best.pth', 'mine_10.pth'):
        save_atomic({}, tmp_path / 'models' / name)
    rotate(tmp_path, newest, last, every)
    assert kept(tmp_path) == expected
    files = {path.name for path in (tmp_path / 'models').iterdir()}
    left = {f'{network}_{iteration}.pth' for network in ('net_g', 'net_d') for iteration in expected}
    names = left | {'net_g_latest.pth', 'net_g_best.pth', 'mine_10.pth'}
    assert files == (names | {'net_g_7.pth'} if last == 9 else names)


def test_a_run_keeps_everything_by_default_and_rotates_when_asked(root, straight, tmp_path, monkeypatch):
    assert kept(straight) == [6, 7]
    monkeypatch.chdir(tmp_path)
    for changes, expected in (({'keep_last': None}, [2, 4, 6, 7]), ({'keep_last': None, 'keep_every': 4}, [4, 6, 7])):
        opt = tiny_options(tmp_path, logger=changes, val={'val_freq': 0})
        assert train.main(['-opt', write_options(tmp_path, opt)]) == 0
        assert kept(tmp_path / 'experiments/tiny') == expected


def test_the_best_weights_are_those_of_the_best_row(straight):
    record = json.loads((straight / 'models/net_g_best.json').read_text())
    rows = judged(straight)
    best = max(rows, key=lambda row: float(row[1]))
    assert [row[0] for row in rows] == ['3', '6', '7']
    assert (str(record['iteration']), record['value']) == (best[0], pytest.approx(float(best[1])))
    assert (record['metric'], record['dataset'], record['better'], record['judged']) == ('psnr', 'val', 'higher', 7)


@pytest.mark.parametrize(('better', 'expected'), [('higher', [1, 3]), ('lower', [1, 4])])
def test_best_follows_the_direction_of_its_metric(better, expected, tmp_path):
    opt = tiny_options(tmp_path)
    best, saved = Best(opt, tmp_path), []
    best.better = better
    for iteration, value in enumerate([2.0, 2.0, 3.0, 1.0, float('nan')], 1):
        best.see({'val': {'psnr': value}}, iteration, lambda path, i=iteration: saved.append(i))
    assert saved == expected
    again = Best(opt, tmp_path)
    assert (again.judged, again.record['iteration']) == (5, expected[-1])
    (tmp_path / 'models/net_g_best.json').write_text('{')
    assert Best(opt, tmp_path).record == {}


# Processes of a distributed run.


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


def slurm_pair(place: Path, options: str, prepare=None, *extra) -> list[int]:
    """Exit codes of two processes as `srun` starts them; `prepare` is called in the second."""
    port, processes = str(free_port()), []
    for rank in range(2):
        given = {
            'SLURM_PROCID': str(rank), 'SLURM_LOCALID': str(rank), 'SLURM_NTASKS': '2', 'SLURM_NODELIST': 'localhost',
            'MASTER_PORT': port,
        }  # fmt: skip
        first = (prepare, *extra) if rank else ()
        processes.append(start(place / str(rank), ['-opt', options, '--launcher', 'slurm'], *first, environment=given))
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


@pytest.fixture
def pair(tmp_path) -> str:
    """Options of a run of two processes; each works in a folder of its own."""
    for rank in '01':
        (tmp_path / rank).mkdir()
    return write_options(tmp_path, tiny_options(tmp_path, dist_params={'dead_after': 3}, val={'val_freq': 0}))


def said(tmp_path: Path, rank: int) -> str:
    return (tmp_path / str(rank) / 'said.txt').read_text()


def test_slurm_processes_train_together(tmp_path, pair):
    assert slurm_pair(tmp_path, pair) == [0, 0]
    assert (tmp_path / '0/experiments/tiny/models/net_g_latest.pth').is_file()
    assert not (tmp_path / '1/experiments').exists()


def test_a_signal_to_one_process_stops_all_at_one_iteration(tmp_path, pair):
    assert slurm_pair(tmp_path, pair, at_iteration, 3, terminate) == [143, 143]
    assert kept(tmp_path / '0/experiments/tiny') == [2, 3]


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def fail() -> None:
    raise NonFiniteLossError('the loss of process 1 is not finite')


def test_a_process_that_raises_ends_the_other_with_its_reason(tmp_path, pair):
    assert slurm_pair(tmp_path, pair, at_iteration, 3, fail) == [1, 1]
    assert re.search(
        rf'process 1 on {re.escape(socket.gethostname())} died: the loss of process 1 is not finite', said(tmp_path, 0)
    )


def test_a_killed_process_ends_the_other(tmp_path, pair):
    assert slurm_pair(tmp_path, pair, at_iteration, 3, die) == [1, -9]
    assert re.search(r'process 1 on .* died: no sign of life for 3 s', said(tmp_path, 0))
    assert 'Traceback' not in said(tmp_path, 0)


def lose_data() -> None:
    from basicsr.data import DataError, FFHQBlindDataset

    def unreadable(self, index):
        raise DataError('b.png: gone')

    FFHQBlindDataset.__getitem__ = unreadable


def test_data_that_one_process_loses_stop_all_with_the_state_saved(tmp_path, pair):
    assert slurm_pair(tmp_path, pair, at_iteration, 3, lose_data) == [1, 1]
    assert kept(tmp_path / '0/experiments/tiny') == [2, 3]
    assert re.search(r'process 1 on .* died: b\.png: gone', said(tmp_path, 0))


@pytest.mark.parametrize(
    ('nodes', 'host'),
    [('gpu[03-05,9],login', 'gpu03'), ('a,b', 'a'), ('n-[1,2]-ib,c', 'n-1-ib'), ('localhost', 'localhost')],
)
def test_the_first_host_of_a_node_list(nodes, host, monkeypatch, tmp_path):
    monkeypatch.setenv('PATH', str(tmp_path))
    assert slurm.first_host(nodes) == host


def test_scontrol_is_asked_where_it_is(monkeypatch, tmp_path):
    (tmp_path / 'scontrol').write_text('#!/bin/sh\n[ "$1 $2 $3" = "show hostnames x[1-2]" ] && echo one && echo two\n')
    (tmp_path / 'scontrol').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    assert slurm.first_host('x[1-2]') == 'one'


def test_slurm_variables_become_those_of_torch():
    given = {
        'SLURM_PROCID': '5',
        'SLURM_NTASKS': '8',
        'SLURM_LOCALID': '1',
        'SLURM_NODELIST': 'a',
        'SLURM_JOB_ID': '123456',
    }
    expected = {'RANK': '5', 'WORLD_SIZE': '8', 'LOCAL_RANK': '1', 'MASTER_ADDR': 'a', 'MASTER_PORT': '23456'}
    assert slurm.launcher_environment(given) == expected
    assert slurm.launcher_environment(given, 29413)['MASTER_PORT'] == '29413'
    own = slurm.launcher_environment({**given, 'MASTER_ADDR': 'b', 'MASTER_PORT': '1'}, 29413)
    assert (own['MASTER_ADDR'], own['MASTER_PORT']) == ('b', '1')
    with pytest.raises(OptionError, match='SLURM_PROCID, SLURM_NODELIST not set; start with srun'):
        slurm.launcher_environment({'SLURM_NTASKS': '1', 'SLURM_LOCALID': '0'})


# Values that make no sense.


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    model = build_model(tiny_options(tmp_path))
    model.save(1, tmp_path)
    with torch.no_grad():
        model.averages['net_g'].generator.last_layer[0, 0] = float('inf')
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(NonFiniteLossError, match=r'params_ema/generator.*not finite'):
        model.save(2, tmp_path)
    assert sorted(tmp_path.rglob('*')) == before


def test_fp16_that_never_fits_is_an_error(tmp_path):
    model = build_model(tiny_options(tmp_path))
    model.scaler = torch.amp.GradScaler('cpu', init_scale=2.0**-9)
    model.net_g.generator.last_layer.register_hook(lambda gradient: gradient * float('nan'))
    batch = {'gt': torch.zeros(2, 3, 32, 32)}
    with pytest.raises(NonFiniteLossError, match='fp16 gradient, however small its scale'):
        for iteration in range(1, 4):
            model.optimize_parameters([batch], iteration)


def test_codes_that_collapse_are_said_once_a_window(monkeypatch, capfd):
    monkeypatch.setattr(loop, 'WINDOW', 4)
    get_root_logger()
    watch = loop.CollapseWatch(100)
    assert watch.bound == 2
    for iteration, value in enumerate([9, 1, 1, 1, 1, None, 1.5, 1.5, 1.5, 1.5, 2, 2, 2, 2, 2], 1):
        watch.see(value, iteration)
    warnings = [line.partition('WARNING: ')[2] for line in capfd.readouterr().err.splitlines()]
    assert [text.split(':')[0] for text in warnings] == ['iteration 5', 'iteration 10']
    assert 'perplexity 1.00 of 100 codes' in warnings[0]
    assert 'codebook_warmup' in warnings[0]


def test_a_run_says_that_its_codes_collapse(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, 'WINDOW', 2)
    opt = tiny_options(tmp_path, train={'min_perplexity': 17}, val={'val_freq': 0})
    assert train.main(['-opt', write_options(tmp_path, opt)]) == 0
    assert re.search(
        r'WARNING: iteration 5: the codes collapse: perplexity .* under train:min_perplexity 17', capfd.readouterr().err
    )


@pytest.mark.parametrize(
    ('section', 'changes', 'words'),
    [
        ('train', {'optim_g': {'type': 'Adam', 'lr': 0}}, 'lr must be a number between 0 and 1'),
        ('train', {'optim_g': {'type': 'Adam', 'lr': 2}}, 'lr must be a number between 0 and 1'),
        ('train', {'optim_g': {'type': 'Adam', 'lr': float('nan')}}, 'lr must be a number between 0 and 1'),
        ('train', {'optim_d': {'type': 'Adam', 'lr': 'fast'}}, 'lr must be a number between 0 and 1'),
        ('train', {'scheduler': {'type': 'MultiStepLR', 'milestones': [1], 'gamma': -1}}, 'gamma'),
        ('train', {'scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [1], 'eta_min': -1e-6}}, 'eta_min'),
        ('train', {'ema_decay': 1.0}, 'ema_decay'),
        ('logger', {'keep_last': 0}, 'keep_last must be 1 or more'),
        ('logger', {'keep_every': -5}, 'keep_every must be 1 or more'),
        ('val', {'best': {'metric': 'psn'}}, "did you mean 'psnr'"),
        ('val', {'best': {'dataset': 'vall'}}, "did you mean 'val'"),
    ],
)
def test_options_that_make_no_sense_are_errors_at_the_start(section, changes, words, tmp_path):
    check_options(tiny_options(tmp_path))
    with pytest.raises(OptionError, match=words):
        check_options(tiny_options(tmp_path, **{section: changes}))


def test_a_missing_state_that_was_asked_for_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match='no such file'):
        build_model(tiny_options(tmp_path)).resume_training(tmp_path / '3.state')
