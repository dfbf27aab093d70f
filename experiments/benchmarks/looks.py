"""Compare clips whose frames are all looked at whole with clips of which every few are: time, tracks and steadiness.

    python -m experiments.benchmarks.looks --clips folder_of_clips --frames 24

The warping error (mean squared, in thousandths of the range squared) is that of the result along the flow of the input,
see `basicsr.metrics.clips`; the change is the mean absolute difference of consecutive frames in levels.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from unittest import mock

import av
import numpy as np

from basicsr.cli.arguments import ArgumentParser
from basicsr.faces.detection import build_detector
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.metrics.clips import warping_error
from basicsr.utils.files import is_video_file
from basicsr.video.finding import EVERY
from basicsr.video.video_restorer import VideoRestorer


def frames_of(path: Path, count: int) -> list[np.ndarray]:
    """Return the first frames of a clip, RGB uint8 (H,W,3)."""
    with av.open(str(path)) as clip:
        decoded = (frame.to_ndarray(format='rgb24') for frame in clip.decode(video=0))
        return [frame for frame, _ in zip(decoded, range(count), strict=False)]


def write_frames(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Write a clip of frames, nearly without loss."""
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=Fraction(25), options={'crf': '4'})
        stream.width, stream.height, stream.pix_fmt = frames[0].shape[1], frames[0].shape[0], 'yuv444p'
        for image in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='rgb24')))
        file.mux(stream.encode(None))


def steadiness(inputs: Sequence[np.ndarray], results: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the warping error in thousandths and the change in levels of a result."""
    errors = [warping_error(truth, one) for truth, one in zip(pairwise(inputs), pairwise(results), strict=False)]
    changes = [np.abs(after.astype(int) - before).mean() for before, after in pairwise(results)]
    return 1000 * float(np.mean([error for error in errors if error is not None])), float(np.mean(changes))


def compare(clip: Path, images: ImageRestorer, count: int, folder: Path) -> list[str]:
    """Return the lines of a clip, the first of the input."""
    source = folder / 'input.mp4'
    write_frames(source, frames_of(clip, count))
    inputs = frames_of(source, count)
    lines = ['| {} | input | | | | {:.3f} | {:.2f} | |'.format(clip.stem, *steadiness(inputs, inputs))]
    results: dict[int, list[np.ndarray]] = {}
    for every in (1, EVERY):
        target, begin = folder / f'{every}.mp4', time.process_time()
        with (
            mock.patch('basicsr.video.video_restorer.EVERY', every),
            mock.patch.object(images.faces.detector, 'detect', wraps=images.faces.detector.detect) as look,  # type: ignore[union-attr]
        ):
            done = VideoRestorer(images).restore_file(source, target)
        spent = 1000 * (time.process_time() - begin) / done.frames
        results[every] = frames_of(target, count)
        apart = np.mean([np.abs(a.astype(int) - b).mean() for a, b in zip(results[1], results[every], strict=True)])
        error, change = steadiness(inputs, results[every])
        figures = f'{look.call_count} | {done.faces} | {spent:.0f} | {error:.3f} | {change:.2f} | {apart:.3f}'
        lines.append(f'| {clip.stem} | every {every} | {figures} |')
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = ArgumentParser(description='Compare looks at every frame with looks at every few.')
    parser.add_argument('--clips', type=Path, required=True, help='folder of clips')
    parser.add_argument('--frames', type=int, default=24, help='of each clip (default: 24)')
    parser.add_argument('--model', default='small', help='auto, official, small, or a file')
    args = parser.parse_args(argv)
    images = ImageRestorer(FaceRestorer(args.model, 'cpu'), build_detector(), w=0.8, force=True, upscale=1)
    print('| clip | looks | whole looks | tracks | CPU ms a frame | warping error | change | apart, levels |')
    print('|---|---|---|---|---|---|---|---|')
    with tempfile.TemporaryDirectory() as folder:
        for clip in sorted(path for path in args.clips.iterdir() if is_video_file(path)):
            print('\n'.join(compare(clip, images, args.frames, Path(folder))), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
