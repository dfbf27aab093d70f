"""Selection of the faces that are restored, by number and size."""

from __future__ import annotations

from dataclasses import dataclass

AS_ASKED = 'left out as asked'


@dataclass(frozen=True)
class FaceSelection:
    """Choose among the faces found; those not chosen stay as they are, and keep their numbers.

    Args:
        only: numbers of the faces to restore; None for all.
        without: numbers of the faces to leave out.
        min_size: smallest side of an aligned face to restore, in pixels of the picture.

    Raises:
        ValueError: a number or the size is below 0.
    """

    only: frozenset[int] | None = None
    without: frozenset[int] = frozenset()
    min_size: float = 0

    def __post_init__(self) -> None:
        if min((*(self.only or ()), *self.without, self.min_size)) < 0:
            raise ValueError('faces are numbered from 0, and their least size is 0 or more')

    def is_small(self, size: float) -> bool:
        """Check whether an aligned face of that side in pixels is too small."""
        return size < self.min_size

    def reason(self, number: int, small: bool) -> str:
        """Say why a face is left out; empty if it is chosen."""
        if number in self.without or (self.only is not None and number not in self.only):
            return AS_ASKED
        return f'smaller than {self.min_size:g} pixels (--min_face)' if small else ''

    def missing(self, count: int) -> list[int]:
        """Return the numbers of `only` that a picture with `count` faces does not have, in order."""
        return sorted(number for number in self.only or () if number >= count)


EVERY_FACE = FaceSelection()
