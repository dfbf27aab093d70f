"""Measurements behind defaults: compression of PNG, presets of x264, threads that wait."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from fractions import Fraction

import av
import cv2
import numpy as np
from skimage.data import astronaut

from basicsr.metrics import calculate_psnr
from basicsr.video.encoding import PLAIN
from experiments.benchmarks.cases import ROOT, Row, Setup

PRESETS = (('medium', 18), ('fast', 18), ('faster', 18), ('veryfast', 18), ('veryfast', 17), ('superfast', 18))
X264 = {f'{preset}, CRF {crf}': {'preset': preset, 'crf': str(crf)} for preset, crf in PRESETS}
X264 |= {'as clips are written': PLAIN.options}
WAITING = """
import json, sys, time
import numpy as np
from basicsr.inference import FaceRestorer
from basicsr.utils.memory import keep_freed_memory
keep_freed_memory()
restorer, face = FaceRestorer(sys.argv[1], 'cpu', weights_dir='.'), np.zeros((512, 512, 3), np.uint8)
restorer.restore(face)
wall, cpu = time.perf_counter(), time.process_time()
for _ in range(int(sys.argv[2])):
    restorer.restore(face)
print(json.dumps({'wall': time.perf_counter() - wall, 'cpu': time.process_time() - cpu}))
"""


def png(setup: Setup) -> list[Row]:
    """Return time and size of a photograph as PNG, by compression level."""
    side = 128 if setup.is_tiny else 1024
    picture = cv2.resize(astronaut(), (side, side), interpolation=cv2.INTER_CUBIC)
    picture = np.clip(picture + np.random.default_rng(0).normal(0, 2, picture.shape), 0, 255).astype(np.uint8)
    rows = []
    for name, flags in {
        "OpenCV's default": [],
        'level 1': [cv2.IMWRITE_PNG_COMPRESSION, 1],
        'level 1, RLE': [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE],
        'level 3': [cv2.IMWRITE_PNG_COMPRESSION, 3],
        'level 6': [cv2.IMWRITE_PNG_COMPRESSION, 6],
    }.items():
        times = []
        for _ in range(setup.repeats):
            begin = time.process_time()
            size = len(cv2.imencode('.png', picture, flags)[1])
            times.append(1000 * (time.process_time() - begin))
        rows.append(Row('png', name, 'CPU time', min(times), float(np.median(times)), 'ms', f'{size / 1e3:.0f} kB'))
    return rows


def x264(setup: Setup) -> list[Row]:
    """Return the CPU time of a frame, its size and its distance from the input, by preset and CRF."""
    width, height, count = (128, 96, 2) if setup.is_tiny else (2560, 1440, 8)
    picture = cv2.resize(astronaut(), (width, height), interpolation=cv2.INTER_CUBIC)
    rng, rows = np.random.default_rng(0), []
    noisy = (np.roll(picture, 3 * n, axis=1) + rng.normal(0, 2, picture.shape) for n in range(count))
    frames = [np.clip(frame, 0, 255).astype(np.uint8) for frame in noisy]
    for name, options in X264.items():
        file = io.BytesIO()
        begin = time.process_time()
        with av.open(file, 'w', format='mp4') as clip:
            stream = clip.add_stream('libx264', rate=Fraction(25), options=dict(options))
            stream.width, stream.height, stream.pix_fmt = width, height, 'yuv420p'
            for frame in frames:
                clip.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
            clip.mux(stream.encode(None))
        spent = 1000 * (time.process_time() - begin) / count
        size = len(file.getvalue()) / count / 1e3
        file.seek(0)
        with av.open(file, 'r') as result:
            shown = [frame.to_ndarray(format='rgb24') for frame in result.decode(video=0)]
        psnr = np.mean([calculate_psnr(a, b, crop_border=0) for a, b in zip(frames, shown, strict=True)])
        note = f'{size:.0f} kB a frame, PSNR {psnr:.2f} to the input'
        rows.append(Row('x264', name, 'CPU time of a frame', spent, spent, 'ms', note))
    return rows


def waiting(setup: Setup) -> list[Row]:
    """Return the time of a face through the embedded model, by how long idle threads wait before they sleep."""
    rows = []
    for name, variables in {
        'sleep at once': {'OMP_WAIT_POLICY': 'PASSIVE'},
        'wait 2,000 rounds': {'GOMP_SPINCOUNT': '2000'},
        'wait 200,000 rounds': {'GOMP_SPINCOUNT': '200000'},
    }.items():
        command = [sys.executable, '-c', WAITING, setup.small_model, str(setup.repeats)]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(('OMP_', 'GOMP_'))}
        environment = {**inherited, 'PYTHONPATH': str(ROOT), **variables}
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=environment)
        found = json.loads(done.stdout.splitlines()[-1])
        for kind, key in (('CPU', 'cpu'), ('wall', 'wall')):
            each = 1000 * found[key] / setup.repeats
            rows.append(Row('waiting', name, f'{kind} time of a face', each, each, 'ms'))
    return rows
