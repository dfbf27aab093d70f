"""Similarity of a face and a person, before restoration and after it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import floor
from statistics import mean

from torch import Tensor

from basicsr.inference.people import THRESHOLD, People, Person

MARGIN = 0.03  # of a cosine; compressing a degraded face again (JPEG 90) moves 19 of 20 by less
REFERENCE, INPUT = 'reference', 'input'


@dataclass(frozen=True)
class FaceIdentity:
    """Similarity of a face before and after restoration.

    Attributes:
        face: its number in the picture, or of its track in a clip.
        compared_with: `reference`, or `input` where there is none.
        person: whose reference.
        before: cosine of the input and the person's mean reference; None without reference.
        after: cosine of the restoration and the same, or the input.
        w: the fidelity weight of the restoration.
        warning: that it moved away from the person, or may be somebody else; empty if there is nothing to say.
        nearest: the most similar person, where there are references and the face is taken for nobody.
        nearest_cosine: of the input and the references of that person.
    """

    face: int
    compared_with: str
    person: str | None
    before: float | None
    after: float
    w: float
    warning: str = ''
    nearest: str | None = None
    nearest_cosine: float | None = None


def compare(
    seen: Tensor,
    restored: Tensor,
    person: Person | None,
    w: float,
    people: People | None = None,
    faithful: float = THRESHOLD,
) -> FaceIdentity:
    """Return the similarities of a face, which gets the number 0.

    Args:
        seen: unit embedding of the input (D,).
        restored: of the restoration.
        person: who it is; with the references that it is compared with, else with the input.
        w: of the restoration.
        people: everybody with references, so that it is said how similar a face is that is taken for nobody.
        faithful: cosine below which a person is hardly to be known again, see `Recognizer.threshold`.
    """
    if person is not None and person.files:
        cosines = float(seen @ person.mean), float(restored @ person.mean)
        return _judged(FaceIdentity(0, REFERENCE, person.name, *cosines, w), _assumption(person, cosines[0]), faithful)
    found = FaceIdentity(0, INPUT, None, None, float(restored @ seen), w)
    if people is not None:
        nearest, cosine = people.nearest(seen)
        found = replace(found, nearest=nearest.name, nearest_cosine=cosine)
    return _judged(found, _refusal(found, people), faithful)


def average(
    face: int, frames: Sequence[FaceIdentity], people: People | None = None, faithful: float = THRESHOLD
) -> FaceIdentity:
    """Return the mean similarities of a face over several frames.

    Args:
        face: number of its track.
        frames: one or more.
        people, faithful: see `compare`.
    """

    def over_frames(values: Iterable[float | None]) -> float | None:
        given = [value for value in values if value is not None]
        return mean(given) if given else None

    found = replace(
        frames[0],
        face=face,
        before=over_frames(frame.before for frame in frames),
        after=mean(frame.after for frame in frames),
        nearest_cosine=over_frames(frame.nearest_cosine for frame in frames if frame.nearest == frames[0].nearest),
    )
    return _judged(found, _refusal(found, people), faithful)


def _judged(found: FaceIdentity, match: str, faithful: float) -> FaceIdentity:
    """Return it rounded, with a warning where there is need of one, and a remedy.

    Args:
        found: unrounded; its warning is replaced.
        match: what there is to say of whom the face was taken for.
        faithful: see `compare`.
    """
    before, after, person = found.before, found.after, found.person
    change = ''
    if before is None and after < faithful:
        change = 'hardly the person of the input'
    elif before is not None and after < before - MARGIN:
        change = f'less like {person} than the input was'
    if change and found.w < 1:
        change += '; try a higher -w'
    if not change and not match and before is not None and before < faithful:
        change = f'the input is hardly like {person}: is it {person}?'
    rounded = {name: _rounded(getattr(found, name)) for name in ('before', 'after', 'nearest_cosine')}
    return replace(found, **rounded, warning='; '.join(filter(None, (match, change))))


def _rounded(cosine: float | None) -> float | None:
    return None if cosine is None else round(cosine, 4)


def _assumption(person: Person, cosine: float) -> str:
    if not person.assumed:
        return ''
    return (
        f'too damaged to be recognized (cosine {cosine:.2f}), taken for {person.name} as the only person of --ref; '
        'leave --ref out if it is somebody else'
    )


def _refusal(found: FaceIdentity, people: People | None) -> str:
    if people is None or found.nearest_cosine is None:
        return ''
    if found.nearest_cosine >= people.threshold:
        return f'taken for nobody: another face of the picture is {found.nearest}'
    insisted = floor(100 * found.nearest_cosine) / 100
    return (
        f'taken for nobody: its cosine with {found.nearest}, {found.nearest_cosine:.2f}, is below '
        f'{people.threshold:g}; if it is {found.nearest}, insist with --id_threshold {insisted:g}'
    )
