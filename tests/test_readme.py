"""What the README and the guides tell people to type exists and is understood; CI runs the two main commands."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from guides import python_of, run_python

from basicsr.cli import restore, train
from basicsr.cli.main import COMMANDS
from basicsr.models.schema import check_options
from basicsr.utils.options import load_options
from basicsr.utils.weights import read_manifest

ROOT = Path(__file__).resolve().parents[1]
PATTERNS = (
    '*.md',
    'docs/**/*.md',
    'weights/**/*.md',
    'experiments/**/*.md',
)
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in PATTERNS
    for path in ROOT.glob(pattern)
    if path.name != 'CHANGELOG.md'
)
FENCE = re.compile(r'^```\w*\n(.*?)^```$', re.MULTILINE | re.DOTALL)
LINES = sorted(
    {
        line.strip()
        for page in PAGES
        for fence in FENCE.findall((ROOT / page).read_text(encoding='utf-8'))
        for line in fence.replace('\\\n', ' ').split('&&' if '&&' in fence else '\n')
        if line.strip().startswith(('python ', 'id-codeformer ')) and ' -m ' not in line
    }
)


def parse_command(line: str) -> tuple[str, list[str], Path]:
    """Return the command of a line, its arguments, and the module that reads them."""
    first, *words = shlex.split(line)
    if first == 'id-codeformer':
        name = next(name for name in (' '.join(words[:2]), words[0]) if name in COMMANDS)
        arguments = words[len(name.split()) :]
    else:
        name, *arguments = words
        text = (ROOT / name).read_text(encoding='utf-8')
        command = re.search(r"run\('([\w ]+)'[,)]", text)
        if not command:
            module = re.search(r'from ((?:experiments|basicsr)[\w.]+) import main$', text, re.MULTILINE)[1]
            return name, arguments, ROOT.joinpath(*module.split('.')).with_suffix('.py')
        name = command[1]
    return name, arguments, ROOT / 'basicsr' / 'cli' / f'{COMMANDS[name][0]}.py'


def test_there_are_commands():
    assert len(LINES) > 8


@pytest.mark.parametrize('line', LINES)
def test_command_is_understood(line):
    name, arguments, module = parse_command(re.sub(r'\$\{\w+\}', '1', line))  # variables of a scheduler
    if name == 'restore':
        restore.build_parser().parse_args(arguments)
        return
    source = module.read_text(encoding='utf-8')
    for flag in (argument for argument in arguments if re.match('--?[a-zA-Z]', argument)):
        assert f"'{flag.replace('--no-', '--')}'" in source, flag
    if name == 'train':
        check_options(load_options(ROOT / train.parse_arguments(arguments).opt))
    elif name == 'download':
        groups = {*read_manifest(ROOT / 'weights' / 'manifest.yml'), 'all'}
        assert set('|'.join(arguments).split('|')) <= groups


def anchors(path: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', path.read_text(encoding='utf-8'), re.MULTILINE)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding='utf-8')
    for target, anchor in re.findall(r'\]\(([^)#:]*)#?([^):]*)\)', text):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), f'{target}#{anchor}'


BEFORE_THE_GUIDE = """
from pathlib import Path
import numpy as np
from PIL import Image
photo = aligned_face = np.asarray(Image.open({photo!r}).convert('RGB'))
Path('photos').mkdir()
Image.fromarray(photo).save('photos/a.png')
"""
AFTER_THE_GUIDE = """
assert faces[0].dtype == np.uint8
assert result.image.shape == (2 * photo.shape[0], 2 * photo.shape[1], 3)
assert [face.status for face in result.faces] == ['restored']
assert record.status == 'restored' and Path('results/final_results/a.png').is_file()
assert again[0].shape == first[0].shape
"""


def test_python_of_the_guide_runs(tmp_path):
    before = BEFORE_THE_GUIDE.format(photo=str(ROOT / 'inputs' / 'astronaut_lowres.png'))
    code = '\n'.join([before, python_of('python.md'), AFTER_THE_GUIDE])
    run_python(code, tmp_path, CODEFORMER_WEIGHTS=str(tmp_path))  # the small model


def test_the_readme_is_short():
    assert len((ROOT / 'README.md').read_text(encoding='utf-8').split()) < 900


def test_messages_of_the_page_are_those_of_the_code():
    """Each quoted message, cut at its `…`, is found in the texts of the code."""
    files = [ROOT / 'id_codeformer.py', *(ROOT / 'basicsr').rglob('*.py')]
    texts = '\n'.join(
        node.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8')))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    page = (ROOT / 'docs' / 'troubleshoot.md').read_text(encoding='utf-8')
    rows = re.findall(r'^\| ([^|]*`[^|]*) \|', page.split('\n## Training\n')[0], re.MULTILINE)
    messages = [message for row in rows for message in re.findall('`([^`]+)`', row) if ' ' in message]
    assert len(messages) > 20
    for message in messages:
        for part in message.split('…'):
            assert part in texts, message
