"""Data workers: one thread each, and none outlives the process it works for, whatever ended that.

A signal at the parent's death does not do: where processes start by a fork server, the default of Python 3.14, the
parent is the server, which lives as long as its children do.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time

import cv2
import torch

POLL_S = 1.0
"""Between two looks at the other process, where the system cannot report its end."""


def start_worker(worker: int, main: int) -> None:
    """Prepare data worker `worker`: it has one thread, leaves Ctrl-C to process `main`, and ends with it."""
    end_with(main)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def end_with(pid: int) -> None:
    """Start a thread that ends this process, at once, when process `pid` has ended.

    Does nothing on Windows, where data workers already watch the process that started them.

    Args:
        pid: a process of the same user on this machine.
    """
    if sys.platform != 'win32':
        threading.Thread(target=_end_after, args=(pid,), name=f'ends with {pid}', daemon=True).start()


def _end_after(pid: int) -> None:
    try:
        _wait_for(pid)
    finally:
        os._exit(1)


def _wait_for(pid: int) -> None:
    """Return when process `pid` has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):  # no Linux, or one before 5.3
        while _is_running(pid):
            time.sleep(POLL_S)
        return
    select.select([descriptor], [], [])


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
