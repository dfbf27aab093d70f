"""Embeddings of reference photographs, computed beforehand and found by the content of the photograph.

The file is a safetensors: of each photograph its SHA-256 ('digests'), where it was last seen ('stamps') and its
embeddings ('vectors', float16), as it is and mirrored, in several lightly degraded variants. One file is for one
recognizer. id-codeformer data embed makes it; training only reads numbers from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from basicsr.data.common import DataError, option, resize_square
from basicsr.data.degradation import jpeg, to_bytes, to_unit
from basicsr.data.storage import Files
from basicsr.utils.download import sha256_of
from basicsr.utils.files import replacing

SMALLEST = 64  # side of a reference, pixels (RIDFR)
QUALITY = (60, 100)  # of JPEG
COMMAND = 'id-codeformer data embed -i {root} -o {file} --weights RECOGNIZER'
SUM = hashlib.sha256().digest_size


def reference_variants(image: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Return a photograph as references may look: as it is, then reduced to a side between 64 and its own, and as JPEG.

    Args:
        image: RGB uint8 (S,S,3).
        count: how many, 1 or more.
        rng: the only source of chance.

    Returns:
        `count` pictures, RGB uint8 (S,S,3).
    """
    full = len(image)
    variants = [image]
    for _ in range(count - 1):
        side = int(rng.integers(min(SMALLEST, full), full, endpoint=True))
        reduced = jpeg(to_unit(resize_square(image, side)), int(rng.integers(*QUALITY, endpoint=True)))
        variants.append(to_bytes(cv2.resize(reduced, (full, full), interpolation=cv2.INTER_LINEAR)))
    return variants


def stamp_of(path: Path, root: Path) -> bytes | None:
    """Tells a file by its path below `root`, size and time of change, so that it need not be read; None without one."""
    if not path.is_file():
        return None
    stat = path.stat()
    text = f'{path.relative_to(root).as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}'
    return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of P photographs in K variants.

    Attributes:
        recognizer: its name.
        recognizer_sum: SHA-256 of its weights, in hexadecimal.
        seed: of the variants.
        digests: SHA-256 of the photographs, uint8 (P,32).
        stamps: see `stamp_of`, uint8 (P,32); of the last file seen with this content.
        vectors: unit vectors, float16 (P,2,K,D); the second of two is of the mirrored photograph.
        file: where it is from, for messages.
    """

    recognizer: str
    recognizer_sum: str
    seed: int
    digests: Tensor
    stamps: Tensor
    vectors: Tensor
    file: Path

    @classmethod
    def empty(cls, recognizer: str, recognizer_sum: str, seed: int, variants: int, dim: int, file: Path) -> Embeddings:
        """Of no photograph yet."""
        sums = torch.zeros(0, SUM, dtype=torch.uint8)
        vectors = torch.zeros(0, 2, variants, dim, dtype=torch.float16)
        return cls(recognizer, recognizer_sum, seed, sums, sums, vectors, file)

    @classmethod
    def read(cls, file: str | Path) -> Embeddings:
        """From a file.

        Raises:
            DataError: it is missing, damaged, or something else.
        """
        file = Path(file)
        remedy = f'make it with {COMMAND.format(root="FACES", file=file)}'
        if not file.is_file():
            raise DataError(f'{file}: no such file; {remedy}')
        try:
            with safetensors.safe_open(file, framework='pt') as opened:
                header = opened.metadata() or {}
                tensors = {name: opened.get_tensor(name) for name in ('digests', 'stamps', 'vectors')}
            about = {name.replace('recogniser', 'recognizer'): value for name, value in header.items()}  # as before
            names = about['recognizer'], about['recognizer_sum']
            result = cls(*names, seed=int(about['seed']), file=file, **tensors)
        except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(f'{file}: damaged, or no file of embeddings ({error}); {remedy}') from error
        count = len(result.digests)
        fits = result.digests.shape == result.stamps.shape == (count, SUM) and result.vectors.ndim == 4
        if not fits or result.vectors.shape[:2] != (count, 2):
            raise DataError(f'{file}: sizes that do not fit together, {tuple(result.vectors.shape)}; {remedy}')
        return result

    def save(self) -> None:
        """Write `file`, whole or not at all."""
        about = {'recognizer': self.recognizer, 'recognizer_sum': self.recognizer_sum, 'seed': str(self.seed)}
        tensors = {'digests': self.digests, 'stamps': self.stamps, 'vectors': self.vectors}
        with replacing(self.file) as partial:
            safetensors.torch.save_file(tensors, partial, about)

    def with_photos(self, digests: list[bytes], stamps: list[bytes], vectors: list[Tensor]) -> Embeddings:
        """With photographs added; `vectors` are (2,K,D) each."""
        if not digests:
            return self
        return replace(
            self,
            digests=torch.cat([self.digests, _sums(digests)]),
            stamps=torch.cat([self.stamps, _sums(stamps)]),
            vectors=torch.cat([self.vectors, torch.stack(vectors).half()]),
        )

    def stamped(self, files: Files, root: Path) -> Embeddings:
        """With the stamps of these files, so that none of them is read to be found."""
        stamps = self.stamps.clone()
        for row, path in zip(self.rows(files, root), files.paths, strict=True):
            stamp = stamp_of(path, root)
            if row is not None and stamp is not None:
                stamps[row] = _sums([stamp])[0]
        return replace(self, stamps=stamps)

    def check_recognizer(self, wanted: str) -> None:
        """They are of the recognizer `wanted`: its name, or its weights file.

        Raises:
            DataError: of another one.
        """
        is_file = Path(wanted).is_file()
        if wanted == self.recognizer or (is_file and sha256_of(wanted) == self.recognizer_sum):
            return
        raise DataError(
            f"{self.file}: its embeddings are of the recognizer '{self.recognizer}', not of '{wanted}'; make others "
            f'with id-codeformer data embed -i FACES -o OTHER_FILE --weights {wanted}'
        )

    def lack_of(self, path: Path, count: int, total: int, root: Path) -> str:
        """Return the message for picture `path` and others below `root`, `count` of `total`, that are not in it."""
        return (
            f'{path}: {self.file} holds no embedding of this picture ({count} of {total} lack one); run '
            + COMMAND.format(root=root, file=self.file)
        )

    def rows(self, files: Files, root: Path) -> list[int | None]:
        """Return the row of each file, None for those whose content is not known or cannot be read.

        A file that is as it was when its embedding was made is not read again.
        """
        by_stamp, by_digest = (
            {bytes(key): row for row, key in enumerate(keys.numpy())} for keys in (self.stamps, self.digests)
        )
        found: list[int | None] = []
        for index, path in enumerate(files.paths):
            row = by_stamp.get(stamp_of(path, root) or b'')
            if row is None:
                try:
                    row = by_digest.get(hashlib.sha256(files.read(index)).digest())
                except DataError:  # the one who needs it says which and why
                    row = None
            found.append(row)
        return found


def open_embeddings(opt: Mapping[str, Any]) -> Embeddings:
    """Return the file that the option `embeddings` names, of the `recognizer` if that is named.

    Raises:
        DataError: there is none, or of another recognizer.
    """
    table = Embeddings.read(option(opt, 'embeddings'))
    if opt.get('recognizer'):
        table.check_recognizer(opt['recognizer'])
    return table


def _sums(sums: list[bytes]) -> Tensor:
    return torch.from_numpy(np.frombuffer(b''.join(sums), np.uint8).reshape(-1, SUM).copy())
