"""Checkpoints: safe reading, unwrapping, loading with a report, and writing whole or not at all."""

from __future__ import annotations

import codecs
import logging
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from basicsr.utils.archive import UnusableFileError, verify
from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.files import replacing
from basicsr.utils.weights import where_to_get

PARAM_KEYS = (
    'params_ema', 'params', 'params_d', 'g_ema', 'model_ema', 'state_dict', 'model', 'net_g', 'generator',
)  # fmt: skip
PREFIXES = (
    'net_g_ema.', 'g_ema.', 'ema_model.', 'net_g.', 'generator.', 'model.', 'network.', 'net.', 'net_d.',
    'discriminator.',
)  # fmt: skip
"""Prefixes that trainers put before the keys of a wrapped network."""
PROFILING = ('total_ops', 'total_params')
DEEPEST = 32

# What torch.load, zipfile and safetensors raise on damaged files and on files of another kind.
DAMAGED = (
    RuntimeError, ValueError, LookupError, EOFError, OSError, AssertionError, TypeError, AttributeError,
    ArithmeticError, MemoryError, struct.error, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error,
    safetensors.SafetensorError,
)  # fmt: skip


class CheckpointError(IDCodeFormerError, ValueError):
    """A checkpoint that cannot be used; the message names the file, the reason and the remedy."""


class DamagedError(CheckpointError):
    """A checkpoint that is not as it was written, or no checkpoint at all."""


@dataclass(frozen=True)
class LoadReport:
    """Keys of a loading: loaded, missing, unexpected, and of another shape."""

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
    """Read a checkpoint of torch (tensors and plain values only) or of safetensors, which is told by its content.

    The file is compared with its own sums first. Containers come as plain dict, list and tuple.

    Raises:
        CheckpointError: no such file.
        DamagedError: damaged, no checkpoint, or holding anything but dense tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'{path}: no such file{where_to_get(path)}')
    try:
        if verify(path) == 'safetensors':
            return safetensors.torch.load_file(path, device=map_location)
        with path.open('rb') as file:  # given the path, torch would go by its extension
            content = torch.load(file, map_location=map_location, weights_only=True)
        if not isinstance(content, dict):
            raise UnusableFileError(f'holds a {type(content).__name__}, not a checkpoint')
        return _plain(content, {})
    except UnusableFileError as error:
        raise DamagedError(f'{path}: {error}') from error
    except DAMAGED as error:
        raise DamagedError(f'{path}: damaged or not a checkpoint; fetch it again{_said(error)}') from error


def _said(error: BaseException) -> str:
    """Return the first line of an error, unless it advises to load unsafely."""
    line = next(iter(str(error).splitlines()), '').strip()
    return f' ({line})' if line and 'weights_only' not in str(error) else ''


def _plain(value: Any, copies: dict[int, Any], depth: int = 0) -> Any:
    """Copy containers as dict, list and tuple, and check the tensors in them; `copies` holds what is done by id."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_nested:
            raise UnusableFileError('it holds a tensor that is sparse, quantized, nested or without values')
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UnusableFileError(f'it holds a tensor {tuple(value.shape)} of fewer values, repeated (expanded)')
        return value
    if not isinstance(value, (dict, list, tuple, set)):
        return value
    if depth > DEEPEST:
        raise UnusableFileError(f'its entries are nested more than {DEEPEST} deep')
    if id(value) not in copies:
        if isinstance(value, dict):  # `dict.items`, since an entry of the file may stand in place of the method
            copy: Any = {key: _plain(item, copies, depth + 1) for key, item in dict.items(value)}
        else:
            copy = [_plain(item, copies, depth + 1) for item in value]
            copy = copy if isinstance(value, list) else tuple(copy)
        copies[id(value)] = copy
    return copies[id(value)]


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
    """Read the header of a safetensors file; empty for other files.

    Raises:
        DamagedError: damaged, or no checkpoint.
    """
    try:
        with Path(path).open('rb') as file:
            if file.read(2) == b'PK':  # an archive of torch, whose sums are compared where its weights are read
                return {}
        if verify(Path(path)) != 'safetensors':
            return {}
        with safetensors.safe_open(path, framework='pt') as file:
            return file.metadata() or {}
    except UnusableFileError as error:
        raise DamagedError(f'{path}: {error}') from error
    except DAMAGED as error:
        raise DamagedError(f'{path}: damaged or not a checkpoint; fetch it again{_said(error)}') from error


