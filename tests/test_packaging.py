"""The texts and files around the package agree with each other, and importing it is harmless."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import basicsr

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings the same module under this name
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
PATTERNS = ('basicsr/**/*.py', 'scripts/**/*.py', 'experiments/**/*.py', 'tests/**/*.py', 'inference_*.py')
SOURCES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, with dots; `from a import b` counts as `a`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


def canonical(requirement: str) -> str:
    """The name in a requirement as package indexes compare it."""
    return re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', requirement)[0]).lower()


def test_requirements_are_those_of_the_project() -> None:
    lines = (ROOT / 'requirements.txt').read_text(encoding='utf-8').splitlines()
    assert [line for line in lines if line and not line.startswith('#')] == PROJECT['dependencies']


def test_version_is_stated_once() -> None:
    assert PROJECT['version'] == basicsr.__version__
    assert f'\nversion: {basicsr.__version__}\n' in (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert f'\n## {basicsr.__version__}' in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')


def test_licence_is_there() -> None:
    text = (ROOT / 'LICENSE').read_text(encoding='utf-8')
    assert 'Apache License' in text
    assert 'END OF TERMS AND CONDITIONS' in text
    assert PROJECT['license'] == 'Apache-2.0'
    assert PROJECT['license-files'] == ['LICENSE']


def test_basicsr_is_ours_and_every_module_of_it_that_is_imported_is_here() -> None:
    assert Path(basicsr.__file__).parent == ROOT / 'basicsr'
    for path in SOURCES:
        for name in imported(path):
            if name.split('.')[0] == 'basicsr':
                spec = find_spec(name)
                assert spec is not None, f'{path}: {name} is not in this repository'
                assert Path(spec.origin).is_relative_to(ROOT / 'basicsr')


def test_every_import_is_a_declared_dependency() -> None:
    extras = {name: {canonical(line) for line in lines} for name, lines in PROJECT['optional-dependencies'].items()}
    optional = set().union(*(lines for name, lines in extras.items() if name != 'test'))
    declared = {canonical(line) for line in PROJECT['dependencies']} | optional
    tests_too = declared | extras['test'] | {'tomli'}
    distributions = packages_distributions()
    local = {
        'basicsr',
        'experiments',
        *(path.stem for path in [*ROOT.glob('inference_*.py'), *(ROOT / 'tests').rglob('*.py')]),
    }
    for path in SOURCES:
        allowed = tests_too if path.is_relative_to(ROOT / 'tests') else declared
        for top in {name.split('.')[0] for name in imported(path)} - local - set(sys.stdlib_module_names):
            owners = {canonical(owner) for owner in distributions.get(top, [top])}
            assert owners & allowed, f'{path} imports {top}, which pyproject.toml does not declare'


def readme_script():
    """The module of scripts/readme_command.py."""
    spec = spec_from_file_location('readme_command', ROOT / 'scripts' / 'readme_command.py')
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_has_the_two_commands() -> None:
    script = readme_script()
    text = script.README.read_text(encoding='utf-8')
    assert 'python inference_codeformer.py' in script.readme_command(text, 'restore')
    assert 'pytest' in script.readme_command(text, 'test')


def test_readme_command_reads_only_a_marked_fence_of_one_line() -> None:
    command = readme_script().readme_command
    text = (
        'x\n<!-- command: a -->\n```bash\necho 1 && echo 2\n```\n```\nother\n```\n<!-- command: b -->\n```\n1\n2\n```\n'
    )
    assert command(text, 'a') == 'echo 1 && echo 2'
    for name in ('b', 'c'):
        with pytest.raises(ValueError, match=f"0 commands '{name}'"):
            command(text, name)
