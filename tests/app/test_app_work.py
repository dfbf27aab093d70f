"""What the page does, without a server: finding, restoring, decoding again, people, archives, words, visitors."""

from __future__ import annotations

import json
import re
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from odd_pictures import save
from PIL import Image
from PIL.ExifTags import IFD
from small_faces import blurred_portrait, portrait, save_tiny_model
from small_recognizer import save_tiny

pytest.importorskip('gradio', reason='the page needs the extra app')

import gradio

from basicsr.app import handlers
from basicsr.app import session as sessions_module
from basicsr.app.archive import pack
from basicsr.app.engine import Engine
from basicsr.app.handlers import Handlers
from basicsr.app.session import Session, Sessions
from basicsr.app.settings import Settings
from basicsr.app.views import PREVIEW, face_pair, identity_rows, picture_pair
from basicsr.app.wording import plain
from basicsr.app.work import decode, decode_face, find, restore
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.inference.identity_meter import FaceIdentity
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.progress import CancelledError, listen, track

TRIALS = Path(__file__).parents[1] / 'trials'
FORCED = Settings(model='tiny.pth', upscale=1, force=True)


@pytest.fixture(scope='module')
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp('engine')
    recognizer = save_tiny(folder / 'recognizer.pth')
    return Engine(str(save_tiny_model(folder / 'tiny.pth')), 'cpu', folder, recognizer=str(recognizer))


@pytest.fixture
def session(tmp_path):
    (tmp_path / 'visitor').mkdir()
    return Session(tmp_path / 'visitor')


@pytest.fixture
def photo(tmp_path):
    exif = Image.Exif()
    exif[0x0110], exif[IFD.GPSInfo] = 'a phone', {1: 'N', 2: (48.0, 1.0, 2.0)}
    save(blurred_portrait(), exif=exif, quality=95)(tmp_path / 'photo.jpg')
    return str(tmp_path / 'photo.jpg')


def encodings(engine: Engine) -> list[int]:
    """A list that grows with each call of the encoder."""
    calls: list[int] = []
    engine.restorer('tiny.pth').network.encoder.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_a_picture_is_restored_as_the_library_does(engine, session, photo):
    find(engine, session, [photo], FORCED)
    assert session.labels == ['0 · photo'] and picture_pair(session.pictures[0]) is None
    restore(engine, session, FORCED)
    faces = FaceRestorer(engine.model, 'cpu')
    wanted = ImageRestorer(faces, engine.detector, w=0.8, upscale=1, force=True).restore(
        session.pictures[0].picture.image
    )
    assert np.abs(wanted.image.astype(int) - session.pictures[0].image).max() <= 2
    before, after = picture_pair(session.pictures[0])
    assert before.shape == after.shape and not np.array_equal(before, after)
    assert [side.shape for side in face_pair(engine, session, '0 · photo')] == [(64, 64, 3)] * 2


def test_another_w_and_blend_need_no_encoder_and_give_the_same_as_restoring_anew(engine, session, photo, tmp_path):
    find(engine, session, [photo], FORCED)
    restore(engine, session, FORCED)
    calls, first = encodings(engine), session.pictures[0].image
    moved = replace(FORCED, w=0.1, blend=0.5)
    decode_face(engine, session, moved, '0 · photo')
    assert session.stale and np.array_equal(session.pictures[0].image, first)
    shown = face_pair(engine, session, '0 · photo')[1]
    decode(engine, session, replace(moved, upscale=4, model='small'))  # only w and blend count
    assert not session.stale and not calls
    assert np.array_equal(face_pair(engine, session, '0 · photo')[1], shown)
    (tmp_path / 'other').mkdir()
    anew = Session(tmp_path / 'other')
    find(engine, anew, [photo], moved)
    restore(engine, anew, moved)
    assert np.array_equal(anew.pictures[0].image, session.pictures[0].image)
    decode(engine, session, replace(FORCED, blend=0))
    assert np.array_equal(session.pictures[0].image, session.pictures[0].picture.image)


