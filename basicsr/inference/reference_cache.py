"""Embeddings of reference photographs, kept on disk, so that a person's photographs are looked at once."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from basicsr import __version__
from basicsr.utils.files import replacing
from basicsr.utils.folders import cache_folder

VERSION = 1  # of what is kept; raise it where the same photograph would give another vector
logger = logging.getLogger('basicsr')


@dataclass(frozen=True, eq=False)
class Seen:
    """Result of a look at a photograph.

    Attributes:
        vector: the unit embedding (D,) of its face; None where it tells nothing of a person.
        remark: on the photograph, or why it tells nothing; to be read after the name of the file.
    """

    vector: Tensor | None = None
    remark: str = ''


@dataclass(frozen=True)
class ReferenceCache:
    """One small file for each photograph, detector and recognizer.

    A photograph is told by its path, size and time of change, so that it need not be read.

    Args:
        made_with: the detector and the recognizer, with all that the vectors depend on.
        folder: of the files.
    """

    made_with: str
    folder: Path

    @classmethod
    def of_user(cls, made_with: str) -> ReferenceCache:
        """Return the one in the user's cache."""
        return cls(made_with, cache_folder() / 'references')

    def _file(self, photo: Path) -> Path:
        stat = photo.stat()
        parts = (str(VERSION), __version__, self.made_with, str(photo.resolve()), f'{stat.st_size} {stat.st_mtime_ns}')
        digest = hashlib.sha256('\0'.join(parts).encode('utf-8', 'surrogateescape')).hexdigest()
        return self.folder / digest[:2] / f'{digest}.safetensors'

    def read(self, photo: Path) -> Seen | None:
        """Return what is kept of a photograph; None where that is nothing, or damaged."""
        try:
            with safetensors.safe_open(self._file(photo), framework='pt') as file:
                vector = file.get_tensor('vector')
                return Seen(vector if len(vector) else None, (file.metadata() or {}).get('remark', ''))
        except (OSError, safetensors.SafetensorError):
            return None

    def write(self, photo: Path, seen: Seen) -> None:
        """Keep the result of a look at a photograph; where the disk does not take it, it is looked at again."""
        vector = torch.zeros(0) if seen.vector is None else seen.vector.contiguous()
        try:
            with replacing(self._file(photo)) as partial:
                partial.write_bytes(save({'vector': vector}, {'remark': seen.remark}))
        except OSError as error:
            logger.debug('%s is not kept: %s', photo, error)
