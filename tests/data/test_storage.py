"""Pictures from an lmdb and from memory: what a folder gives, and clear errors."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch

from basicsr.cli import data_lmdb
from basicsr.data import DataError, build_dataloader, build_dataset
from basicsr.utils.image import imwrite

lmdb = pytest.importorskip('lmdb')
ROOT = Path(__file__).resolve().parents[2]
NAMES = ['a.png', 'b.jpg', 'deep/er/c.webp', 'deep/d.e.bmp', 'z z (1).png']


@pytest.fixture(scope='module')
def script() -> ModuleType:
    """The command that packs a folder."""
    return data_lmdb


def picture(number: int, size: int = 64) -> np.ndarray:
    """A crop of the astronaut, RGB uint8 (size,size,3), another for each number."""
    return skimage.data.astronaut()[5 * number :, 100 + 7 * number :][:size, :size].copy()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Five pictures, some of them nested, some with dots and spaces in their names."""
    for number, name in enumerate(NAMES):
        imwrite(tmp_path / 'faces' / name, picture(number))
    return tmp_path / 'faces'


@pytest.fixture
def packed(faces: Path, script: ModuleType) -> Path:
    """The same in an lmdb."""
    target = faces.with_name('faces.lmdb')
    assert script.main(['-i', str(faces), '-o', str(target)]) == 0
    return target


def options(root: Path, backend: str, kind: str = 'FFHQBlindDataset', **more: Any) -> dict[str, Any]:
    found = {'type': kind, 'dataroot_gt': str(root), 'io_backend': {'type': backend}, **more}
    return found | ({'dataroot_lq': str(root)} if kind == 'PairedImageDataset' else {'gt_size': 64, 'seed': 3})


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Equal tensors and keys; the paths may lie in different folders."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items() if isinstance(value, torch.Tensor)
    )


@pytest.mark.parametrize('kind', ['FFHQBlindDataset', 'FFHQBlindJointDataset', 'PairedImageDataset'])
@pytest.mark.parametrize('backend', ['lmdb', 'memory', 'memory of lmdb'])
def test_one_seed_gives_the_same_samples_from_everywhere(kind: str, backend: str, faces: Path, packed: Path) -> None:
    disk = build_dataset(options(faces, 'disk', kind))
    other = build_dataset(options(packed if 'lmdb' in backend else faces, backend.split()[0], kind))
    assert len(disk) == len(other) == len(NAMES)
    for v in range(2 * len(NAMES)):
        assert same(disk[v], other[v])
        root = packed if 'lmdb' in backend else faces
        assert Path(other[v]['gt_path']).relative_to(root) == Path(disk[v]['gt_path']).relative_to(faces)


@pytest.mark.parametrize('backend', ['lmdb', 'memory'])
def test_workers_read_what_one_process_reads(backend: str, faces: Path, packed: Path) -> None:
    data = build_dataset(options(packed if backend == 'lmdb' else faces, backend))
    data[0]  # so that this process has the lmdb open when the workers start
    alone, shared = (
        iter(build_dataloader(data, {'num_worker_per_gpu': workers, 'batch_size_per_gpu': 3}, seed=1))
        for workers in (0, 2)
    )
    for _ in range(4):
        assert same(next(alone), next(shared))
    data[1]  # and it can still read


@pytest.mark.parametrize('backend', ['lmdb', 'memory'])
def test_datasets_can_be_pickled(backend: str, faces: Path, packed: Path) -> None:
    data = build_dataset(options(packed if backend == 'lmdb' else faces, backend))
    assert same(pickle.loads(pickle.dumps(data))[3], data[3])


def test_tables_meet_the_pictures_of_an_lmdb(packed: Path, tmp_path: Path) -> None:
    codes = {key: torch.full((4,), number) for number, key in enumerate(['a', 'b', 'deep/d.e', 'deep/er/c', 'z z (1)'])}
    torch.save({'orig': codes, 'hflip': codes}, tmp_path / 'codes.pth')
    data = build_dataset(options(packed, 'lmdb', latent_gt_path=str(tmp_path / 'codes.pth')))
    assert [int(data[v]['latent_gt'][0]) for v in range(5)] == [0, 1, 2, 3, 4]


