"""Measure the CPU time of a frame of 1280x720 pixels, enlarged twice, in several checkouts in turns.

    python -m experiments.benchmarks.clip_time --trees ../before . --turns 5

The embedded model restores a clip with one face that moves from side to side, with noise. Each turn is a process of its
own with sleeping threads; model and detector are loaded before the clock starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from skimage.data import astronaut

from basicsr.cli.arguments import ArgumentParser
from experiments.benchmarks.cases import ROOT
from experiments.benchmarks.make_video import Scene, write_clip

WIDTH, HEIGHT = 1280, 720
RESTORE = """
import json, sys, time
from pathlib import Path
import torch
from basicsr.utils.memory import keep_freed_memory
keep_freed_memory()
torch.set_num_threads(int(sys.argv[4]))
from basicsr.faces.detection import build_detector
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.video.video_restorer import VideoRestorer
restorer = FaceRestorer('small', 'cpu', sys.argv[3])
clips = VideoRestorer(ImageRestorer(restorer, build_detector(), w=0.8, force=True, upscale=2))
begin = time.process_time()
done = clips.restore_file(Path(sys.argv[1]), Path(sys.argv[2]))
cpu = time.process_time() - begin
print(json.dumps({'cpu': 1000 * cpu / done.frames, 'wall': 1000 * done.seconds / done.frames, 'tracks': done.faces}))
"""


def write_scene(path: Path, frames: int) -> None:
    """Write the clip."""
    picture = cv2.resize(astronaut(), (WIDTH, WIDTH), interpolation=cv2.INTER_CUBIC)[:HEIGHT]
    write_clip(path, Scene(np.ascontiguousarray(picture), frames=frames, noise=2, motion=20))


def restore(tree: Path, clip: Path, target: Path, precision: str, threads: int) -> dict[str, float]:
    """Restore a clip with the code of a checkout; return CPU and wall time of a frame in ms, and the tracks."""
    environment = {**os.environ, 'PYTHONPATH': str(tree), 'OMP_WAIT_POLICY': 'PASSIVE'}
    command = [sys.executable, '-c', RESTORE, str(clip), str(target), precision, str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tree, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = ArgumentParser(description='Measure the CPU time of a frame, in several checkouts in turns.')
    parser.add_argument('--trees', type=Path, nargs='+', default=[ROOT], help='checkouts, the first to compare with')
    parser.add_argument('--turns', type=int, default=5)
    parser.add_argument('--frames', type=int, default=26)
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--precision', default='fp32')
    args = parser.parse_args(argv)
    trees = [tree.resolve() for tree in args.trees]
    runs: dict[Path, list[dict[str, float]]] = {tree: [] for tree in trees}
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / 'clip.mp4'
        write_scene(clip, args.frames)
        for _ in range(args.turns):
            for tree in trees:
                runs[tree].append(restore(tree, clip, clip.with_stem('result'), args.precision, args.threads))
    print(f'{args.frames} frames, {args.threads} thread(s), {args.precision}, load {os.getloadavg()[0]:.1f}')
    print('| checkout | CPU ms a frame, best | median | wall ms, median | frames a CPU second, to the first | tracks |')
    print('|' + '---|' * 6)
    first = median(run['cpu'] for run in runs[trees[0]])
    for tree, done in runs.items():
        cpu, wall = ([run[key] for run in done] for key in ('cpu', 'wall'))
        figures = f'{min(cpu):.0f} | {median(cpu):.0f} | {median(wall):.0f} | {first / median(cpu):.2f}'
        print(f'| {tree.name} | {figures} | {done[0]["tracks"]:.0f} |')
    return 0


if __name__ == '__main__':
    sys.exit(main())
