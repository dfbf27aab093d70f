"""Logging of a run: the console, a log file, TensorBoard, and a record of its environment."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
import sys
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import numpy
import torch
import torchvision
from tqdm import tqdm

import basicsr
from basicsr.utils.files import write_text


class ConsoleHandler(logging.Handler):
    """Writes to standard error through tqdm, so that lines and progress bars do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        tqdm.write(self.format(record), file=sys.stderr)


def get_root_logger(log_file: Path | None = None, level: int = logging.INFO) -> logging.Logger:
    """Return the project's logger, on the console (above a progress bar, which stays whole) and, if named, in a file.

    What is said before a file is named comes into it, too.

    Args:
        log_file: appended to.
        level: of both.
    """
    logger = logging.getLogger('basicsr')
    logger.setLevel(level)
    logger.propagate = False
    style = logging.Formatter('%(asctime)s %(levelname)s: %(message)s', '%Y-%m-%d %H:%M:%S')
    early = next((handler for handler in logger.handlers if isinstance(handler, MemoryHandler)), None)
    early = early or MemoryHandler(capacity=1, flushLevel=logging.CRITICAL + 1)  # keeps all until it has a target
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        if handler is not early:
            handler.close()
    handlers: list[logging.Handler] = [ConsoleHandler(), early]
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        handlers[1] = logging.FileHandler(log_file, encoding='utf-8')
        early.setTarget(handlers[1])
    for handler in handlers:
        handler.setFormatter(style)
        logger.addHandler(handler)
    if log_file is not None:
        early.close()
    return logger


def git_commit() -> str | None:
    """Return the commit of the source tree, with `+changes` when it has uncommitted ones; None outside a repository."""
    root = Path(basicsr.__file__).parent.parent
    try:
        commit = subprocess.run(
            ['git', '-C', str(root), 'rev-parse', 'HEAD'], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ['git', '-C', str(root), 'status', '--porcelain', '-uno'], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return f'{commit}+changes' if changed else commit


def environment() -> dict[str, Any]:
    """Versions, machine and commit, as plain values."""
    return {
        'id-codeformer': basicsr.__version__,
        'commit': git_commit(),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'torchvision': torchvision.__version__,
        'numpy': numpy.__version__,
        'platform': platform.platform(),
        'devices': [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ['cpu'],
        'threads': torch.get_num_threads(),
    }


def write_environment(path: Path) -> None:
    """`environment()` as JSON."""
    write_text(path, json.dumps(environment(), indent=2) + '\n')
