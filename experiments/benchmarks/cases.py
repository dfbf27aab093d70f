"""Measurements of scripts/benchmark.py: each function gives rows of figures."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import cv2
import numpy as np
import torch
from skimage.data import astronaut
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from basicsr.archs import CodeFormerPlusPlus, build_network
from basicsr.cli.train import run_options
from basicsr.data import FFHQBlindJointDataset, build_dataset
from basicsr.faces.detection import build_detector
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.inference.face_restorer import PRECISIONS
from basicsr.models import BaseModel, build_model
from basicsr.recognition.mobilefacenet import MobileFaceNet
from basicsr.utils.checkpoint import save_atomic
from basicsr.utils.image import imwrite
from basicsr.video.video_restorer import VideoRestorer
from experiments.benchmarks.make_video import Scene, write_clip
from experiments.benchmarks.plain_degradation import plain_sample

ROOT = Path(__file__).resolve().parents[2]
W = 0.8
FULL: dict[str, Any] = {'type': 'CodeFormer'}
TINY: dict[str, Any] = {
    'type': 'CodeFormer', 'img_size': 64, 'nf': 32, 'ch_mult': [1, 1, 2], 'res_blocks': 1, 'attn_resolutions': [16],
    'codebook_size': 32, 'emb_dim': 32, 'dim_embd': 32, 'n_head': 2, 'n_layers': 1,
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """Settings of the measurements.

    Attributes:
        folder: for files on the way; holds the checkpoint `network.pth` and the folder `faces`.
        network: options of the network.
        repeats: of each timing.
        matmul: side of the matrices whose product is the yardstick.
        batches: sizes of batches.
        frames: of the clip.
        models: what pictures and clips are restored with: name, `--model` and precision.
    """

    folder: Path
    network: dict[str, Any] = field(default_factory=lambda: FULL)
    repeats: int = 5
    matmul: int = 4096
    batches: tuple[int, ...] = (1, 4, 8)
    frames: int = 24
    models: tuple[tuple[str, str, str], ...] = (('small model', 'small', 'fp32'), ('512, bf16', '', 'bf16'))

    @property
    def checkpoint(self) -> Path:
        """The network's."""
        return self.folder / 'network.pth'

    @property
    def is_tiny(self) -> bool:
        """Sizes are cut, and figures mean nothing."""
        return self.network == TINY

    @property
    def small_model(self) -> str:
        """The embedded model, or what stands for it where sizes are cut."""
        return str(self.checkpoint) if self.is_tiny else 'small'

    def prepare(self) -> None:
        """Write the network and eight faces, which are the same face moved a little."""
        torch.manual_seed(0)
        save_atomic({'params': build_network(self.network).state_dict(), 'network': self.network}, self.checkpoint)
        for shift in range(8):
            face = cv2.resize(astronaut()[shift : 192 + shift, 128:320], (512, 512), interpolation=cv2.INTER_CUBIC)
            imwrite(self.folder / 'faces' / f'{shift}.png', face)


@dataclass(frozen=True)
class Row:
    """A figure: the best and the median of several."""

    measurement: str
    case: str
    figure: str
    best: float
    median: float
    unit: str
    note: str = ''


