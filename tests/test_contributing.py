"""The recipes of docs/extend.md, followed to the letter in a copy of the project."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small import stage_options

from basicsr.utils.options import merge

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r'```(python|yaml|)\n(.*?)```', re.DOTALL)
FOLLOW = """
import sys
import yaml
from basicsr.cli import evaluate, train
from basicsr.data import build_dataset
assert train.main(['-opt', 'opt.yml']) == 0
data = build_dataset(yaml.safe_load(open('opt.yml'))['datasets']['train'])
print('darker:', all((data[v]['in'].mean() < data[v]['gt'].mean() - 0.1) for v in range(4)))
sys.exit(evaluate.main(sys.argv[1:]))
"""
FILE = re.compile(r'`(basicsr/[\w/]+\.py)`')


def recipe(text: str, title: str) -> tuple[dict[str, list[str]], dict, str]:
    """A recipe's code by the file that the text before names last, its options, and its command ('' for none)."""
    section = text.split(f'\n## {title}\n')[1].split('\n## ')[0]
    code: dict[str, list[str]] = {}
    options, command, before = {}, '', 0
    for block in BLOCK.finditer(section):
        kind, content = block.groups()
        if kind == 'python':
            code.setdefault(FILE.findall(section[before : block.start()])[-1], []).append(content)
        elif kind == 'yaml':
            options = yaml.safe_load(content)
        else:
            command = content.strip()
        before = block.end()
    return code, options, command


@pytest.fixture(scope='module')
def followed(tmp_path_factory) -> tuple[Path, str]:
    """The project with all three recipes followed, what a process said that used them."""
    root = tmp_path_factory.mktemp('fork')
    for name in ('basicsr', 'scripts', 'options'):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns('__pycache__'))
    opt, command, functions = stage_options(2, root, total_iter=1), '', {}
    text = (ROOT / 'docs' / 'extend.md').read_text(encoding='utf-8')
    for title in ('A loss', 'A dataset', 'A metric'):
        code, options, command = recipe(text, title)
        assert len(code) == 2, f'a file of its own, and one that knows of it: {list(code)}'
        for file, parts in code.items():
            path = root / file
            if path.exists():
                parts = [f'from {functions[name]} import {name}\n' for name in functions if name in parts[0]] + parts
                parts = [path.read_text(encoding='utf-8'), *dict.fromkeys(parts)]
            else:
                names = re.findall(r'^(?:class|def) (\w+)', parts[0], re.MULTILINE)
                functions |= dict.fromkeys(names, file.removesuffix('.py').replace('/', '.'))
            path.write_text('\n'.join(parts), encoding='utf-8')
        opt = merge(opt, options)
    (root / 'opt.yml').write_text(yaml.safe_dump(opt))
    words = {'RESTORED': 'faces', 'GT': 'faces', 'OUT': 'results'}
    arguments = [words.get(word, word) for word in command.split()[2:]]
    environment = {**os.environ, 'PYTHONPATH': str(root), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-c', FOLLOW, *arguments]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root, done.stdout


def test_the_loss_is_computed(followed):
    log = next((followed[0] / 'experiments/stage2').glob('*.log')).read_text()
    assert re.search(r'l_gradient (\d\S*)', log) and float(re.search(r'l_gradient ([\d.e-]+)', log)[1]) > 0


def test_the_dataset_is_used(followed):
    saved = yaml.safe_load((followed[0] / 'experiments/stage2/options.yml').read_text())
    assert saved['datasets']['train']['type'] == 'DarkFacesDataset'
    assert 'darker: True' in followed[1]


def test_the_metric_judges_validations_and_folders(followed):
    root = followed[0]
    with (root / 'experiments/stage2/validation_val.csv').open() as file:
        validated = float(next(csv.DictReader(file))['colour_distance'])
    assert 0 < validated < 442 and (root / 'experiments/stage2/models/net_g_best.json').is_file()
    with (root / 'results/per_image.csv').open() as file:
        assert {float(row['colour_distance']) for row in csv.DictReader(file)} == {0}
