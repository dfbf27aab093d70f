"""The command `id-codeformer`: a table of commands, each imported when it is run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import basicsr
from basicsr.utils.errors import IDCodeFormerError, MissingExtraError
from basicsr.utils.registry import nearest

NAME = 'id-codeformer'
COMMANDS = {
    'restore': ('restore', 'restore faces in pictures and clips'),
    'app': ('app', 'open a page in the browser that restores faces'),
    'train': ('train', 'train a stage from an option file'),
    'validate': ('validate', 'judge trained weights on the validation sets of an option file'),
    'evaluate': ('evaluate', 'judge folders of restored faces'),
    'download': ('download', 'download weights'),
    'export': ('export', 'write a network as an ONNX file'),
    'verify': ('verify', 'check that official weights give the published pictures'),
    'data align': ('data_align', 'cut aligned faces out of photographs'),
    'data pairs': ('data_pairs', 'make pairs of degraded and good faces for validation'),
    'data latents': ('data_latents', 'compute the codes of good faces, for stage II'),
    'data embed': ('data_embed', 'embed photographs of people, for training with references'),
    'data group': ('data_group', 'group photographs by person'),
    'data lmdb': ('data_lmdb', 'pack a folder of pictures into an lmdb'),
    'data statistics': ('fid_statistics', 'compute the statistics of a reference set for the FID'),
    'recognizer check': ('recognizer_check', 'check a face recognizer on a folder of people'),
    'recognizer calibrate': ('recognizer_calibrate', 'calibrate the confidence of a recognizer on degraded faces'),
}
"""Each command with its module of `basicsr.cli` and a line for the help."""


def usage(group: str = '') -> str:
    """Describe all commands, or those of a group such as `data`."""
    chosen = {name: about for name, (_, about) in COMMANDS.items() if not group or name.startswith(f'{group} ')}
    lines = '\n'.join(f'  {name:22}{about}' for name, about in chosen.items())
    return f'usage: {NAME} [--version] COMMAND ...\n\ncommands ({NAME} COMMAND --help describes one):\n{lines}'


def let_threads_sleep() -> None:
    """Let idle threads of PyTorch sleep rather than wait in a loop, unless the environment says otherwise.

    Between two parallel loops they wait for milliseconds, in which they take the processor from decoding, detection,
    encoding and other programs. Read when PyTorch is imported, so that only commands set it, never the library.
    """
    if 'torch' not in sys.modules and 'GOMP_SPINCOUNT' not in os.environ:
        os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')


def run(command: str, argv: Sequence[str] | None = None) -> int:
    """Run a command; errors of this project become one line.

    Args:
        command: a key of `COMMANDS`.
        argv: its arguments; those of the process by default.

    Returns:
        The exit code: 2 where an optional package is missing, 1 for another such error.
    """
    let_threads_sleep()
    module = f'basicsr.cli.{COMMANDS[command][0]}'
    try:
        return import_module(module).main(argv)
    except IDCodeFormerError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2 if isinstance(error, MissingExtraError) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run `id-codeformer`; return the exit code, 2 for a wrong command line."""
    given = list(sys.argv[1:] if argv is None else argv)
    for words in (2, 1):
        command = ' '.join(given[:words])
        if command in COMMANDS:
            sys.argv[0] = f'{NAME} {command}'  # argparse reads the name of the program here
            return run(command, given[words:])
    group = next((given[0] for name in COMMANDS if given and name.startswith(f'{given[0]} ')), '')
    if given[bool(group) :] in (['-h'], ['--help']):
        print(usage(group))
        return 0
    if given == ['--version']:
        print(basicsr.__version__)
        return 0
    wrong = ' '.join(given[: 2 if group else 1])
    problem = usage(group) if wrong == group else f"error: unknown command '{wrong}'{nearest(wrong, COMMANDS)}"
    print(problem, file=sys.stderr)
    return 2