def test_the_embedded_model_follows_a_slider_at_once(session, photo, tmp_path):
    engine = Engine('small', 'cpu', tmp_path)
    find(engine, session, [photo], Settings(force=True))
    restore(engine, session, Settings(force=True))
    begin = time.process_time()
    decode_face(engine, session, Settings(w=0.2), session.labels[0])
    face_pair(engine, session, session.labels[0])
    assert time.process_time() - begin < 2  # of the processor; a busy machine takes longer


def test_a_face_that_is_left_out_stays(engine, session, photo):
    find(engine, session, [photo], FORCED)
    restore(engine, session, replace(FORCED, left_out=frozenset({'0 · photo'})))
    assert session.pictures[0].faces[0].status == 'left_out'
    assert np.array_equal(session.pictures[0].image, session.pictures[0].picture.image)
    before, after = face_pair(engine, session, '0 · photo')
    assert np.array_equal(before, after)


def test_sharp_faces_are_left_alone_unless_they_are_to_be_restored(engine, session, tmp_path):
    save(portrait())(tmp_path / 'sharp.png')
    find(engine, session, [str(tmp_path / 'sharp.png')], replace(FORCED, force=False))
    restore(engine, session, replace(FORCED, force=False))
    assert session.pictures[0].faces[0].status == 'already_sharp'
    restore(engine, session, FORCED)
    assert session.pictures[0].faces[0].status == 'restored'


def test_files_that_are_no_pictures_are_named_and_the_others_go_on(engine, session, photo, tmp_path):
    (tmp_path / 'text.jpg').write_text('no picture')
    find(engine, session, [str(tmp_path / 'text.jpg'), photo], FORCED)
    assert [shown.name for shown in session.pictures] == ['photo']
    assert session.notes == ['text.jpg: not a readable picture (damaged, or not a picture at all)']
    find(engine, session, [str(tmp_path / 'text.jpg')], FORCED)
    with pytest.raises(ValueError, match=r'^text.jpg: not a readable picture'):
        restore(engine, session, FORCED)
    with pytest.raises(ValueError, match='drop one or more pictures'):
        find(engine, session, [], FORCED)


def test_pictures_that_are_too_large_alone_or_together_are_refused(engine, session, photo, monkeypatch):
    monkeypatch.setattr(engine, 'max_megapixels', 0.1)
    find(engine, session, [photo], FORCED)
    assert session.pictures == [] and 'over the limit of 0.1 megapixels; reduce the picture' in session.notes[0]
    monkeypatch.setattr(engine, 'max_megapixels', 0.4)
    with pytest.raises(ValueError, match=r'together more than 0\.4 megapixels'):
        find(engine, session, [photo, str(save_copy(photo))], FORCED)
    find(engine, session, [photo], FORCED)
    with pytest.raises(ValueError, match=r'^photo.jpg: 512x512 pixels, enlarged 4 times'):
        restore(engine, session, replace(FORCED, upscale=4))


def save_copy(photo: str) -> Path:
    copy = Path(photo).with_name('copy.jpg')
    copy.write_bytes(Path(photo).read_bytes())
    return copy


def test_people_are_recognized_and_the_table_says_so_in_plain_words(engine, session, photo, tmp_path):
    save(portrait())(tmp_path / 'her.png')
    session.add_person(' Eileen/Collins ', [str(tmp_path / 'her.png')])
    session.add_person('Eileen Collins', [str(tmp_path / 'her.png')])
    assert {name: len(files) for name, files in session.people.items()} == {'Eileen Collins': 2}
    find(engine, session, [photo], FORCED)
    restore(engine, session, replace(FORCED, threshold=0.05))
    ((label, person, before, after, w, words),) = identity_rows(session)
    assert (label, person, w) == ('0 · photo', 'Eileen Collins', '0.8')
    assert -1 <= float(after) <= 1 and float(before) > 0.05
    assert words and '--' not in words
    session.forget_people()
    restore(engine, session, FORCED)
    assert identity_rows(session)[0][1] == 'the input itself'


