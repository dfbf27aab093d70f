"""Files made to break a run: each is one record, nothing else is opened or run, and its neighbours are restored."""

from __future__ import annotations

import os
import pickle
import random
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_pictures import content, save, scene
from PIL import EpsImagePlugin, Image, UnidentifiedImageError
from small_faces import ASTRONAUT_LANDMARKS, Found, Unchanged, blurred_portrait, save_tiny_model
from spandrel.architectures.ESRGAN import ESRGAN

from basicsr.faces.anchors import decode
from basicsr.faces.detection import Face, ScaledDetector
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.inference.attempt import UNEXPECTED
from basicsr.inference.jobs import Job, plan_jobs
from basicsr.inference.runner import Runner
from basicsr.inference.upsampler import Upsampler
from basicsr.recognition import embedder
from basicsr.utils import files
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.image import ImageReadError, imwrite
from basicsr.utils.picture import FORMATS, read_picture
from experiments.fuzzing.fuzz import TARGETS, fuzz
from experiments.fuzzing.mutation import mutate


def run(*jobs: Job, output: Path, restorer: ImageRestorer | None = None, **settings):
    restorer = restorer or ImageRestorer(Unchanged(64), Found(), upscale=1)
    return list(Runner(restorer, output, **settings).run(jobs))


def test_postscript_under_a_pictures_name_runs_nothing(tmp_path, monkeypatch):
    def forbidden(*_):
        raise AssertionError('Ghostscript was asked for')

    monkeypatch.setattr(EpsImagePlugin, 'Ghostscript', forbidden)
    page = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n%%EOF\n'
    for name in ('a.png', 'a.jpg', 'a.gif'):
        content(page)(tmp_path / name)
        with pytest.raises(ImageReadError, match='PostScript is not read here'):
            read_picture(tmp_path / name)


def test_only_the_documented_formats_are_opened_whatever_a_file_is_called(tmp_path, monkeypatch):
    Image.init()
    monkeypatch.setattr(Image, 'EXTENSION', dict(Image.EXTENSION))  # SPIDER claims the extension that it is written to
    others, opened = 0, []
    for name in sorted(set(Image.SAVE) - {*FORMATS, 'PDF', 'MPO'}):
        for mode in ('RGB', 'L', '1', 'F'):
            try:
                Image.fromarray(scene()).convert(mode).save(tmp_path / 'a.png', name)
                break
            except Exception:  # not every format writes every mode, or writes at all
                continue
        else:
            continue
        try:
            with Image.open(tmp_path / 'a.png') as file:
                kind = file.format
        except UnidentifiedImageError:  # Pillow only writes it
            continue
        if kind in FORMATS:  # what the format writes is one of those
            continue
        others += 1
        try:
            read_picture(tmp_path / 'a.png')
            opened.append(kind)
        except ImageReadError:
            pass
    assert others > 8 and opened == []


@pytest.mark.parametrize('kind', ['TIFF', 'GIF', 'PNG', 'WEBP'])
def test_the_limit_of_pillow_stops_no_picture_within_ours(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)  # Pillow raises an error from twice as many on
    save(scene(), format=kind)(tmp_path / 'a.png')
    (record,) = run(Job(tmp_path / 'a.png', 'a'), output=tmp_path / 'out')
    assert record.status == 'no_face', record.message
    assert Image.MAX_IMAGE_PIXELS == 100


class Breaking(Unchanged):
    """Raises anything at the second picture."""

    def __init__(self, error: Exception) -> None:
        super().__init__(64)
        self.error, self.calls = error, 0

    def restore(self, faces, w=0.8, adain=True):
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return super().restore(faces)


@pytest.mark.parametrize(
    'error', [StopIteration(), KeyError('x'), AttributeError('y'), ZeroDivisionError(), MemoryError()]
)
@pytest.mark.parametrize('aligned', [False, True])
def test_whatever_a_file_does_it_is_one_record(tmp_path, error, aligned):
    face = Face(np.zeros(4), 1.0, ASTRONAUT_LANDMARKS / 8)
    for name in 'abc':
        save(scene(64, 64))(tmp_path / f'{name}.png')
    network = Breaking(error)
    network.batch_size = 1
    restorer = ImageRestorer(network, Found(face), upscale=1, force=True)
    jobs = [Job(tmp_path / f'{name}.png', name) for name in 'abc']
    records = run(*jobs, output=tmp_path / 'out', restorer=restorer, aligned=aligned)
    assert [record.status for record in records] == ['restored', 'failed', 'restored']
    message = records[1].message
    assert message.startswith(UNEXPECTED if not isinstance(error, MemoryError) else str(tmp_path / 'b.png'))
    assert type(error).__name__ in message


