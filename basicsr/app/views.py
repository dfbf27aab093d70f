"""Before and after, in sizes for the page."""

from __future__ import annotations

import numpy as np

from basicsr.app.engine import Engine
from basicsr.app.session import Session, Shown
from basicsr.app.settings import Settings
from basicsr.inference.found_face import RestoredFace
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
