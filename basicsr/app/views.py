"""Before and after, in sizes for the page, and the table of likeness."""

from __future__ import annotations

import numpy as np

from basicsr.app.engine import Engine
from basicsr.app.session import Session, Shown
from basicsr.app.settings import Settings
from basicsr.app.wording import plain
from basicsr.inference.found_face import RestoredFace
from basicsr.inference.identity_meter import MARGIN, FaceIdentity
from basicsr.inference.runner import likeness_of
from basicsr.utils.image import resized, to_8_bits

PREVIEW = 1600  # pixels of the long side of a picture on the page

Pair = tuple[np.ndarray, np.ndarray]


def picture_pair(shown: Shown) -> Pair | None:
    """Return a picture before and after, RGB uint8 of at most `PREVIEW` pixels; None if it is not restored."""
    if shown.image is None:
        return None
    height, width = shown.image.shape[:2]
    factor = min(1.0, PREVIEW / max(height, width))
    width, height = max(1, round(width * factor)), max(1, round(height * factor))
    before, after = (to_8_bits(resized(image, width, height)) for image in (shown.picture.image, shown.image))
    return before, after


def face_pair(engine: Engine, session: Session, label: str) -> Pair:
    """Return a face before and after, RGB uint8 (n,n,3) at the network's side; the same twice if left alone.

    Raises:
        ValueError: no such face.
    """
    shown, number = session.face(label)
    face = (shown.faces or shown.cut)[number]
    settings = session.restored_with or Settings(model=engine.default_model)
    side = engine.restorer(settings.model).size
    before = resized(face.crop, side, side)
    if not isinstance(face, RestoredFace):
        return before, before
    return before, engine.images(settings, session.guide).canvas.blended(before, face.restored)


HEADERS = ['face', 'compared with', 'before', 'after', 'w', 'what it means']
WIDTHS = ['20%', '17%', '12%', '10%', '9%', '32%']
FLATTERED = 'similarities are measured by the recognizer that guided the restoration, and look better than they are'


def in_words(face: FaceIdentity) -> str:
    """Say what became of the likeness; the warning, where there is one."""
    if face.warning:
        return plain(face.warning)
    if face.before is None:
        return 'still the person of the input'
    change = face.after - face.before
    if abs(change) <= MARGIN:
        return f'as like {face.person} as the input was'
    return f'more like {face.person} than the input was'


def row(label: str, face: FaceIdentity) -> list[str]:
    """One line of the table."""
    who = face.person or 'the input itself'
    before = '' if face.before is None else f'{face.before:.2f}'
    return [label, who, before, f'{face.after:.2f}', f'{face.w:g}', in_words(face)]


def identity_rows(session: Session) -> list[list[str]]:
    """Return the lines for all restored faces whose likeness was measured."""
    rows = [row(shown.labels[face.face], face) for shown in session.pictures for face in likeness_of(shown.faces or [])]
    clips = [row(f'{face.face} · {record.input}', face) for record in session.records for face in record.identity]
    return rows + clips
