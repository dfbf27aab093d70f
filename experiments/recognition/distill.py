"""Train the compact recognizer to give a damaged face the embedding that its teacher gives the clean one.

    python -m experiments.recognition.distill embed -i FACES --teacher FILE.onnx --output results/compact
    python -m experiments.recognition.distill train --output results/compact --seconds 2700
    python -m experiments.recognition.distill release --output results/compact --file recognizer.safetensors

`embed` writes the faces (of one size) and the teacher's embedding of each, once. `train` goes on where it was stopped,
until it has computed for that long. `release` writes the weights in half precision.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from functools import cache
from itertools import count
from math import cos, pi
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm import tqdm

from basicsr.cli.recognizer_calibrate import damaged
from basicsr.data.common import list_pictures
from basicsr.data.degradation import ColourRanges, change_colour, to_bytes, to_unit
from basicsr.recognition.compact import CompactFaceNet
from basicsr.recognition.face_crop import inverse_similarity
from basicsr.utils.checkpoint import read_checkpoint, save_atomic
from basicsr.utils.image import imread
from basicsr.utils.templates import ARCFACE_112, ffhq_template

SIDE, TEACHER_CROP = 144, 112  # pixels of a stored face, and of the teacher's crop
FACE, CROP, HALF = 128, 80, 127.5  # pixels of a face that is trained on, and of its crop; half the range of values
CLEAN = 0.25  # share of training faces that are not damaged
COLOURS = ColourRanges(
    color_jitter_prob=0.3,
    color_jitter_pt_prob=0.3,
    brightness=(0.7, 1.3),
    contrast=(0.7, 1.3),
    saturation=(0.4, 1.4),
    hue=(-0.03, 0.03),
    gray_prob=0.05,
)
TURN, SCALE, SHIFT = 2.5, 0.025, 0.9  # deviations of the alignment: degrees, share, pixels
BATCH, RATE, DECAY, WARM_UP = 32, 2.5e-3, 0.02, 0.05
SAVE_SECONDS, LOG_EVERY, CHECKED = 120.0, 50, 96
FACES, TARGETS, STATE, NAMES = 'faces.npy', 'targets.npy', 'state.pth', 'names.json'


@cache
def crop_matrix(side: int, size: int) -> np.ndarray:
    """Return the way from a crop of `size` pixels to an aligned face of `side` pixels, (2,3)."""
    target = torch.from_numpy((ARCFACE_112 + 0.5) * (size / 112) - 0.5)
    return inverse_similarity(torch.from_numpy(ffhq_template(side))[None], target)[0][0].numpy()


def shifted_matrix(rng: np.random.Generator) -> np.ndarray:
    """Return the way from a training crop to a face that is aligned less well, (2,3)."""
    middle = ((CROP - 1) / 2, (CROP - 1) / 2)
    moved = cv2.getRotationMatrix2D(middle, rng.normal(0, TURN), np.exp(rng.normal(0, SCALE)))
    moved[:, 2] += rng.normal(0, SHIFT, 2)
    return crop_matrix(FACE, CROP) @ np.vstack([moved, [0, 0, 1]])


def crop(face: np.ndarray, matrix: np.ndarray, size: int = CROP) -> np.ndarray:
    """Return the crop uint8 (size,size,3) of a face; outside it is black."""
    return cv2.warpAffine(face, matrix, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def network_input(crops: list[np.ndarray]) -> Tensor:
    """(N,3,n,n) of crops, RGB uint8."""
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    return ((pixels.float() - HALF) / HALF).contiguous(memory_format=torch.channels_last)


def embed(faces: Path, teacher: Path, output: Path) -> None:
    """Write the faces and the teacher's unit vectors of them.

    OpenCV runs an ONNX file three times as fast as PyTorch does on one core.
    """
    paths = list_pictures(faces, '--input')
    network = cv2.dnn.readNetFromONNX(str(teacher))
    output.mkdir(parents=True, exist_ok=True)
    kept, vectors, matrix = [], [], crop_matrix(SIDE, TEACHER_CROP)
    for path in tqdm(paths, unit='face'):
        face = cv2.resize(imread(path), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        seen = crop(face, matrix, TEACHER_CROP)[..., ::-1].astype(np.float32)  # the teacher takes BGR
        network.setInput(((seen - HALF) / HALF).transpose(2, 0, 1)[None])
        vectors.append(network.forward()[0].copy())
        kept.append(face)
    targets = np.stack(vectors)
    np.save(output / TARGETS, targets / np.linalg.norm(targets, axis=1, keepdims=True))
    np.save(output / FACES, np.stack(kept))
    (output / NAMES).write_text(json.dumps([path.name for path in paths]) + '\n')


def sample(face: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a training crop of a clean face: mirrored, damaged, toned and shifted by chance."""
    face = face[:, ::-1] if rng.random() < 0.5 else face
    face = np.ascontiguousarray(face)
    if rng.random() >= CLEAN:
        face = damaged(face, rng)
    face = to_bytes(change_colour(to_unit(face), COLOURS, rng))
    return crop(face, shifted_matrix(rng))


