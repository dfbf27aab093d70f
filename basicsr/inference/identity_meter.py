"""How like somebody a face was before its restoration, and is after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from torch import Tensor

from basicsr.inference.people import Person

MARGIN = 0.03  # of a cosine; compressing a degraded face again (JPEG 90) moves 19 of 20 by less
FAITHFUL = 0.3  # cosine below which a person is hardly to be known again, see `people.THRESHOLD`
REFERENCE, INPUT = 'reference', 'input'


@dataclass(frozen=True)
class FaceIdentity:
    """What became of somebody's likeness.

    Attributes:
        face: its number in the picture, or of its track in a clip.
        compared_with: `reference`, or `input` where there is none.
        person: whose reference.
        before: cosine of the input and the person's mean reference; None without reference.
        after: cosine of the restoration and the same, or the input.
        w: the fidelity weight of the restoration.
        warning: that it moved away from the person, or may be somebody else; empty if there is nothing to say.
    """

    face: int
    compared_with: str
    person: str | None
    before: float | None
    after: float
    w: float
    warning: str = ''


def compare(seen: Tensor, restored: Tensor, person: Person | None, w: float) -> FaceIdentity:
    """What became of the likeness of a face, which gets the number 0.

    Args:
        seen: unit embedding of the input (D,).
        restored: of the restoration.
        person: who it is; with the references that it is compared with, else with the input.
        w: of the restoration.
    """
    if person is None or not person.files:
        return _judged(0, None, None, float(restored @ seen), w)
    return _judged(0, person.name, float(seen @ person.mean), float(restored @ person.mean), w)


def average(face: int, frames: Sequence[FaceIdentity]) -> FaceIdentity:
    """What became of the likeness of a face over several frames, in the mean."""
    first = frames[0]
    before = None if first.before is None else mean(frame.before for frame in frames if frame.before is not None)
    return _judged(face, first.person, before, mean(frame.after for frame in frames), first.w)


def _judged(face: int, person: str | None, before: float | None, after: float, w: float) -> FaceIdentity:
    """With a warning where there is need of one, and what can be done about it."""
    warning = ''
    if before is None and after < FAITHFUL:
        warning = 'hardly the person of the input'
    elif before is not None and after < before - MARGIN:
        warning = f'less like {person} than the input was'
    if warning and w < 1:
        warning += '; try a higher -w'
    if not warning and before is not None and before < FAITHFUL:
        warning = f'the input is hardly like {person}: is it {person}?'
    rounded = None if before is None else round(before, 4)
    return FaceIdentity(face, INPUT if before is None else REFERENCE, person, rounded, round(after, 4), w, warning)