def unwrap(checkpoint: Mapping[str, Any], key: str | None = None, source: str = 'checkpoint') -> dict[str, Tensor]:
    """Return the state dict inside a checkpoint, by the names that the network itself gives to its parameters.

    What DataParallel (`module.`) and torch.compile (`_orig_mod.`) add to names is taken away, and so are the counts
    that profilers leave (`total_ops`, `total_params`).

    Args:
        checkpoint: what `read_checkpoint` returns.
        key: the entry to take; by default the first of `PARAM_KEYS` that is there, also within one another, else the
            checkpoint itself.
        source: the file's name, for messages.

    Raises:
        CheckpointError: `key` is not there, or no tensors are.
    """
    state: Any = checkpoint
    if key is not None:
        if isinstance(checkpoint.get(key), Mapping):
            state = checkpoint[key]
        elif _inner(checkpoint) is not checkpoint:
            raise CheckpointError(f"{source}: no entry '{key}'; it has {', '.join(map(str, list(checkpoint)[:20]))}")
    while (inner := _inner(state)) is not state:
        state = inner
    tensors = {
        _bare(name): value for name, value in state.items() if isinstance(value, Tensor) and isinstance(name, str)
    }
    tensors = {name: value for name, value in tensors.items() if name.rpartition('.')[2] not in PROFILING}
    if not tensors:
        raise CheckpointError(f'{source}: no parameters in it (entries: {", ".join(map(str, list(checkpoint)[:8]))})')
    return tensors


def _inner(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first entry that holds parameters, or the checkpoint itself."""
    return next((checkpoint[name] for name in PARAM_KEYS if isinstance(checkpoint.get(name), Mapping)), checkpoint)


def _bare(name: str) -> str:
    name = name.replace('_orig_mod.', '')
    while name.startswith('module.'):
        name = name.removeprefix('module.')
    return name


def without_prefix(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Return the part of a state dict below the prefix of a trainer, if only below one a wanted key is found.

    Args:
        state: parameters by name.
        wanted: names of the network; one of them suffices.
    """
    return _below_prefix(state, set(wanted)) or dict(state)


def _below_prefix(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor] | None:
    if not wanted.isdisjoint(state):
        return dict(state)
    for prefix in PREFIXES:
        below = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if below and (found := _below_prefix(below, wanted)):
            return found
    return None


def load_state_dict_file(path: str | os.PathLike, key: str | None = None) -> dict[str, Tensor]:
    """`read_checkpoint` and `unwrap` in one."""
    return unwrap(read_checkpoint(path), key, str(path))


def _fits(value: Tensor, own: Tensor) -> bool:
    return value.shape == own.shape and (value.is_floating_point() or not own.is_floating_point())


def _kind(value: Tensor) -> str:
    return f'{tuple(value.shape)}' + ('' if value.is_floating_point() else f' of {value.dtype}')


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
        CheckpointError: `strict` and a key is missing, unexpected, of another shape, or whole or complex where a real
            number belongs; or nothing fits at all.
    """
    own = module.state_dict()
    state = without_prefix(state, own)
    fitting = {key: value for key, value in state.items() if key in own and _fits(value, own[key])}
    report = LoadReport(
        used=list(fitting),
        missing=[key for key in own if key not in state],
        unexpected=[key for key in state if key not in own],
        mismatched=[
            f'{key} {_kind(state[key])} instead of {_kind(own[key])}'
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