def test_the_files_go_in_as_they_are_under_the_published_names(faces: Path, packed: Path) -> None:
    lines = (packed / 'meta_info.txt').read_text(encoding='utf-8').splitlines()
    assert lines == [f'{name} (64,64,3) 0' for name in sorted(NAMES, key=Path)]
    with lmdb.open(str(packed), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for name in NAMES:
            assert transaction.get(name.rsplit('.', 1)[0].encode()) == (faces / name).read_bytes()


def test_an_lmdb_as_basicsr_makes_it_can_be_read(faces: Path, tmp_path: Path) -> None:
    """Always '.png', in an order of its own, with a lock file and more keys than it lists."""
    target = tmp_path / 'theirs.lmdb'
    with lmdb.open(str(target), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for name in ('b', 'a', 'unlisted'):
            transaction.put(name.encode(), (faces / 'a.png').read_bytes())
    (target / 'meta_info.txt').write_text('b.png (64,64,3) 1\na.png (64,64,3) 1\n')
    data = build_dataset(options(target, 'lmdb', use_hflip=False))
    assert [Path(data[v]['gt_path']).name for v in range(2)] == ['a.png', 'b.png']
    assert torch.equal(data[0]['gt'], data[1]['gt'])


def test_an_lmdb_made_anew_is_read_anew(faces: Path, packed: Path, script: ModuleType) -> None:
    before = build_dataset(options(packed, 'lmdb', use_hflip=False))[0]['gt']
    shutil.rmtree(packed)
    imwrite(faces / 'a.png', picture(20))
    assert script.main(['-i', str(faces), '-o', str(packed)]) == 0
    assert not torch.equal(build_dataset(options(packed, 'lmdb', use_hflip=False))[0]['gt'], before)


def spoil(packed: Path, how: str) -> None:
    data, meta = packed / 'data.mdb', packed / 'meta_info.txt'
    if how == 'truncated':
        os.truncate(data, data.stat().st_size // 2)
    elif how == 'emptied':
        os.truncate(data, 0)
    elif how == 'junk':
        data.write_bytes(bytes(range(256)) * 300)
    elif how == 'no data':
        data.unlink()
    elif how == 'no list':
        meta.unlink()
    elif how == 'foreign list':
        meta.write_text('a.png (64,64,3) 0\nwhatever\n')
    elif how == 'binary list':
        meta.write_bytes(b'\xff\xfe\x00')
    elif how == 'empty list':
        meta.write_text('')
    elif how == 'more listed':
        meta.write_text(meta.read_text() + 'later.png (64,64,3) 0\n')


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('truncated', 'data.mdb: truncated'),
        ('emptied', 'damaged'),
        ('junk', 'damaged'),
        ('no data', 'not an lmdb'),
        ('no list', 'meta_info.txt: cannot be read'),
        ('foreign list', "line 2 is 'whatever'"),
        ('binary list', 'meta_info.txt: cannot be read'),
        ('empty list', 'names no picture'),
        ('more listed', 'holds 5 of the 6 pictures'),
    ],
)
def test_a_damaged_or_foreign_lmdb_is_named(how: str, message: str, packed: Path) -> None:
    spoil(packed, how)
    with pytest.raises(DataError, match=rf'faces\.lmdb.*{message}.*id-codeformer data lmdb'.replace('.*data', '.data')):
        build_dataset(options(packed, 'lmdb'))


def test_a_picture_that_the_lmdb_lacks_names_itself(packed: Path) -> None:
    meta = packed / 'meta_info.txt'
    meta.write_text(meta.read_text().replace('a.png', 'other.png'))
    data = build_dataset(options(packed, 'lmdb'))
    with pytest.raises(DataError, match=r'other\.png.*does not hold it'):
        data[[path.name for path in data.files.paths].index('other.png')]
    skipping = build_dataset(options(packed, 'lmdb', on_error='skip'))
    assert [same(skipping[v], data[v]) for v in range(3)] == [True] * 3
    skipping[3]
    assert [Path(path).name for path, _ in skipping.skipped] == ['other.png']


@pytest.mark.parametrize(
    ('backend', 'name', 'message'),
    [('lmdb', 'faces', r'no folder whose name ends in \.lmdb'), ('lmdb', 'none.lmdb', r'none\.lmdb is no folder'),
     ('disk', 'faces.lmdb', 'is an lmdb; set io_backend'), ('memory', 'none', 'no such folder')],
)  # fmt: skip
def test_a_backend_that_does_not_fit_the_folder_says_so(backend: str, name: str, message: str, packed: Path) -> None:
    with pytest.raises(DataError, match=f'dataroot_gt: .*{message}'):
        build_dataset(options(packed.with_name(name), backend))


def test_without_the_package_the_remedy_is_named(
    faces: Path, packed: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'lmdb', None)
    with pytest.raises(DataError, match=r"pip install 'id-codeformer\[lmdb\]'"):
        build_dataset(options(packed, 'lmdb'))
    assert script.main(['-i', str(faces), '-o', str(faces.with_name('new.lmdb'))]) == 2
    assert 'pip install' in capsys.readouterr().err


def test_memory_says_its_size_and_needs_the_files_no_more(faces: Path, caplog: pytest.LogCaptureFixture) -> None:
    (faces / 'b.jpg').write_bytes(b'nothing')
    size = sum((faces / name).stat().st_size for name in NAMES)
    with caplog.at_level(logging.INFO):
        data = build_dataset(options(faces, 'memory', on_error='skip'))
    assert f'5 pictures in {size / 1e6:.1f} MB of memory' in caplog.text
    shutil.rmtree(faces)
    assert {Path(data[v]['gt_path']).name for v in range(5)} == {Path(name).name for name in NAMES} - {'b.jpg'}
    assert ['not a readable picture' in reason for _, reason in data.skipped] == [True]


def test_a_file_that_memory_could_not_read_is_an_error_when_it_is_asked_for(
    faces: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == 'b.jpg':
            raise PermissionError(13, 'Permission denied', str(path))
        return read(path)

    monkeypatch.setattr(Path, 'read_bytes', refuse)
    data = build_dataset(options(faces, 'memory'))
    data[0]
    with pytest.raises(DataError, match=r'Permission denied.*b\.jpg'):
        data[1]


# ---- the script


def test_unreadable_pictures_are_left_out_and_named(faces: Path, script: ModuleType, capsys) -> None:
    (faces / 'b.jpg').write_bytes(b'nothing')
    target = faces.with_name('some.lmdb')
    assert script.main(['-i', str(faces), '-o', str(target)]) == 1
    output = capsys.readouterr()
    assert 'left out' in output.err and 'b.jpg' in output.err and '4 pictures' in output.out
    assert len(build_dataset(options(target, 'lmdb'))) == 4


@pytest.mark.parametrize('fault', ['exists', 'inside', 'name', 'twice', 'nothing', 'no folder', 'unreadable'])
def test_what_cannot_be_packed_is_named_and_leaves_nothing(
    fault: str, faces: Path, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = faces, faces.with_name('new.lmdb')
    if fault == 'exists':
        target.mkdir()
    elif fault == 'inside':
        target = faces / 'deep' / 'new.lmdb'
    elif fault == 'name':
        target = faces.with_name('new')
    elif fault == 'twice':
        imwrite(faces / 'a.jpg', picture(0))
    elif fault == 'no folder':
        source = faces.with_name('none')
    else:
        shutil.rmtree(faces)
        faces.mkdir()
        if fault == 'unreadable':
            (faces / 'x.png').write_bytes(b'nothing')
    before = sorted(faces.parent.rglob('*'))
    assert script.main(['-i', str(source), '-o', str(target)]) == 2
    assert 'error: ' in capsys.readouterr().err
    assert sorted(faces.parent.rglob('*')) == before


def test_more_pictures_than_one_batch(tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, 'BATCH', 4)
    for number in range(11):
        imwrite(tmp_path / 'many' / f'{number:02d}.png', picture(number))
    assert script.main(['-i', str(tmp_path / 'many'), '-o', str(tmp_path / 'many.lmdb')]) == 0
    folder, packed = (
        build_dataset(options(tmp_path / f'many{end}', kind)) for end, kind in (('', 'disk'), ('.lmdb', 'lmdb'))
    )
    assert all(same(folder[v], packed[v]) for v in range(11))
