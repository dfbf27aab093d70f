"""TensorBoard's log of a run, which may fail without ending the run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger('basicsr')


class Board:
    """Write numbers and pictures for TensorBoard, as long as that works.

    Where the folder cannot be written to, or its disk fills up, a warning says so, and nothing more is written.

    Args:
        folder: for the event files.
        start: iterations done; what an earlier run wrote of later ones is not shown.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self.folder = folder
        self.writer: SummaryWriter | None = None
        self.previous_hook = threading.excepthook
        threading.excepthook = self._thread_failed
        with self._attempt():
            self.writer = SummaryWriter(str(folder), purge_step=start + 1 if start else None)

    def scalars(self, group: str, values: Mapping[str, float], iteration: int) -> None:
        """Add numbers under `group/name`."""
        with self._attempt():
            for name, value in values.items():
                if self.writer is not None:
                    self.writer.add_scalar(f'{group}/{name}', value, iteration)

    def image(self, name: str, image: np.ndarray, iteration: int) -> None:
        """Add a picture, RGB uint8 (H,W,3)."""
        with self._attempt():
            if self.writer is not None:
                self.writer.add_image(name, image, iteration, dataformats='HWC')

    def close(self) -> None:
        """Write what waits, and end."""
        with self._attempt():
            if self.writer is not None:
                self.writer.close()
        threading.excepthook = self.previous_hook

    @contextmanager
    def _attempt(self) -> Iterator[None]:
        """Give up at an error of any type: TensorFlow's file system, where it is installed, has its own."""
        try:
            yield
        except Exception as error:
            self.writer = None
            logger.warning(
                '%s: no more is written for TensorBoard (%s); the training goes on without', self.folder, error
            )

    def _thread_failed(self, args: threading.ExceptHookArgs) -> None:
        """Keep the trace of TensorBoard's own thread off the console; `write` raises its error again."""
        if not type(args.thread).__module__.startswith('tensorboard'):
            self.previous_hook(args)