def test_an_aligned_face_that_breaks_the_network_does_not_take_its_batch_with_it(tmp_path):
    for name, level in (('a', 10), ('b', 255), ('c', 20)):
        save(np.full((64, 64, 3), level, np.uint8))(tmp_path / f'{name}.png')

    class Delicate(Unchanged):
        def restore(self, faces, w=0.8, adain=True):
            if any(face.max() == 255 for face in faces):
                raise RuntimeError('too bright')
            return super().restore(faces)

    jobs = [Job(tmp_path / f'{name}.png', name) for name in 'abc']
    records = run(*jobs, output=tmp_path / 'out', restorer=ImageRestorer(Delicate(64)), aligned=True)
    assert [record.status for record in records] == ['restored', 'failed', 'restored']
    assert records[1].message == 'too bright'


# Networks that return nonsense


def test_an_upsampler_that_returns_no_numbers_is_a_failed_file_and_no_black_picture(tmp_path):
    network = ESRGAN(num_filters=8, num_blocks=1, scale=4)
    with torch.no_grad():
        network.model[0].bias[:] = float('nan')
    torch.save(network.state_dict(), tmp_path / 'net.pth')
    upsampler = Upsampler(tmp_path / 'net.pth')
    save(scene())(tmp_path / 'a.png')
    restorer = ImageRestorer(Unchanged(64), Found(), upscale=2, bg_upsampler=upsampler)
    (record,) = run(Job(tmp_path / 'a.png', 'a'), output=tmp_path / 'out', restorer=restorer)
    assert record.status == 'failed' and 'the upsampler returned values that are not finite' in record.message
    assert record.outputs == []


def test_detectors_that_return_no_numbers_are_errors_and_not_pictures_without_faces():
    with pytest.raises(RuntimeError, match='the face detector returned values that are not finite'):
        ScaledDetector(lambda image: np.full((1, 15), np.nan)).detect(scene())
    with pytest.raises(RuntimeError, match='the face detector'):
        decode(np.zeros((84, 4)), np.full((84, 2), np.nan), np.zeros((84, 10)), 64, 32)


def test_a_recognizer_without_parameters_is_refused_by_name(tmp_path, monkeypatch):
    entry = embedder.RECOGNIZERS['arcface_r50']
    monkeypatch.setattr(embedder, 'find_recognizer', lambda weights: tmp_path / 'empty.onnx')
    monkeypatch.setattr(embedder, 'load_recognizer', lambda path, arch: (entry, torch.nn.Identity()))
    with pytest.raises(CheckpointError, match=r'empty\.onnx: a network without parameters'):
        embedder.FaceEmbedder('empty.onnx')


def test_a_restorer_can_be_pickled_and_restores_the_same(tmp_path):
    restorer = FaceRestorer(save_tiny_model(tmp_path / 'net.pth'), device='cpu')
    again = pickle.loads(pickle.dumps(restorer))
    face = blurred_portrait()[:64, :64]
    assert np.array_equal(again.restore(face)[0], restorer.restore(face)[0])


# Partial files


def test_what_a_killed_run_left_half_written_is_removed_and_what_another_writes_is_not(tmp_path):
    final = tmp_path / 'out' / 'final_results'
    final.mkdir(parents=True)
    abandoned = [final / '.a.mp4.0123abcd.part', tmp_path / 'out' / '.summary.json.99.part']
    for path in abandoned:
        path.write_bytes(b'half')
    (final / '.notes.part').write_bytes(b'of somebody')
    save(scene())(tmp_path / 'a.png')
    with files.replacing(final / 'b.mp4') as alive:
        alive.write_bytes(b'being written')
        run(Job(tmp_path / 'a.png', 'a'), output=tmp_path / 'out')
        assert alive.read_bytes() == b'being written'
    assert (final / 'b.mp4').is_file() and (final / '.notes.part').is_file()
    assert not any(path.exists() for path in abandoned)


