"""Checkpoints: safe reading, unwrapping, loading with a report, and writing whole or not at all."""

from __future__ import annotations

import codecs
import logging
import os
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.files import replacing
from basicsr.utils.weights import where_to_get

PARAM_KEYS = ('params_ema', 'params', 'params_d', 'state_dict')


# What torch.load and safetensors raise on damaged files and on files of another kind.
DAMAGED = (
    RuntimeError, ValueError, LookupError, EOFError, OSError, AssertionError, TypeError, struct.error,
    safetensors.SafetensorError,
)  # fmt: skip


class CheckpointError(IDCodeFormerError, ValueError):
    """A checkpoint that cannot be used; the message names the file, the reason and the remedy."""


@dataclass(frozen=True)
class LoadReport:
    """What happened to the keys: loaded, wanted but absent, present but not wanted, present in another shape."""

    used: list[str]
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]

    def __str__(self) -> str:
        parts = [f'{len(self.used)} used']
        for name in ('missing', 'unexpected', 'mismatched'):
            keys = getattr(self, name)
            if keys:
                parts.append(f'{len(keys)} {name} ({", ".join(keys[:4])}{", …" if len(keys) > 4 else ""})')
        return ', '.join(parts)


def read_checkpoint(path: str | os.PathLike, map_location: str = 'cpu') -> dict[str, Any]:
    """The content of a `.pth` (tensors and plain values only) or `.safetensors` file.

    Raises:
        CheckpointError: no such file, truncated, or holding anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'{path}: no such file{where_to_get(path)}')
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path, device=map_location)
        content = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f'{path}: not a checkpoint of tensors and plain values. It is damaged, or holds Python objects, which '
            f'are not loaded because they could run code ({str(error).splitlines()[0]})'
        ) from error
    except DAMAGED as error:
        raise CheckpointError(f'{path}: damaged or not a checkpoint; fetch it again ({error})') from error
    if not isinstance(content, dict):
        raise CheckpointError(f'{path}: holds a {type(content).__name__}, not a checkpoint')
    return content


def read_table(path: str | os.PathLike) -> dict[str, Any]:
    """As `read_checkpoint`, of a `.pth` that may hold NumPy arrays too.

    Raises:
        CheckpointError: no such file, or holding anything but tensors, arrays and plain values.
    """
    rebuild = np.empty(0).__reduce__()[0]
    dtypes = [type(np.dtype(kind)) for kind in ('i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4', 'u8', 'f4', 'f8')]
    allowed = [np.ndarray, np.dtype, *dtypes, codecs.encode]
    allowed += [(rebuild, 'numpy._core.multiarray._reconstruct'), (rebuild, 'numpy.core.multiarray._reconstruct')]
    with torch.serialization.safe_globals(allowed):
        return read_checkpoint(path)


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The header of a `.safetensors` file, empty for other files."""
    if Path(path).suffix != '.safetensors':
        return {}
    with safetensors.safe_open(path, framework='pt') as file:
        return file.metadata() or {}


def unwrap(checkpoint: Mapping[str, Any], key: str | None = None, source: str = 'checkpoint') -> dict[str, Tensor]:
    """The state dict inside a checkpoint, its keys without the `module.` of DataParallel.

    Args:
        checkpoint: what `read_checkpoint` returns.
        key: the entry to take; by default the first of `params_ema`, `params`, `params_d`, `state_dict` that is
            there, else the checkpoint itself.
        source: the file's name, for messages.

    Raises:
        CheckpointError: `key` is not there, or no tensors are.
    """
    if key is None:
        key = next((name for name in PARAM_KEYS if isinstance(checkpoint.get(name), Mapping)), None)
    elif key not in checkpoint and any(isinstance(checkpoint.get(name), Mapping) for name in PARAM_KEYS):
        raise CheckpointError(f"{source}: no entry '{key}'; it has {', '.join(checkpoint)}")
    state = checkpoint.get(key, checkpoint) if key else checkpoint
    tensors = {name.removeprefix('module.'): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f'{source}: no parameters in it (entries: {", ".join(map(str, list(checkpoint)[:8]))})')
    return tensors


def load_state_dict_file(path: str | os.PathLike, key: str | None = None) -> dict[str, Tensor]:
    """`read_checkpoint` and `unwrap` in one."""
    return unwrap(read_checkpoint(path), key, str(path))


def load_state(
    module: nn.Module,
    state: Mapping[str, Tensor],
    strict: bool = True,
    source: str | os.PathLike = 'checkpoint',
    assign: bool = False,
) -> LoadReport:
    """Load `state` into `module`, and say what was used.

    Args:
        module: where to.
        state: parameters and buffers.
        strict: whether every key must fit.
        source: the file's name, for messages.
        assign: put the tensors themselves into the module rather than their values, which a module on the device
            `meta` needs.

    Raises:
        CheckpointError: `strict` and a key is missing, unexpected or of another shape; or nothing fits at all.
    """
    own = module.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and value.shape == own[key].shape}
    report = LoadReport(
        used=list(fitting),
        missing=[key for key in own if key not in state],
        unexpected=[key for key in state if key not in own],
        mismatched=[
            f'{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}'
            for key in own
            if key in state and key not in fitting
        ],
    )
    perfect = not (report.missing or report.unexpected or report.mismatched)
    if not report.used or (strict and not perfect):
        raise CheckpointError(f'{source} does not fit {type(module).__name__}: {report}')
    module.load_state_dict(fitting, strict=False, assign=assign)
    logging.getLogger('basicsr').info('%s: %s', source, report)
    return report


def save_atomic(content: Any, path: str | os.PathLike) -> None:
    """`torch.save` under a temporary name, flushed to the disk, then renamed: the file is complete or not there.

    Raises:
        OSError: it cannot be written, the disk being full for example.
    """
    with replacing(path) as partial, partial.open('wb') as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch says something else after it
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())
