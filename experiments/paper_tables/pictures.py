"""Pictures of each row of a table: given, the inputs as they are, or restored here."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from basicsr.cli.data_pairs import make_pairs, ranges_of
from basicsr.metrics.builders import WITH_WEIGHTS
from basicsr.metrics.pictures import Folder
from basicsr.metrics.protocol import load_protocol
from basicsr.utils.download import sha256_of
from basicsr.utils.errors import IDCodeFormerError
from experiments.paper_tables.folder_restorer import Recipe, restore_folder
from experiments.paper_tables.measured import Data
from experiments.paper_tables.plans import LFW, SYNTHETIC, Ours

SIDES = {None: 'their own size', 0: '64 to 512 pixels'}


class Missing(IDCodeFormerError):  # noqa: N818 - no error: the table says it
    """A row that cannot be measured; the message says what it lacks, and how to get it."""


class Pictures:
    """The pictures that a table needs.

    Args:
        args: the command line of scripts/reproduce_tables.py.
        ours: rows that this project restores, by method.
        protocols: of the table.

    Attributes:
        problems: what could not be read or restored.
    """

    def __init__(self, args: argparse.Namespace, ours: Mapping[str, Ours], protocols: Sequence[str]) -> None:
        self.args, self.ours, self.several = args, ours, len(protocols) > 1
        self.restored = {method: Path(folder) for method, folder in args.restored}
        self.weights = {name: Path(path) for name, path in args.weights if name not in WITH_WEIGHTS}
        self.problems: list[str] = []

    def is_family(self, name: str) -> bool:
        """Return True if several rows of this project, `name, …`, share what is given for `name`."""
        return name not in self.ours and any(method.startswith(f'{name},') for method in self.ours)

    def data(self, name: str) -> Data:
        """Return the pictures of a protocol; the synthetic LFW is made of those of LFW-Test where it is not there."""
        data = Data(self.args.data / name, load_protocol(name))
        given = self.args.data / LFW / 'lq'
        if name != SYNTHETIC or 'lq' in data.folders or not given.is_dir():
            return data
        made = self.args.out / 'data' / f'{SYNTHETIC}_{self.args.size}'
        if not made.is_dir():
            partial = made.with_name(f'{made.name}.part')
            ranges, seed = ranges_of(name)
            make_pairs(given, partial, ranges, self.args.size, seed, None)
            partial.rename(made)
        return Data(made, data.protocol)

    def of(self, method: str, data: Data) -> tuple[Path, str]:
        """Return the folder of a method's pictures, restored where needed, and what they are.

        Raises:
            Missing: they cannot be had.
        """
        if method in self.restored:
            own = self.restored[method] / data.protocol.name
            folder = own if own.is_dir() or self.several else self.restored[method]
            if not folder.is_dir():
                raise Missing(f'no data: {folder} is not there; put the pictures of {method} into it')
            return folder, f'pictures given in {folder}; data {data.root}'
        weights = self.weights.get(method) or self.weights.get(method.partition(',')[0])
        ours = self.ours.get(method) or (Ours() if weights else None)
        reasons = []
        if ours is None:
            raise Missing(f'no pictures: {method} is not of this project; give --restored "{method}=DIR"')
        file = weights or ours.place
        if (weights or ours.weights) and not file.is_file():
            remedy = f'{ours.remedy}, or give ' if ours.weights else 'give '
            reasons.append(f'no weights: {file} is not there; {remedy}--weights "{method}=FILE"')
        reasons += [] if 'lq' in data.folders else [data.lacks('lq')]
        if reasons:
            raise Missing('. '.join(reasons))
        if not (weights or ours.weights):
            return data.folders['lq'], f'the inputs as they are, {data.folders["lq"]}'
        return self._restore(method, self._recipe(file, ours or Ours(), data.protocol.w), data)

    def _recipe(self, weights: Path, ours: Ours, w: float) -> Recipe:
        args = self.args
        w = w if args.w is None else args.w
        told = args.reference_recognizer if ours.references else None
        return Recipe(weights, w, args.adain, ours.references, ours.side, told, args.device or 'auto')

    def _restore(self, method: str, recipe: Recipe, data: Data) -> tuple[Path, str]:
        """Restore the inputs of a protocol.

        Raises:
            Missing: that failed.
        """
        out = self.args.out / 'restored' / data.protocol.name / recipe.folder(method, data.root)
        if recipe.references and 'ref' not in data.folders:
            raise Missing(data.lacks('ref'))
        try:
            inputs = Folder.scan(data.folders['lq'], 'lq')
            photos = Folder.scan(data.folders['ref'], 'ref') if recipe.references else None
            self.problems += restore_folder(recipe, inputs.files, photos, out)
        except (OSError, ValueError, RuntimeError) as error:
            self.problems.append(f'{method}: {error}')
            raise Missing(f'failed: {error}') from error
        weights = f'{recipe.weights} (SHA-256 {sha256_of(recipe.weights)})'
        side = SIDES.get(recipe.side, f'{recipe.side} pixels')
        told = f', references: {recipe.references} of {side}' if recipe.references else ''
        adain = 'with' if recipe.adain else 'without'
        return out, f'{weights}, w = {recipe.w:g}, {adain} AdaIN{told}; data {data.root}'