class Batches(IterableDataset):
    """Inputs (N,3,80,80) and targets (N,D) of one iteration after another, each from its number alone.

    Args:
        faces: (M,128,128,3), RGB uint8.
        targets: (M,D).
        size: N.
        first: number of the first iteration.
    """

    def __init__(self, faces: np.ndarray, targets: np.ndarray, size: int, first: int) -> None:
        self.faces, self.targets, self.size, self.first = faces, targets, size, first

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        number, step = (worker.id, worker.num_workers) if worker else (0, 1)
        return map(self.at, count(self.first + number, step))

    def at(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Return the batch of an iteration."""
        epoch, place = divmod(iteration, len(self.faces) // self.size)
        order = np.random.default_rng([1, epoch]).permutation(len(self.faces))
        order = order[place * self.size : (place + 1) * self.size]
        crops = [sample(self.faces[i], np.random.default_rng([2, epoch, i])) for i in order]
        return network_input(crops), torch.from_numpy(self.targets[order])


def loss_of(raw: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss and the mean cosine of embeddings (N,D) before normalization to unit targets.

    The square error makes the length of an embedding the cosine that is to be expected, which the confidence uses.
    """
    cosine = F.cosine_similarity(raw, target).mean()
    return 1 - cosine + (raw - target).square().sum(1).mean(), cosine


def rate_at(progress: float) -> float:
    """Return the learning rate at a share of the time: a short warm-up, then half a cosine."""
    if progress < WARM_UP:
        return RATE * (0.05 + 0.95 * progress / WARM_UP)
    return RATE * 0.5 * (1 + cos(pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


def check(network: CompactFaceNet, faces: np.ndarray, targets: np.ndarray) -> str:
    """Return the mean cosine to the targets of held-out faces, clean and damaged."""
    network.eval()
    matrix, chosen = crop_matrix(FACE, CROP), range(min(CHECKED, len(faces)))
    clean = [crop(faces[i], matrix) for i in chosen]
    harmed = [crop(damaged(faces[i], np.random.default_rng([3, i])), matrix) for i in chosen]
    device = network.embed.weight.device
    with torch.inference_mode():
        found = [network(network_input(crops).to(device)).cpu() for crops in (clean, harmed)]
    network.train()
    means = [F.cosine_similarity(each, torch.from_numpy(targets[: len(clean)])).mean().item() for each in found]
    return f'held out: clean {means[0]:.3f}, damaged {means[1]:.3f}'


def read_faces(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the faces (N,128,128,3), RGB uint8, and targets (N,D) that `embed` wrote."""
    stored = np.load(folder / FACES, mmap_mode='r')
    faces = np.empty((len(stored), FACE, FACE, 3), np.uint8)
    for i, face in enumerate(stored):
        faces[i] = cv2.resize(face, (FACE, FACE), interpolation=cv2.INTER_AREA)
    return faces, np.load(folder / TARGETS)


def build(dim: int, device: str) -> tuple[CompactFaceNet, torch.optim.Optimizer]:
    """Return a new network of `dim` numbers, and its optimizer; vectors do not decay."""
    torch.manual_seed(0)
    network = CompactFaceNet(embedding=dim).to(device).to(memory_format=torch.channels_last).train()
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim < 2]
    groups = [{'params': matrices, 'weight_decay': DECAY}, {'params': vectors, 'weight_decay': 0.0}]
    return network, torch.optim.AdamW(groups, RATE)


def train(
    output: Path,
    seconds: float,
    val: Path | None = None,
    iterations: int | None = None,
    device: str = 'cpu',
    workers: int = 0,
    size: int = BATCH,
) -> None:
    """Train up to that many seconds in all, or iterations in all; the learning rate follows what is spent of them.

    Args:
        output: of `embed`; has the checkpoint, from which a training goes on.
        seconds: in all, also of earlier runs.
        val: output of `embed` for faces that are held out.
        iterations: in all, in place of the seconds.
        device: of the network.
        workers: processes that damage faces; no value depends on them.
        size: of a batch.
    """
    faces, targets = read_faces(output)
    if len(faces) < size:
        raise ValueError(f'{output}: {len(faces)} faces are less than a batch of {size}; embed more, or lower --batch')
    held_out = None if val is None else read_faces(val)
    network, optimizer = build(targets.shape[1], device)
    iteration, spent = 0, 0.0
    if (output / STATE).is_file():
        state = read_checkpoint(output / STATE)
        network.load_state_dict(state['network'])
        optimizer.load_state_dict(state['optimizer'])
        iteration, spent = state['iteration'], state['seconds']
    start, saved, cosines = time.monotonic() - spent, spent, []
    for crops, wanted in DataLoader(Batches(faces, targets, size, iteration), None, num_workers=workers):
        progress = spent / seconds if iterations is None else iteration / iterations
        for group in optimizer.param_groups:
            group['lr'] = rate_at(progress)
        loss, cosine = loss_of(network(crops.to(device)), wanted.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        iteration, spent = iteration + 1, time.monotonic() - start
        cosines.append(cosine.item())
        done = spent >= seconds if iterations is None else iteration >= iterations
        if iteration % LOG_EVERY == 0:
            print(f'iteration {iteration}, {spent:.0f} s: cosine {np.mean(cosines[-LOG_EVERY:]):.4f}', flush=True)
        if done or spent - saved > SAVE_SECONDS:
            state = {'network': network.state_dict(), 'optimizer': optimizer.state_dict()}
            save_atomic({**state, 'iteration': iteration, 'seconds': spent}, output / STATE)
            saved = spent
            if held_out is not None:
                print(f'iteration {iteration}: {check(network, *held_out)}', flush=True)
        if done:
            return


def release(output: Path, file: Path) -> None:
    """Write the network in half precision."""
    state = read_checkpoint(output / STATE)['network']
    halves = {key: value.cpu().half() if value.is_floating_point() else value for key, value in state.items()}
    save_file({key: value.contiguous() for key, value in halves.items()}, file)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description='Distil a recognizer into a compact one.')
    parser.add_argument('step', choices=('embed', 'train', 'release'))
    parser.add_argument('-i', '--input', type=Path, help='embed: aligned faces')
    parser.add_argument('--teacher', type=Path, help='embed: the recognizer to learn from, an ONNX file')
    parser.add_argument('--output', type=Path, default=Path('results/compact'))
    parser.add_argument('--val', type=Path, help='train: output of embed for other faces, to show how it goes')
    parser.add_argument('--seconds', type=float, default=2700.0, help='train: in all')
    parser.add_argument('--batch', type=int, default=BATCH, help='train: faces a batch')
    parser.add_argument('--device', default='cpu', help='train: of the network')
    parser.add_argument('--workers', type=int, default=0, help='train: processes that damage faces')
    parser.add_argument('--file', type=Path, help='release: where to')
    args = parser.parse_args()
    if args.step == 'embed':
        embed(args.input, args.teacher, args.output)
    elif args.step == 'train':
        train(args.output, args.seconds, args.val, None, args.device, args.workers, args.batch)
    else:
        release(args.output, args.file)


if __name__ == '__main__':
    main()
