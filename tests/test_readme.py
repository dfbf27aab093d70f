"""What the README and the guides tell people to type exists and is understood; CI runs the two main commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from basicsr.cli import restore as inference_codeformer
from basicsr.cli import train
from basicsr.models.schema import check_options
from basicsr.utils.options import load_options
from basicsr.utils.weights import read_manifest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    'README.md', 'docs/TRAINING.md', 'docs/IDENTITY.md', 'docs/evaluation.md', 'docs/results/trials.md',
    'weights/README.md', 'CONTRIBUTING.md', 'docs/CODEFORMERPP.md', 'experiments/codeformerpp/README.md',
]  # fmt: skip
FENCE = re.compile(r'^```\w*\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINES = [
    line.strip()
    for page in PAGES
    for fence in FENCE.findall((ROOT / page).read_text(encoding='utf-8'))
    for line in fence.replace('\\\n', ' ').split('&&' if '&&' in fence else '\n')
    if line.strip().startswith('python ') and ' -m ' not in line
]


def body_of(script: Path) -> Path:
    """The module that a thin script calls."""
    module = re.search(r'from ([\w.]+) import main$', script.read_text(encoding='utf-8'), re.MULTILINE)
    return ROOT.joinpath(*module[1].split('.')).with_suffix('.py')


def test_there_are_commands():
    assert len(LINES) > 8


@pytest.mark.parametrize('line', LINES)
def test_command_is_understood(line):
    script, *arguments = shlex.split(line)[1:]
    source = body_of(ROOT / script).read_text(encoding='utf-8')
    for flag in (argument for argument in arguments if re.match('--?[a-zA-Z]', argument)):
        assert f"'{flag.replace('--no-', '--')}'" in source, flag
    if script == 'inference_codeformer.py':
        inference_codeformer.build_parser().parse_args(arguments)
    elif script == 'basicsr/train.py':
        check_options(load_options(ROOT / train.parse_arguments(arguments).opt))
    elif script == 'scripts/download_pretrained_models.py':
        groups = {*read_manifest(ROOT / 'weights' / 'manifest.yml'), 'all'}
        assert set('|'.join(arguments).split('|')) <= groups


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding='utf-8')
    for target in re.findall(r'\]\(([^)#:]+)\)', text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
