"""Colourization and inpainting: what the published commands make, on aligned faces and on whole pictures."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_faces import aligned_face, blurred_portrait, portrait, save_tiny_model

from basicsr.archs.factory import load_network
from basicsr.cli import restore
from basicsr.faces.tone import LUMA
from basicsr.inference.face_pipeline import is_grey
from basicsr.inference.found_face import RESTORED, FoundFace
from basicsr.inference.inpainting import MaskReader, blended, nearest_face
from basicsr.inference.jobs import Job
from basicsr.utils.image import imread, imwrite, to_image, to_tensor
from basicsr.video.video_io import VideoReader
from experiments.benchmarks.make_video import Scene, write_clip

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., tuple[int, Path, list[dict]]]


@pytest.fixture(scope='module')
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp('model') / 'tiny.pth')


@pytest.fixture
def run(model: Path, tmp_path: Path) -> Run:
    """Call the command; the exit code, the output folder and the records."""

    def call(source: Path, *flags: str) -> tuple[int, Path, list[dict]]:
        output = tmp_path / 'out'
        code = restore.main(['-i', str(source), '-o', str(output), '--model', str(model), '--device', 'cpu', *flags])
        summary = output / 'summary.json'
        files = json.loads(summary.read_text(encoding='utf-8'))['files'] if code != 2 else []
        return code, output, files

    return call


def save(path: Path, image: np.ndarray) -> Path:
    """As PNG, of any depth and number of channels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path


