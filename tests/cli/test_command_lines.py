"""What the command lines have in common: how flags are spelt, and what exit codes mean."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import basicsr.cli
from basicsr.cli.arguments import ArgumentParser
from basicsr.cli.main import let_threads_sleep

PARTS = ('arguments', 'restore_flags')  # of commands, and none themselves
COMMANDS = sorted(path.stem for path in Path(basicsr.cli.__path__[0]).glob('[a-z]*.py') if path.stem not in PARTS)
OTHERS = ('main',)  # takes sub-commands, and passes on what follows


def parsers_of(name: str, monkeypatch: pytest.MonkeyPatch) -> list[ArgumentParser]:
    """The parsers of a command, with all flags."""
    parsers: list[ArgumentParser] = []

    def seen(self: ArgumentParser, *_: object) -> None:
        parsers.append(self)
        raise SystemExit(9)

    monkeypatch.setattr(ArgumentParser, 'parse_known_args', seen)
    module = import_module(f'basicsr.cli.{name}')
    with pytest.raises(SystemExit) as stop:
        module.main() if not module.main.__code__.co_argcount else module.main([])
    assert stop.value.code == 9
    return parsers


def options_of(name: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """All flags of a command."""
    parsers = parsers_of(name, monkeypatch)
    return {flag for parser in parsers for action in parser._actions for flag in action.option_strings}


@pytest.mark.parametrize('name', [name for name in COMMANDS if name not in OTHERS])
def test_flags_have_underscores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = options_of(name, monkeypatch)
    assert len(flags) > 2
    odd = [flag for flag in flags if not re.fullmatch(r'-[a-z]+|--(no-)?[a-z0-9]+(_[a-z0-9]+)*', flag)]
    assert [flag for flag in odd if flag != '--local-rank'] == []  # which torchrun passes


TEXTS = frozenset(
    {'metrics', 'detection_model', 'suffix', 'device', 'about', 'groups', 'mirror', 'force_yml', 'input_path'}
)
"""Flags that are no paths, and `-i` of restore, which takes patterns and expands them itself."""


@pytest.mark.parametrize('name', [name for name in COMMANDS if name not in OTHERS])
def test_the_tilde_is_the_home_folder_in_every_path(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every flag that takes a text is a path, or named above."""
    monkeypatch.setenv('HOME', str(tmp_path))
    actions = [(parser, each) for parser in parsers_of(name, monkeypatch) for each in parser._actions]
    for parser, action in actions:
        read = parser._registry_get('type', action.type, action.type)
        if action.nargs == 0 or action.choices or action.dest in TEXTS:
            continue
        try:
            value = read('~/x') if read is not None else '~/x'
        except (ValueError, argparse.ArgumentTypeError):  # numbers, and METRIC=FILE
            continue
        assert str(value) == str(tmp_path / 'x'), action.option_strings
    if name == 'evaluate':
        assert import_module('basicsr.cli.evaluate').weights_of('fid=~/x') == ('fid', str(tmp_path / 'x'))


def test_other_spellings_are_taken() -> None:
    parser = ArgumentParser()
    parser.add_argument('--fid_statistics')
    parser.add_argument('--recognizer')
    parser.add_argument('--given-so', action='store_true')
    parser.add_argument('values', nargs='*')
    for flag in ('--fid_statistics', '--fid-statistics'):
        assert parser.parse_args([flag, 'a-b']).fid_statistics == 'a-b'
        assert parser.parse_args([f'{flag}=a-b=c']).fid_statistics == 'a-b=c'
    parser.add_argument('--color_fix', action=argparse.BooleanOptionalAction)
    for flag in ('--no-color_fix', '--no-color-fix', '--no_color_fix'):
        assert parser.parse_args([flag]).color_fix is False
    assert parser.parse_args(['--recognizer', 'x']).recognizer == 'x'
    assert parser.parse_args(['--given-so', '--', '--fid-statistics']).given_so
    with pytest.raises(SystemExit):
        parser.parse_args(['--fid-statistic-s', 'x'])


@pytest.mark.parametrize(
    ('name', 'arguments'),
    [
        ('evaluate', ['--restored', '{}/none', '--metrics', 'psnr', '--out', '{}/out']),
        ('evaluate', ['--restored', '{}/none', '--metrics', 'psnr', '--out', '{}/file/out']),
        ('download', ['--manifest', '{}/none.yml', 'all']),
        ('data_latents', ['-i', '{}', '-o', '{}/codes.pth', '--vqgan', '{}/none.pth']),
        ('data_embed', ['-i', '{}', '-o', '{}/x.safetensors', '--weights', '{}/none.pth']),
        ('data_group', ['-i', '{}', '--embeddings', '{}/none.safetensors', '-o', '{}/x.csv']),
        ('recognizer_check', ['{}/none.pth', '-i', '{}']),
        ('recognizer_calibrate', ['-i', '{}', '--weights', '{}/none.pth', '-o', '{}/x.json']),
        ('export', ['--model', '{}/none.pth', '--output', '{}/x.onnx']),
        ('restore', ['-i', '{}/none', '-o', '{}/out', '--device', 'cpu']),
    ],
)
def test_nothing_begun_is_2_and_one_line(
    name: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / 'file').touch()
    module = import_module(f'basicsr.cli.{name}')
    assert module.main([argument.format(tmp_path) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert len([line for line in said.splitlines() if line.startswith('error: ')]) == 1, said


def test_a_start_imports_nothing_that_restoring_pictures_does_not_need():
    code = (
        'import sys, basicsr.cli.restore\n'
        'print(sorted({"torchvision", "torch._dynamo", "sympy", "scipy", "av", "basicsr.losses"} & set(sys.modules)))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == '[]\n'


def test_threads_sleep_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv('OMP_WAIT_POLICY', raising=False)
    let_threads_sleep()
    assert 'OMP_WAIT_POLICY' not in os.environ  # too late: PyTorch is there
    monkeypatch.delitem(sys.modules, 'torch')
    monkeypatch.setenv('GOMP_SPINCOUNT', '1000')
    let_threads_sleep()
    assert 'OMP_WAIT_POLICY' not in os.environ
    monkeypatch.delenv('GOMP_SPINCOUNT')
    monkeypatch.setenv('OMP_WAIT_POLICY', 'ACTIVE')
    let_threads_sleep()
    assert os.environ['OMP_WAIT_POLICY'] == 'ACTIVE'
    monkeypatch.delenv('OMP_WAIT_POLICY')
    let_threads_sleep()
    assert os.environ.pop('OMP_WAIT_POLICY') == 'PASSIVE'
