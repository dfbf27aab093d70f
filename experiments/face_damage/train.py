"""Train the classifiers of sharp faces, and judge them on people, sets and kinds of damage that it was not trained on.

    python -m experiments.face_damage.train collect --data ../shared/data --output results/face_damage
    python -m experiments.face_damage.train fit --output results/face_damage

`collect` writes statistics and views of clean and damaged faces. `fit` trains the perceptron on the statistics, and the
network on the views of sharp faces with and without overlays, and writes the weights and the table.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, max_pool2d
from tqdm import tqdm

from basicsr.faces.detection import build_detector
from basicsr.faces.geometry import crop_side, ellipse_distance
from basicsr.faces.overlay_net import PLACE, OverlayNet
from basicsr.faces.sharpness import (
    CLEAN_SIDES,
    LEAST_PROBABILITY,
    LEAST_SIZE,
    LOOK,
    OVERLAY_WEIGHTS,
    WEIGHTS,
    Classifier,
    Views,
    clean_probability,
    least_clean,
    look_at,
    to_network,
    views_of,
)
from basicsr.utils.image import imread
from basicsr.utils.templates import ffhq_template
from experiments.face_damage.damages import BESIDE, CLEAN, KINDS, OVERLAYS, SHARP, jpeg
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
CHANGE, WANTED = 20, 0.97
BATCH, EPOCHS, WARM_UP, RATE, DECAY = 64, 18, 200, 0.003, 0.05  # of the network
HIDDEN, STEPS, PERCEPTRON_DECAY = 160, 12000, 0.15  # of the perceptron
LARGEST_GRADIENT, PLACE_WEIGHT = 1.0, 1.0
LEAST_VIEW = 64  # pixels: the bf16 convolution of oneDNN reads stray memory where 4x2 features become 2x1


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


def stacked(views: Sequence[np.ndarray]) -> np.ndarray:
    """Return views in one array, filled up by reflection; the mask is empty there."""
    height, width = (max(LEAST_VIEW, *(view.shape[axis] for view in views)) for axis in (0, 1))
    result = []
    for view in views:
        below, after = height - view.shape[0], width - view.shape[1]
        wide = cv2.copyMakeBorder(view, 0, below, 0, after, cv2.BORDER_REFLECT)
        wide[view.shape[0] :, :, 3] = wide[:, view.shape[1] :, 3] = 0
        result.append(wide)
    return np.stack(result)


def probabilities(network: OverlayNet, views: Sequence[Views]) -> np.ndarray:
    """Return the probability that nothing lies on a face, of samples; those of the same shape together."""
    groups: dict[tuple, list[int]] = {}
    for row, each in enumerate(views):
        groups.setdefault((each.native.shape, each.reduced is not None and each.reduced.shape), []).append(row)
    result = np.zeros(len(views), np.float32)
    for rows in groups.values():
        for some in (rows[k : k + BATCH] for k in range(0, len(rows), BATCH)):
            result[some] = clean_probability(network, [views[row] for row in some])
    return result


def batches(views: Sequence[Views], rows: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Return rows in batches of views of like size, in chance order."""
    size = np.array([views[row].native.size for row in rows]) * np.exp(rng.normal(0, 0.02, len(rows)))
    twice = np.array([views[row].reduced is not None for row in rows])
    order = np.lexsort((size, twice))
    first = int((~twice).sum())
    groups = [rows[order[:first]], rows[order[first:]]]
    found = [group[k : k + BATCH] for group in groups for k in range(0, len(group), BATCH)]
    return [found[k] for k in rng.permutation(len(found)) if len(found[k]) >= BATCH // 4]


class Trainer:
    """The network in training, by AdamW on the weighted binary cross-entropy."""

    def __init__(self, views: Sequence[Views], clean: np.ndarray, weight: np.ndarray) -> None:
        torch.manual_seed(0)
        self.views, self.clean, self.weight, self.rng = views, clean, weight, np.random.default_rng(0)
        self.network = OverlayNet(norm=True).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), RATE, weight_decay=DECAY)

    def fit(self, rows: np.ndarray) -> OverlayNet:
        """Train on some samples."""
        total, step = EPOCHS * len(batches(self.views, rows, self.rng)), 0
        for epoch in range(EPOCHS):
            losses = []
            for batch in batches(self.views, rows, self.rng):
                for group in self.optimizer.param_groups:
                    group['lr'] = RATE * min(1, step / WARM_UP) * (1 + np.cos(np.pi * min(1, step / total))) / 2
                losses.append(self.step(batch))
                step += 1
            print(f'epoch {epoch + 1}: loss {np.mean(losses):.4f}', flush=True)
        return self.network.fuse()

    def step(self, batch: np.ndarray) -> float:
        """Train on a batch whose samples all have a reduced view, or all have none; return the loss."""
        views = [self.views[row] for row in batch]
        both = [[each.native for each in views]]
        if views[0].reduced is not None:
            both.append([cast(np.ndarray, each.reduced) for each in views])
        tables = [light(self.rng) for _ in views]
        flip = slice(None, None, -1 if self.rng.random() < 0.5 else 1)
        both = [[cv2.LUT(view, table)[:, flip] for view, table in zip(some, tables, strict=True)] for some in both]
        log_ratio = torch.from_numpy(np.array([[each.log_ratio] for each in views], np.float32))
        target, weight = (torch.from_numpy(values[batch]).float() for values in (self.clean, self.weight))
        loss, pooled = torch.zeros(()), []
        with torch.autocast('cpu', torch.bfloat16):
            for some in both:
                view = stacked(some)
                features, places = self.network.pool(*to_network(view))
                pooled.append(features)
                loss = loss + PLACE_WEIGHT / len(both) * place_loss(places, torch.from_numpy(view[..., 3]))
            found = self.network(pooled[0], pooled[-1], log_ratio)
        loss = loss + binary_cross_entropy_with_logits(found.float(), target, weight)
        self.optimizer.zero_grad()
        loss.backward()
        if not torch.isfinite(torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)):
            raise FloatingPointError('the gradient is not finite')
        self.optimizer.step()
        return loss.item()


