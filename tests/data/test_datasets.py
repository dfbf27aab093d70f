"""The datasets: items, options, errors and latent codes."""

from __future__ import annotations

import importlib
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
import yaml
from small import save_vqgan
from small_recognizer import save_tiny

from basicsr.cli.main import run
from basicsr.data import DataError, FFHQBlindDataset, build_dataloader, build_dataset
from basicsr.utils.image import imread, imwrite, to_tensor

COMMANDS = ['basicsr.cli.data_latents', 'experiments.ablation.reconstruct', 'basicsr.cli.data_embed']
PUBLISHED_STAGE2 = """
name: FFHQ
type: FFHQBlindDataset
dataroot_gt: datasets/ffhq/ffhq_512
filename_tmpl: '{}'
io_backend:
  type: disk
in_size: 64
gt_size: 64
mean: [0.5, 0.5, 0.5]
std: [0.5, 0.5, 0.5]
use_hflip: true
use_corrupt: true
blur_kernel_size: 41
use_motion_kernel: false
motion_kernel_prob: 0.001
kernel_list: ['iso', 'aniso']
kernel_prob: [0.5, 0.5]
blur_sigma: [1, 15]
downsample_range: [4, 30]
noise_range: [0, 20]
jpeg_range: [30, 80]
latent_gt_path: ~
eye_enlarge_ratio: 1.4
mouth_enlarge_ratio: 1.1
component_path: ~
color_jitter_prob: ~
color_jitter_shift: 20
color_jitter_pt_prob: ~
brightness: [0.5, 1.5]
contrast: [0.5, 1.5]
saturation: [0, 1.5]
hue: [-0.1, 0.1]
gray_prob: ~
num_worker_per_gpu: 2
batch_size_per_gpu: 4
dataset_enlarge_ratio: 100
prefetch_mode: ~
num_prefetch_queue: 4
pin_memory: true
"""
PUBLISHED_STAGE3 = """
blur_sigma: [0.1, 10]
downsample_range: [1, 12]
noise_range: [0, 15]
jpeg_range: [60, 100]
blur_sigma_large: [1, 15]
downsample_range_large: [4, 30]
noise_range_large: [0, 20]
jpeg_range_large: [30, 80]
"""


