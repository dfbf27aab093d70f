"""Train the classifier of sharp faces, and judge it on people, sets and kinds of damage that it was not trained on.

    python -m experiments.face_damage.train collect --data ../shared/data --output results/face_damage
    python -m experiments.face_damage.train fit --output results/face_damage

`collect` writes the statistics of clean and damaged faces, `fit` the weights and the table.
"""

from __future__ import annotations

import argparse
import functools
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
from tqdm import tqdm

from basicsr.faces.detection import build_detector
from basicsr.faces.geometry import crop_side
from basicsr.faces.sharpness import LEAST_PROBABILITY, LEAST_SIZE, LOOK, WEIGHTS, Classifier, look_at
from basicsr.utils.image import imread
from basicsr.utils.templates import ffhq_template
from experiments.face_damage.damages import CLEAN, KINDS, UNSEEN

NETWORKS = (64, 128, 128, 128, 256, 512, 512)  # sizes, as often as they are to be judged for
LARGEST, LEAST_PHOTO, TILT = 620, 110, 20.0  # pixels of the crop, likewise; degrees
HELD_OUT = ('val', 'serena_williams', 'virat_kohli', '00075', '00086', 'img15', 'img18', 'couple', 'skimage')
SAVE_EVERY = 100
HIDDEN, STEPS, RATE, DECAY = 48, 3000, 0.003, 0.09


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


def sources(data: Path, limit: int) -> Iterator[Source]:
    """Clean faces below `data`; `limit` of the training faces of faces192."""
    for split, number in (('train', limit), ('val', 100)):
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


def sample(task: tuple[int, Source, str]) -> tuple[np.ndarray | None, Source, str, int, float]:
    """Statistics of a face of chance size under a kind of damage, with the network's size and its own."""
    seed, source, kind = task
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), zlib.crc32(str(source.path).encode())])
    own = crop_side(source.landmarks)
    size = int(rng.choice([n for n in NETWORKS if LEAST_SIZE * n <= min(own, LARGEST)]))
    least, most = LEAST_SIZE * size + 0.5, max(LEAST_SIZE * size + 1, min(own, LARGEST))
    side = most if kind in CLEAN and rng.random() < 0.25 else float(np.exp(rng.uniform(np.log(least), np.log(most))))
    image, points = shown(source, side, rng)
    image = changed(image, rng)
    side = crop_side(points)
    image = {**CLEAN, **KINDS, **UNSEEN}[kind](image, max(1.0, side / (LOOK * size)), rng)
    jitter = rng.normal(0, 0.006 * side, (5, 2))
    return look_at(image, points + jitter, size), source, kind, size, side


def tasks(faces: Sequence[Source], rng: np.random.Generator) -> list[tuple[int, Source, str]]:
    """Every face clean, and damaged in some ways: the kinds that are trained on, or all for the judgement."""
    result: list[tuple[int, Source, str]] = []
    for face in faces:
        rare = 'faces192/train' not in face.name
        clean = (len(CLEAN) if face.test else 6 if '512' in face.name else 4) if rare else 2
        result += [(k, face, str(rng.choice(list(CLEAN)) if k else 'as it is')) for k in range(clean)]
        kinds = [*KINDS, *UNSEEN]
        number = 8 if rare else 4
        result += [(0, face, str(kind)) for kind in rng.choice(kinds, number, replace=False)]
    return result


def collect(data: Path, output: Path, limit: int, part: int, parts: int) -> None:
    """Write one of `parts` parts of the statistics, OUTPUT/statistics_PART.npz."""
    rng = np.random.default_rng(0)
    work = tasks(list(sources(data, limit)), rng)
    work = [work[k] for k in rng.permutation(len(work))[part::parts]]
    rows: list[tuple] = []
    output.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(tqdm(work), 1):
        row = sample(task)
        rows += [row] if row[0] is not None else []
        if number % SAVE_EVERY == 0 or number == len(work):
            save(rows, output / f'statistics_{part}.npz')


def save(rows: Sequence[tuple], path: Path) -> None:
    """Write samples."""
    np.savez(
        path,
        x=np.stack([row[0] for row in rows]),
        kind=np.array([row[2] for row in rows]),
        name=np.array([row[1].name for row in rows]),
        path=np.array([str(row[1].path) for row in rows]),
        test=np.array([row[1].test for row in rows]),
        size=np.array([row[3] for row in rows]),
        side=np.array([row[4] for row in rows]),
    )