def seconds(work: Callable[[], object]) -> float:
    """Return the seconds that `work` takes."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def interleaved(repeats: int, *works: Callable[[], object]) -> list[list[float]]:
    """Seconds of each of `works`, run in turns so that other load on the machine meets all alike, after one of each."""
    for work in works:
        work()
    turns = [[seconds(work) for work in works] for _ in range(repeats)]
    return [list(times) for times in zip(*turns, strict=True)]


def rate(amount: float, times: Sequence[float]) -> tuple[float, float]:
    """`amount` a second, at best and in the median."""
    return amount / min(times), amount / median(times)


def count_flops(options: dict[str, Any], training: bool) -> float:
    """GFLOP (two for a multiplication and addition) of one face at w > 0, as computed in training or in inference."""
    with torch.device('meta'):
        network, face = (
            build_network(options).eval().requires_grad_(False),
            torch.empty(1, 3, *2 * (options.get('img_size', 512),)),
        )
    with torch.set_grad_enabled(training), FlopCounterMode(display=False) as counter:
        network(face, w=W, adain=True)
    return counter.get_total_flops() / 1e9


def drawn_faces(restorer: FaceRestorer, count: int) -> torch.Tensor:
    """Random input (count,3,S,S) as the network takes it."""
    return torch.rand(count, 3, restorer.size, restorer.size, dtype=PRECISIONS[restorer.precision]) * 2 - 1


@torch.inference_mode()
def forward(setup: Setup) -> list[Row]:
    """Return the network on one face, beside a matrix product of the same precision."""
    gflop, done = count_flops(setup.network, True), count_flops(setup.network, False)
    rows = [Row('forward', 'network', 'work of a face', gflop, gflop, 'GFLOP', f'{done:.0f} are computed')]
    for precision in ('fp32', 'bf16'):
        restorer = FaceRestorer(setup.checkpoint, 'cpu', precision, weights_dir=setup.folder)
        network, face = restorer.network, drawn_faces(restorer, 1)
        matrix = torch.rand(setup.matmul, setup.matmul, dtype=face.dtype)
        times, products = interleaved(
            setup.repeats, lambda n=network, x=face: n(x, w=W, adain=True), lambda m=matrix: m @ m
        )
        speed, matmul = rate(gflop, times), rate(2 * setup.matmul**3 / 1e9, products)
        rows += [
            Row('forward', precision, 'time of a face', min(times), median(times), 's'),
            Row('forward', precision, 'network', *speed, 'GFLOP/s'),
            Row('forward', precision, f'product of {setup.matmul} matrices', *matmul, 'GFLOP/s'),
            Row('forward', precision, 'share of the product', speed[0] / matmul[0], speed[1] / matmul[1], ''),
        ]
    return rows


RESTORE_ONE = """
import sys
import numpy as np
from basicsr.inference import FaceRestorer
from basicsr.utils.memory import keep_freed_memory, peak_memory
keep_freed_memory()
print(peak_memory())
FaceRestorer(sys.argv[1], 'cpu', sys.argv[2]).restore(np.zeros((512, 512, 3), np.uint8), w=0.8)
print(peak_memory())
"""


def peak_of(checkpoint: Path, precision: str) -> tuple[float, float]:
    """GB that a process holds before and after it restores one face."""
    command = [sys.executable, '-c', RESTORE_ONE, str(checkpoint), precision]
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    before, after = (float(line) / 1e9 for line in output.split())
    return before, after


def memory(setup: Setup) -> list[Row]:
    """Return the most memory that a process holds that restores one face."""
    rows = []
    for precision in ('fp32', 'bf16'):
        before, after = peak_of(setup.checkpoint, precision)
        note = f'{before:.2f} GB of it after the imports'
        rows.append(Row('memory', precision, 'peak', after, after, 'GB', note))
    return rows


@torch.inference_mode()
def plusplus(setup: Setup) -> list[Row]:
    """One face through CodeFormer++, beside its prior at w = 0.8, in turns."""
    checkpoint = setup.folder / 'plusplus.pth'
    network = CodeFormerPlusPlus(prior=setup.network, prior_path=str(setup.checkpoint))
    for layer in (network.tgrn.last, network.dam.flow):
        torch.nn.init.normal_(layer.weight, std=0.01)
    save_atomic({'params': network.state_dict(), 'network': network.options}, checkpoint)
    rows = []
    for precision in ('fp32', 'bf16'):
        restorers = [FaceRestorer(path, 'cpu', precision) for path in (setup.checkpoint, checkpoint)]
        face, plusplus = drawn_faces(restorers[0], 1), cast(CodeFormerPlusPlus, restorers[1].network)
        prior, whole = interleaved(
            setup.repeats,
            lambda n=restorers[0].network, x=face: n(x, w=W, adain=True),
            lambda n=plusplus, x=face: n(x),
        )
        del restorers, plusplus
        peak = peak_of(checkpoint, precision)[1]
        ratios = (min(whole) / min(prior), median(whole) / median(prior))
        rows += [
            Row('plusplus', precision, 'CodeFormer, time of a face', min(prior), median(prior), 's'),
            Row('plusplus', precision, 'CodeFormer++, time of a face', min(whole), median(whole), 's'),
            Row('plusplus', precision, 'of the time of CodeFormer', *ratios, 'x'),
            Row('plusplus', precision, 'peak', peak, peak, 'GB'),
        ]
    return rows


@torch.inference_mode()
def batch(setup: Setup) -> list[Row]:
    """Faces a second for several sizes of batch."""
    rows = []
    for precision in ('fp32', 'bf16'):
        restorer = FaceRestorer(setup.checkpoint, 'cpu', precision)
        faces = [drawn_faces(restorer, count) for count in setup.batches]
        works = [lambda x=x, n=restorer.network: n(x, w=W, adain=True) for x in faces]
        for count, times in zip(setup.batches, interleaved(max(2, setup.repeats // 2), *works), strict=True):
            rows.append(Row('batch', f'{precision}, batch {count}', 'faces', *rate(count, times), '1/s'))
    return rows


@torch.inference_mode()
def profile(setup: Setup) -> list[Row]:
    """Profile the network by layer."""
    rows = []
    for precision in ('fp32', 'bf16'):
        restorer = FaceRestorer(setup.checkpoint, 'cpu', precision)
        face = drawn_faces(restorer, 1)
        restorer.network(face, w=W, adain=True)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
            restorer.network(face, w=W, adain=True)
        spent = {entry.key: entry.self_cpu_time_total for entry in record.key_averages()}
        total = sum(spent.values())
        for name, part in sorted(spent.items(), key=lambda item: -item[1])[:8]:
            share = 100 * part / total
            rows.append(Row('profile', precision, name.removeprefix('aten::'), share, share, '%'))
    return rows


def degradation(setup: Setup) -> list[Row]:
    """Return samples of stage III a second in one worker, beside the plain way to make them."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    data = FFHQBlindJointDataset(
        {'dataroot_gt': str(setup.folder / 'faces'), 'gt_size': 512, 'mean': [0.5] * 3, 'std': [0.5] * 3}
    )
    count = 4 * setup.repeats
    ours, plain = interleaved(
        setup.repeats, lambda: [data[v] for v in range(count)], lambda: [plain_sample(data, v) for v in range(count)]
    )
    fast, slow = rate(count, ours), rate(count, plain)
    return [
        Row('degradation', 'joint, 512', 'samples', *fast, '1/s'),
        Row('degradation', 'plain, 512', 'samples', *slow, '1/s'),
        Row('degradation', 'joint, 512', 'of the plain rate', fast[0] / slow[0], fast[1] / slow[1], 'x'),
    ]


