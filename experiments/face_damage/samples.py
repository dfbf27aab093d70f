"""Samples for the classifiers of sharp faces: clean and damaged faces in chance sizes, as both look at them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
from tqdm import tqdm

from basicsr.faces.detection import build_detector
from basicsr.faces.geometry import crop_side, ellipse_distance
from basicsr.faces.sharpness import LEAST_SIZE, LOOK, Views, look_at, views_of
from basicsr.utils.image import imread
from basicsr.utils.templates import ffhq_template
from experiments.face_damage.damages import jpeg
from experiments.face_damage.kinds import BESIDE, CLEAN, KINDS, OVERLAYS, SHARP
from experiments.face_damage.variants import CODECS, COVERING, VARIANTS

NETWORKS = (64, 64, 128, 128, 128, 256, 512, 512)  # sizes, as often as they are to be judged for
LARGEST, LEAST_PHOTO, TILT = 620, 110, 20.0  # pixels of the crop, likewise; degrees
HELD_OUT = ('val', 'serena_williams', 'virat_kohli', 'celebref512', 'img15', 'img18', 'couple')
ALL_CLEAN = (*CLEAN, BESIDE)
SHARES = (1, 1, 2)  # damaged samples of a face: of `KINDS`, `SHARP` and `OVERLAYS`
CODED = ('JPEG 15-24, not blurred', 'WebP 2-15, not blurred', 'video, not blurred', *CODECS)
COARSE = 30  # a codec damages a sharp face if it changes it by more than JPEG of this quality
MARKED = 2  # in the mask of a view: a pixel of the face on which an overlay lies
LEAST_SHOWN, TRIES = 0.005, 12  # share of the face that an overlay changes by `CHANGE` levels, and how often it is laid
CHANGE = 20


@dataclass(frozen=True)
class Source:
    """A clean face.

    Attributes:
        name: of its set and person.
        path: of the picture.
        landmarks: (5,2).
    """

    name: str
    path: Path
    landmarks: np.ndarray

    @property
    def test(self) -> bool:
        """Held out."""
        return any(part in self.name for part in HELD_OUT)

    def rng(self, seed: int, use: str) -> np.random.Generator:
        """Return the chance of a use, the same wherever the data lie."""
        return np.random.default_rng(
            [seed, zlib.crc32(use.encode()), zlib.crc32(f'{self.name}/{self.path.name}'.encode())]
        )


def sources(data: Path, limit: int) -> Iterator[Source]:
    """Clean faces below `data`; `limit` of the training faces of faces192."""
    for split, number in (('train', limit), ('val', 300)):
        files = sorted((data / 'faces192' / split).glob('*.jpg'))
        for path in files[:: max(1, len(files) // number)]:
            yield Source(f'faces192/{split}', path, ffhq_template(192))
    for path in [*sorted((data / 'multi_id').rglob('*.jpg')), *sorted((data / 'celebref512').rglob('*.*g'))]:
        side = 512 if 'celebref512' in path.parts else 320
        yield Source(f'{path.parts[-3]}/{path.parent.name}', path, ffhq_template(side))
    detector = build_detector()
    for path in sorted((data / 'photos').glob('*.jpg')):
        for face in detector.detect(imread(path)):
            if crop_side(face.landmarks) >= LEAST_PHOTO:
                yield Source(f'photos/{path.stem}', path, face.landmarks)


def changed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another light, contrast or no colour, by chance: neither is damage."""
    if rng.random() < 0.5:
        table = np.arange(256) / 255
        table = table ** rng.uniform(0.7, 1.5) * rng.uniform(0.55, 1.05) + rng.uniform(-0.05, 0.1)
        image = np.rint(np.clip(table * 255, 0, 255)).astype(np.uint8)[image]
    if rng.random() < 0.12:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return image


