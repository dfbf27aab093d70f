"""Work on one file that may fail in any way without stopping the others."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import cv2

from basicsr.inference.found_face import FAILED
from basicsr.inference.jobs import Job
from basicsr.inference.report import FileRecord
from basicsr.utils.errors import MissingExtraError

# What a single file may raise without stopping the others: unreadable pictures, full disks, failures of networks.
FILE_ERRORS = (OSError, ValueError, RuntimeError, MemoryError, MissingExtraError, cv2.error)
UNEXPECTED = 'unexpected error'  # begins the message of any other

logger = logging.getLogger('basicsr')

T = TypeVar('T')


def attempt(job: Job, work: Callable[[], T], written: Sequence[str] = ()) -> T | FileRecord:
    """Return the result of some work on a job, or where it fails in any way, the record that says so.

    This is the one place that catches errors of any type: what a file does to decoders and networks is not known, and
    the other files are to go on.

    Args:
        job: whose record it is.
        work: to do.
        written: paths of results that are there when it fails, relative to the output folder.
    """
    try:
        return work()
    except Exception as error:
        return _failed(job, error, list(written))


def _failed(job: Job, error: Exception, written: list[str]) -> FileRecord:
    text = ' '.join(str(error).split()) or type(error).__name__
    if not isinstance(error, FILE_ERRORS):
        logger.debug('%s', job.path, exc_info=error)
        text = f'{UNEXPECTED} ({type(error).__name__}: {text}); please report it with the file'
    elif isinstance(error, MemoryError):
        text = f'{job.path}: not enough memory ({text}); reduce the picture or --batch_size'
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        text = f'{job.path.name}: its path or that of its results is too long; choose a shorter output folder (-o)'
    return FileRecord(str(job.path), FAILED, outputs=written, message=text)