def fit(x: np.ndarray, clean: np.ndarray, weight: np.ndarray, seed: int = 0) -> Classifier:
    """Return a classifier by AdamW on the weighted binary cross-entropy."""
    torch.manual_seed(seed)
    mean, scale = x.mean(0), x.std(0) + 1e-3
    data = torch.from_numpy(np.clip((x - mean) / scale, -5, 5)).float()
    target, weight_ = torch.from_numpy(clean).float(), torch.from_numpy(weight).float()
    network = torch.nn.Sequential(torch.nn.Linear(x.shape[1], HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, 1))
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    loss_of = functools.partial(torch.nn.functional.binary_cross_entropy_with_logits, reduction='none')
    for _ in range(STEPS):
        rows = torch.randint(len(data), (512,))
        noisy = data[rows] + 0.1 * torch.randn(512, data.shape[1])
        loss = (loss_of(network(noisy)[:, 0], target[rows]) * weight_[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    first, second = (cast(torch.nn.Linear, network[layer]) for layer in (0, 2))
    arrays = [t.detach().numpy() for t in (first.weight, first.bias, second.weight[0])]
    return Classifier(mean.astype(np.float32), scale.astype(np.float32), *arrays, bias=second.bias.item())


def table(probability: np.ndarray, kind: np.ndarray, name: np.ndarray) -> str:
    """Part that is left alone, by kind of damage and of each set's clean faces."""
    rows = []
    for label in dict.fromkeys([*CLEAN, *KINDS, *UNSEEN]):
        mine = kind == label
        if mine.any():
            rows.append(f'| {label} | {mine.sum()} | {100 * np.mean(probability[mine] >= LEAST_PROBABILITY):.1f} |')
    clean = np.isin(kind, list(CLEAN))
    for group in sorted({n.split('/')[0] for n in name}):
        mine = clean & np.array([n.startswith(group) for n in name])
        rows.append(f'| clean, {group} | {mine.sum()} | {100 * np.mean(probability[mine] >= LEAST_PROBABILITY):.1f} |')
    return '\n'.join(['| held-out faces | number | left alone, % |', '|---|---|---|', *rows])


def run_fit(output: Path, all_kinds: bool) -> None:
    """Write the weights and print the table."""
    parts = [np.load(path) for path in sorted(output.glob('statistics_*.npz'))]
    data = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    clean, test, unseen = np.isin(data['kind'], list(CLEAN)), data['test'], np.isin(data['kind'], list(UNSEEN))
    train = ~test if all_kinds else ~test & ~unseen
    rare = np.array(['faces192' not in name for name in data['name']])
    weight = np.where(clean, 1.0, clean[train].sum() / (~clean[train]).sum()) * np.where(rare, 2.0, 1.0)
    found = fit(data['x'][train], clean[train], weight[train])
    text = table(found(data['x'][test]), data['kind'][test], data['name'][test])
    print(text)
    (output / 'table.md').write_text(text + '\n')
    state = {key: getattr(found, key) for key in ('mean', 'scale', 'hidden', 'hidden_bias', 'output')}
    state = {key: np.ascontiguousarray(value, np.float32) for key, value in state.items()}
    save_file({**state, 'bias': np.array([found.bias], np.float32)}, output / WEIGHTS.name)
    (output / 'settings.json').write_text(json.dumps({'all_kinds': all_kinds, 'train': int(train.sum())}) + '\n')


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description='Collect statistics of faces, or fit the classifier of damage to them.'
    )
    parser.add_argument('step', choices=('collect', 'fit'))
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--output', type=Path, default=Path('results/face_damage'))
    parser.add_argument('--limit', type=int, default=1500, help='training faces of faces192')
    parser.add_argument('--part', type=int, default=0, help='which part of the statistics to collect, from 0 on')
    parser.add_argument('--parts', type=int, default=1, help='into how many parts they are divided')
    parser.add_argument('--all_kinds', action='store_true', help='train on the kinds that are held out, too')
    args = parser.parse_args()
    if args.step == 'collect':
        collect(args.data, args.output, args.limit, args.part, args.parts)
    else:
        run_fit(args.output, args.all_kinds)


if __name__ == '__main__':
    main()
