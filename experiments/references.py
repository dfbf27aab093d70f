"""References of the experiments: which photographs a face gets, and folders of aligned faces restored with them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from basicsr.inference.face_restorer import FaceRestorer
from basicsr.inference.found_face import FAILED
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.image_restorer import ImageRestorer
from basicsr.inference.jobs import Job
from basicsr.inference.people import Person
from basicsr.inference.runner import Runner
from basicsr.inference.tasks import RESTORE
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


def restore_faces(
    restorer: FaceRestorer,
    jobs: Sequence[Job],
    out: Path,
    w: float,
    adain: bool = True,
    guide: IdentityConditioner | None = None,
    who: Callable[[Sequence[Job]], Sequence[Person | None]] | None = None,
) -> list[str]:
    """Restore aligned faces, each in colour and whatever its sharpness, to `<name>.png` in the network's size.

    Args:
        restorer: the network.
        jobs: the faces.
        out: folder of the results.
        w, adain: see `FaceRestorer.restore`.
        guide: tells the network of people, and searches codes; needed with `who`.
        who: the persons of a batch of faces, by references.

    Returns:
        What could not be restored, a message each.
    """
    images = ImageRestorer(restorer, w=w, adain=adain, upscale=1, force=True, guide=guide, keeps_grey=False)
    task = replace(RESTORE, keeps_grey=False)
    runner = Runner(images, out, aligned=True, network_size=True, task=task, who=who, folder='')
    records = tqdm(runner.run(jobs), desc=out.name, total=len(jobs), unit='face', disable=None)
    return [record.message for record in records if record.status == FAILED]
