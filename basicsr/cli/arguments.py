"""Shared parts of the command lines: spelling of flags, and exit codes.

A flag of type `Path` or `user_path` names a file or folder, and `~` in it is the home folder, whatever the shell does.

Every command ends with 0 where everything was done, 1 where something failed after it had begun (each file is named),
2 where nothing was begun: a wrong command line, or something that it needs is not there. Training and validation end
with 1 in the last case too, unless the command line itself is wrong or a package is missing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from basicsr.utils.files import user_path

AUTO = 'auto'

SPELLINGS = (('recogniser', 'recognizer'), ('recognizer', 'recogniser'))


def home_path(text: str) -> Path:
    """Read a path, with `~` as the home folder."""
    return Path(user_path(text))


class ArgumentParser(argparse.ArgumentParser):
    """Parser of flags with underscores (`--bg_upsampler`), which takes hyphens and British spelling as well."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register('type', Path, home_path)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse as argparse does, after bringing the names of flags into the spelling of this parser."""
        return super().parse_known_args([*map(self._spelt, sys.argv[1:] if args is None else args)], namespace)

    def _spelt(self, argument: str) -> str:
        name, equals, value = argument.partition('=')
        if not name.startswith('--') or name in self._option_string_actions:
            return argument
        spelt = '--' + name[2:].replace('-', '_')
        forms = [spelt, *(spelt.replace(old, new) for old, new in SPELLINGS)]
        forms += [form.replace('--no_', '--no-', 1) for form in forms]  # as argparse spells it
        known = next((form for form in forms if form in self._option_string_actions), name)
        return known + equals + value


def fidelity(text: str) -> float | str:
    """Return the value of -w."""
    if text == AUTO:
        return AUTO
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is outside 0 (quality) to 1 (fidelity)')
    return value


def between(least: float, most: float) -> Callable[[str], float]:
    """Return what reads a number from `least` to `most`."""

    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f'{text} is outside {least:g} to {most:g}')
        return value

    return number


def whole_number(text: str) -> int:
    """Return a number from 0 on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'{text} is below 0')
    return value


def positive(text: str) -> float:
    """Return a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f'{text} is not above 0, or no number')
    return value


def frame_rate(text: str) -> Fraction:
    """Return the value of --save_video_fps, a number or a fraction."""
    try:
        value = Fraction(text).limit_denominator(1001)  # 29.97002997 is 30000/1001
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f'{text} is no number and no fraction') from None
    if not value > 0:
        raise argparse.ArgumentTypeError(f'{text} is below 1/1001')
    return value
