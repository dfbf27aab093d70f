"""Give the project damaged files, and say where it does anything but name the fault.

    python scripts/fuzz.py pictures --cases 1000 --seed 0

Each case is a valid file with a few seeded mutations: bits flipped, bytes overwritten, pieces cut, doubled, swapped or
moved, numbers put at their extremes. A case that ends in an unexpected error, leaves files behind, or takes too long is a
finding, and its file is kept. The exit code is 1 if there are findings.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image

from basicsr.faces.detection import Face
from basicsr.inference.image_restorer import ImageRestorer
from basicsr.inference.runner import UNEXPECTED, Job, Runner
from scripts.make_video import Scene, write_clip

LONGEST = 60  # seconds of a case, after which the process ends with its traceback
SEED_FRAMES = 5
EXTREMES = (b'\0', b'\xff', b'\x7f\xff\xff\xff', b'\xff\xff\xff\xff', b'\x80\0\0\0', b'\0\0\0\0', b'\0\0\0\x01')


@dataclass(frozen=True)
class Target:
    """A kind of files, and how they are tried.

    Attributes:
        seeds: writes valid files into a folder, and returns their paths.
        attempt: uses a file, with a folder for what it writes; returns what is wrong, or '' where the file was used, or
            refused with a documented error.
    """

    seeds: Callable[[Path], list[Path]]
    attempt: Callable[[Path, Path], str]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A damaged copy of `data`; at most a few hundred bytes longer."""
    raw = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not raw:
            break
        # Half of the places are in the first 200 bytes, where headers are.
        place = rng.randrange(min(200, len(raw)) if rng.random() < 0.5 else len(raw))
        length = rng.choice((1, 4, 16, 256))
        kind = rng.randrange(7)
        if kind == 0:
            raw[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            raw[place : place + length] = rng.randbytes(min(length, len(raw) - place))
        elif kind == 2:
            extreme = rng.choice(EXTREMES)
            raw[place : place + len(extreme)] = extreme
        elif kind == 3:
            del raw[place : place + length]
        elif kind == 4:
            raw[place:place] = raw[place : place + length]
        elif kind == 5:
            other = rng.randrange(len(raw))
            raw[place : place + length] = raw[other : other + length]
        elif rng.random() < 0.3:
            del raw[place:]
    return bytes(raw)


def fuzz(name: str, cases: int, seed: int, kept: Path) -> list[str]:
    """Try `cases` damaged files of a target; findings, one line each. Their files are copied into the folder `kept`."""
    target, findings = TARGETS[name], []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        seeds = [(path.name, path.read_bytes()) for path in target.seeds(root)]
        for number in range(cases):
            rng = random.Random(f'{name} {seed} {number}')
            origin, data = rng.choice(seeds)
            folder = root / str(number)
            folder.mkdir()
            file = folder / origin
            file.write_bytes(mutate(data, rng))
            faulthandler.dump_traceback_later(LONGEST, exit=True)
            try:
                wrong = target.attempt(file, folder)
            except Exception as error:  # anything that comes through here is what is looked for
                wrong = f'{type(error).__name__}: {error}'
            finally:
                faulthandler.cancel_dump_traceback_later()
            if wrong:
                kept.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, kept / f'{name}_{seed}_{number}_{origin}')
                findings.append(f'{name}, seed {seed}, case {number} ({origin}): {wrong}')
            shutil.rmtree(folder)
    return findings


# Pictures and clips, as inference takes them


class _NoFaces:
    """Stands for the detector and the face network: there is nothing to restore."""

    size, batch_size = 64, 4

    def detect(self, image: np.ndarray) -> list[Face]:
        """No face."""
        return []


def _restore(file: Path, folder: Path) -> str:
    """Restore a file as a folder run does."""
    output = folder / 'out'
    nobody = _NoFaces()
    restorer = ImageRestorer(nobody, nobody, upscale=1)  # type: ignore[arg-type]
    records = list(Runner(restorer, output, max_megapixels=4).run([Job(file, file.stem)]))
    if len(records) != 1:
        return f'{len(records)} records instead of one'
    (record,) = records
    if record.message.startswith(UNEXPECTED):
        return record.message
    written = {path.relative_to(output).as_posix() for path in output.rglob('*') if path.is_file()}
    if written != set(record.outputs):
        return f'the folder has {sorted(written)}, the record says {record.outputs}'
    return ''


