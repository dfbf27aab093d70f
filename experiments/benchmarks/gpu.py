"""Measure the project on a GPU: one command of less than eight minutes, one folder of results.

    python -m experiments.benchmarks.gpu --out results/gpu
    python -m experiments.benchmarks.gpu --out results/gpu --only precisions,batches
    python -m experiments.benchmarks.gpu --out results/gpu --device cpu --tiny     # try the script

Each group of rows runs in a process of its own until the time is over: what fails, hangs or breaks the device is a row
that says so, and the other groups go on. Results are written after each row, as gpu.json and gpu.md. Networks have the
published sizes and random weights. The GPU half of the training is `experiments/small_model/gpu.sh`.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from skimage.data import astronaut
from torch import Tensor, nn
from torch.utils.data import default_collate

from basicsr.archs import build_network
from basicsr.cli.arguments import ArgumentParser
from basicsr.data import build_dataset
from basicsr.faces.detection import build_detector
from basicsr.faces.face import Face
from basicsr.faces.geometry import align_face, compose, invert_affine, scaling
from basicsr.faces.paste import face_mask
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.models import build_model
from basicsr.utils.files import write_text
from basicsr.utils.logger import environment
from experiments.benchmarks.cases import TINY, Setup, W, small_options

OFFICIAL_MS = 55.6  # CodeFormer in fp16 on an RTX 4060 Ti, as published; not measured here
DTYPES = {'fp32': torch.float32, 'fp32, TF32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}


@dataclass(frozen=True)
class Measured:
    """One row.

    Attributes:
        group: of rows.
        case: what was run.
        milliseconds: of one face, picture or iteration, in the median; None where it failed.
        a_second: faces, pictures or training faces a second.
        gigabytes: most memory of the device.
        note: what else there is to say, or why it failed.
    """

    group: str
    case: str
    milliseconds: float | None = None
    a_second: float | None = None
    gigabytes: float | None = None
    note: str = ''

    @property
    def to_official(self) -> float | None:
        """How many times as fast as the published figure, for faces."""
        return OFFICIAL_MS / self.milliseconds if self.milliseconds and self.group in FACES else None


@dataclass(frozen=True)
class Bench:
    """Settings of a run.

    Attributes:
        setup: of the other measurements: network, folder with `network.pth` and `faces`.
        device: `cuda` or `cpu`.
        batches: sizes of batches.
        seconds: that a row is repeated, after warming up.
        faces: of a training iteration.
    """

    setup: Setup
    device: str = 'cuda'
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    seconds: float = 2.0
    faces: int = 4

    @property
    def is_cuda(self) -> bool:
        """The device is a GPU."""
        return self.device.startswith('cuda')

    def wait(self) -> None:
        """Wait for what the device has to do."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def timed(self, group: str, case: str, work: Callable[[], object], units: int = 1, note: str = '') -> Measured:
        """Return the row of a work on `units` faces or pictures."""
        if self.is_cuda:
            torch.cuda.reset_peak_memory_stats()
        begin = time.perf_counter()
        work()
        self.wait()
        first, times = time.perf_counter() - begin, []
        work()
        self.wait()
        end = time.perf_counter() + self.seconds
        while len(times) < 2 or time.perf_counter() < end:
            begin = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - begin)
        each = median(times) / units
        peak = torch.cuda.max_memory_allocated() / 1e9 if self.is_cuda else None
        said = '; '.join(filter(None, (note, f'{len(times)} times, the first took {first:.2f} s')))
        return Measured(group, case, 1000 * each, 1 / each, peak, said)

    def network(self, dtype: torch.dtype, layout: torch.memory_format = torch.channels_last) -> nn.Module:
        """Build the network on the device.

        Raises:
            ValueError: fp16 on a CPU, which imitates it slowly.
        """
        if dtype == torch.float16 and not self.is_cuda:
            raise ValueError('fp16 needs a CUDA device')
        torch.manual_seed(0)
        network: Any = build_network(self.setup.network).eval().requires_grad_(False)
        return network.to(self.device, dtype, memory_format=layout)

    def face_batch(self, count: int, dtype: torch.dtype) -> Tensor:
        """Random faces (count,3,S,S) on the device."""
        side = self.setup.network.get('img_size', 512)
        return (torch.rand(count, 3, side, side, device=self.device) * 2 - 1).to(dtype)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within, products and convolutions may round to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def attempt(group: str, case: str, work: Callable[[], Measured]) -> Measured:
    """Return the row of `work`, or where it fails in any way, one that says so."""
    try:
        return work()
    except Exception as error:  # what compilers and drivers raise has no common type; the row has the reason
        return Measured(group, case, note=f'failed: {type(error).__name__}: {" ".join(str(error).split())[:200]}')