def light(rng: np.random.Generator) -> np.ndarray:
    """Return a table of another light and colour for a view, uint8 (1,256,4); the mask stays."""
    level = np.arange(256)[:, None]
    if rng.random() < 0.4:
        return np.repeat(level, 4, 1).astype(np.uint8)[None]
    colours = (level / 255) ** rng.uniform(0.7, 1.5) * rng.uniform(0.8, 1.15, 3) * 255
    return np.hstack([np.rint(np.clip(colours, 0, 255)), level]).astype(np.uint8)[None]


def place_loss(places: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean binary cross-entropy of places inside the face.

    Args:
        places: logits (B,1,h,w).
        mask: of the views, (B,H,W) in {0, 1, `MARKED`}.
    """
    target = max_pool2d((mask == MARKED)[:, None].float(), PLACE)
    inside = avg_pool2d((mask > 0)[:, None].float(), PLACE)
    loss = binary_cross_entropy_with_logits(places, target, inside, reduction='sum')
    return loss / inside.sum().clamp_min(1)


def fit_perceptron(x: np.ndarray, clean: np.ndarray, weight: np.ndarray) -> Classifier:
    """Return a classifier by AdamW on the weighted binary cross-entropy.

    Args:
        x: statistics, (N,F).
        clean: bool (N,).
        weight: (N,).
    """
    torch.manual_seed(0)
    mean, scale = x.mean(0), x.std(0) + 1e-3
    data = torch.from_numpy(np.clip((x - mean) / scale, -5, 5)).float()
    target, weight_ = torch.from_numpy(clean).float(), torch.from_numpy(weight).float()
    perceptron = torch.nn.Sequential(torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(perceptron.parameters(), RATE, weight_decay=PERCEPTRON_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(data), (512,))
        noisy = data[rows] + 0.1 * torch.randn(512, data.shape[1])
        loss = binary_cross_entropy_with_logits(perceptron(noisy)[:, 0], target[rows], weight_[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    first, second = (cast(torch.nn.Linear, perceptron[layer]) for layer in (0, 2))
    arrays = [t.detach().numpy() for t in (first.weight, first.bias, second.weight[0])]
    return Classifier(mean.astype(np.float32), scale.astype(np.float32), *arrays, bias=second.bias.item())


def thresholds(sharp: np.ndarray, free: np.ndarray, side: np.ndarray) -> list[float]:
    """Return the values for `LEAST_CLEAN` at which `WANTED` of the clean faces of each range of sides pass.

    Args:
        sharp: probabilities of clean faces by their statistics, (N,).
        free: probabilities by the network, (N,).
        side: of the crops, (N,).
    """
    place, found = np.digitize(side, CLEAN_SIDES) - 1, []
    for each in range(len(CLEAN_SIDES)):
        passed = np.sort(free[(place == each) & (sharp >= LEAST_PROBABILITY)])
        spare = len(passed) - int(np.ceil(WANTED * (place == each).sum()))
        found.append(float(passed[spare]) if 0 <= spare < len(passed) else 0.0)
    return found


def table(alone: np.ndarray, kind: np.ndarray, name: np.ndarray) -> str:
    """Part that is left alone, by kind of damage and of each set's clean faces."""
    rows = []
    for label in dict.fromkeys([*ALL_CLEAN, *KINDS, *OVERLAYS, *SHARP, *VARIANTS]):
        mine = kind == label
        if mine.any():
            rows.append(f'| {label} | {mine.sum()} | {100 * np.mean(alone[mine]):.1f} |')
    clean = np.isin(kind, ALL_CLEAN)
    for group in sorted({n.split('/')[0] for n in name}):
        mine = clean & np.array([n.startswith(group) for n in name])
        rows.append(f'| clean, {group} | {mine.sum()} | {100 * np.mean(alone[mine]):.1f} |')
    return '\n'.join(['| held-out faces | number | left alone, % |', '|---|---|---|', *rows])


def run_fit(output: Path) -> None:
    """Write the weights and print the table."""
    data = Collected(output)
    clean, overlaid = (np.isin(data.kind, list(kinds)) for kinds in (ALL_CLEAN, OVERLAYS))
    whole, seen = ~data.test & ~overlaid, ~data.test & (clean | overlaid)
    rare = np.where(['faces192' not in name for name in data.name], 2.0, 1.0)
    weights = [rare * np.where(clean, 1, (clean & of).sum() / (~clean & of).sum()) for of in (whole, seen)]
    network = Trainer(data.views, clean, weights[1]).fit(np.flatnonzero(seen))
    halves = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    save_tensors(halves, output / OVERLAY_WEIGHTS.name)
    found = fit_perceptron(data.x[whole], clean[whole], weights[0][whole])
    state = {key: getattr(found, key) for key in ('mean', 'scale', 'hidden', 'hidden_bias', 'output')}
    state = {key: np.ascontiguousarray(value, np.float32) for key, value in state.items()}
    save_file({**state, 'bias': np.array([found.bias], np.float32)}, output / WEIGHTS.name)
    network.load_state_dict({key: value.float() for key, value in halves.items()})
    rows = np.flatnonzero(data.test)
    sharp, free = found(data.x[rows]), probabilities(network, [data.views[row] for row in rows])
    least = thresholds(sharp[clean[rows]], free[clean[rows]], data.side[rows][clean[rows]])
    alone = (sharp >= LEAST_PROBABILITY) & (free >= [least_clean(side) for side in data.side[rows]])
    text = table(alone, data.kind[rows], data.name[rows])
    print(text)
    (output / 'table.md').write_text(text + '\n')
    numbers = {'statistics': int(whole.sum()), 'network': int(seen.sum()), 'LEAST_CLEAN': least}
    (output / 'settings.json').write_text(json.dumps(numbers) + '\n')


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description='Collect statistics and views of faces, or fit the classifiers of damage to them.'
    )
    parser.add_argument('step', choices=('collect', 'fit'))
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--output', type=Path, default=Path('results/face_damage'))
    parser.add_argument('--limit', type=int, default=10793, help='training faces of faces192')
    parser.add_argument('--part', type=int, default=0, help='which part of the views to collect, from 0 on')
    parser.add_argument('--parts', type=int, default=1, help='into how many parts they are divided')
    args = parser.parse_args()
    if args.step == 'collect':
        collect(args.data, args.output, args.limit, args.part, args.parts)
    else:
        run_fit(args.output)


if __name__ == '__main__':
    main()
