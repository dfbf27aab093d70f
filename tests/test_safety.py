"""Files that would run code are refused, and nothing asks the network unless it is told to."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from small_faces import blurred_portrait, save_tiny_model

from basicsr.cli import restore
from basicsr.utils.checkpoint import CheckpointError, load_state_dict_file, read_checkpoint
from basicsr.utils.image import imwrite

ROOT = Path(__file__).resolve().parents[1]


class Hostile:
    """An object whose unpickling makes a file, as proof that code was run."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """The file that a hostile checkpoint makes when it is believed."""
    return tmp_path / 'code was run'


@pytest.fixture(params=['zip', 'legacy', 'pickle', 'inside', 'state'])
def hostile(request: pytest.FixtureRequest, proof: Path, tmp_path: Path) -> Path:
    """Checkpoints of every make with code in them."""
    path, content = tmp_path / 'hostile.pth', Hostile(proof)
    if request.param == 'zip':
        torch.save(content, path)
    elif request.param == 'legacy':
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif request.param == 'pickle':
        path.write_bytes(pickle.dumps({'params_ema': content}, protocol=2))
    elif request.param == 'inside':
        torch.save({'params_ema': {'weight': torch.zeros(2), 'more': content}}, path)
    else:
        torch.save({'iter': 3, 'optimizers': [content]}, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope='module')
def command() -> ModuleType:
    """The command that restores."""
    return restore


def test_the_checkpoints_are_hostile(hostile: Path, proof: Path) -> None:
    """Without the protection the proof appears: the tests below can fail."""
    if hostile.read_bytes()[:2] == b'PK':
        torch.load(hostile, weights_only=False)
    else:
        with hostile.open('rb') as file:
            try:
                torch.load(file, weights_only=False)
            except (RuntimeError, pickle.UnpicklingError):  # a plain pickle is none of torch's files
                pickle.loads(hostile.read_bytes())
    assert proof.exists()


@pytest.mark.parametrize('reader', [read_checkpoint, load_state_dict_file])
def test_a_hostile_checkpoint_is_refused(reader: Any, hostile: Path, proof: Path) -> None:
    with pytest.raises(CheckpointError, match=r'hostile\.pth'):
        reader(hostile)
    assert not proof.exists()


@pytest.mark.parametrize('flag', ['--model', '--bg_upsampler'])
def test_the_command_line_refuses_it(
    flag: str, hostile: Path, proof: Path, command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imwrite(tmp_path / 'in.png', blurred_portrait())
    argv = ['-i', str(tmp_path / 'in.png'), '-o', str(tmp_path / 'out'), '--device', 'cpu', flag, str(hostile)]
    if flag != '--model':
        argv += ['--model', str(save_tiny_model(tmp_path / 'tiny.pth'))]
    assert command.main(argv) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1 and 'hostile.pth' in errors[0]
    assert not proof.exists()


OFFLINE = """
import importlib, pkgutil, sys

ALLOWED = ('127.', '::1', 'localhost')
asked = []

def watch(event, args):
    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname', 'socket.sendto'):
        address = args[1] if event in ('socket.connect', 'socket.sendto') else args[0]
        host = address[0] if isinstance(address, tuple) else address
        if isinstance(address, tuple) or event.startswith('socket.get'):
            if not str(host).startswith(ALLOWED):
                asked.append((event, str(host)))
                raise OSError('no network in this test')

sys.addaudithook(watch)
import basicsr

names = [module.name for module in pkgutil.walk_packages(basicsr.__path__, 'basicsr.')]
for name in names:
    importlib.import_module(name)
from basicsr.cli import restore as inference_codeformer

code = inference_codeformer.main(sys.argv[1:])
import json
print(json.dumps({'modules': len(names), 'code': code, 'asked': asked}))
"""


def test_imports_and_a_restoration_ask_no_network(tmp_path: Path) -> None:
    imwrite(tmp_path / 'in.png', blurred_portrait())
    model = save_tiny_model(tmp_path / 'tiny.pth')
    argv = ['-i', str(tmp_path / 'in.png'), '-o', str(tmp_path / 'out'), '--device', 'cpu', '--model', str(model)]
    done = subprocess.run([sys.executable, '-c', OFFLINE, *argv], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report['asked'] == []
    assert report['code'] == 0 and report['modules'] > 50


def test_the_watch_sees_what_asks(tmp_path: Path) -> None:
    code = OFFLINE.split('import basicsr')[0] + (
        'import socket, urllib.request\n'
        "web = lambda: urllib.request.urlopen('http://host.invalid/')\n"
        "plain = lambda: socket.create_connection(('192.0.2.1', 9))\n"
        'for ask in (web, plain):\n'
        '    try:\n        ask()\n    except OSError:\n        pass\n'
        'print(len(asked))\n'
    )
    clean = {'PATH': '', 'no_proxy': '*'}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=clean)
    assert done.stdout.strip() == '2', done.stderr
