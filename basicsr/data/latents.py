"""Target codes computed beforehand, looked up by picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from basicsr.data.common import DataError, load_table, table_keys

MISSING = -1


class LatentCodes:
    """The codebook indices of every picture and of its mirror image, from a file of id-codeformer data latents.

    The file holds `{'orig': {key: codes}, 'hflip': {key: codes}}`. A key is a picture's path below the data root
    without extension, or its stem where no other picture shares it; codes are integers of any shape, all of one number.

    Args:
        file: the `.pth`.
        paths: the pictures of the dataset.
        root: the folder they are in.
        strict: whether pictures without codes are an error at once, instead of when they are asked for.

    Raises:
        DataError: unreadable file, wrong layout, or (strict) a picture without codes.
    """

    def __init__(self, file: str | Path, paths: Sequence[Path], root: Path, strict: bool = True) -> None:
        self.file, self.paths = Path(file), paths
        table = load_table(file)
        if not isinstance(table.get('orig'), dict) or not isinstance(table.get('hflip'), dict):
            raise DataError(f"{file}: needs the dicts 'orig' and 'hflip'; make it with id-codeformer data latents")
        keys = table_keys(paths, root)
        found = [[self._find(table[side], names) for side in ('orig', 'hflip')] for names in keys]
        lengths = {codes.numel() for pair in found for codes in pair if codes is not None}
        if len(lengths) > 1:
            raise DataError(f'{file}: pictures with different numbers of codes: {sorted(lengths)}')
        empty = torch.full((max(lengths, default=0),), MISSING, dtype=torch.int32)
        self.codes = torch.stack(
            [torch.stack([empty if codes is None else codes for codes in pair]) for pair in found]
        )  # (pictures, 2, positions)
        absent = [index for index, pair in enumerate(found) if any(codes is None for codes in pair)]
        self.absent = frozenset(absent)
        if absent and strict:
            raise self._error(absent[0], len(absent))

    def _find(self, table: dict, names: list[str]) -> Tensor | None:
        key = next((name for name in names if name in table), None)
        if key is None:
            return None
        codes = torch.as_tensor(table[key]).flatten()
        if codes.is_floating_point():
            raise DataError(f"{self.file}: the codes of '{key}' are {codes.dtype}, not integers")
        return codes.to(torch.int32)

    def _error(self, index: int, count: int) -> DataError:
        return DataError(
            f'{self.paths[index]}: {self.file} holds no codes for this picture ({count} of {len(self.paths)} lack '
            'them); make the file for this data with id-codeformer data latents'
        )

    def __call__(self, index: int, flip: bool) -> Tensor:
        """Return the codes of picture `index`, or of its mirror image: (positions,) int64.

        Raises:
            DataError: the file has none.
        """
        if index in self.absent:
            raise self._error(index, len(self.absent))
        return self.codes[index, int(flip)].long()
