"""Every kind of picture through the command line: its status, its message, its neighbours, and what its pixels are."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile
import torch
from odd_pictures import (
    ZIP_HEAD,
    cmyk_profile,
    content,
    cut,
    deep,
    folder_with_a_picture,
    grey_profile,
    hostile_name,
    link,
    palette,
    png_claiming,
    portrait_16,
    rgb_profile,
    save,
    save_deep,
    scene,
    soft_alpha,
    turned_exif,
)
from PIL import Image, ImageOps
from small_faces import ASTRONAUT_LANDMARKS, Found, Unchanged, aligned_face, blurred_portrait, save_tiny_model
from spandrel.architectures.ESRGAN import ESRGAN

from basicsr.cli import restore as inference_codeformer
from basicsr.faces.detection import Face
from basicsr.faces.geometry import scaling
from basicsr.faces.paste import face_mask, paste_face
from basicsr.inference import ImageRestorer
from basicsr.inference.jobs import Job, plan_jobs, skipped_files
from basicsr.inference.report import FileRecord, format_table
from basicsr.inference.runner import Runner
from basicsr.inference.upsampler import Upsampler
from basicsr.utils import files, picture
from basicsr.utils.image import ImageReadError, imread, imwrite, to_8_bits
from basicsr.utils.picture import Picture, fill_hidden, read_picture, write_png

LONG = 'ü' * 125 + 'x.png'  # 255 bytes, the most that a name may have
NOT_UTF8 = hostile_name(b'\xff\xfe.png')
NO_FACE = 'no face found; the picture was only enlarged'
GREY = cv2.cvtColor(scene(), cv2.COLOR_RGB2GRAY)
RGBA = np.dstack([scene(), soft_alpha()])
CMYK = Image.fromarray(np.dstack([np.full((48, 64), 255, np.uint8), np.zeros((48, 64, 3), np.uint8)]), 'CMYK')
PAGES = {'save_all': True, 'append_images': [Image.fromarray(scene(seed=2)), Image.fromarray(scene(seed=3))]}
PREVIEW = {'save_all': True, 'append_images': [Image.fromarray(scene(32, 24))]}
# name: (how it is made, its status, a part of its message; '' for none)
KINDS = {
    'good.png': (save(blurred_portrait()), 'restored', ''),
    'deep.png': (save_deep(portrait_16()), 'restored', ''),
    'deep.tif': (save_deep(deep(scene())), 'no_face', NO_FACE),
    'deep_alpha.png': (save_deep(deep(RGBA)), 'no_face', NO_FACE),
    'deep_grey.png': (save_deep(deep(GREY)), 'no_face', NO_FACE),
    'deep_grey.tif': (save_deep(deep(GREY)), 'no_face', NO_FACE),
    'grey.png': (save(cv2.cvtColor(blurred_portrait(), cv2.COLOR_RGB2GRAY)), 'restored', ''),
    'grey_alpha.png': (save(np.dstack([GREY, soft_alpha()])), 'no_face', NO_FACE),
    'grey_profile.png': (save(GREY, icc_profile=grey_profile()), 'no_face', NO_FACE),
    'two_levels.png': (save(Image.fromarray(GREY).convert('1')), 'no_face', NO_FACE),
    'alpha.png': (save(RGBA), 'no_face', NO_FACE),
    'alpha.webp': (save(RGBA, lossless=True, exact=True), 'no_face', NO_FACE),
    'palette.png': (save(palette(clear=False)), 'no_face', NO_FACE),
    'palette_clear.png': (save(palette(clear=True)), 'no_face', NO_FACE),
    'profile.jpg': (save(scene(), icc_profile=rgb_profile()), 'no_face', NO_FACE),
    'profile_of_another.png': (save(GREY, icc_profile=rgb_profile()), 'no_face', 'not for grey, was left out'),
    'cmyk.jpg': (save(CMYK), 'no_face', 'plain formula'),
    'cmyk_profile.jpg': (save(CMYK, icc_profile=cmyk_profile()), 'no_face', 'through its colour profile'),
    'cmyk_damaged.jpg': (save(CMYK, icc_profile=b'x' * 200), 'no_face', 'damaged colour profile'),
    'turned.jpg': (save(scene(), exif=turned_exif()), 'no_face', NO_FACE),
    'turned_deep.png': (save_deep(deep(scene()), eXIf=turned_exif().tobytes()[6:]), 'no_face', NO_FACE),
    'soft.webp': (save(scene()), 'no_face', NO_FACE),
    'soft.tiff': (save(scene(), compression='tiff_lzw'), 'no_face', NO_FACE),
    'soft.bmp': (save(scene()), 'no_face', NO_FACE),
    'soft.jfif': (save(scene(), format='JPEG'), 'no_face', NO_FACE),
    'another_ending.jpg': (save(scene(), format='PNG'), 'no_face', NO_FACE),
    'pages.tif': (save(scene(), **PAGES), 'no_face', 'the first of 3 pages; the others were left'),
    'moving.gif': (save(palette(clear=False), **PAGES), 'no_face', '3 frames; no face found'),
    'moving.png': (save(scene(), **PAGES), 'no_face', '3 frames; no face found'),
    'preview.jpg': (save(scene(), format='MPO', **PREVIEW), 'no_face', NO_FACE),
    'one.png': (save(np.full((1, 1, 3), 200, np.uint8)), 'no_face', NO_FACE),
    'wide.png': (save(scene(20000, 20)), 'no_face', NO_FACE),
    'bomb.png': (content(png_claiming(60000, 60000)), 'failed', '60000x60000 pixels are over the limit of 20 mega'),
    'large.png': (content(png_claiming(5000, 4001)), 'failed', 'reduce the picture, or raise the limit'),
    'promise.png': (content(png_claiming(4000, 4000)), 'failed', 'damaged or cut off'),
    'cut.jpg': (cut('JPEG'), 'failed', 'damaged or cut off'),
    'cut.png': (cut('PNG'), 'failed', 'damaged or cut off'),
    'cut.webp': (cut('WEBP'), 'failed', 'damaged or cut off'),
    'cut.bmp': (cut('BMP'), 'failed', 'damaged or cut off'),
    'cut.tif': (cut('TIFF', part=0.9), 'failed', 'cut off'),
    'cut_deep.png': (cut('', deep(scene(200, 150))), 'failed', 'damaged or cut off'),
    'cut_early.jpg': (cut('JPEG', part=0.005), 'failed', 'damaged or cut off'),
    'empty.jpg': (content(b''), 'failed', 'the file is empty'),
    'text.png': (content(b'this is no picture'), 'failed', 'damaged, or not a picture at all'),
    'archive.png': (content(ZIP_HEAD), 'failed', 'a zip archive; unpack it and give the folder'),
    'cut.heic': (content(b'\0\0\0\x18ftypheic' + bytes(40)), 'failed', 'damaged'),
    'words.png': (content(b'%!PS\n{} loop'), 'failed', 'PostScript is not read here'),
    'future.jxl': (content(b'\xff\x0a' + bytes(40)), 'failed', 'JPEG XL is not read here'),
    'floats.tif': (save(Image.fromarray(GREY.astype(np.float32))), 'no_face', 'of which 255 was taken for white'),
    'nowhere.png': (link('not/there.png'), 'failed', 'the link leads nowhere'),
    'circle.png': (link('circle.png'), 'failed', 'the link leads nowhere'),
    'link.png': (link('../elsewhere/picture.png'), 'no_face', NO_FACE),
    'pipe.png': (lambda path: os.mkfifo(path), 'failed', 'no regular file'),
    'closed.png': (save(scene()), 'failed', 'no permission to read it'),
    'folder.png/inner.png': (lambda path: folder_with_a_picture(path.parent), 'no_face', NO_FACE),
    'closed_folder': (folder_with_a_picture, 'failed', 'no permission to read it'),
    'same.bmp': (save(scene()), 'no_face', NO_FACE),
    'same.PNG': (save(scene()), 'no_face', NO_FACE),
    'folder.bmp': (save(scene()), 'no_face', NO_FACE),
    LONG: (save(aligned_face(96)), 'restored', ''),
    'ü 漢字 б.png': (save(scene()), 'no_face', NO_FACE),
    NOT_UTF8: (save(scene()), 'no_face', NO_FACE),
    'line\nbreak\x1b[31m.png': (save(scene()), 'no_face', NO_FACE),
    '-o.png': (save(scene()), 'no_face', NO_FACE),
    '..\\..\\up.png': (save(scene()), None, ''),  # begins with a dot: hidden
    'C:\\up.png': (save(scene()), 'no_face', NO_FACE),
    '%2e%2e%2fup.png': (save(scene()), 'no_face', NO_FACE),
}
if '.avif' in Image.registered_extensions():
    KINDS['soft.avif'] = (save(scene()), 'no_face', NO_FACE)
    KINDS['cut.avif'] = (cut('AVIF'), 'failed', 'damaged, or not a picture')
else:
    KINDS['soft.avif'] = (content(b'\0\0\0\x18ftypavif' + bytes(40)), 'failed', 'reads no AVIF; update it')


@dataclass
class Run:
    """What one call left behind."""

    code: int
    output: Path
    files: dict[str, dict]
    screen: str

    def result(self, name: str) -> Path:
        """The picture restored from an input, its last output."""
        return self.output / self.files[name]['outputs'][-1]


def call(model: Path, source: Path, output: Path, *flags: str) -> int:
    argv = ['-i', str(source), '-o', str(output), '--model', str(model), '--device', 'cpu', '-s', '1', *flags]
    return inference_codeformer.main(argv)


def files_of(source: Path, output: Path) -> dict[str, dict]:
    entries = json.loads((output / 'summary.json').read_text(encoding='utf-8'))['files']
    return {Path(entry['input']).relative_to(source).as_posix(): entry for entry in entries}


def close(patch: pytest.MonkeyPatch, source: Path) -> None:
    """Take the permission to read `closed.png` and `closed_folder`; root, who may all, is refused by the functions."""
    for name in ('closed.png', 'closed_folder'):
        (source / name).chmod(0)
    if not os.access(source / 'closed.png', os.R_OK):
        return

    def refusing(function):
        def refuse(path='.', *args):
            if Path(os.fsdecode(path)).name.startswith('closed'):
                raise PermissionError(13, 'Permission denied', str(path))
            return function(path, *args)

        return refuse

    patch.setattr(picture, '_open', refusing(picture._open))
    patch.setattr(os, 'scandir', refusing(os.scandir))
    patch.setattr(os, 'listdir', refusing(os.listdir))


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp('model') / 'tiny.pth')


@pytest.fixture(scope='module')
def everything(model, tmp_path_factory):
    """One run at upscale 1 over a folder with all kinds, the limit at 20 megapixels."""
    root = tmp_path_factory.mktemp('every')
    source, output = root / 'in', root / 'out'
    imwrite(root / 'elsewhere' / 'picture.png', scene())
    source.mkdir()
    for name, (build, _, _) in KINDS.items():
        build(source / name)
    screen = []
    with pytest.MonkeyPatch.context() as patch:
        close(patch, source)
        patch.setattr('builtins.print', lambda *text, **options: screen.append(' '.join(map(str, text))))
        code = call(model, source, output, '--max_megapixels', '20')
    for name in ('closed.png', 'closed_folder'):
        (source / name).chmod(0o700)
    return Run(code, output, files_of(source, output), '\n'.join(screen))


@pytest.mark.parametrize('name', KINDS, ids=lambda name: ascii(name)[1:30])
def test_every_kind_has_its_status_and_message(everything, name):
    _, status, message = KINDS[name]
    if status is None:
        assert name not in everything.files
        return
    entry = everything.files[name]
    assert entry['status'] == status, entry['message']
    assert message in entry['message'] and bool(message) == bool(entry['message'])
    written = [everything.output / path for path in entry['outputs']]
    assert bool(written) == (status != 'failed')
    assert all(path.resolve().is_relative_to(everything.output.resolve()) and path.is_file() for path in written)


def test_all_are_said_none_is_lost_and_the_code_tells_that_some_failed(everything):
    assert everything.code == 1
    assert set(everything.files) == {name for name, (_, status, _) in KINDS.items() if status}
    assert 'Traceback' not in everything.screen
    assert '\x1b' not in everything.screen and r'line\nbreak\x1b[31m.png' in everything.screen
    outputs = [path for entry in everything.files.values() for path in entry['outputs']]
    assert len({path.casefold() for path in outputs}) == len(outputs)
    written = {path.relative_to(everything.output).as_posix() for path in everything.output.rglob('*.*')}
    folders = {path for path in written if (everything.output / path).is_dir()}
    assert written - folders == {*outputs, 'summary.json'}


def test_a_neighbour_comes_out_as_it_does_alone(everything, model, tmp_path):
    save(blurred_portrait())(tmp_path / 'good.png')
    assert call(model, tmp_path / 'good.png', tmp_path / 'out') == 0
    alone = tmp_path / 'out' / 'final_results' / 'good.png'
    assert alone.read_bytes() == everything.result('good.png').read_bytes()


def test_sixteen_bits_stay_and_the_face_is_pasted_in_their_scale(everything):
    path = everything.result('deep.png')
    result = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert result.dtype == np.uint16 and len(np.unique(result)) > 5000
    untouched = np.ones((512, 512), bool)
    untouched[:300, 80:380] = False
    assert np.array_equal(result[untouched], portrait_16()[untouched])
    changed = (result != portrait_16()).any(axis=2)
    assert changed.sum() > 5000
    shallow = imread(everything.result('good.png')).astype(int)
    assert np.abs(to_8_bits(result).astype(int) - shallow).max() <= 1
    assert read_picture(everything.output / everything.files['deep.png']['outputs'][0]).image.dtype == np.uint8


@pytest.mark.parametrize('name', ['deep.tif', 'deep_grey.png', 'deep_grey.tif', 'deep_alpha.png'])
def test_sixteen_bits_of_every_kind_come_out_bit_for_bit(everything, name):
    result = cv2.imread(str(everything.result(name)), cv2.IMREAD_UNCHANGED)
    if result.ndim == 3:
        result = cv2.cvtColor(result, cv2.COLOR_BGR2RGB if result.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    wanted = {'deep.tif': scene(), 'deep_alpha.png': RGBA}.get(name, GREY)
    assert result.dtype == np.uint16 and np.array_equal(result, deep(wanted))


def test_alpha_is_kept(everything):
    for name in ('alpha.png', 'alpha.webp'):
        assert np.array_equal(np.asarray(Image.open(everything.result(name))), RGBA)
    grey = Image.open(everything.result('grey_alpha.png'))
    assert grey.mode == 'LA'
    assert np.array_equal(np.asarray(grey), np.dstack([GREY, soft_alpha()]))


def test_grey_stays_one_channel(everything):
    for name in ('grey.png', 'grey_profile.png', 'two_levels.png'):
        assert Image.open(everything.result(name)).mode == 'L'
    assert np.array_equal(np.asarray(Image.open(everything.result('grey_profile.png'))), GREY)
    crop, restored = (everything.output / path for path in everything.files['grey.png']['outputs'][:2])
    assert Image.open(crop).mode == Image.open(restored).mode == 'L'


def test_palettes_are_looked_up_and_what_is_clear_stays_clear(everything):
    wanted = np.asarray(palette(clear=False).convert('RGB'))
    plain, clear = (Image.open(everything.result(name)) for name in ('palette.png', 'palette_clear.png'))
    assert plain.mode == 'RGB' and np.array_equal(np.asarray(plain), wanted)
    assert clear.mode == 'RGBA' and np.array_equal(np.asarray(clear)[..., :3], wanted)
    first = np.asarray(palette(clear=False)) == 0
    assert np.array_equal(np.asarray(clear)[..., 3] == 0, first) and first.any() and not first.all()


def test_profiles_are_kept_to_the_byte_where_they_fit_and_only_there(everything):
    assert Image.open(everything.result('profile.jpg')).info['icc_profile'] == rgb_profile()
    assert Image.open(everything.result('grey_profile.png')).info['icc_profile'] == grey_profile()
    for name in ('profile_of_another.png', 'cmyk_profile.jpg', 'good.png'):
        assert 'icc_profile' not in Image.open(everything.result(name)).info


def test_cmyk_goes_through_its_profile_or_by_the_plain_formula(everything):
    """The profile says that cyan is red; without one it is cyan."""
    for name, wanted in (('cmyk_profile.jpg', (255, 0, 0)), ('cmyk.jpg', (0, 255, 255))):
        assert np.abs(imread(everything.result(name)).astype(int) - wanted).max() <= 4
    assert np.array_equal(imread(everything.result('cmyk_damaged.jpg')), imread(everything.result('cmyk.jpg')))


def test_black_ink_of_cmyk_has_the_lightness_of_its_profile(tmp_path):
    """Half of the black ink is L* 50 by the profile, which is 118.9 in sRGB."""
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 3] = 128
    save(Image.fromarray(ink, 'CMYK'), icc_profile=cmyk_profile())(tmp_path / 'ink.jpg')
    assert np.abs(read_picture(tmp_path / 'ink.jpg').image.astype(float) - 118.9).max() <= 2


def test_lying_pictures_are_turned(everything):
    turned = imread(everything.result('turned.jpg'))
    stored = np.asarray(Image.open(everything.files['turned.jpg']['input']))
    assert np.array_equal(turned, np.rot90(stored, -1))
    upright = cv2.imread(str(everything.result('turned_deep.png')), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.array_equal(upright, np.rot90(deep(scene()), -1))


@pytest.mark.parametrize('turn', range(1, 9))
@pytest.mark.parametrize('name', ['x.png', 'x.tif', 'x.webp', 'deep.png', 'deep.tif'])
def test_every_orientation_of_every_format(tmp_path, turn, name):
    exif = Image.Exif()
    exif[0x0112] = turn
    stored = Image.fromarray(scene())
    stored.getexif()[0x0112] = turn
    wanted = np.asarray(ImageOps.exif_transpose(stored))
    path = tmp_path / name
    if name == 'deep.png':
        save_deep(scene().astype(np.uint16) * 257, eXIf=exif.tobytes()[6:])(path)
    elif name == 'deep.tif':
        tifffile.imwrite(
            path, scene().astype(np.uint16) * 257, photometric='rgb', extratags=[(274, 'H', 1, turn, True)]
        )
    else:
        Image.fromarray(scene()).save(path, exif=exif, **({'lossless': True} if name == 'x.webp' else {}))
    assert np.array_equal(to_8_bits(read_picture(path).image), wanted)


def test_a_picture_that_would_grow_too_large_is_refused_by_its_header(model, tmp_path, monkeypatch):
    (tmp_path / 'in').mkdir()
    for name in ('a.png', 'b.png'):
        (tmp_path / 'in' / name).write_bytes(png_claiming(3000, 3000))
    monkeypatch.setattr(picture, '_decode', None)
    assert call(model, tmp_path / 'in', tmp_path / 'out', '-s', '4', '--max_megapixels', '100') == 1
    for entry in files_of(tmp_path / 'in', tmp_path / 'out').values():
        assert entry['status'] == 'failed'
        assert '3000x3000 pixels, enlarged 4 times 144 megapixels' in entry['message']
        assert '--upscale 1' in entry['message'] and '--max_megapixels' in entry['message']


def test_the_limit_of_pillow_is_neither_in_the_way_nor_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
    save(scene())(tmp_path / 'a.png')
    assert read_picture(tmp_path / 'a.png').image.shape == (48, 64, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize(
    ('name', 'code', 'message'),
    [
        ('archive.zip', 1, 'a zip archive; unpack it'),
        ('text.png', 1, 'not a readable picture'),
        ('missing.png', 2, 'no such file or folder'),
        ('nowhere.png', 2, 'the link leads nowhere'),
        ('circle.png', 2, 'the link leads nowhere'),
        ('folder.png', 2, 'no pictures in it'),
        ('x' * 300, 2, 'x' * 300),
    ],
)
def test_single_inputs_that_cannot_be_restored(model, tmp_path, capsys, name, code, message):
    (tmp_path / 'archive.zip').write_bytes(ZIP_HEAD)
    (tmp_path / 'text.png').write_text('this is no picture')
    (tmp_path / 'folder.png').mkdir()
    link('not/there')(tmp_path / 'nowhere.png')
    link('circle.png')(tmp_path / 'circle.png')
    assert call(model, tmp_path / name, tmp_path / 'out') == code
    said = capsys.readouterr()
    assert message in (said.err if code == 2 else said.out)
    assert not list(tmp_path.glob('out/*results/*'))


def test_archives_and_linked_folders_are_passed_over_and_said(model, tmp_path, capsys):
    source = tmp_path / 'in'
    imwrite(tmp_path / 'elsewhere' / 'b.png', scene())
    imwrite(source / 'a.png', aligned_face(96))
    (source / 'archive.zip').write_bytes(ZIP_HEAD)
    (source / 'album').symlink_to('../elsewhere')
    (source / 'round').symlink_to('.')
    assert call(model, source, tmp_path / 'out') == 0
    assert set(files_of(source, tmp_path / 'out')) == {'a.png'}
    assert 'album, archive.zip, round' in capsys.readouterr().out


def test_links_in_the_output_folder_do_not_lead_results_out_of_it(model, tmp_path):
    source, output, outside = tmp_path / 'in', tmp_path / 'out', tmp_path / 'outside'
    imwrite(source / 'a.png', scene())
    imwrite(source / 'sub' / 'b.png', scene())
    outside.mkdir()
    (outside / 'precious.png').write_bytes(b'precious')
    (output / 'final_results').mkdir(parents=True)
    (output / 'final_results' / 'a.png').symlink_to(outside / 'precious.png')
    (output / 'final_results' / 'sub').symlink_to(outside)
    assert call(model, source, output) == 1
    entries = files_of(source, output)
    assert entries['a.png']['status'] == 'no_face' and not (output / 'final_results' / 'a.png').is_symlink()
    assert entries['sub/b.png']['status'] == 'failed' and 'leads out of the output' in entries['sub/b.png']['message']
    assert [path.name for path in outside.iterdir()] == ['precious.png']
    assert (outside / 'precious.png').read_bytes() == b'precious'


@pytest.mark.parametrize('suffix', ['../../up', '/up', 'a\\b', 'x' * 200])
def test_a_suffix_that_is_no_part_of_a_name_is_refused(model, tmp_path, capsys, suffix):
    imwrite(tmp_path / 'in' / 'a.png', scene())
    assert call(model, tmp_path / 'in', tmp_path / 'out', '--suffix', suffix) == 2
    assert 'suffix' in capsys.readouterr().err


def test_dots_in_the_path_of_an_input_do_not_reach_its_result(model, tmp_path, monkeypatch):
    imwrite(tmp_path / 'a.png', scene())
    (tmp_path / 'sub').mkdir()
    monkeypatch.chdir(tmp_path / 'sub')
    call(model, Path('..', 'sub', '..', 'a.png'), Path('out'))
    call(model, Path('..'), Path('out'))
    results = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*.png')]
    assert sorted(results) == ['a.png', 'sub/out/final_results/a.png']


def test_an_output_folder_in_the_input_folder_is_not_restored_again(model, tmp_path):
    imwrite(tmp_path / 'a.png', scene())
    for _ in range(2):
        call(model, tmp_path, tmp_path / 'deep' / 'out')
        assert set(files_of(tmp_path, tmp_path / 'deep' / 'out')) == {'a.png'}
    assert skipped_files(tmp_path, tmp_path / 'deep' / 'out') == []


@pytest.mark.parametrize('flag', ['plain file', 'closed folder'])
def test_an_output_that_cannot_be_written_to_stops_the_start(model, tmp_path, capsys, monkeypatch, flag):
    imwrite(tmp_path / 'a.png', scene())
    if flag == 'plain file':
        (tmp_path / 'out').touch()
    else:
        monkeypatch.setattr(os, 'access', lambda path, mode: False)
    assert call(model, tmp_path / 'a.png', tmp_path / 'out') == 2
    assert str(tmp_path / 'out') in capsys.readouterr().err


def test_a_summary_that_cannot_be_written_is_said(model, tmp_path, capsys):
    imwrite(tmp_path / 'a.png', aligned_face(96))
    (tmp_path / 'out' / 'summary.json').mkdir(parents=True)
    assert call(model, tmp_path / 'a.png', tmp_path / 'out') == 1
    said = capsys.readouterr()
    assert 'summary.json was not written' in said.err and '1 restored' in said.out


def test_aligned_faces_of_odd_kinds(model, tmp_path):
    source, output = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    face = aligned_face(100)
    save(np.dstack([face, np.full((100, 100), 77, np.uint8)]), icc_profile=rgb_profile())(source / 'alpha.png')
    save(cv2.cvtColor(face, cv2.COLOR_RGB2GRAY))(source / 'grey.png')
    save_deep(deep(face))(source / 'deep.png')
    assert call(model, source, output, '--has_aligned') == 0
    alpha, grey, bits = (Image.open(output / 'restored_faces' / f'{name}.png') for name in ('alpha', 'grey', 'deep'))
    assert (alpha.mode, grey.mode, bits.mode) == ('RGBA', 'L', 'RGB')
    assert alpha.size == grey.size == bits.size == (100, 100)
    assert cv2.imread(str(output / 'restored_faces' / 'deep.png'), cv2.IMREAD_UNCHANGED).dtype == np.uint16
    assert (np.asarray(alpha)[..., 3] == 77).all() and alpha.info['icc_profile'] == rgb_profile()


def test_boxes_are_green_on_a_grey_picture_too(model, tmp_path):
    save(cv2.cvtColor(blurred_portrait(), cv2.COLOR_RGB2GRAY), icc_profile=grey_profile())(tmp_path / 'a.png')
    assert call(model, tmp_path / 'a.png', tmp_path / 'out', '--draw_box') == 0
    result = Image.open(tmp_path / 'out' / 'final_results' / 'a.png')
    assert result.mode == 'RGB' and 'icc_profile' not in result.info
    red, green, blue = np.moveaxis(np.asarray(result).astype(int), 2, 0)
    assert (green - np.maximum(red, blue) > 60).sum() > 100


def test_alpha_grows_with_the_picture_and_no_fringe_appears():
    """A white disc; the colour under what is clear is black, and must not be seen at the disc's edge."""
    y, x = np.mgrid[:40, :40]
    alpha = np.where((x - 20) ** 2 + (y - 20) ** 2 < 150, 255, 0).astype(np.uint8)
    disc = Picture(np.repeat(alpha[..., None], 3, axis=2), alpha)
    filled = fill_hidden(disc)
    assert np.array_equal(filled.image[alpha > 0], disc.image[alpha > 0]) and filled.alpha is alpha
    for factor in (2, 3):
        grown = filled.enlarged(ImageRestorer(Unchanged(), Found(), upscale=factor).restore(filled.image).image)
        assert grown.alpha.shape == (40 * factor, 40 * factor) and grown.alpha.dtype == np.uint8
        assert grown.image[grown.alpha > 8].min() == 255
        assert (grown.alpha[factor // 2 :: factor, factor // 2 :: factor][alpha == 0] < 128).all()


@pytest.mark.parametrize('grey', [False, True])
@pytest.mark.parametrize('clear', [False, True])
@pytest.mark.parametrize('bits', [8, 16])
def test_what_is_written_is_read_again(tmp_path, bits, clear, grey):
    image = cv2.cvtColor(GREY, cv2.COLOR_GRAY2RGB) if grey else scene()
    alpha = soft_alpha()
    if bits == 16:
        image, alpha = (part.astype(np.uint16) * 257 for part in (image, alpha))
    original = Picture(image, alpha if clear else None, grey_profile() if grey else rgb_profile(), grey)
    write_png(tmp_path / 'a.png', original)
    again = read_picture(tmp_path / 'a.png')
    assert again.image.dtype == image.dtype and np.array_equal(again.image, image)
    assert np.array_equal(again.alpha, original.alpha) if clear else again.alpha is None
    whole = not (grey and clear and bits == 16)  # which no library here writes with two channels
    assert (again.icc, again.grey) == ((original.icc, grey) if whole else (None, False))
    assert [path.name for path in tmp_path.iterdir()] == ['a.png']


def test_boxes_are_as_bright_in_sixteen_bits():
    face = Face(np.zeros(4), 1.0, ASTRONAUT_LANDMARKS)
    result = ImageRestorer(Unchanged(), Found(face), upscale=1, draw_box=True).restore(portrait_16()).image
    assert (result == (0, 65535, 0)).all(axis=2).sum() > 100


class Doubled:
    """A stand-in for an upsampler that repeats pixels; its network enlarges `scale` times."""

    def __init__(self, scale: int) -> None:
        self.model = SimpleNamespace(scale=scale)

    def upscale(self, image, factor):
        return image.repeat(2, 0).repeat(2, 1)


def test_the_upsampler_enlarges_sixteen_bits_too():
    image = deep(scene())
    result = ImageRestorer(Unchanged(), Found(), upscale=2, bg_upsampler=Doubled(2)).restore(image).image
    assert np.array_equal(result[::2, ::2], image)


def test_a_network_sees_sixteen_bits_as_it_sees_eight(tmp_path):
    torch.save(ESRGAN(num_filters=8, num_blocks=1, scale=4).state_dict(), tmp_path / 'esrgan.pth')
    upsampler = Upsampler(tmp_path / 'esrgan.pth')
    shallow, fine = upsampler.upscale(scene(), 2), upsampler.upscale(scene().astype(np.uint16) * 257, 2)
    assert fine.dtype == np.uint16 and len(np.unique(fine)) > 256
    assert np.abs(fine / 257 - shallow).max() <= 1


def test_the_limit_is_for_what_the_upsampler_makes_before_it_is_reduced(tmp_path):
    save(scene(1000, 1000))(tmp_path / 'a.png')
    for scale, status in ((2, 'no_face'), (4, 'failed')):
        restorer = ImageRestorer(Unchanged(), Found(), upscale=2, bg_upsampler=Doubled(scale))
        (record,) = Runner(restorer, tmp_path / 'out', max_megapixels=5).run([Job(tmp_path / 'a.png', 'a')])
        assert record.status == status


def test_pasting_in_bands_equals_pasting_at_once(monkeypatch):
    face, mask = aligned_face(64), face_mask(64)
    for kind in (np.uint8, np.uint16):
        at_once, banded = np.full((2, 300, 310, 3), 9, kind)
        paste_face(at_once, face, scaling(64 / 290), mask)
        with monkeypatch.context() as patch:
            patch.setattr('basicsr.faces.paste.BAND_PIXELS', 310 * 7)
            paste_face(banded, face, scaling(64 / 290), mask)
        assert np.abs(banded.astype(int) - at_once).max() <= np.iinfo(kind).max // 255
        assert np.ptp(at_once) > np.iinfo(kind).max // 4


def test_names_are_shortened_to_fit_and_stay_different(tmp_path):
    assert files.shorten_name('short.png') == 'short.png'
    names = {files.shorten_name('ü' * 200 + end, 100) for end in 'abc'}
    assert len(names) == 3 and all(90 < len(name.encode()) <= 100 for name in names)
    with files.replacing(tmp_path / LONG) as partial:
        assert len(os.fsencode(partial.name)) <= 255
        partial.touch()
    assert [path.name for path in tmp_path.iterdir()] == [LONG]


def test_a_path_too_long_for_the_system_is_a_failed_file_with_a_remedy(model, tmp_path):
    source, output = tmp_path / 'in', tmp_path
    imwrite(source / 'a.png', aligned_face(96))
    imwrite(source / ('s' * 200) / 'b.png', scene())
    while (missing := 3950 - len(str(output))) > 0:  # of 4095: enough for the one, too little for the other
        output /= 'o' * min(100, max(1, missing - 1))
    assert call(model, source, output) == 1
    good, deep_down = files_of(source, output).values()
    assert good['status'] == 'restored'
    assert deep_down['status'] == 'failed' and 'choose a shorter output folder (-o)' in deep_down['message']


def test_plans_of_folders_and_files_that_would_meet(tmp_path):
    for name in ('x.jpg', 'x.png/y.jpg', 'z.jpg', 'z.bmp'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert {job.name for job in plan_jobs(tmp_path, tmp_path / 'out')} == {'x~2', 'x.png/y', 'z', 'z~2'}


def test_the_table_shows_control_characters_as_escapes():
    table = format_table([FileRecord('a\n\x1b[2J\ud800ü.png', 'failed', message='\x07')], 'in')
    assert r'a\n\x1b[2J\ud800ü.png' in table and r'\x07' in table
    assert len(table.splitlines()) == 3


def test_reading_says_what_is_no_picture(tmp_path):
    with pytest.raises(ImageReadError, match='no such file'):
        read_picture(tmp_path / 'none.png')
    with pytest.raises(ImageReadError, match='a folder, not a picture'):
        read_picture(tmp_path)
    save(GREY.astype(np.int32))(tmp_path / 'ints.tif')
    with pytest.raises(ImageReadError, match='samples of kind "I"'):
        read_picture(tmp_path / 'ints.tif')


# What OpenCV and Pillow each get wrong of more than 8 bits


def noise_16(channels: int = 3) -> np.ndarray:
    """A picture uint16 (40,60,channels), and (40,60) for one."""
    picture = np.random.default_rng(0).integers(0, 65536, (40, 60, channels), dtype=np.uint16)
    return picture[..., 0] if channels == 1 else picture


def test_a_tiff_whose_channels_lie_apart_is_refused_and_not_misread(tmp_path):
    file = tmp_path / 'x.tif'
    tifffile.imwrite(file, noise_16().transpose(2, 0, 1), photometric='rgb', planarconfig='separate')
    with pytest.raises(ImageReadError, match='with 16 bits is not read; save it as PNG'):
        read_picture(file)


def test_a_tiff_where_white_is_zero_is_no_negative(tmp_path):
    file = tmp_path / 'x.tif'
    tifffile.imwrite(file, noise_16(1), photometric='miniswhite')
    assert np.array_equal(read_picture(file).image[..., 0], 65535 - noise_16(1))


def test_the_fourth_channel_of_a_tiff_is_what_it_says(tmp_path):
    given = noise_16(4)
    given[..., 3] |= 1
    file = tmp_path / 'x.tif'
    tifffile.imwrite(file, given, photometric='rgb', extrasamples=['unspecified'])
    assert read_picture(file).alpha is None
    tifffile.imwrite(file, given, photometric='rgb', extrasamples=['unassalpha'])
    picture = read_picture(file)
    assert np.array_equal(picture.alpha, given[..., 3]) and np.array_equal(picture.image, given[..., :3])
    multiplied = (given[..., :3].astype(float) * given[..., 3:] / 65535).round().astype(np.uint16)
    tifffile.imwrite(file, np.dstack([multiplied, given[..., 3]]), photometric='rgb', extrasamples=['assocalpha'])
    picture = read_picture(file)
    clear = given[..., 3] > 40000
    np.testing.assert_allclose(picture.image[clear].astype(int), given[clear][:, :3].astype(int), atol=1)


def test_jpeg_2000_and_tiff_of_more_than_8_bits_keep_them(tmp_path):
    grey, smooth = tmp_path / 'grey.jp2', cv2.GaussianBlur(noise_16(1), (0, 0), 3)
    Image.fromarray(smooth).save(grey)
    assert np.array_equal(read_picture(grey).image[..., 0], smooth)
    colour = tmp_path / 'colour.jp2'
    cv2.imwrite(str(colour), smooth[..., None].repeat(3, 2), [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000])
    assert np.array_equal(read_picture(colour).image[..., 0], smooth)
    raw = tmp_path / 'raw.j2k'
    Image.fromarray(smooth).save(raw)
    raw.rename(tmp_path / 'raw.jp2')
    assert np.array_equal(read_picture(tmp_path / 'raw.jp2').image[..., 0], smooth)
    twelve = tmp_path / 'twelve.tif'
    twelve.write_bytes(tiff_of_12_bits(smooth >> 4))
    assert np.abs(read_picture(twelve).image[..., 0].astype(int) - smooth).max() <= 16


def tiff_of_12_bits(picture: np.ndarray) -> bytes:
    """Grey uint16 (H,W), W even, numbers below 4096: two in three bytes."""
    height, width = picture.shape
    first, second = picture[:, ::2].astype(np.uint32) << 12, picture[:, 1::2]
    packed = (first | second).astype('>u4')[..., None].view(np.uint8)[..., 1:].tobytes()
    entries = {256: width, 257: height, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(packed)}
    table = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in entries.items())
    header = struct.pack('<2sHI', b'II', 42, 8 + len(packed))
    return header + packed + struct.pack('<H', len(entries)) + table + bytes(4)