def precisions(bench: Bench) -> Iterator[Measured]:
    """One face at a time, by precision and memory layout."""
    for name, dtype in DTYPES.items():
        for layout in (torch.channels_last, torch.contiguous_format):
            case = f'{name}, {"channels-last" if layout == torch.channels_last else "NCHW"}'

            def work(name: str = name, dtype: torch.dtype = dtype, layout: Any = layout, case: str = case) -> Measured:
                network, face = bench.network(dtype, layout), bench.face_batch(1, dtype)
                with tf32('TF32' in name):
                    return bench.timed('precisions', case, lambda: network(face, w=W, adain=True))

            yield attempt('precisions', case, work)


def batches(bench: Bench) -> Iterator[Measured]:
    """Faces a second by size of the batch."""
    for name in ('bf16', 'fp16'):
        for count in bench.batches:
            case = f'{name}, batch {count}'

            def work(count: int = count, case: str = case, name: str = name) -> Measured:
                network, faces = bench.network(DTYPES[name]), bench.face_batch(count, DTYPES[name])
                return bench.timed('batches', case, lambda: network(faces, w=W, adain=True), count)

            yield attempt('batches', case, work)


def compiled(bench: Bench) -> Iterator[Measured]:
    """`torch.compile`, with one face and with several; w is a tensor, so that one graph serves every w."""
    dtype = torch.float16 if bench.is_cuda else torch.float32
    weight = torch.tensor(W, device=bench.device, dtype=dtype)
    for mode in ('default', 'reduce-overhead'):
        for count in (1, min(8, bench.batches[-1])):
            case = f'{str(dtype)[6:]}, {mode}, batch {count}'

            def work(mode: str = mode, count: int = count, case: str = case) -> Measured:
                network, faces = torch.compile(bench.network(dtype), mode=mode), bench.face_batch(count, dtype)
                return bench.timed('compiled', case, lambda: network(faces, w=weight, adain=True), count)

            yield attempt('compiled', case, work)


def graphs(bench: Bench) -> Iterator[Measured]:
    """One face at a time through a recorded CUDA graph."""
    for name in ('bf16', 'fp16'):

        def work(name: str = name) -> Measured:
            if not bench.is_cuda:
                raise ValueError('CUDA graphs need a CUDA device')
            network, face = bench.network(DTYPES[name]), bench.face_batch(1, DTYPES[name])
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    network(face, w=W, adain=True)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                network(face, w=W, adain=True)
            return bench.timed('graphs', f'{name}, batch 1', graph.replay)

        yield attempt('graphs', f'{name}, batch 1', work)


LANDMARKS = np.array([[202.0, 105], [246, 103], [229, 130], [206, 152], [248, 150]])  # of scikit-image's astronaut


class Astronaut:
    """A detector that looks as a network does, and finds the face of scikit-image's astronaut.

    Args:
        look: the network's work on a picture.
    """

    def __init__(self, look: Callable[[np.ndarray], object]) -> None:
        self.look = look

    def detect(self, image: np.ndarray) -> list[Face]:
        """Look at the picture, and return the face wherever the network sees some."""
        self.look(image)
        ratio = image.shape[0] / 512
        box = np.array([170.0, 40, 280, 180]) * ratio
        return [Face(box, 1.0, LANDMARKS * ratio)]


def paste_on_device(canvas: Tensor, face: Tensor, mask: Tensor, grid: Tensor) -> Tensor:
    """Return `canvas` (1,3,H,W) with a face (1,3,S,S) by its mask (1,1,S,S) at the positions `grid` (1,H,W,2)."""
    warped = F.grid_sample(face, grid, align_corners=False, padding_mode='zeros')
    weight = F.grid_sample(mask, grid, align_corners=False, padding_mode='zeros')
    return canvas + weight * (warped - canvas)


