"""The wheel: what it brings, and what it does in another folder with nothing but the required packages."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from basicsr.cli.main import COMMANDS, main, usage
from basicsr.utils import folders
from basicsr.utils.errors import MissingExtraError, extra

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings the same module under this name
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text(encoding='utf-8'))['project']
SOURCES = (
    'basicsr', 'options', 'weights/small', 'weights/README.md', 'weights/manifest.yml', 'id_codeformer.py',
    'pyproject.toml', 'setup.py', 'MANIFEST.in', 'README.md', 'LICENSE',
)  # fmt: skip
GUARDED = {
    'app': 'app',
    'video': 'video',
    'models': 'train',
    'metrics': 'metrics',
}  # packages whose __init__ names the extra
WITHOUT_EXTRAS = """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split('.')[0] in {absent!r} else super().find_spec(name, path, target)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""


def canonical(requirement: str) -> str:
    """The name in a requirement as package indexes compare it."""
    return re.sub(r'[-_.]+', '-', re.match(r'[\w.-]+', requirement)[0]).lower()


def brought_by(name: str) -> set[str]:
    """The packages of an extra, those of the extras that it names included."""
    packages: set[str] = set()
    for line in PROJECT['optional-dependencies'][name]:
        others = re.match(r'id-codeformer\[(.*)\]', line)
        packages |= set().union(*map(brought_by, others[1].split(','))) if others else {canonical(line)}
    return packages


