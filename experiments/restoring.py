"""Folders of aligned faces restored for the experiments, by the runner of the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from basicsr.inference.face_restorer import FaceRestorer
from basicsr.inference.found_face import FAILED
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.image_restorer import ImageRestorer
from basicsr.inference.jobs import Job
from basicsr.inference.people import Person
from basicsr.inference.runner import Runner
from basicsr.inference.tasks import RESTORE


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
