"""Run the small RIDFR experiment's trainings: faces prepared, prior, content, and the rows of fine-tuning.

    python -m experiments.ridfr.recipe --set faces=datasets/faces/train --out results/ridfr

A step that is done is left; one that was stopped goes on. `--minutes` replaces the minutes of every training, and
`--steps` chooses some.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.ridfr.prepare import prepare
from experiments.ridfr.train import Faces, load_codec, train_adapter, train_content, train_prior, train_row

HERE = Path(__file__).resolve().parent


def load_recipe(path: Path, changes: Sequence[str]) -> dict[str, Any]:
    """Read a recipe; `changes` are `KEY=VALUE` of its paths."""
    recipe = yaml.safe_load(path.read_text())
    for change in changes:
        key, _, value = change.partition('=')
        if key not in recipe['paths']:
            raise SystemExit(f'--set {key}: no such path; choose from {", ".join(recipe["paths"])}')
        recipe['paths'][key] = value
    return recipe


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description='Train the small RIDFR experiment.')
    parser.add_argument('--recipe', type=Path, default=HERE / 'recipe.yml')
    parser.add_argument('--set', nargs='+', default=[], metavar='KEY=VALUE', help='paths of the recipe')
    parser.add_argument('--out', type=Path, default=Path('results/ridfr'))
    parser.add_argument('--minutes', type=float, help='wall clock of each training, in place of the recipe')
    parser.add_argument('--steps', nargs='+', help='only these: prepare, prior, adapter, content, or rows by name')
    args = parser.parse_args(argv)
    recipe = load_recipe(args.recipe, args.set)
    trainings = [recipe['prior'], recipe['adapter'], recipe['content'], *recipe['rows'].values()]
    for step in trainings if args.minutes is not None else ():
        step['minutes'] = args.minutes
    wanted = args.steps or ['prepare', 'prior', 'adapter', 'content', *recipe['rows']]
    prepared, autoencoder = args.out / 'prepared', Path(recipe['paths']['autoencoder'])
    if 'prepare' in wanted:
        faces = Path(recipe['paths']['faces'])
        prepare(faces, prepared, autoencoder, recipe['paths']['recognizer'], recipe['count'], recipe['seed'])
    if wanted == ['prepare']:
        return 0
    data = Faces(prepared, recipe['count'], recipe['components'])
    if 'prior' in wanted:
        codec = load_codec(prepared, autoencoder, recipe['patch'], recipe['components'])
        train_prior(data, codec, autoencoder, args.out / 'prior', recipe)
    if 'adapter' in wanted:
        train_adapter(data, args.out, recipe)
    if 'content' in wanted:
        train_content(data, args.out, recipe)
    for row in recipe['rows']:
        if row in wanted:
            train_row(data, args.out, recipe, row)
    return 0


if __name__ == '__main__':
    sys.exit(main())