def picture(number: int, size: int = 64) -> np.ndarray:
    """A crop of the astronaut, RGB uint8 (size,size,3), another for each number."""
    return skimage.data.astronaut()[5 * number :, 100 + 7 * number :][:size, :size].copy()


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Five pictures in every format, some of them nested."""
    folder = tmp_path / 'faces'
    for number, name in enumerate(['a.png', 'b.jpg', 'deep/er/c.webp', 'deep/d.bmp', 'e.tiff']):
        imwrite(folder / name, picture(number))
    return folder


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return {'type': 'FFHQBlindDataset', 'dataroot_gt': str(folder), 'gt_size': 64, **more}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )


def test_every_format_in_nested_folders(faces: Path) -> None:
    data = build_dataset(options(faces, use_hflip=False))
    assert len(data) == 5
    for index in range(5):
        item = data[index]
        assert torch.equal(item['gt'], to_tensor(imread(item['gt_path'])))
        assert item['in'].shape == (3, 64, 64) and item['in'].dtype == torch.float32
        assert item['in'].min() >= -1 and item['in'].max() <= 1
        assert not torch.equal(item['in'], item['gt'])
    assert {Path(data[i]['gt_path']).suffix for i in range(5)} == {'.png', '.jpg', '.webp', '.bmp', '.tiff'}


def test_an_index_says_all_about_an_item(faces: Path) -> None:
    data, again = (build_dataset(options(faces, seed=3)) for _ in range(2))
    data[4]
    assert same(data[2], again[2])
    assert data[2]['gt_path'] == data[7]['gt_path'] and not torch.equal(data[2]['in'], data[7]['in'])
    assert not same(data[2], build_dataset(options(faces, seed=4))[2])


@pytest.mark.parametrize('kind', ['FFHQBlindDataset', 'FFHQBlindJointDataset'])
def test_the_number_of_workers_changes_nothing(kind: str, faces: Path) -> None:
    opt = options(faces, color_jitter_prob=0.5, use_motion_kernel=True, motion_kernel_prob=0.5) | {'type': kind}
    runs = []
    for workers in (0, 2):
        loader = build_dataloader(
            build_dataset(opt), {'num_worker_per_gpu': workers, 'batch_size_per_gpu': 3}, seed=1, start=2
        )
        batches = iter(loader)
        runs.append([next(batches) for _ in range(4)])
    assert all(same(first, second) for first, second in zip(*runs, strict=True))


def test_mean_and_std_are_honoured(faces: Path) -> None:
    plain = build_dataset(options(faces, use_hflip=False, mean=[0, 0, 0], std=[1, 1, 1]))[0]
    other = build_dataset(options(faces, use_hflip=False, mean=[0.1, 0.2, 0.3], std=[0.5, 1, 2]))[0]
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1), torch.tensor([0.5, 1, 2]).view(3, 1, 1)
    assert plain['gt'].min() >= 0 and plain['gt'].max() > 0.5
    for key in ('in', 'gt'):
        torch.testing.assert_close(other[key], (plain[key] - mean) / std)


def test_other_sizes_are_resized(tmp_path: Path) -> None:
    imwrite(tmp_path / 'big.png', np.repeat(np.repeat(picture(0), 2, 0), 2, 1))
    item = build_dataset(options(tmp_path, in_size=32, use_hflip=False))[0]
    assert torch.equal(item['gt'], to_tensor(picture(0)))
    assert item['in'].shape == (3, 32, 32)


def test_without_corruption_the_input_is_the_resized_truth(faces: Path) -> None:
    data = build_dataset(options(faces, use_corrupt=False, gray_prob=1))
    for v in range(10):
        assert torch.equal(data[v]['in'], data[v]['gt'])
    small = build_dataset(options(faces, use_corrupt=False, in_size=32))[0]
    torch.testing.assert_close(
        small['in'], torch.nn.functional.avg_pool2d(small['gt'][None], 2)[0], atol=1.01 / 255, rtol=0
    )


def test_flips_mirror_the_truth_half_of_the_time(faces: Path) -> None:
    data, straight = build_dataset(options(faces)), build_dataset(options(faces, use_hflip=False))
    flips = 0
    for v in range(60):
        truth = straight[v]['gt']
        mirrored = torch.equal(data[v]['gt'], truth.flip(2))
        assert mirrored or torch.equal(data[v]['gt'], truth)
        flips += mirrored
    assert 18 < flips < 42


@pytest.mark.parametrize('colour', [{'gray_prob': 1}, {'color_jitter_prob': 1}, {'color_jitter_pt_prob': 1}])
def test_colour_changes_touch_the_low_quality_side_only(colour: dict[str, float], faces: Path) -> None:
    plain, changed = build_dataset(options(faces)), build_dataset(options(faces, **colour))
    for v in range(5):
        assert torch.equal(plain[v]['gt'], changed[v]['gt'])
        assert not torch.equal(plain[v]['in'], changed[v]['in'])
    if 'gray_prob' in colour:
        assert torch.equal(changed[0]['in'][0], changed[0]['in'][1])
        assert not torch.equal(changed[0]['gt'][0], changed[0]['gt'][1])


def test_joint_items_hold_one_truth_at_two_severities(faces: Path) -> None:
    joint = build_dataset(options(faces) | {'type': 'FFHQBlindJointDataset'})
    assert joint.large_ranges.noise_range == (0, 20) and joint.ranges.noise_range == (0, 15)
    errors = torch.zeros(2)
    for v in range(40):
        item = joint[v]
        errors += torch.stack([(item[key] - item['gt']).square().mean() for key in ('in', 'in_large_de')])
    assert errors[1] > 1.5 * errors[0]
    small = {'blur_sigma': [0.025, 1], 'downsample_range': [1, 2], 'noise_range': [0, 5], 'jpeg_range': [80, 90]}
    blind = build_dataset(options(faces, **small))[3]
    item = build_dataset(options(faces, **small) | {'type': 'FFHQBlindJointDataset'})[3]
    assert torch.equal(blind['in'], item['in']) and torch.equal(blind['gt'], item['gt'])


def test_joint_options_reach_their_side(faces: Path) -> None:
    still = {'blur_sigma': None, 'downsample_range': None, 'noise_range': None, 'jpeg_range': None}
    quiet_small = build_dataset(options(faces, **still) | {'type': 'FFHQBlindJointDataset'})[1]
    assert torch.equal(quiet_small['in'], quiet_small['gt'])
    assert not torch.equal(quiet_small['in_large_de'], quiet_small['gt'])
    quiet_large = {f'{key}_large': None for key in still}
    item = build_dataset(options(faces, **quiet_large) | {'type': 'FFHQBlindJointDataset'})[1]
    assert torch.equal(item['in_large_de'], item['gt']) and not torch.equal(item['in'], item['gt'])


@pytest.mark.parametrize('kind', ['FFHQBlindDataset', 'FFHQBlindJointDataset'])
def test_published_options_run_unchanged_but_for_paths(kind: str, faces: Path) -> None:
    opt = yaml.safe_load(PUBLISHED_STAGE2)
    if kind == 'FFHQBlindJointDataset':
        opt |= yaml.safe_load(PUBLISHED_STAGE3)
    opt |= {'type': kind, 'dataroot_gt': str(faces)}
    data = build_dataset(opt)
    assert set(opt) <= data.OPTION_KEYS
    assert data.ranges.blur_sigma == tuple(opt['blur_sigma']) and data.ranges.blur_kernel_size == 41
    assert data[0]['in'].shape == (3, 64, 64)


def test_options_are_read_and_not_changed(faces: Path) -> None:
    opt = options(faces, kernel_list=['aniso'], kernel_prob=[1], jpeg_range=[50, 51])
    before = repr(opt)
    data = build_dataset(opt)
    assert repr(opt) == before
    assert (data.ranges.kernel_list, data.ranges.jpeg_range) == (('aniso',), (50, 51))
    assert data.ranges.noise_range == (0, 20)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'io_backend': {'type': 'petrel'}}, 'io_backend.*petrel'),
        ({'io_backend': {'type': 'disk', 'map_size': 1}}, 'io_backend.*map_size'),
        ({'io_backend': {'type': 'lmdb'}}, 'dataroot_gt.*ends in .lmdb'),
        ({'dataroot_gt': None}, 'dataroot_gt'),
        ({'gt_size': None}, 'gt_size'),
        ({'on_error': 'ignore'}, 'on_error'),
        ({'mean': [0.5]}, 'mean'),
        ({'blur_sigma': [3, 1]}, 'blur_sigma'),
        ({'gray_prob': 3}, 'gray_prob'),
    ],
)
def test_wrong_options_are_named(change: dict[str, Any], message: str, faces: Path) -> None:
    with pytest.raises(ValueError, match=message):
        build_dataset(options(faces) | change)


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    (tmp_path / 'empty').mkdir()
    for folder in (tmp_path / 'empty', tmp_path / 'absent'):
        with pytest.raises(DataError, match=folder.name):
            build_dataset(options(folder))
    with pytest.raises(KeyError, match="did you mean 'FFHQBlindDataset'"):
        build_dataset(options(tmp_path) | {'type': 'FFHQBlindData'})
    with pytest.raises(DataError, match="'type'"):
        build_dataset({'dataroot_gt': str(tmp_path)})


def spoil(folder: Path) -> dict[str, str]:
    """Add a damaged, an empty and a tiny picture: file name to what its message says."""
    whole = (folder / 'b.jpg').read_bytes()
    (folder / 'b1.jpg').write_bytes(b'not a picture' + whole[:50])
    (folder / 'b2.png').touch()
    imwrite(folder / 'b3.png', picture(0, 15))
    imwrite(folder / 'b4.png', picture(0, 96)[:64])
    return {
        'b1.jpg': 'not a readable picture',
        'b2.png': 'empty',
        'b3.png': '15x15',
        'b4.png': '96x64 pixels, and an aligned face is square',
    }


def test_a_bad_picture_names_itself(faces: Path) -> None:
    reasons = spoil(faces)
    data = build_dataset(options(faces))
    for index, path in enumerate(data.paths):
        if path.name in reasons:
            with pytest.raises(DataError, match=f'{path.name}.*{reasons[path.name]}'):
                data[index]
        else:
            data[index]


def test_skip_lists_bad_pictures_and_goes_on(faces: Path, caplog: pytest.LogCaptureFixture) -> None:
    reasons = spoil(faces)
    data = build_dataset(options(faces, on_error='skip'))
    assert data.skipped == []
    with caplog.at_level(logging.WARNING):
        items = [data[v] for v in range(3 * len(data))]
    assert {Path(path).name: reason for path, reason in data.skipped}.keys() == reasons.keys()
    for path, reason in data.skipped:
        assert reasons[Path(path).name] in reason
    assert len(caplog.records) == len(reasons)
    assert not {Path(item['gt_path']).name for item in items} & reasons.keys()
    first = data.paths.index(faces / 'b1.jpg')
    assert items[first]['gt_path'] == str(data.paths[first + 4])
    fresh = build_dataset(options(faces, on_error='skip'))
    assert all(same(fresh[v], items[v]) for v in reversed(range(len(items))))


def test_skips_of_workers_are_seen_by_the_main_process(faces: Path) -> None:
    reasons = spoil(faces)
    data = build_dataset(options(faces, on_error='skip'))
    batches = iter(build_dataloader(data, {'num_worker_per_gpu': 2, 'batch_size_per_gpu': 8}))
    next(batches)
    assert {Path(path).name for path, _ in data.skipped} == reasons.keys()


def test_a_pixel_of_rounding_is_no_other_shape(tmp_path: Path) -> None:
    imwrite(tmp_path / 'x.png', picture(0, 65)[:64])
    assert build_dataset(options(tmp_path))[0]['gt'].shape == (3, 64, 64)


@pytest.mark.parametrize('script', COMMANDS)
def test_no_script_squashes_a_picture(script: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """Made for aligned faces, all of them say which picture is none."""
    faces, weights = tmp_path / 'faces', save_vqgan(tmp_path / 'vqgan.pth')
    imwrite(faces / 'wide.png', picture(0, 96)[:64])
    flag, output, file = {
        'data_latents': ('--vqgan', 'table.pth', weights),
        'reconstruct': ('--weights', 'folder', weights),
        'data_embed': ('--weights', 'x.safetensors', save_tiny(tmp_path / 'recognizer.pth')),
    }[script.rsplit('.', 1)[-1]]
    main = importlib.import_module(script).main
    assert main(['-i', str(faces), '-o', str(tmp_path / output), flag, str(file)]) == 1
    assert 'wide.png: 96x64 pixels, and an aligned face is square' in capfd.readouterr().err


def test_linked_folders_are_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Disks of data are linked into a folder; rings and second links do not repeat or hide a picture."""
    disk, faces = tmp_path / 'disk', tmp_path / 'faces'
    imwrite(disk / 'one' / 'a.png', picture(0))
    imwrite(faces / 'real' / 'b.png', picture(1))
    (faces / 'linked').symlink_to(disk, target_is_directory=True)
    (faces / 'a_second_link').symlink_to(disk / 'one', target_is_directory=True)
    (disk / 'ring').symlink_to(faces, target_is_directory=True)
    (faces / '.hidden').symlink_to(disk, target_is_directory=True)
    data = build_dataset(options(faces))
    assert [path.relative_to(faces).as_posix() for path in data.paths] == ['a_second_link/a.png', 'real/b.png']
    assert [record.args[0] for record in caplog.records] == [str(faces / 'linked' / name) for name in ('one', 'ring')]


