"""Settings of a visitor of the page."""

from __future__ import annotations

from dataclasses import dataclass

from basicsr.inference.people import THRESHOLD
from basicsr.inference.tasks import RESTORE

NO_UPSAMPLER = 'none'
COLOUR_FIXES = {'as the model needs it': None, 'on': True, 'off': False}
DEFAULT_COLOUR_FIX = next(iter(COLOUR_FIXES))


@dataclass(frozen=True)
class Settings:
    """Settings of a visitor's restorations.

    Attributes:
        left_out: labels of the faces that stay as they are, see `Face.label`.
        w: 0 for quality to 1 for fidelity.
        auto: choose w for each face instead.
        blend: share of the restored face in the result, 0 to 1.
        upscale: enlargement of whole pictures, 1 to 4.
        upsampler: of the background, a key of `Engine.upsamplers`.
        colour_fix: a key of `COLOUR_FIXES`.
        model: a key of `Engine.models`.
        force: restore faces that are already sharp, too.
        threshold: smallest cosine at which a face is taken for somebody with references.
    """

    left_out: frozenset[str] = frozenset()
    w: float = RESTORE.w
    auto: bool = False
    blend: float = 1.0
    upscale: float = 2.0
    upsampler: str = NO_UPSAMPLER
    colour_fix: str = DEFAULT_COLOUR_FIX
    model: str = 'auto'
    force: bool = False
    threshold: float = THRESHOLD
