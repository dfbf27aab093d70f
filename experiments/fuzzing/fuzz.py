"""Give the project damaged files, and say where it does anything but name the fault.

    python scripts/fuzz.py pictures --cases 1000 --seed 0

Each case is a valid file with a few seeded mutations: bits flipped, bytes overwritten, pieces cut, doubled, swapped or
moved, numbers put at their extremes. A case that ends in an unexpected error, leaves files behind, or takes too long is
a finding, and its file is kept. The exit code is 1 if there are findings.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import av.logging

from experiments.fuzzing.checkpoints_and_options import checkpoint_seeds, load, option_seeds, read_options
from experiments.fuzzing.mutation import mutate
from experiments.fuzzing.pictures_and_clips import clip_seeds, picture_seeds, restore

LONGEST = 60  # seconds of a case, after which the process ends with its traceback


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


TARGETS = {
    'pictures': Target(picture_seeds, restore),
    'clips': Target(clip_seeds, restore),
    'checkpoints': Target(checkpoint_seeds, load),
    'options': Target(option_seeds, read_options),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description='Give the project damaged files, and say where it fails.')
    parser.add_argument('kind', choices=list(TARGETS), help='what to damage')
    parser.add_argument('--cases', type=int, default=500, help='how many files (default: 500)')
    parser.add_argument('--seed', type=int, default=0, help='of the mutations (default: 0)')
    parser.add_argument('--keep', type=Path, default=Path('results/fuzz'), help='folder for the files of findings')
    args = parser.parse_args(argv)
    av.logging.set_level(av.logging.PANIC)
    warnings.simplefilter('ignore')
    findings = fuzz(args.kind, args.cases, args.seed, args.keep)
    for finding in findings:
        print(finding)
    print(f'{args.cases} cases, {len(findings)} finding(s)')
    return 1 if findings else 0


if __name__ == '__main__':
    sys.exit(main())