def test_skip_without_one_good_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / 'x.png').write_bytes(b'nothing')
    with pytest.raises(DataError, match='not one of its 1 pictures'):
        build_dataset(options(tmp_path, on_error='skip'))[0]


@pytest.mark.parametrize('on_error', ['raise', 'skip'])
def test_datasets_can_be_pickled(on_error: str, faces: Path) -> None:
    data = build_dataset(options(faces, on_error=on_error))
    assert same(pickle.loads(pickle.dumps(data))[3], data[3])


def save_codes(folder: Path, file: Path, by_stem: bool, kind: Any = torch.tensor) -> dict[str, np.ndarray]:
    """Write a latent file: picture n has the codes n, n + 1, ...; its mirror image the same plus 100."""
    codes = {}
    table: dict[str, dict[str, Any]] = {'orig': {}, 'hflip': {}}
    for number, path in enumerate(FFHQBlindDataset(options(folder)).paths):
        key = path.stem if by_stem else path.relative_to(folder).with_suffix('').as_posix()
        codes[str(path)] = np.arange(16).reshape(4, 4) + number
        table['orig'][key], table['hflip'][key] = kind(codes[str(path)]), kind(codes[str(path)] + 100)
    torch.save(table, file)
    return codes


@pytest.mark.parametrize('by_stem', [True, False])
@pytest.mark.parametrize('kind', [torch.tensor, np.asarray, lambda codes: codes.tolist()])
def test_latent_codes_follow_picture_and_flip(by_stem: bool, kind: Any, faces: Path, tmp_path: Path) -> None:
    codes = save_codes(faces, tmp_path / 'codes.pth', by_stem, kind)
    data = build_dataset(options(faces, latent_gt_path=str(tmp_path / 'codes.pth')))
    straight = build_dataset(options(faces, use_hflip=False))
    seen = set()
    for v in range(20):
        item = data[v]
        flipped = not torch.equal(item['gt'], straight[v]['gt'])
        seen.add(flipped)
        assert item['latent_gt'].dtype == torch.int64
        np.testing.assert_array_equal(item['latent_gt'].numpy(), codes[item['gt_path']].ravel() + 100 * flipped)
    assert seen == {True, False}


