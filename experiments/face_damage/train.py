"""Train the classifiers of sharp faces, and judge them on people, sets and kinds of damage that it was not trained on.

    python -m experiments.face_damage.train collect --data ../shared/data --output results/face_damage
    python -m experiments.face_damage.train fit --output results/face_damage

`collect` writes statistics and views of clean and damaged faces. `fit` trains the perceptron on the statistics, and the
network on the views of sharp faces with and without overlays, and writes the weights and the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits, max_pool2d

from basicsr.faces.overlay_net import PLACE, OverlayNet
from basicsr.faces.sharpness import (
    CLEAN_SIDES,
    LEAST_PROBABILITY,
    OVERLAY_WEIGHTS,
    WEIGHTS,
    Classifier,
    Views,
    clean_probability,
    least_clean,
    to_network,
)
from experiments.face_damage.kinds import KINDS, OVERLAYS, SHARP
from experiments.face_damage.samples import ALL_CLEAN, MARKED, Collected, collect
from experiments.face_damage.variants import VARIANTS

WANTED = 0.97  # share of the clean faces that are to pass
BATCH, EPOCHS, WARM_UP, RATE, DECAY = 64, 18, 200, 0.003, 0.05  # of the network
HIDDEN, STEPS, PERCEPTRON_DECAY = 160, 12000, 0.15  # of the perceptron
LARGEST_GRADIENT, PLACE_WEIGHT = 1.0, 1.0
LEAST_VIEW = 64  # pixels: the bf16 convolution of oneDNN reads stray memory where 4x2 features become 2x1


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
