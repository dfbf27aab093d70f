"""Valid pictures and clips of every kind, and their restoration as a folder run does it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from basicsr.faces.detection import Face
from basicsr.inference.attempt import UNEXPECTED
from basicsr.inference.image_restorer import ImageRestorer
from basicsr.inference.jobs import Job
from basicsr.inference.runner import Runner
from experiments.benchmarks.make_video import Scene, write_clip

SEED_FRAMES = 5


class _NoFaces:
    """Stands for the detector and the face network: there is nothing to restore."""

    size = input_size = 64
    batch_size = 4

    def detect(self, image: np.ndarray) -> list[Face]:
        """No face."""
        return []

    def restore(self, faces: Sequence[np.ndarray], w: float, adain: bool) -> list[np.ndarray]:
        """Nothing, of nothing."""
        return list(faces)


def restore(file: Path, folder: Path) -> str:
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


def picture_seeds(folder: Path) -> list[Path]:
    """Return a small picture in every format and in the kinds that have readers of their own."""
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


def clip_seeds(folder: Path) -> list[Path]:
    """Return a short clip in each of the common containers, and moving pictures."""
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
