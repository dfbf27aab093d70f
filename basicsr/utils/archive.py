"""Checks of a checkpoint's file before anything is built: its kind, its sums, and its contents."""

from __future__ import annotations

import mmap
import pickletools
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from basicsr.utils.errors import IDCodeFormerError
from basicsr.utils.files import text_kind

FIRST_BYTES = 1024
LEGACY_PICKLES = 5  # at the beginning of a file that torch wrote before it wrote archives
INTEGERS = frozenset({'BININT', 'BININT1', 'BININT2', 'INT', 'LONG', 'LONG1', 'LONG4'})
GLOBAL = re.compile(rb'c([\w.]+)\n([\w.]+)\n')
PLAIN = frozenset({
    'collections.OrderedDict', 'collections.Counter', 'torch.Size', 'torch.device', 'torch._utils._rebuild_tensor',
    'torch._utils._rebuild_tensor_v2', 'torch._utils._rebuild_parameter',
    *(f'{module}.{name}' for module in ('builtins', '__builtin__') for name in ('set', 'complex')),
})  # fmt: skip
"""Globals of checkpoints. Torch allows more, among them some that make tensors of any size out of nothing."""
ODD = {
    '_rebuild_sparse_tensor': 'a sparse tensor',
    '_rebuild_qtensor': 'a quantized tensor',
    '_rebuild_meta_tensor_no_storage': 'a tensor without values (device meta)',
    '_rebuild_nested_tensor': 'a nested tensor',
}


class UnusableFileError(IDCodeFormerError, ValueError):
    """A file that is no checkpoint, or a damaged one; the message says why, without the file's name."""


def verify(path: Path) -> str:
    """Check a checkpoint's file as far as that needs no tensor.

    An archive of `torch.save` is compared with its own CRC-32 sums, which `torch.load` does not read. The pickles of
    both formats of torch are searched for globals outside `PLAIN`.

    Returns:
        The kind: `safetensors`, `zip` (torch 1.6 and later) or `legacy` (earlier, or unknown).

    Raises:
        UnusableFileError: not a checkpoint, damaged, or with contents that are not loaded.
        OSError: it cannot be read.
        zipfile.BadZipFile, ValueError, EOFError: damaged; the message is of the library.
    """
    size = path.stat().st_size
    with path.open('rb') as file:
        head = file.read(FIRST_BYTES)
    if not head:
        raise UnusableFileError('damaged: the file is empty')
    if kind := text_kind(head):
        raise UnusableFileError(kind)
    if is_onnx(head):
        raise UnusableFileError(
            'an ONNX file, from which no network is loaded here; give the checkpoint (.pth or .safetensors) that it '
            'was exported from'
        )
    if head.startswith(b'PK'):
        _verify_archive(path, size)
        return 'zip'
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= size - 8:  # the length of the header
        return 'safetensors'
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for _ in range(LEGACY_PICKLES):
            _refuse(_globals(content, size))
    return 'legacy'


def is_onnx(head: bytes) -> bool:
    """Tell by its first bytes whether a file is an ONNX model.

    It begins with the version of the format (field 1, a small number), and another field of ModelProto follows: texts
    and messages of 2 to 8, 14, 20 and 25, or the number of field 5.
    """
    if len(head) < 4 or head[0] != 0x08 or not 0 < head[1] < 0x40:
        return False
    return head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xA2, 0xCA)


def _verify_archive(path: Path, size: int) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    names = {entry.filename.lower() for entry in entries}
    if any(name.endswith('/constants.pkl') for name in names):
        raise UnusableFileError('a TorchScript program, which is not run here; give the checkpoint it was made from')
    stored = sum(entry.file_size for entry in entries if entry.compress_type == zipfile.ZIP_STORED)
    if stored > size or len(names) < len(entries) or any(entry.compress_type for entry in entries):
        raise UnusableFileError('its records are packed, overlap or have one name, which torch.save does not write')
    summed = any(entry.CRC for entry in entries)  # torch.serialization.set_crc32_options turns all sums off: to 0
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for entry in entries:
            start = _start(content, entry)
            with memoryview(content)[start : start + entry.file_size] as record:
                if len(record) < entry.file_size or (summed and zlib.crc32(record) != entry.CRC):
                    raise UnusableFileError(f"damaged: its record '{entry.filename}' is not what was saved (CRC-32)")
                if entry.filename.lower().endswith('/data.pkl'):
                    pickled = bytes(record)
                    # A quick search finds all globals, and seldom something else.
                    found = [b'.'.join(names).decode('ascii', 'replace') for names in GLOBAL.findall(pickled)]
                    if not all(map(_is_plain, found)):
                        _refuse(_globals(pickled, size))


def _start(content: mmap.mmap, entry: zipfile.ZipInfo) -> int:
    """Return where a record's bytes begin: behind its header, whose last two fields have their own lengths."""
    header = entry.header_offset
    name, extra = struct.unpack('<HH', content[header + 26 : header + 30])
    return header + 30 + name + extra


def _globals(pickled: Any, size: int) -> list[str]:
    """Name the globals of the next pickle; a storage of more elements than `size` is an error."""
    names, number = [], 0
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ('GLOBAL', 'INST'):
            names.append(str(argument).replace(' ', '.'))
        elif opcode.name in INTEGERS:
            number = int(argument or 0)
        elif opcode.name == 'BINPERSID' and number > size:
            raise UnusableFileError(f'it states {number} values, more than its bytes')
    return names


def _is_plain(name: str) -> bool:
    module, _, last = name.rpartition('.')
    if module in ('torch', 'torch.cuda') and last.endswith('Storage'):
        return not last.startswith('Q')
    if name in PLAIN or (module == 'torch' and isinstance(getattr(torch, last, None), torch.dtype)):
        return True
    allowed = torch.serialization.get_safe_globals()  # by the caller, for tables of arrays
    return name in {entry[1] if isinstance(entry, tuple) else _name_of(entry) for entry in allowed}


def _name_of(entry: Any) -> str:
    return f'{entry.__module__}.{entry.__qualname__}'


def _refuse(names: Iterable[str]) -> None:
    foreign = [name for name in names if not _is_plain(name)]
    if not foreign:
        return
    odd = ODD.get(foreign[0].rpartition('.')[2])
    if odd:
        raise UnusableFileError(f'it holds {odd}; save it as ordinary (dense) tensors')
    raise UnusableFileError(
        f'not a checkpoint of tensors and plain values: it holds a Python object ({foreign[0][:80]}), and such objects '
        'are not loaded because they could run code'
    )
