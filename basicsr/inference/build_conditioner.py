"""From what a user asks for to an `IdentityConditioner`: recognizer, references, and what the input tells by itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from basicsr.faces.detection import FaceDetector
from basicsr.inference.code_search import STEPS
from basicsr.inference.face_restorer import FaceRestorer
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.reference_cache import ReferenceCache
from basicsr.inference.references import ReferenceReader
from basicsr.recognition.choose import choose_recognizer
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.download import sha256_of
from basicsr.utils.folders import packaged

if TYPE_CHECKING:
    from basicsr.recognition.confidence import InputIdentity

CALIBRATIONS = packaged('options') / 'confidence'


@dataclass(frozen=True)
class IdentityConfig:
    """Requests of the user.

    Attributes:
        references: photographs and folders, see `references.gather`.
        recognizer: see `choose_recognizer`.
        threshold: see `People`; None for that of the recognizer's calibration, else its own.
        id_scale, search_steps: see `IdentityConditioner`.
        own: tell the network what the input itself says of who it is, where there is no reference.
        calibration: how far the recognizer can be trusted on such inputs; a file of `id-codeformer recognizer
            calibrate`, or None for the one in `CALIBRATIONS` that is for the recognizer.
        choose_w: w is to be chosen by identity.
        detector: name and settings of what finds the faces of the references, under which their embeddings are kept
            on disk; empty keeps none.
    """

    references: Sequence[str] = ()
    recognizer: str | None = None
    threshold: float | None = None
    id_scale: float = 1.0
    search_steps: int = STEPS
    own: bool = False
    calibration: str | None = None
    choose_w: bool = False
    detector: str = ''

    @property
    def needs(self) -> str:
        """Name the requests that need a recognizer; empty if none does."""
        wishes = {'--ref': self.references, '-w auto': self.choose_w, '--identity input': self.own}
        return ' and '.join(flag for flag, wished in wishes.items() if wished)


def build_conditioner(
    wishes: IdentityConfig, restorer: FaceRestorer, detector: FaceDetector | None, weights_dir: str | os.PathLike
) -> IdentityConditioner | None:
    """Return the guide, or None where nothing is asked for and no recognizer is there.

    Args:
        wishes: of the user.
        restorer: whose network is told of the people if it listens.
        detector: finds the faces of the references; not needed without.
        weights_dir: the weights folder.

    Raises:
        CheckpointError: see `choose_recognizer`; or the calibration is missing, damaged or of another recognizer.
        FileNotFoundError: a reference is not there.
        ValueError: `own` asks for it, but the network listens to nobody, or to another recognizer; no reference can be
            used; or a calibration is given that nothing uses.
    """
    listens = restorer.takes_identity
    if wishes.calibration and not wishes.needs:
        raise ValueError('--calibration: only --ref, -w auto and --identity input use it; leave it out')
    if wishes.own and not listens:
        raise ValueError(f'--identity input: {restorer.description} cannot be told who the faces are; leave it out')
    told_by, dim = restorer.told_by if listens else (None, None)
    embedder = choose_recognizer(wishes.recognizer, told_by, weights_dir, dim, wishes.needs)
    if embedder is None:
        return None
    embedder.to(restorer.device)
    doubt = ''
    if listens and not (embedder.dim == dim and _is_of_training(embedder, told_by)):
        trained_with = told_by or f'a recognizer of {dim} numbers'
        doubt = f'the network was trained with {trained_with}, and is not told what {embedder.name} says of people'
        if wishes.own:
            raise ValueError(f'--identity input: {doubt}')
        listens = False
    own, people = _of_input(embedder, wishes), None
    if wishes.references:
        if detector is None:
            raise ValueError('references need a face detector')
        fitted = own.calibration.threshold if own is not None else None
        usual = embedder.recognizer.threshold
        threshold = next(each for each in (wishes.threshold, fitted, usual) if each is not None)
        cache = ReferenceCache.of_user(f'{wishes.detector} {sha256_of(embedder.path)}') if wishes.detector else None
        read = ReferenceReader(detector, embedder, threshold, cache, keeps_photos=restorer.needs_photos)
        people = read(wishes.references)
    return IdentityConditioner(
        embedder,
        people,
        own,
        restorer.size,
        tells_people=listens,
        tells_own=wishes.own,
        id_scale=wishes.id_scale,
        search_steps=wishes.search_steps,
        notes=tuple(filter(None, (doubt, *people.notes))) if people else (),
        tells_photos=restorer.needs_photos,
    )


def _is_of_training(embedder: FaceEmbedder, trained_with: str | None) -> bool:
    """Return True if the network was trained with this recognizer's embeddings, as far as its checkpoint says."""
    entry = embedder.recognizer
    names = {entry.name, Path(entry.file).stem, embedder.path.stem}
    return trained_with is None or Path(trained_with).stem in names


def _of_input(embedder: FaceEmbedder, wishes: IdentityConfig) -> InputIdentity | None:
    """Return the function that gives the identity of an input and its confidence; None without calibration or request.

    Raises:
        CheckpointError: it is asked for, and there is no calibration for this recognizer.
    """
    if not (wishes.own or wishes.choose_w or wishes.references):
        return None
    from basicsr.recognition.confidence import Calibration, InputIdentity  # imports torchvision, which takes seconds

    if wishes.calibration is not None:
        return InputIdentity(embedder, wishes.calibration)
    digest = sha256_of(embedder.path)
    for path in sorted(CALIBRATIONS.glob('*.json')):
        if Calibration.read(path).recognizer_sum == digest:
            return InputIdentity(embedder, path)
    if wishes.own or (wishes.choose_w and not wishes.references):
        flag, other = ('--identity input', '') if wishes.own else ('-w auto without --ref', '; or give -w a number')
        raise CheckpointError(
            f'{flag}: nothing in {CALIBRATIONS} tells how far {embedder.name} can be trusted on a damaged face; make a '
            f'file with id-codeformer recognizer calibrate, and name it with --calibration{other}'
        )
    return None