def pictures(bench: Bench) -> Iterator[Measured]:
    """Time a picture of 512 pixels with one face, enlarged twice, by parts and as a whole."""
    picture, device = astronaut(), bench.device
    restorer = FaceRestorer(bench.setup.checkpoint, device, 'fp16' if bench.is_cuda else 'fp32')
    finder = attempt('pictures', 'detection by a ResNet-50 RetinaFace', lambda: _finding(bench, picture))
    yield finder
    tiny = build_detector()
    yield bench.timed('pictures', 'detection by the default detector, CPU', lambda: tiny.detect(picture))
    crop, matrix = align_face(picture, LANDMARKS, restorer.size)
    yield bench.timed('pictures', 'restoration', lambda: restorer.restore(crop, w=W))
    images = ImageRestorer(restorer, Astronaut(lambda image: None), w=W, force=True, grain=False)
    faces = images.faces.restore_faces(images.faces.cut(picture))
    yield bench.timed('pictures', 'enlarging and pasting, CPU', lambda: images.canvas.finish(picture, faces))
    yield attempt('pictures', 'enlarging and pasting, device', lambda: _pasting(bench, picture, crop, matrix))
    images.faces.detector = tiny
    yield bench.timed('pictures', 'all, detection and pasting on the CPU', lambda: images.restore(picture))


def _finding(bench: Bench, picture: np.ndarray) -> Measured:
    """Time the detection network at the size of its second look, on the device; weights are random."""
    from basicsr.faces.retinaface import RetinaFaceNetwork  # needs an extra

    network = RetinaFaceNetwork('mobile0.25' if bench.setup.is_tiny else 'resnet50').eval().to(bench.device)
    side = 64 if bench.setup.is_tiny else 512
    image = torch.from_numpy(picture[:side, :side].copy()).permute(2, 0, 1)[None].float().to(bench.device)
    with torch.no_grad():
        return bench.timed('pictures', 'detection by a ResNet-50 RetinaFace', lambda: network(image), note='fp32')


def _pasting(bench: Bench, picture: np.ndarray, crop: np.ndarray, matrix: np.ndarray) -> Measured:
    """Time enlarging and pasting on the device, result fetched."""
    side, size = 2 * picture.shape[0], crop.shape[0]
    small, face = (torch.from_numpy(each).permute(2, 0, 1)[None].float().to(bench.device) for each in (picture, crop))
    mask = torch.from_numpy(face_mask(size))[None, None].to(bench.device)
    to_face = compose(matrix, invert_affine(scaling(2)))  # from the enlarged picture to the crop
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing='ij')
    places = torch.stack([columns, rows, torch.ones_like(rows)], -1).double() @ torch.from_numpy(to_face).T
    grid = ((2 * places + 1) / size - 1).float()[None].to(bench.device)

    def work() -> np.ndarray:
        canvas = F.interpolate(small, size=(side, side), mode='bicubic', align_corners=False)
        return paste_on_device(canvas, face, mask, grid).clamp(0, 255).round().byte().cpu().numpy()

    return bench.timed('pictures', 'enlarging and pasting, device', work)


def training(bench: Bench) -> Iterator[Measured]:
    """Training iterations without the time to load their samples."""
    stages = ('CodeFormer_128_stage2',) if bench.setup.is_tiny else ('../CodeFormer_stage2', '../CodeFormer_stage3')
    for stage in stages:
        for precision in ('fp32',) if not bench.is_cuda else ('fp32', 'bf16'):
            name = stage.removeprefix('../')
            case = f'{name}, {precision}, batch {bench.faces}'

            def work(stage: str = stage, precision: str = precision, case: str = case) -> Measured:
                changes: dict[str, object] = {
                    'train:precision': precision,
                    'datasets:train:batch_size_per_gpu': bench.faces,
                    'train:perceptual_opt': '~',
                }
                options = small_options(bench.setup, stage, changes)
                data = build_dataset(options['datasets']['train'])
                batch = default_collate([data[index] for index in range(bench.faces)])
                model, counter = build_model(options, bench.device), iter(range(1, 10**6))
                return bench.timed(
                    'training', case, lambda: model.optimize_parameters([batch], next(counter)), note='an iteration'
                )

            row = attempt('training', case, work)
            yield row if row.milliseconds is None else replace(row, a_second=1000 * bench.faces / row.milliseconds)


GROUPS: dict[str, Callable[[Bench], Iterator[Measured]]] = {
    work.__name__: work for work in (precisions, batches, graphs, pictures, training, compiled)
}
"""In the order of their worth; what takes longest to begin is last."""
FACES = frozenset({'precisions', 'batches', 'compiled', 'graphs'})


