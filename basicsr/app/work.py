"""Work of the page on a visitor's pictures: find faces, restore, decode again, without Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from basicsr.app.engine import Engine
from basicsr.app.session import Session, Shown
from basicsr.app.settings import Settings
from basicsr.app.wording import plain
from basicsr.inference.face_selection import FaceSelection
from basicsr.inference.image_restorer import ImageRestorer
from basicsr.inference.jobs import Job, is_clip, plan_jobs
from basicsr.inference.report import FileRecord
from basicsr.inference.runner import Runner
from basicsr.utils.image import ImageReadError, to_8_bits
from basicsr.utils.picture import check_size, fill_hidden, read_picture
from basicsr.utils.progress import track

NOTHING = 'drop one or more pictures, or a clip'
NOT_YET = 'restore the pictures first'


def find(engine: Engine, session: Session, uploads: Sequence[str], settings: Settings) -> None:
    """Read uploads, and find their faces. What cannot be read is noted, and the others go on.

    Raises:
        ValueError: nothing was uploaded, or together it is too large.
    """
    if not uploads:
        raise ValueError(NOTHING)
    session.start_over(tuple(uploads))
    megapixels = 0.0
    for job in track(plan_jobs(list(uploads), session.results), 'file'):
        if is_clip(job.path):
            session.clips.append((job.path, job.name))
            continue
        try:
            picture = read_picture(job.path, settings.upscale, engine.max_megapixels)
        except ImageReadError as error:
            session.notes.append(plain(str(error)))
            continue
        megapixels += picture.image.shape[0] * picture.image.shape[1] / 1e6
        if megapixels > engine.max_megapixels:
            session.start_over(())
            raise ValueError(f'together more than {engine.max_megapixels:g} megapixels; drop fewer pictures at a time')
        if picture.note:
            session.notes.append(plain(f'{job.path.name}: {picture.note}'))
        session.pictures.append(Shown(job.path, job.name, fill_hidden(picture)))
    _cut(engine, session, settings)


def _cut(engine: Engine, session: Session, settings: Settings) -> None:
    """Find the faces and cut them out for the model, unless that is done."""
    wanted = (settings.model, settings.force)
    if session.cut_for == wanted:
        return
    images = engine.images(replace(settings, auto=False))
    for shown in track(session.pictures, 'picture'):
        shown.cut = images.faces.cut(to_8_bits(shown.picture.image))
        shown.known = shown.faces = shown.image = None
    session.cut_for = wanted


def images_for(engine: Engine, session: Session, settings: Settings, shown: Shown | None = None) -> ImageRestorer:
    """Build what restores a picture of the visitor, or a clip, with their references and without faces left out.

    Raises:
        ValueError: a setting out of its range, or no reference can be used.
        CheckpointError: there is no recognizer for what was asked for.
    """
    photos = tuple(path for files in session.people.values() for path in files)
    wanted = (settings.model, settings.auto, settings.threshold, photos)
    if session.guide_for != wanted:
        session.guide, session.guide_for = engine.guide(settings, session.references), wanted
    labels = shown.labels if shown else []
    left_out = frozenset(number for number, label in enumerate(labels) if label in settings.left_out)
    return engine.images(settings, session.guide, FaceSelection(without=left_out))


def restore(engine: Engine, session: Session, settings: Settings) -> None:
    """Restore the pictures and clips of the visitor.

    Raises:
        ValueError: nothing was uploaded, a setting is out of its range, or nothing that was uploaded can be read.
        CheckpointError: there is no recognizer for what was asked for.
        RuntimeError: a network failed.
    """
    if not session.pictures and not session.clips:
        raise ValueError('; '.join(session.notes) or NOTHING)
    _cut(engine, session, settings)
    session.restored_with, session.stale = settings, False
    for shown in track(session.pictures, 'picture'):
        images = images_for(engine, session, settings, shown)
        shown.known = images.faces.recognize(shown.cut)
        _finish(engine, session, images, shown)
    session.records = []
    for path, name in session.clips:
        images = images_for(engine, session, settings)
        runner = Runner(images, session.results, max_megapixels=engine.max_megapixels)
        session.records += [without_folders(record) for record in runner.run([Job(path, name)])]


def decode(engine: Engine, session: Session, settings: Settings) -> None:
    """Restore the faces again at another w or blend; other settings stay. Encoders do not work again.

    Raises:
        ValueError: nothing is restored yet.
    """
    restored = [shown for shown in session.pictures if shown.known is not None]
    if session.restored_with is None or not restored:
        raise ValueError(NOT_YET)
    session.restored_with, session.stale = _at(session.restored_with, settings), True
    for shown in restored:
        _finish(engine, session, images_for(engine, session, session.restored_with, shown), shown)
    session.stale = False


def decode_face(engine: Engine, session: Session, settings: Settings, label: str) -> None:
    """Restore one face again at another w, as `decode` does all; the picture stays.

    Raises:
        ValueError: no such face, or it is not restored.
    """
    shown, number = session.face(label)
    if session.restored_with is None or shown.known is None or shown.faces is None:
        raise ValueError(NOT_YET)
    session.restored_with, session.stale = _at(session.restored_with, settings), True
    images = images_for(engine, session, session.restored_with, shown)
    shown.faces[number] = images.faces.restore_crops([shown.known[number]])[0]


def _at(restored_with: Settings, settings: Settings) -> Settings:
    """Return the settings of a restoration, with w and blend of others."""
    return replace(restored_with, w=settings.w, auto=settings.auto, blend=settings.blend)


def _finish(engine: Engine, session: Session, images: ImageRestorer, shown: Shown) -> None:
    """Restore the chosen faces of a picture, and paste them."""
    image, canvas = shown.picture.image, images.canvas
    size = (image.shape[1], image.shape[0])
    check_size(Path(shown.path.name), size, canvas.largest_factor, engine.max_megapixels, ValueError)
    wanted = (shown.name, canvas.upscale, canvas.bg_upsampler)
    if session.enlarged is None or session.enlarged[0] != wanted:
        session.enlarged = wanted, canvas.enlarge(image)
    shown.faces = images.faces.restore_crops(shown.known or [])
    shown.image = canvas.finish(image, shown.faces, enlarged=session.enlarged[1])


def without_folders(record: FileRecord) -> FileRecord:
    """Return a record that says nothing of this machine."""
    return replace(record, input=Path(record.input).name, message=plain(record.message))