OWNERS = {module: {canonical(owner) for owner in owners} for module, owners in packages_distributions().items()}
REQUIRED = {canonical(line) for line in PROJECT['dependencies']}
ABSENT = {
    module
    for module, owners in OWNERS.items()
    if owners & brought_by('all') - {'onnxruntime'}  # the detector brings that one
}


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel, built from a copy of the sources, is installed into."""
    work = tmp_path_factory.mktemp('wheel')
    for name in SOURCES:
        source, target = ROOT / name, work / 'source' / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
        else:
            shutil.copyfile(source, target)
    pip = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check', '--no-input']
    wheel = ['wheel', '--no-deps', '--no-build-isolation', '-w', str(work), str(work / 'source')]
    subprocess.run([*pip, *wheel], check=True, capture_output=True, text=True)
    (file,) = work.glob('*.whl')
    install = ['install', '--no-deps', '--no-index', '--no-compile', '--target', str(work / 'site'), str(file)]
    subprocess.run([*pip, *install], check=True, capture_output=True, text=True)
    return work / 'site'


def python(site: Path, folder: Path, *arguments: str, absent: set[str] = ABSENT) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder` with the installed package, as if the modules `absent` were not installed."""
    block = folder / 'block'
    block.mkdir(exist_ok=True)
    (block / 'sitecustomize.py').write_text(WITHOUT_EXTRAS.format(absent=absent), encoding='utf-8')
    paths = os.pathsep.join(map(str, (block, site)))
    environment = {**os.environ, 'PYTHONPATH': paths, 'XDG_CACHE_HOME': str(folder / 'cache')}
    environment.pop(folders.WEIGHTS_VARIABLE, None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_brings_options_weights_and_the_command(installed: Path) -> None:
    assets = installed / 'basicsr' / 'assets'
    for name in ('options', 'weights/small'):
        expected = {path.relative_to(ROOT) for path in (ROOT / name).rglob('*') if path.is_file()}
        assert expected == {path.relative_to(assets) for path in (assets / name).rglob('*') if path.is_file()}
    assert {path.name for path in (assets / 'weights').iterdir()} == {'README.md', 'manifest.yml', 'small'}
    assert {path.name for path in installed.iterdir()} - {'bin', 'Scripts'} == {
        'basicsr',
        'id_codeformer.py',
        f'id_codeformer-{PROJECT["version"]}.dist-info',
    }
    assert len(list(installed.glob('[bS]*/id-codeformer*'))) == 1
    modules = {path.relative_to(ROOT) for path in (ROOT / 'basicsr').rglob('*.py')}
    assert modules == {path.relative_to(installed) for path in (installed / 'basicsr').rglob('*.py')}


def test_the_first_command_needs_no_extra_and_no_clone(installed: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / 'inputs' / 'cropped_faces' / 'astronaut_1.png', tmp_path / 'face.png')
    shutil.copy(ROOT / 'inputs' / 'astronaut_lowres.png', tmp_path)
    code = """
import sys, cv2
import id_codeformer, basicsr.utils.folders as folders
from basicsr.inference import FaceRestorer
sys.argv[1:] = ['restore', '-i', 'astronaut_lowres.png', '-s', '1', '--device', 'cpu']
code = id_codeformer.main()
shape = FaceRestorer('auto', 'cpu').restore(cv2.imread('face.png'))[0].shape
print('###', code, *shape, folders.weights_folder())
"""
    done = python(installed, tmp_path, '-c', code)
    printed, _, found = done.stdout.partition('### ')
    assert found == f'0 256 256 3 {tmp_path / "cache" / "id-codeformer" / "weights"}\n', done
    assert f'embedded small model ({installed}' in printed and '1 restored' in printed
    assert (tmp_path / 'results' / 'final_results' / 'astronaut_lowres.png').is_file()


MISSING = {
    'train -opt options/small/VQGAN_128_stage1.yml': 'train',
    'validate -opt options/small/VQGAN_128_stage1.yml': 'train',
    'evaluate --restored .': 'metrics',
    'export': 'export',
    'recognizer calibrate -i . -o a.json --weights b': 'references',
    'data group -i . --embeddings a -o b.csv': 'references',
    'data lmdb -i . -o a.lmdb': 'lmdb',
    'app': 'app',
    'restore -i clip.mp4': 'video',
    'restore -i clip.mp4 --bg_upsampler realesrgan': 'upsample',
}


def test_a_missing_extra_is_named(installed: Path, tmp_path: Path) -> None:
    """All commands in one process: the message goes to the screen, and the exit code says what was begun."""
    (tmp_path / 'clip.mp4').write_bytes(b'')
    code = (
        'from basicsr.cli.main import main\n'
        f'for line in {list(MISSING)}:\n'
        '    code = main(line.split())\n'
        "    print(f'### {line} {code}', flush=True)\n"
    )
    done = python(installed, tmp_path, '-c', f'import sys; sys.stderr = sys.stdout\n{code}')
    parts = re.split(r'### (.*) (\d+)\n', done.stdout)
    assert parts[1::3] == list(MISSING), done
    for text, line, exit_code in zip(parts[::3], MISSING, parts[2::3], strict=False):
        assert re.search(rf"pip install [\"']id-codeformer\[{MISSING[line]}\]", text), (line, text)
        assert exit_code == ('1' if line == 'restore -i clip.mp4' else '2'), line  # of the clip alone, work began


def test_help_is_quick_and_names_every_command(installed: Path, tmp_path: Path) -> None:
    code = (
        'import sys; from id_codeformer import main; sys.argv = ["id-codeformer", "--help"]; main()\n'
        'print(sorted({"torch", "numpy", "cv2"} & set(sys.modules)))'
    )
    done = python(installed, tmp_path, '-c', code)
    assert done.stdout == f'{usage()}\n[]\n', done.stderr


def test_the_other_basicsr_is_named_in_one_line(installed: Path, tmp_path: Path) -> None:
    """The package of PyPI writes into the same folder, before or after ours, or lies before it on the path."""
    site, shadow = tmp_path / 'site', tmp_path / 'shadow'
    (site / 'basicsr').mkdir(parents=True)
    shutil.copy(installed / 'id_codeformer.py', site)
    shutil.copy(installed / 'basicsr' / '__init__.py', site / 'basicsr')
    (shadow / 'basicsr').mkdir(parents=True)
    (shadow / 'basicsr' / '__init__.py').write_text('import torchvision.transforms.functional_tensor\n')
    for folder in (site, shadow):
        (folder / 'basicsr-1.4.2.dist-info').mkdir()
        metadata = 'Metadata-Version: 2.1\nName: basicsr\nVersion: 1.4.2\n'
        (folder / 'basicsr-1.4.2.dist-info' / 'METADATA').write_text(metadata)
    done = python(site, tmp_path, '-c', 'import basicsr')
    assert 'ImportError' in done.stderr and 'environment of its own' in done.stderr.splitlines()[-1]
    for where in (site, f'{shadow}{os.pathsep}{installed}'):
        done = python(where, tmp_path, '-m', 'id_codeformer', '--help')
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and "package 'basicsr' of PyPI" in line and 'environment of its own' in line
    beside = f'{installed}{os.pathsep}{shadow}'
    assert python(beside, tmp_path, '-m', 'id_codeformer', '--version').stdout == f'{PROJECT["version"]}\n'


# ---- the command line


def test_every_command_has_a_main_that_takes_arguments() -> None:
    for module, _ in COMMANDS.values():
        with pytest.raises(SystemExit) as caught:
            import_module(f'basicsr.cli.{module}').main(['--help'])
        assert caught.value.code == 0
    parts = {'__init__', 'arguments', 'main', 'restore_flags'}
    modules = {path.stem for path in (ROOT / 'basicsr' / 'cli').glob('*.py')} - parts
    assert modules == {module for module, _ in COMMANDS.values()}


@pytest.mark.parametrize(
    ('arguments', 'code', 'words'),
    [
        (['data', '--help'], 0, 'data pairs'),
        (['-h'], 0, 'restore'),
        ([], 2, 'usage'),
        (['recognizer'], 2, 'recognizer check'),
        (['restroe', '-i', 'a'], 2, "did you mean 'restore'"),
        (['data', 'alin'], 2, "did you mean 'data align'"),
        (['--versoin'], 2, "unknown command '--versoin'"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: Sequence[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    streams = capsys.readouterr()
    assert words in (streams.err if code else streams.out)


def test_the_name_of_a_command_stands_in_its_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['id-codeformer'])
    with pytest.raises(SystemExit):
        main(['data', 'pairs', '--help'])
    assert capsys.readouterr().out.startswith('usage: id-codeformer data pairs [-h]')


# ---- folders


def test_weights_and_options_are_found_by_their_names_in_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(folders.WEIGHTS_VARIABLE, str(tmp_path / 'mine'))
    small = folders.find_packaged('weights/small/codeformer_128.safetensors')
    assert small == ROOT / 'weights' / 'small' / 'codeformer_128.safetensors'
    assert folders.find_packaged('options/eval/published.yaml') == ROOT / 'options' / 'eval' / 'published.yaml'
    for name in ('weights/none.pth', 'options/none.yml', 'other/README.md', '', str(tmp_path / 'none')):
        assert folders.find_packaged(name) == Path(name)
    own, here = tmp_path / 'mine/small/codeformer_128.safetensors', Path('weights/small/codeformer_128.safetensors')
    for path in (own, here):  # each comes before those above
        path.parent.mkdir(parents=True)
        path.touch()
        assert folders.find_packaged(here) == path


def test_an_installed_package_keeps_downloads_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(folders.WEIGHTS_VARIABLE, raising=False)
    assert folders.weights_folder() == ROOT / 'weights'
    monkeypatch.setattr(folders, 'INSTALLED', tmp_path)
    monkeypatch.setattr(sys, 'platform', 'linux')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    assert folders.packaged('options') == tmp_path / 'options'
    assert folders.weights_folder() == tmp_path / 'cache' / 'id-codeformer' / 'weights'
    monkeypatch.setattr(sys, 'platform', 'win32')
    monkeypatch.setenv('LOCALAPPDATA', str(tmp_path / 'local'))
    assert folders.weights_folder() == tmp_path / 'local' / 'id-codeformer' / 'weights'


# ---- dependencies


def test_there_are_few_required_packages_and_all_brings_every_extra() -> None:
    assert len(REQUIRED) <= 10
    extras = set(PROJECT['optional-dependencies']) - {'all', 'lint', 'test'}
    assert brought_by('all') == set().union(*map(brought_by, extras))
    assert not brought_by('all') & REQUIRED


def test_extra_names_the_missing_package_and_lets_our_own_mistakes_through() -> None:
    with (
        pytest.raises(
            MissingExtraError, match=r'needs the package nothing_of_this: pip install "id-codeformer\[video\]"'
        ),
        extra('video'),
    ):
        import_module('nothing_of_this.part')
    with pytest.raises(ModuleNotFoundError) as caught, extra('video'):
        import_module('basicsr.no_such_module')
    assert not isinstance(caught.value, MissingExtraError)


def unguarded(path: Path, allowed: set[str]) -> list[str]:
    """Imports of packages that no enclosing `with extra(...)` brings."""
    found = []

    def walk(node: ast.AST, packages: set[str]) -> None:
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            return
        if isinstance(node, ast.Try) and any('ImportError' in ast.unparse(h.type) for h in node.handlers if h.type):
            return
        if isinstance(node, ast.With):
            for item in node.items:
                call = item.context_expr
                if isinstance(call, ast.Call) and ast.unparse(call.func) == 'extra':
                    packages = packages | brought_by(ast.literal_eval(call.args[0]))
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for top in {name.split('.')[0] for name in names} - set(sys.stdlib_module_names) - {'basicsr'}:
            if not OWNERS.get(top, {canonical(top)}) & (packages | allowed):
                found.append(f'{path.relative_to(ROOT)}:{node.lineno}: {top}')
        for child in ast.iter_child_nodes(node):
            walk(child, packages)

    walk(ast.parse(path.read_text(encoding='utf-8')), set())
    return found


def test_every_import_of_an_optional_package_names_its_extra() -> None:
    problems = []
    for path in [*(ROOT / 'basicsr').rglob('*.py'), ROOT / 'id_codeformer.py']:
        guard = GUARDED.get(path.parent.name) if path.name != '__init__.py' else None
        allowed = REQUIRED | {'onnxruntime'} | (brought_by(guard) if guard else set())
        problems += unguarded(path, allowed)
    assert not problems, problems