def test_partial_files_have_names_nobody_foresees_and_follow_no_link(tmp_path, monkeypatch):
    names = set()
    for _ in range(2):
        with files.replacing(tmp_path / 'a.png') as partial:
            names.add(partial.name)
            partial.write_bytes(b'new')
    assert len(names) == 2 and not any(str(os.getpid()) in name.split('.') for name in names)
    (tmp_path / 'precious').write_bytes(b'precious')
    monkeypatch.setattr(files.secrets, 'token_hex', lambda count: 'abc')
    (tmp_path / '.b.png.abc.part').symlink_to(tmp_path / 'precious')
    with pytest.raises(FileExistsError), files.replacing(tmp_path / 'b.png'):
        pass
    assert (tmp_path / 'precious').read_bytes() == b'precious'


# Names


def test_names_that_some_file_systems_take_for_one_have_results_of_their_own(tmp_path):
    decomposed = unicodedata.normalize('NFD', 'é')
    for name in ('a.png', 'A.png', 'a.jpg', 'é.png', f'{decomposed}.png', 'b.png', 'B.jpg'):
        (tmp_path / name).touch()
    names = [job.name for job in plan_jobs(tmp_path, tmp_path / 'out')]
    assert len({unicodedata.normalize('NFC', name).casefold() for name in names}) == len(names) == 7
    assert names[:6] == ['A', 'B', 'a~2', 'a~3', 'b~2', decomposed] and names[6] == 'é~2'


def test_inputs_of_one_name_are_numbered(tmp_path):
    for name in ('one/same.jpg', 'two/same.jpg', 'two/same.png', 'same~2.jpg', 'folder/a.png', 'folder/a.png.d/b.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    given = [tmp_path / name for name in ('one/same.jpg', 'two/same.jpg', 'two/same.png')]
    assert [job.name for job in plan_jobs(given, tmp_path / 'out')] == ['same', 'same~2', 'same~3']
    taken = [*given, tmp_path / 'same~2.jpg']  # whose name is its own
    assert [job.name for job in plan_jobs(taken, tmp_path / 'out')] == ['same', 'same~3', 'same~4', 'same~2']
    (tmp_path / 'folder' / 'a.png.d').rename(tmp_path / 'folder' / 'c.png')  # a folder of the name of a result
    (tmp_path / 'folder' / 'c.jpg').touch()
    names = [job.name for job in plan_jobs(tmp_path / 'folder', tmp_path / 'out')]
    assert names == ['a', 'c~2', 'c.png/b']


def test_several_inputs_are_planned_together(tmp_path):
    for name in ('one/x.png', 'two/x.png', 'two/sub/y.png', 'x.png'):
        imwrite(tmp_path / name, scene(8, 8))
    sources = [tmp_path / 'one', tmp_path / 'two', tmp_path / 'x.png', tmp_path / 'one' / 'x.png']
    jobs = plan_jobs(sources, tmp_path / 'out')
    assert [job.name for job in jobs] == ['one/x', 'two/sub/y', 'two/x', 'x']
    assert len({job.path for job in jobs}) == 4
    with pytest.raises(FileNotFoundError, match='no such file or folder'):
        plan_jobs([tmp_path / 'one', tmp_path / 'none'], tmp_path / 'out')


# The fuzzer


@pytest.mark.parametrize(('kind', 'cases'), [('pictures', 150), ('clips', 25)])
def test_damaged_files_are_named_and_nothing_else_happens(tmp_path, kind, cases):
    before = threading.active_count()
    assert fuzz(kind, cases, 0, tmp_path / 'kept') == []
    assert threading.active_count() == before


def test_mutations_depend_on_the_seed_alone():
    data = bytes(range(256)) * 4
    assert mutate(data, random.Random('a 0 1')) == mutate(data, random.Random('a 0 1')) != data
    assert len({mutate(data, random.Random(f'a 0 {number}')) for number in range(50)}) > 40
    assert set(TARGETS) >= {'pictures', 'clips'}


def test_a_fault_is_found_and_its_file_kept(tmp_path, monkeypatch):
    def broken(self, jobs):
        raise KeyError('a fault')

    monkeypatch.setattr(Runner, 'run', broken)
    (finding,) = fuzz('pictures', 1, 3, tmp_path / 'kept')
    assert "KeyError: 'a fault'" in finding and 'seed 3, case 0' in finding
    assert len(list((tmp_path / 'kept').iterdir())) == 1