def small_options(setup: Setup, name: str, changes: Mapping[str, object]) -> dict[str, Any]:
    """Return the options of a file of options/small, its networks fresh and its data the faces of `setup`."""
    vqgan = setup.folder / 'vqgan.pth'
    changes = {
        'datasets:train:dataroot_gt': setup.folder / 'faces', 'datasets:val': '~', 'network_vqgan:model_path': vqgan,
        'network_g:vqgan_path': vqgan, 'path:pretrain_network_g': '~', 'path:param_key_g': '~', **changes,
    }  # fmt: skip
    path = ROOT / 'options' / 'small' / f'{name}.yml'
    options = run_options(path, [f'{key}={value}' for key, value in changes.items()])
    network = {key: value for key, value in options['network_vqgan'].items() if key != 'model_path'}
    save_atomic({'params_ema': build_network(network).state_dict()}, vqgan)
    return options


def one_iteration(model: BaseModel, batch: Mapping[str, Any], counter: Iterator[int]) -> None:
    """Train on `batch` once more."""
    model.optimize_parameters([batch], next(counter))


def training(setup: Setup) -> list[Row]:
    """Return iterations a second of the small option files, their batches being there."""
    recognizer = setup.folder / 'recognizer.pth'
    save_atomic(MobileFaceNet().state_dict(), recognizer)
    identity = {'train:identity_opt:weights': recognizer, 'train:identity_opt:sub_batch': 2}
    fresh = {'train:perceptual_opt': '~'}
    rows, works = [], []
    for name, case, changes in (
        ('CodeFormer_128_stage2', 'stage 2, 128', {}),
        ('ID_CodeFormer_128_stage2', 'stage 2, 128, identity loss on 2 of 8', identity),
        ('CodeFormer_128_stage3', 'stage 3, 128, without VGG', fresh),
    ):
        options = small_options(setup, name, changes)
        section = options['datasets']['train']
        data, size = build_dataset(section), section['batch_size_per_gpu']
        model, items = build_model(options, 'cpu'), default_collate([data[v] for v in range(size)])
        works.append(partial(one_iteration, model, items, itertools.count(1)))
        rows.append((case, f'batch {size}, {options["train"].get("precision", "fp32")}'))
    timed = interleaved(setup.repeats, *works)
    plain, loss, _ = timed
    costs = min(loss) / min(plain), median(loss) / median(plain)
    return [
        *(
            Row('training', case, 'iterations', *rate(1, times), '1/s', note)
            for (case, note), times in zip(rows, timed, strict=True)
        ),
        Row('training', rows[1][0], 'of the plain time', *costs, 'x'),
    ]