def _scene() -> np.ndarray:
    """Soft colours, RGB uint8 (48,64,3)."""
    y, x = np.mgrid[:48, :64]
    return np.stack([4 * x, 5 * y, 2 * (x + y)], axis=2).clip(0, 255).astype(np.uint8)


def _picture_seeds(folder: Path) -> list[Path]:
    """A small picture in every format and in the kinds that have readers of their own."""
    colours = Image.fromarray(_scene())
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010E: 'a caption'})
    clear = colours.copy()
    clear.putalpha(colours.convert('L'))
    deep = Image.fromarray(np.asarray(colours.convert('L')).astype(np.uint16) * 257)
    kinds: dict[str, tuple[Image.Image, dict]] = {
        'plain.jpg': (colours, {'exif': exif, 'comment': 'a comment', 'dpi': (300, 300)}),
        'cmyk.jpg': (colours.convert('CMYK'), {}),
        'plain.png': (colours, {'exif': exif, 'dpi': (72, 72)}),
        'clear.png': (clear, {}),
        'deep.png': (deep, {}),
        'palette.png': (colours.quantize(8), {}),
        'plain.webp': (colours, {'exif': exif}),
        'clear.webp': (clear, {'lossless': True}),
        'plain.bmp': (colours, {}),
        'plain.tif': (colours, {'compression': 'tiff_lzw', 'exif': exif}),
        'deep.tif': (deep, {}),
        'float.tif': (colours.convert('F'), {}),
        'still.gif': (colours.quantize(16), {}),
        'plain.jp2': (colours, {}),
        'plain.avif': (colours, {}),
    }
    paths = []
    for name, (image, options) in kinds.items():
        if (folder / name).suffix in Image.registered_extensions():
            image.save(folder / name, **options)
            paths.append(folder / name)
    return paths


def _clip_seeds(folder: Path) -> list[Path]:
    """A short clip in each of the common containers, and moving pictures."""
    scene = Scene(_scene(), SEED_FRAMES, Fraction(25))
    kinds = {
        'a.mp4': ('libx264', 'aac'),
        'a.mov': ('libx264', 'pcm_s16le'),
        'a.mkv': ('libx264', 'libopus'),
        'a.avi': ('mpeg4', 'libmp3lame'),
        'a.webm': ('libvpx-vp9', None),
        'a.mpg': ('mpeg2video', 'mp2'),
        'a.ts': ('mpeg2video', 'mp2'),
    }
    for name, (codec, sound) in kinds.items():
        write_clip(folder / name, scene, codec, sound)
    frames = [Image.fromarray(np.roll(_scene(), 4 * index, axis=1)) for index in range(SEED_FRAMES)]
    moving = {'a.gif': {}, 'a.webp': {}}
    for name, options in moving.items():
        buffer = BytesIO()
        frames[0].save(buffer, name[2:], save_all=True, append_images=frames[1:], duration=40, **options)
        (folder / name).write_bytes(buffer.getvalue())
    return [folder / name for name in (*kinds, *moving)]


TARGETS = {
    'pictures': Target(_picture_seeds, _restore),
    'clips': Target(_clip_seeds, _restore),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description='Give the project damaged files, and say where it fails.')
    parser.add_argument('kind', choices=list(TARGETS), help='what to damage')
    parser.add_argument('--cases', type=int, default=500, help='how many files (default: 500)')
    parser.add_argument('--seed', type=int, default=0, help='of the mutations (default: 0)')
    parser.add_argument('--keep', type=Path, default=Path('results/fuzz'), help='folder for the files of findings')
    args = parser.parse_args(argv)
    av.logging.set_level(av.logging.PANIC)
    findings = fuzz(args.kind, args.cases, args.seed, args.keep)
    for finding in findings:
        print(finding)
    print(f'{args.cases} cases, {len(findings)} finding(s)')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