@pytest.mark.parametrize(('name', 'words'), [(' / ', 'needs a name'), ('Anna', 'drop one or more photographs')])
def test_people_need_a_name_and_a_photograph(session, name, words):
    with pytest.raises(ValueError, match=words):
        session.add_person(name, [])


def test_what_is_not_there_is_said(engine, session, photo, monkeypatch):
    find(engine, session, [photo], FORCED)
    with pytest.raises(CheckpointError) as caught:
        restore(engine, session, replace(FORCED, auto=True))
    assert plain(str(caught.value)).startswith('w cannot be chosen without photographs of the person')
    for wrong, words in (
        (replace(FORCED, model='none'), "no model 'none' here; choose one of tiny.pth, auto, small"),
        (replace(FORCED, upsampler='none of these'), "no upsampler 'none of these' here"),
        (replace(FORCED, upscale=9), 'enlargement 9: must be from 1 to 4'),
        (replace(FORCED, colour_fix='maybe'), "colour fix 'maybe'"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            restore(engine, session, wrong)
    with pytest.raises(ValueError, match='no face'):
        face_pair(engine, session, '7 · photo')


def test_an_archive_has_every_result_and_no_folder_and_no_position(engine, session, photo, tmp_path):
    with pytest.raises(ValueError, match='restore the pictures first'):
        pack(engine, session)
    find(engine, session, [photo], FORCED)
    restore(engine, session, FORCED)
    decode_face(engine, session, replace(FORCED, w=0.3), '0 · photo')
    archive = pack(engine, session, 'jpg')
    assert not session.stale
    with zipfile.ZipFile(archive) as file:
        names, text = file.namelist(), file.read('summary.json').decode()
        result = Image.open(file.open('final_results/photo.jpg'))
    assert sorted(names) == [
        'cropped_faces/photo_00.jpg', 'final_results/photo.jpg', 'restored_faces/photo_00.jpg', 'summary.json',
    ]  # fmt: skip
    assert result.getexif()[0x0110] == 'a phone' and IFD.GPSInfo not in result.getexif()
    summary = json.loads(text)
    assert summary['w'] == 0.3 and summary['files'][0]['status'] == 'restored'
    assert summary['model'].startswith('tiny.pth, 64x64 pixels') and str(tmp_path) not in text
    with zipfile.ZipFile(pack(engine, session, keep_gps=True)) as file:
        assert IFD.GPSInfo in Image.open(file.open('final_results/photo.png')).getexif()


def test_clips_are_restored_too(engine, session):
    pytest.importorskip('av', reason='clips need the extra video')
    find(engine, session, [str(TRIALS / 'clip.mpg')], FORCED)
    restore(engine, session, FORCED)
    (record,) = session.records
    assert record.input == 'clip.mpg' and record.status in ('restored', 'no_face', 'incomplete')
    with zipfile.ZipFile(pack(engine, session)) as file:
        assert 'final_results/clip.mp4' in file.namelist()


def test_work_that_is_cancelled_ends(engine, session, photo):
    session.cancel.set()
    with pytest.raises(CancelledError), listen(cancel=session.cancel):
        find(engine, session, [photo], FORCED)


def test_the_cancel_button_ends_what_is_going_on_and_says_so(engine, tmp_path, monkeypatch, photo):
    handle, visitor = Handlers(engine, Sessions(tmp_path / 'visitors')), SimpleNamespace(session_hash='visitor')
    (tmp_path / 'visitors').mkdir()
    settings = (0.8, False, 1, 1, 'none', 'off', 'tiny.pth', True, 0.3)
    seen: list[tuple] = []

    def meanwhile(engine, session, settings):
        for _ in track(range(3), 'face'):
            handle.cancel(visitor)

    monkeypatch.setattr(handlers, 'restore', meanwhile)
    progress = lambda done, unit: seen.append((done, unit))  # noqa: E731
    with pytest.raises(gradio.Error) as caught:
        handle.restore([photo], [], *settings, request=visitor, progress=progress)
    assert caught.value.title == 'Cancelled' and seen == []  # one file has no steps
    monkeypatch.undo()
    handle.restore([photo, str(save_copy(photo))], [], *settings, request=visitor, progress=progress)
    assert ((2, 2), 'pictures') in seen


def test_unexpected_errors_are_logged_and_said_without_folders(caplog):
    said = handlers.error_of(KeyError('/home/me/weights.pth'))
    assert said.message == "unexpected error (KeyError: 'weights.pth')" and caplog.records
    assert handlers.error_of(ValueError('<b>.png: damaged')).message == '&lt;b&gt;.png: damaged'


def test_large_pictures_are_shown_small(engine, session, tmp_path):
    wide = np.zeros((40, 2 * PREVIEW, 3), np.uint8)
    save(cv2.GaussianBlur(wide, (0, 0), 1))(tmp_path / 'wide.png')
    find(engine, session, [str(tmp_path / 'wide.png')], FORCED)
    restore(engine, session, FORCED)
    assert [side.shape for side in picture_pair(session.pictures[0])] == [(20, PREVIEW, 3)] * 2


def test_visitors_are_apart_and_leave_nothing(tmp_path, monkeypatch):
    sessions = Sessions(tmp_path)
    one, two = sessions['one'], sessions['two']
    assert one is sessions['one'] and one is not two and len(list(tmp_path.iterdir())) == 2
    sessions.leave('one')
    assert one.cancel.is_set() and not one.folder.exists() and two.folder.exists()
    monkeypatch.setattr(sessions_module, 'LIFETIME', -1.0)
    assert sessions['three'].folder.exists() and not two.folder.exists()


@pytest.mark.parametrize(
    ('text', 'wanted'),
    [
        ('/home/me/a b/photo.jpg: not a readable picture', 'photo.jpg: not a readable picture'),
        ("'/tmp/x/y.png' and (C:\\users\\me\\z.png)", "'y.png' and (z.png)"),
        ('less like Anna than the input was; try a higher -w', 'less like Anna than the input was; try a higher w'),
        ('1/2 of 3 and/or more', '1/2 of 3 and/or more'),
        (
            'its cosine with Anna, 0.20, is below 0.3; if it is Anna, insist with --id_threshold 0.2',
            'its cosine with Anna, 0.20, is below 0.3; if it is Anna, lower the least similarity to 0.2',
        ),
        (
            'a.png: 9x9 pixels are over the limit of 1 megapixels (--max_megapixels); reduce the picture, or raise the '
            'limit if memory allows',
            'a.png: 9x9 pixels are over the limit of 1 megapixels; reduce the picture',
        ),
    ],
)
def test_messages_are_in_words_of_the_page(text, wanted):
    assert plain(text) == wanted


def test_no_warning_of_identity_names_a_flag():
    from basicsr.inference import identity_meter

    source = Path(identity_meter.__file__).read_text(encoding='utf-8')
    flags = re.findall(r"'([^'\n]*(?:--|-w\b)[^'\n]*)'", source)
    assert len(flags) >= 3
    assert not [text for text in map(plain, flags) if '--' in text or '-w' in text]


def test_the_table_says_what_numbers_mean():
    from basicsr.app.views import in_words

    face = FaceIdentity(0, 'reference', 'Anna', 0.5, 0.7, 0.8)
    assert in_words(face) == 'more like Anna than the input was'
    assert in_words(replace(face, after=0.51)) == 'as like Anna as the input was'
    assert in_words(replace(face, person=None, before=None)) == 'still the person of the input'