def test_codes_of_pictures_that_share_a_stem_need_their_paths(faces: Path, tmp_path: Path) -> None:
    imwrite(faces / 'deep' / 'a.png', picture(9))
    codes = save_codes(faces, tmp_path / 'paths.pth', by_stem=False)
    data = build_dataset(options(faces, latent_gt_path=str(tmp_path / 'paths.pth'), use_hflip=False))
    for v in range(len(data)):
        np.testing.assert_array_equal(data[v]['latent_gt'].numpy(), codes[data[v]['gt_path']].ravel())
    save_codes(faces, tmp_path / 'stems.pth', by_stem=True)
    with pytest.raises(DataError, match=r'a\.png'):
        build_dataset(options(faces, latent_gt_path=str(tmp_path / 'stems.pth')))


def test_a_picture_without_codes_is_a_clear_error(faces: Path, tmp_path: Path) -> None:
    save_codes(faces, tmp_path / 'codes.pth', by_stem=True)
    imwrite(faces / 'later.png', picture(8))
    opt = options(faces, latent_gt_path=str(tmp_path / 'codes.pth'))
    with pytest.raises(DataError, match=r'later\.png.*codes\.pth.*id-codeformer data latents'):
        build_dataset(opt)
    data = build_dataset(opt | {'on_error': 'skip'})
    paths = {data[v]['gt_path'] for v in range(len(data))}
    assert len(paths) == 5 and [Path(path).name for path, _ in data.skipped] == ['later.png']


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'no such file'),
        (b'junk', '(damaged|not a checkpoint)'),
        (b'', '(damaged|not a checkpoint)'),
        (b'PK' + bytes(60), '(damaged|not a checkpoint)'),
        (b'hello world', '(damaged|not a checkpoint)'),
        ([1, 2], 'not a checkpoint'),
        ({'orig': {}}, "'orig' and 'hflip'"),
        ({'orig': {'a': torch.zeros(4)}, 'hflip': {}}, 'not integers'),
        ({'orig': {'a': [1, 2], 'b': [1]}, 'hflip': {}}, 'different numbers'),
    ],
)
def test_a_wrong_latent_file_is_named(content: Any, message: str, faces: Path, tmp_path: Path) -> None:
    file = tmp_path / 'codes.pth'
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(DataError, match=f'codes.pth.*{message}'):
        build_dataset(options(faces, latent_gt_path=str(file)))