def run_group(name: str, bench: Bench, results: Connection) -> None:
    """Send the rows of a group, in a process of its own."""
    with torch.no_grad() if name != 'training' else torch.enable_grad():
        rows = GROUPS[name](bench)
        while True:
            row = attempt(name, 'the next row', lambda: next(rows, Measured('', '')))
            if not row.group:
                break
            results.send(row)
            if row.milliseconds is None and row.case == 'the next row':
                break
    results.close()


def collect(name: str, bench: Bench, until: float) -> Iterator[Measured]:
    """Yield the rows of a group as they come, until a time on the monotonic clock."""
    context = multiprocessing.get_context('spawn')
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_group, args=(name, bench, sender), daemon=True)
    process.start()
    sender.close()
    try:
        while True:
            if not receiver.poll(max(0.0, until - time.monotonic())):
                yield Measured(name, 'the rest', note='not run: the time was over')
                return
            yield receiver.recv()
    except EOFError:
        process.join(10)
        if process.exitcode:
            yield Measured(name, 'the rest', note=f'failed: the process ended with code {process.exitcode}')
    finally:
        process.kill()


def as_markdown(rows: Sequence[Measured], about: dict[str, Any]) -> str:
    """Return the page of the rows."""

    def cell(value: float | None) -> str:
        return '' if value is None else f'{value:.3g}'

    lines = ['# GPU', '', f'{about["device"]}; torch {about["torch"]}; commit {about["commit"]}; {about["seconds"]} s.']
    lines += ['', f'x: times as fast as {OFFICIAL_MS} ms a face, published for CodeFormer in fp16 on an RTX 4060 Ti.']
    for group in dict.fromkeys(row.group for row in rows):
        lines += [
            '',
            f'## {group.capitalize()}',
            '',
            '| case | ms | a second | GB | x | note |',
            '|---|---|---|---|---|---|',
        ]
        for row in (row for row in rows if row.group == group):
            figures = (row.milliseconds, row.a_second, row.gigabytes, row.to_official)
            lines.append(f'| {" | ".join([row.case, *map(cell, figures), row.note])} |')
    return '\n'.join(lines) + '\n'


def save(out: Path, rows: Sequence[Measured], bench: Bench, begin: float) -> None:
    """Write all rows so far as JSON and as Markdown."""
    known = environment()
    device = torch.cuda.get_device_name() if bench.is_cuda else f'CPU, {torch.get_num_threads()} threads'
    about = {'device': device, 'torch': known['torch'], 'commit': (known['commit'] or 'unknown')[:12]}
    about['seconds'] = round(time.monotonic() - begin)
    write_text(out / 'gpu.json', json.dumps({**about, 'rows': [asdict(row) for row in rows]}, indent=2) + '\n')
    write_text(out / 'gpu.md', as_markdown(rows, about))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 1 if a row failed."""
    parser = ArgumentParser(description='Measure the project on a GPU.')
    parser.add_argument('--out', type=Path, required=True, help='folder for gpu.json and gpu.md')
    parser.add_argument('--device', default='cuda', help='cuda or cpu (default: cuda)')
    parser.add_argument('--minutes', type=float, default=7.5, help='after which no row begins (default: 7.5)')
    parser.add_argument('--only', default=','.join(GROUPS), help=f'of {",".join(GROUPS)}')
    parser.add_argument('--tiny', action='store_true', help='try the script: sizes whose figures mean nothing')
    args = parser.parse_args(argv)
    chosen = args.only.split(',')
    for name in chosen:
        if name not in GROUPS:
            parser.error(f"no group '{name}'; there are {', '.join(GROUPS)}")
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error('--device cuda: this machine has no usable CUDA device; --device cpu --tiny tries the script')
    begin, rows = time.monotonic(), []
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Setup(Path(folder)), args.device)
        if args.tiny:
            bench = Bench(Setup(Path(folder), TINY, 2, 64), args.device, (1, 2), 0.0, 1)
        bench.setup.prepare()
        for name in chosen:
            for row in collect(name, bench, begin + 60 * args.minutes):
                rows.append(row)
                save(args.out, rows, bench, begin)
                shown = float('nan') if row.milliseconds is None else row.milliseconds
                print(f'{row.group:11} {row.case:45} {shown:9.2f} ms  {row.note}', flush=True)
    return int(any(row.milliseconds is None for row in rows))


if __name__ == '__main__':
    sys.exit(main())
