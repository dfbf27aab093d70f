"""References of the experiments: which photographs a face gets."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from basicsr.metrics.pictures import Folder
from basicsr.utils.files import at_even_steps


def draw(name: str, end: int) -> int:
    """Return a number from 0 to `end` - 1 that depends on the name only."""
    return int(np.random.default_rng(zlib.crc32(name.encode())).integers(end))


ORDERS: dict[str, Callable[[list[Path], str, int], list[Path]]] = {
    'first': lambda photos, name, count: photos[:count],
    'even': lambda photos, name, count: at_even_steps(photos, count),
    'next': lambda photos, name, count: sorted(photos, key=lambda photo: photo.stem < Path(name).name)[:count],
    'drawn': lambda photos, name, count: photos[draw(name, len(photos)) :][:count] if photos else [],
}
"""Choices among the photographs of a person: of the face's name and a number of photographs."""


def own_references(photos: Folder, name: str, count: int, order: str = 'first') -> list[Path]:
    """Return `count` photographs of the person, or as many as there are, found as the evaluation finds them.

    Args:
        photos: of people; see `Folder.references`.
        name: of the face.
        count: how many.
        order: a key of `ORDERS`; `drawn` begins at a place that the name draws.
    """
    return ORDERS[order](sorted(photos.references(name)), name, count)


def wrong_references(photos: Folder, name: str, count: int) -> list[Path]:
    """Return the first photographs of another person, whom the face's name draws; none where there is nobody else."""
    people = people_of(photos)
    others = sorted(people.keys() - {name.rpartition('/')[0], name})
    chosen = people[others[zlib.crc32(name.encode()) % len(others)]] if others else []
    return [photos.files[key] for key in chosen[:count]]


def people_of(photos: Folder) -> dict[str, list[str]]:
    """Return the names of each person's photographs, by folder."""
    found: dict[str, list[str]] = {}
    for name in photos.files:
        found.setdefault(name.rpartition('/')[0], []).append(name)
    return found