class Clocked(FaceRestorer):
    """Counts the seconds in which it restores."""

    busy = 0.0

    def restore(self, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        """As without the clock."""
        begin = time.perf_counter()
        try:
            return super().restore(*args, **kwargs)
        finally:
            self.busy += time.perf_counter() - begin


def picture(setup: Setup) -> list[Row]:
    """Whole pictures a second, one face in each, and the share of time in which the network works."""
    rows = []
    for name, model, precision in setup.models:
        faces = Clocked(model or setup.checkpoint, 'cpu', precision)
        images = ImageRestorer(faces, build_detector(), w=W, force=True)
        images.restore(astronaut())
        faces.busy = 0.0
        times = [seconds(lambda i=images: i.restore(astronaut())) for _ in range(setup.repeats)]
        share = faces.busy / sum(times)
        rows += [
            Row('picture', name, 'pictures', *rate(1, times), '1/s', '512x512 pixels, enlarged twice'),
            Row('picture', name, 'network busy', share, share, ''),
        ]
    return rows


def video(setup: Setup) -> list[Row]:
    """Frames of a clip a second, one face in each, and the share of time in which the network works."""
    rows = []
    clip = setup.folder / 'clip.mp4'
    write_clip(clip, Scene(astronaut(), frames=setup.frames, noise=3, motion=20), sound='aac')
    for name, model, precision in setup.models:
        images = ImageRestorer(
            FaceRestorer(model or setup.checkpoint, 'cpu', precision), build_detector(), w=W, force=True
        )
        done = VideoRestorer(images).restore_file(clip, setup.folder / 'result.mp4')
        speed, share = done.frames / done.seconds, done.network_seconds / done.seconds
        rows += [
            Row('video', name, 'frames', speed, speed, '1/s', f'{done.frames} frames of 512x512 pixels'),
            Row('video', name, 'network busy', share, share, ''),
        ]
    return rows


def start(setup: Setup) -> list[Row]:
    """From the start of the command to its end, with one aligned face, beside the import of PyTorch alone.

    Compiled modules are kept, as those of an installed package are.
    """
    command = [sys.executable, str(ROOT / 'inference_codeformer.py'), '-i', str(setup.folder / 'faces' / '0.png')]
    command += ['-o', str(setup.folder / 'out'), '--has_aligned', '--force', '--device', 'cpu']
    command += ['--model', setup.small_model]
    kept = {key: value for key, value in os.environ.items() if key != 'PYTHONDONTWRITEBYTECODE'}
    kept['PYTHONPYCACHEPREFIX'] = str(setup.folder / 'compiled')
    works = {'whole command, one face': command, 'import of torch alone': [sys.executable, '-c', 'import torch']}
    run = partial(subprocess.run, check=True, capture_output=True, env=kept)
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for name, work in [*works.items()] * (setup.repeats + 1):
        before, wall = os.times(), seconds(partial(run, work))
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        spent[name].append((wall, cpu))
    rows = []
    for name, times in spent.items():
        walls, cpus = zip(*times[1:], strict=True)
        rows += [
            Row('start', 'small model', name, min(walls), median(walls), 's'),
            Row('start', 'small model', f'{name}, CPU time', min(cpus), median(cpus), 's'),
        ]
    return rows


MEASUREMENTS: dict[str, Callable[[Setup], list[Row]]] = {
    work.__name__: work
    for work in (forward, memory, plusplus, batch, profile, degradation, training, picture, video, start)
}  # fmt: skip