def shown(source: Source, side: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the picture around the face, reduced so that its crop covers `side` pixels; and the landmarks in it."""
    image, points, own = imread(source.path), source.landmarks, crop_side(source.landmarks)
    low = np.maximum(np.floor(points.mean(0) - 0.7 * own), 0).astype(int)
    high = np.ceil(points.mean(0) + 0.7 * own).astype(int)
    image, points = image[low[1] : high[1], low[0] : high[0]], points - low
    factor = min(1.0, side / own)
    if rng.random() < 0.25 and factor < 0.8:
        middle = tuple(float(v) for v in points.mean(0))
        matrix = cv2.getRotationMatrix2D(middle, rng.uniform(-TILT, TILT), 1.0)
        image = cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        points = points @ matrix[:, :2].T + matrix[:, 2]
    if factor < 1:
        size = [max(16, round(length * factor)) for length in image.shape[1::-1]]
        points = (points + 0.5) * (np.array(size) / image.shape[1::-1]) - 0.5
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    cut = rng.integers(0, 8, 2)
    return np.ascontiguousarray(image[cut[1] :, cut[0] :]), points - cut


def shows(result: np.ndarray, image: np.ndarray, kind: str, distance: np.ndarray) -> bool:
    """Return True if damage of a sharp face is to be seen inside the ellipse of its `distance`."""
    inside = distance < 0.95
    if kind in OVERLAYS or kind in COVERING:
        return bool(np.mean(cv2.absdiff(result, image).max(2)[inside] > CHANGE) >= LEAST_SHOWN)
    if kind in CODED:
        errors = (np.square(each.astype(np.float32) - image)[inside].mean() for each in (result, jpeg(image, COARSE)))
        return bool(next(errors) >= next(errors))
    return True


def damaged(image: np.ndarray, points: np.ndarray, kind: str, unit: float, rng: np.random.Generator) -> np.ndarray:
    """Return the picture under a kind of damage; an overlay shows on the face, or lies beside it.

    Raises:
        ValueError: the damage does not show.
    """
    known = {**CLEAN, **KINDS, **OVERLAYS, **SHARP, **VARIANTS}
    distance = ellipse_distance(points, *image.shape[1::-1])
    if kind == BESIDE:
        overlay = list(OVERLAYS.values())[rng.integers(len(OVERLAYS))]
        return np.where(distance[..., None] > 1.1, overlay(image, unit, rng), image)
    for _ in range(TRIES):
        result = known[kind](image, unit, rng)
        if shows(result, image, kind, distance):
            return result
    raise ValueError(f'{kind} does not show')


@dataclass(frozen=True)
class Sample:
    """A face under a kind of damage, as the network of a size sees it."""

    statistics: np.ndarray
    views: Views
    source: Source
    kind: str
    size: int
    side: float


def sample(seed: int, source: Source, kind: str) -> Sample | None:
    """Return a face of chance size; None where too little is to be seen of it or of an overlay."""
    rng = source.rng(seed, kind)
    own = crop_side(source.landmarks)
    size = int(rng.choice([n for n in NETWORKS if LEAST_SIZE * n <= min(own, LARGEST)]))
    least, most = LEAST_SIZE * size + 0.5, max(LEAST_SIZE * size + 1, min(own, LARGEST))
    side = most if kind in ALL_CLEAN and rng.random() < 0.25 else np.exp(rng.uniform(np.log(least), np.log(most)))
    image, points = shown(source, float(side), rng)
    before = changed(image, rng)
    own = crop_side(points)
    try:
        image = damaged(before, points, kind, max(1.0, own / (LOOK * size)), rng)
    except ValueError:
        return None
    points = points + rng.normal(0, 0.006 * own, (5, 2))
    statistics, views = look_at(image, points, size), views_of(image, points, size)
    if statistics is None or views is None:
        return None
    if kind in OVERLAYS:
        changes = np.where(cv2.absdiff(image, before) > CHANGE, np.uint8(255), np.uint8(0)).max(2, keepdims=True)
        mark(views, cast(Views, views_of(np.repeat(changes, 3, 2), points, size)))
    return Sample(statistics, views, source, kind, size, own)


def mark(views: Views, changes: Views) -> None:
    """Note in the masks of views, in place, where an overlay lies: `MARKED`."""
    for view, change in ((views.native, changes.native), (views.reduced, changes.reduced)):
        if view is not None and change is not None:
            view[..., 3][(view[..., 3] > 0) & (change[..., 0] > 64)] = MARKED


def tasks(faces: Sequence[Source], seed: int = 0) -> Iterator[tuple[int, Source, str]]:
    """Every face clean, and damaged in some ways; `VARIANTS` are for judgement alone."""
    kinds = list(KINDS), list(SHARP), list(OVERLAYS)
    judged = [*KINDS, *SHARP, *OVERLAYS, *VARIANTS]
    for face in faces:
        rng = face.rng(seed, 'tasks')
        if face.test:
            yield from ((0, face, kind) for kind in ALL_CLEAN)
            yield from ((0, face, str(kind)) for kind in rng.choice(judged, 14, replace=False))
            continue
        times = 1 if 'faces192' in face.name else 8
        for number in range(2 * times):
            yield number, face, 'as it is' if rng.random() < 0.4 else str(rng.choice(ALL_CLEAN))
        for some, share in zip(kinds, SHARES, strict=True):
            yield from ((number, face, str(rng.choice(some))) for number in range(share * times))


def collect(data: Path, output: Path, limit: int, part: int, parts: int) -> None:
    """Write one of `parts` parts of the views, OUTPUT/views_PART.npz."""
    cv2.setNumThreads(1)
    work = list(tasks(list(sources(data, limit))))
    samples = [sample(*task) for task in tqdm(work[part::parts], mininterval=10)]
    output.mkdir(parents=True, exist_ok=True)
    save([each for each in samples if each], output / f'views_{part}.npz')


def save(samples: Sequence[Sample], path: Path) -> None:
    """Write samples: the views one after another, flat."""
    views = [view for each in samples for view in (each.views.native, each.views.reduced) if view is not None]
    np.savez(
        path,
        pixels=np.concatenate([view.ravel() for view in views]),
        shapes=np.array([view.shape for view in views]),
        twice=np.array([each.views.reduced is not None for each in samples]),
        log_ratio=np.array([each.views.log_ratio for each in samples]),
        x=np.stack([each.statistics for each in samples]),
        kind=np.array([each.kind for each in samples]),
        name=np.array([each.source.name for each in samples]),
        test=np.array([each.source.test for each in samples]),
        size=np.array([each.size for each in samples]),
        side=np.array([each.side for each in samples]),
    )


class Collected:
    """What `collect` wrote.

    Attributes:
        views: of each sample.
        x: statistics of each sample.
        kind, name, test, size, side: of each sample.
    """

    def __init__(self, output: Path) -> None:
        parts = [dict(np.load(path)) for path in sorted(output.glob('views_*.npz'))]
        self.views: list[Views] = []
        for part in parts:
            ends = np.cumsum(part['shapes'].prod(1))
            flat = iter(zip(np.split(part['pixels'], ends[:-1]), part['shapes'], strict=True))
            each = (pixels.reshape(shape) for pixels, shape in flat)
            pairs = zip(part['twice'], part['log_ratio'], strict=True)
            self.views += [Views(next(each), next(each) if twice else None, float(ratio)) for twice, ratio in pairs]
        self.x = np.concatenate([part['x'] for part in parts])
        self.kind, self.name, self.test, self.size, self.side = (
            np.concatenate([part[key] for part in parts]) for key in ('kind', 'name', 'test', 'size', 'side')
        )