def load(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def masked_face(size: int) -> tuple[np.ndarray, np.ndarray]:
    """An aligned face without white but under a stroke, and the stroke."""
    face = np.minimum(aligned_face(size), 250)
    mask = np.zeros((size, size), np.uint8)
    cv2.line(mask, (size // 4, size // 3), (3 * size // 4, 2 * size // 3), 1, size // 10)
    face[mask > 0] = 255
    return face, mask > 0


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def network_says(model: Path, face: np.ndarray, **settings: float) -> np.ndarray:
    """What the network itself makes of a face of its size."""
    with torch.no_grad():
        return to_image(load_network(model)(to_tensor(face)[None], **settings)[0][0])


# ---- inpainting


def test_an_aligned_face_is_filled_as_the_published_command_does(run: Run, model: Path, tmp_path: Path) -> None:
    face, mask = masked_face(64)
    code, output, files = run(save(tmp_path / 'a.png', face), '--task', 'inpaint', '--has_aligned')
    result = load(output / 'restored_faces' / 'a.png')
    assert code == 0 and files[0]['outputs'] == ['restored_faces/a.png']
    assert np.array_equal(result[~mask], face[~mask])
    made = network_says(model, face, w=1, adain=False)
    assert np.array_equal(result[mask], made[mask]) and not (result[mask] == 255).all()
    settings = json.loads((output / 'summary.json').read_text())
    assert (settings['w'], settings['adain'], settings['upscale'], settings['task']) == (1.0, False, 1, 'inpaint')


@pytest.mark.parametrize('size', [50, 100, 200])
@pytest.mark.parametrize('kind', [np.uint8, np.uint16])
def test_every_size_and_depth_stays_bit_for_bit_outside_the_mask(
    run: Run, tmp_path: Path, size: int, kind: type
) -> None:
    face, mask = masked_face(size)
    if kind is np.uint16:
        noise = np.random.default_rng(0).integers(0, 257, face.shape)
        face = np.where(mask[..., None], 65535, face.astype(np.uint16) * 256 + noise).astype(np.uint16)
    code, output, _ = run(save(tmp_path / 'a.png', face), '--task', 'inpaint', '--has_aligned')
    result = load(output / 'restored_faces' / 'a.png')
    assert code == 0 and result.dtype == kind
    assert np.array_equal(result[~mask], face[~mask])
    white = (result == np.iinfo(kind).max).all(axis=2)
    assert (white & mask).sum() < 0.05 * mask.sum()


@pytest.mark.parametrize('folder', [False, True])
def test_masks_come_from_files_too(run: Run, tmp_path: Path, folder: bool) -> None:
    face, mask = masked_face(64)
    clean = np.minimum(aligned_face(64), 250)
    masks = tmp_path / 'masks'
    save(masks / 'a.png', mask.astype(np.uint8) * 255)
    source = save(tmp_path / 'in' / 'a.png', clean).parent
    flags = ('--task', 'inpaint', '--has_aligned', '--mask_path', str(masks if folder else masks / 'a.png'))
    code, output, _ = run(source, *flags)
    by_file = load(output / 'restored_faces' / 'a.png')
    run(save(tmp_path / 'a.png', face), '--task', 'inpaint', '--has_aligned')
    assert code == 0 and np.array_equal(by_file, load(output / 'restored_faces' / 'a.png'))


def test_a_mask_painted_on_a_clear_layer_counts_where_it_is_opaque(run: Run, tmp_path: Path) -> None:
    face, mask = masked_face(64)
    layer = np.dstack([np.full((64, 64, 3), 255, np.uint8), mask.astype(np.uint8) * 255])
    (tmp_path / 'mask.png').write_bytes(cv2.imencode('.png', layer)[1])
    flags = ('--task', 'inpaint', '--has_aligned', '--mask_path', str(tmp_path / 'mask.png'))
    code, output, _ = run(save(tmp_path / 'a.png', face), *flags)
    result = load(output / 'restored_faces' / 'a.png')
    assert code == 0 and np.array_equal(result[~mask], face[~mask])


def test_what_cannot_be_filled_is_said_and_others_go_on(run: Run, tmp_path: Path) -> None:
    face, _ = masked_face(64)
    source = save(tmp_path / 'in' / 'a.png', face).parent
    save(source / 'b.png', np.minimum(face, 250))
    (source / 'c.mp4').write_bytes(b'')
    code, output, files = run(source, '--task', 'inpaint', '--has_aligned')
    assert code == 1 and [file['status'] for file in files] == ['restored', 'failed', 'failed']
    assert 'nothing is masked; paint what is to be filled pure white' in files[1]['message']
    assert 'give --no-has_aligned' in files[2]['message']
    masks = save(tmp_path / 'masks' / 'b.png', np.full((32, 32), 255, np.uint8)).parent
    _, _, files = run(source, '--task', 'inpaint', '--has_aligned', '--mask_path', str(masks))
    assert 'no mask of that name' in files[0]['message']
    assert 'the mask is 32x32, and the picture 64x64' in files[1]['message']
    assert [path.name for path in (output / 'restored_faces').iterdir()] == ['a.png']


def test_a_whole_picture_is_filled_where_a_face_is(run: Run, tmp_path: Path) -> None:
    photo = np.minimum(portrait(), 250)  # a sharp one
    mask = np.zeros(photo.shape[:2], bool)
    mask[128:148, 200:250] = True  # the mouth
    mask[500:510, 5:15] = True  # far from the face
    photo[mask] = 255
    code, output, files = run(save(tmp_path / 'a.png', photo), '--task', 'inpaint')
    result = load(output / 'final_results' / 'a.png')
    assert code == 0 and (files[0]['status'], files[0]['restored']) == ('restored', 1)
    assert np.array_equal(result[~mask], photo[~mask])
    assert not (result[128:148, 200:250] == 255).all(axis=2).any() and (result[500:510, 5:15] == 255).all()
    assert '100 masked pixels lie in no restored face' in files[0]['message']


def test_masked_pixels_belong_to_the_nearest_face() -> None:
    mask = np.ones((64, 128), bool)
    mask[0] = False
    left, right = (np.array([[1.0, 0, -shift], [0, 1, 0]]) for shift in (0, 40))
    owner = nearest_face(mask, [left, right], 64)
    assert (owner[0] == -1).all() and (owner[1:, 104:] == -1).all()  # beyond both crops
    assert owner[40, 20] == 0 and owner[40, 60] == 1  # inside the first and second face
    assert (np.diff(owner[38, :104]) >= 0).all() and abs(int((owner[38] == 0).sum()) - 52) <= 1


def test_masks_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match='no such file or folder'):
        MaskReader(tmp_path / 'none')
    with pytest.raises(ValueError, match='give a picture, or a folder of pictures'):
        MaskReader(tmp_path)
    image = np.zeros((4, 4, 3), np.uint8)
    image[1, 2] = 255
    assert np.argwhere(MaskReader()(Job(tmp_path / 'a.png', 'a'), image)).tolist() == [[1, 2]]


# ---- colourization


def test_an_aligned_grey_face_gets_the_colours_of_the_network(run: Run, model: Path, tmp_path: Path) -> None:
    face = grey(aligned_face(64))
    code, output, _ = run(save(tmp_path / 'a.png', face), '--task', 'colorize', '--has_aligned')
    result = load(output / 'restored_faces' / 'a.png')
    made = network_says(model, cv2.cvtColor(face, cv2.COLOR_GRAY2RGB), w=0, adain=True)
    assert code == 0 and result.shape == (64, 64, 3)
    assert np.abs(result.astype(int) - made).max() <= 1 and not is_grey(result)
    run(tmp_path / 'a.png', '--has_aligned')  # to restore keeps it grey
    assert load(output / 'restored_faces' / 'a.png').ndim == 2


@pytest.mark.parametrize('photo', [portrait(), blurred_portrait()], ids=['sharp', 'blurred'])
def test_a_whole_grey_picture_gets_colour_where_its_face_is(run: Run, tmp_path: Path, photo: np.ndarray) -> None:
    source = grey(photo)
    code, output, files = run(save(tmp_path / 'a.png', source), '--task', 'colorize')
    result = load(output / 'final_results' / 'a.png').astype(int)
    assert code == 0 and files[0]['status'] == 'restored' and result.shape == (512, 512, 3)
    colour = np.abs(result - result.mean(axis=2, keepdims=True)).max(axis=2)
    assert colour[100:140, 205:245].mean() > 2 and (colour[300:] == 0).all()
    assert np.array_equal(result[300:, :, 0], source[300:])


# ---- clips


@pytest.fixture(scope='module')
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two grey frames of a face."""
    path = tmp_path_factory.mktemp('clips') / 'a.mp4'
    photo = cv2.cvtColor(grey(blurred_portrait()), cv2.COLOR_GRAY2RGB)
    write_clip(path, Scene(photo, 2, Fraction(25), motion=0))
    return path


def frames_of(path: Path) -> np.ndarray:
    with VideoReader(path) as clip:
        return np.stack([frame.image for frame in clip.frames()]).astype(int)


def test_a_grey_clip_gets_colour_where_its_face_is(run: Run, clip: Path) -> None:
    code, output, files = run(clip, '--task', 'colorize')
    assert code == 0 and (files[0]['status'], files[0]['restored']) == ('restored', 1)
    result = frames_of(output / 'final_results' / 'a.mp4')
    assert result.shape == (2, 512, 512, 3)
    colour = np.abs(result - result.mean(axis=3, keepdims=True)).max(axis=3)
    assert colour[:, 100:140, 205:245].mean() > 2 * colour[:, 300:].max()


def test_a_clip_is_filled_where_its_mask_is(run: Run, clip: Path, tmp_path: Path) -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[128:148, 200:250] = 255  # the mouth
    flags = ('--task', 'inpaint', '--mask_path', str(save(tmp_path / 'mask.png', mask)))
    code, output, files = run(clip, *flags)
    assert code == 0 and (files[0]['status'], files[0]['restored']) == ('restored', 1)
    changes = np.abs(frames_of(output / 'final_results' / 'a.mp4') - frames_of(clip)).max(axis=(0, 3))
    assert changes[132:144, 205:245].mean() > 20 > 2 > changes[200:].mean()
    assert 'give a mask with --mask_path' in run(clip, '--task', 'inpaint')[2][0]['message']
    save(tmp_path / 'mask.png', mask[:200])
    assert 'is 512x200, and the picture 512x512' in run(clip, *flags)[2][0]['message']
    mask[:] = 0
    mask[400:, :50] = 255
    save(tmp_path / 'mask.png', mask)
    assert 'nothing of it is masked' in run(clip, *flags)[2][0]['message']


# ---- both


@pytest.mark.parametrize(('task', 'group'), [('colorize', 'colorization'), ('inpaint', 'inpainting')])
def test_missing_weights_are_one_line_with_the_command(
    task: str, group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / 'a.png', aligned_face(64))
    argv = ['-i', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'out'), '--task', task, '--model', 'official']
    assert restore.main([*argv, '--weights_dir', str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'codeformer_{group}.pth is not there; get it with: id-codeformer download {group}' in line
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--task', 'inpaint', '-s', '2'], 'what is not masked stays as it is'),
        (['--task', 'inpaint', '--bg_upsampler', 'realesrgan'], 'what is not masked stays as it is'),
        (['--task', 'inpaint', '--network_size'], 'what is not masked stays as it is'),
        (['--task', 'colorize', '-w', 'auto'], '-w auto'),
        (['--task', 'colorize', '--color_fix'], '--color_fix keeps the colours of the input'),
        (['--mask_path', 'x'], 'only --task inpaint has masks'),
        (['--quality', '80'], '--quality: PNG keeps every level; add --ext jpg or webp'),
        (['--task', 'inpaint', '--mask_path', 'none'], '--mask_path none: no such file or folder'),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    save(tmp_path / 'a.png', masked_face(64)[0])
    assert run(tmp_path / 'a.png', *flags)[0] == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize('name', ['colorization', 'inpainting'])
def test_the_published_commands(name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imwrite(tmp_path / 'in' / 'a.png', masked_face(64)[0])
    given = ['--input_path', str(tmp_path / 'in'), '--output_path', str(tmp_path / 'out'), '--suffix', 'x']
    monkeypatch.setattr(sys, 'argv', [f'inference_{name}.py', *given, '--model', str(model)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / f'inference_{name}.py'), run_name='__main__')
    assert stop.value.code == 0
    assert imread(tmp_path / 'out' / 'restored_faces' / 'a_x.png').shape == (64, 64, 3)


# ---- the embedded model


def test_the_embedded_model_gives_a_grey_face_its_colours_and_keeps_its_light(tmp_path: Path) -> None:
    face = aligned_face(256)
    save(tmp_path / 'in' / 'a.png', grey(face))
    argv = ['-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), '--task', 'colorize', '--has_aligned']
    assert restore.main([*argv, '--weights_dir', str(tmp_path), '--device', 'cpu']) == 0
    result = load(tmp_path / 'out' / 'restored_faces' / 'a.png').astype(float)
    assert np.abs(result @ LUMA - grey(face)).mean() < 1
    true, found = (image - (image @ LUMA)[..., None] for image in (face.astype(float), result))
    assert np.abs(found - true).mean() < 0.6 * np.abs(true).mean()
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['w'] == 0 and 'embedded small model to colorize' in summary['model']


def test_the_embedded_model_fills_strokes_in_a_face(tmp_path: Path) -> None:
    face, mask = masked_face(256)
    save(tmp_path / 'in' / 'a.png', face)
    argv = ['-i', str(tmp_path / 'in'), '-o', str(tmp_path / 'out'), '--task', 'inpaint', '--has_aligned']
    assert restore.main([*argv, '--weights_dir', str(tmp_path), '--device', 'cpu']) == 0
    result, whole = load(tmp_path / 'out' / 'restored_faces' / 'a.png'), aligned_face(256)
    assert np.array_equal(result[~mask], face[~mask])
    errors = [np.abs(each[mask].astype(float) - whole[mask]).mean() for each in (result, face)]
    assert errors[0] < 0.3 * errors[1]


def test_a_network_made_for_other_tasks_does_not_restore(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save(tmp_path / 'a.png', aligned_face(64))
    file = ROOT / 'weights' / 'small' / 'tasks_128.safetensors'
    argv = ['-i', str(tmp_path / 'a.png'), '-o', str(tmp_path / 'out'), '--model', str(file)]
    assert restore.main(argv) == 2
    assert f'{file}: made for --task colorize or --task inpaint, not to restore' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_filling_takes_on_what_is_around_it() -> None:
    face, mask = masked_face(64)
    for drawn in (70, 200):  # a constant difference to the surroundings is taken out
        plain = FoundFace(np.full_like(face, 120), None, RESTORED).with_restoration(np.full_like(face, drawn), 0.5)
        assert np.abs(blended(plain, mask).restored.astype(int) - 120).max() <= 1
    filled = np.where(mask[..., None], 90, face).astype(np.uint8)
    whole = FoundFace(face, None, RESTORED).with_restoration(filled, 0.5)
    assert np.array_equal(blended(whole, mask).restored, filled)