class Harmful:
    """An object whose unpickling would run code."""

    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('code from a latent file was run')",)


def test_a_latent_file_cannot_run_code(faces: Path, tmp_path: Path) -> None:
    torch.save({'orig': Harmful(), 'hflip': {}}, tmp_path / 'codes.pth')
    with pytest.raises(DataError, match='could run code'):
        build_dataset(options(faces, latent_gt_path=str(tmp_path / 'codes.pth')))


def test_boxes_of_face_parts_are_passed_over_and_that_is_said(
    faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level('WARNING'):
        data = build_dataset(options(faces, component_path=str(tmp_path / 'none.pth'), eye_enlarge_ratio=1.5))
    assert 'component_path' in caplog.text
    assert data[0].keys() == build_dataset(options(faces))[0].keys()


def paired(root: Path, **more: Any) -> dict[str, Any]:
    folders = {'dataroot_lq': str(root / 'lq'), 'dataroot_gt': str(root / 'gt')}
    return {'type': 'PairedImageDataset', **folders, **more}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Three pairs whose files have different formats, one nested."""
    for number, name in enumerate(['one', 'two', 'deep/three']):
        imwrite(tmp_path / 'gt' / f'{name}.png', picture(number))
        imwrite(tmp_path / 'lq' / f'{name}.bmp', picture(number + 10))
    return tmp_path


def test_pairs_meet_by_name_and_keep_their_values(pairs: Path) -> None:
    data = build_dataset(paired(pairs, mean=[0.5] * 3, std=[0.5] * 3, io_backend={'type': 'disk'}, name='CelebA'))
    assert len(data) == 3
    for item in (data[v] for v in range(3)):
        lq, gt = Path(item['lq_path']), Path(item['gt_path'])
        assert lq.relative_to(pairs / 'lq').with_suffix('') == gt.relative_to(pairs / 'gt').with_suffix('')
        assert torch.equal(item['lq'], to_tensor(imread(lq))) and torch.equal(item['gt'], to_tensor(imread(gt)))
    assert same(data[1], data[4])


def test_files_without_partner_are_named(pairs: Path) -> None:
    imwrite(pairs / 'lq' / 'four.png', picture(4))
    (pairs / 'lq' / 'two.bmp').unlink()
    with pytest.raises(DataError, match=r'2 files(?=.*lq/four\.png)(?=.*gt/two\.png)'):
        build_dataset(paired(pairs))


def test_two_files_of_one_name_are_an_error(pairs: Path) -> None:
    imwrite(pairs / 'gt' / 'one.jpg', picture(4))
    with pytest.raises(DataError, match='same name'):
        build_dataset(paired(pairs))


def test_sizes_of_a_pair_must_fit_the_scale(pairs: Path) -> None:
    for name in ('one', 'two', 'deep/three'):
        imwrite(pairs / 'lq' / f'{name}.bmp', picture(1, 32))
    with pytest.raises(DataError, match=r'32x32.*64x64.*scale'):
        build_dataset(paired(pairs))[0]
    item = build_dataset(paired(pairs, scale=2))[0]
    assert item['lq'].shape == (3, 32, 32) and item['gt'].shape == (3, 64, 64)


def test_file_name_template_of_pairs(pairs: Path) -> None:
    for path in list((pairs / 'lq').rglob('*.bmp')):
        path.rename(path.with_stem(f'{path.stem}x4'))
    assert len(build_dataset(paired(pairs, filename_tmpl='{}x4'))) == 3
    with pytest.raises(DataError, match='no partner'):
        build_dataset(paired(pairs, filename_tmpl='{}'))
    with pytest.raises(DataError, match='filename_tmpl'):
        build_dataset(paired(pairs, filename_tmpl='x4'))


def test_a_damaged_half_of_a_pair_names_itself(pairs: Path) -> None:
    (pairs / 'lq' / 'one.bmp').write_bytes(b'BM nothing')
    data = build_dataset(paired(pairs))
    index = [lq.name for lq, _ in data.pairs].index('one.bmp')
    with pytest.raises(DataError, match=r'one\.bmp'):
        data[index]


def make_pairs(*arguments: object) -> int:
    """Run `id-codeformer data pairs`; return the exit code."""
    return run('data pairs', [str(argument) for argument in arguments])


def test_make_val_pairs_gives_a_validation_set_that_can_be_made_again(faces: Path, tmp_path: Path) -> None:
    common = ('--input', faces, '--size', 48)
    assert make_pairs(*common, '--severity', 'mild', '--output', tmp_path / 'v') == 0
    data = build_dataset(paired(tmp_path / 'v'))
    assert len(data) == 5
    assert data[0]['lq'].shape == (3, 48, 48) and not torch.equal(data[0]['lq'], data[0]['gt'])
    (faces / 'b.jpg').unlink()  # the draws of the others hang on their names alone
    former = ('--severity', 'small')  # the word of before
    assert make_pairs(*common, *former, '--output', tmp_path / 'w', '--limit', 3) == 0
    files = sorted((tmp_path / 'w').rglob('*.png'))
    assert len(files) == 9  # lq, gt and bicubic of three
    for file in files:
        assert file.read_bytes() == (tmp_path / 'v' / file.relative_to(tmp_path / 'w')).read_bytes()


def test_make_val_pairs_reports_what_is_wrong(faces: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    spoil(faces)
    assert make_pairs('--input', faces, '--output', tmp_path / 'v', '--severity', 'large', '--size', 64) == 1
    said = capfd.readouterr()
    assert 'b1.jpg' in said.err and 'Traceback' not in said.err
    written = {path.name for path in (tmp_path / 'v' / 'lq').rglob('*.png')}  # the others go on
    assert written and f'{len(written)} pairs in' in said.out
    assert make_pairs('--input', faces / 'none', '--output', tmp_path / 'w', '--severity', 'large') == 2
    assert not (tmp_path / 'w').exists()


def test_make_val_pairs_leaves_no_pairs_of_another_run_among_its_own(
    faces: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    common = ('--input', faces, '--output', tmp_path / 'v', '--size', 48, '--severity')
    assert make_pairs(*common, 'small', '--limit', 3) == 0
    before = {file: file.read_bytes() for file in (tmp_path / 'v').rglob('*.png')}
    assert make_pairs(*common, 'large', '--limit', 2) == 2
    assert 'is of another run' in capfd.readouterr().err
    assert before == {file: file.read_bytes() for file in (tmp_path / 'v').rglob('*.png')}
    assert make_pairs(*common, 'large', '--limit', 3) == 0


@pytest.mark.shared
def test_real_faces_can_be_read(shared: Path) -> None:
    data = build_dataset(options(shared / 'data' / 'faces192' / 'val', gt_size=128))
    assert len(data) == 300
    assert data[17]['in'].shape == data[17]['gt'].shape == (3, 128, 128)
