"""Pack a folder of pictures into an lmdb, for `io_backend: {type: lmdb}`: one big file instead of many small ones.

The files go in as they are, under their path below the folder without extension; `meta_info.txt` lists them in
BasicSR's layout, `name.png (height,width,channels) level`, with level 0 (nothing was compressed again).

    id-codeformer data lmdb -i datasets/ffhq/ffhq_512 -o datasets/ffhq/ffhq_512.lmdb
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from basicsr.cli.arguments import ArgumentParser
from basicsr.data.common import DataError, decode_picture, list_pictures, relative_key
from basicsr.data.storage import META
from basicsr.utils.files import write_text

BATCH = 200  # pictures written at a time
LONGEST_KEY = 511  # bytes, of lmdb
PAGE = 4096  # bytes; a picture takes whole ones


def check_names(paths: Sequence[Path], source: Path) -> None:
    """Every key is short enough and means one picture.

    Raises:
        DataError: not so; the message names the files.
    """
    known: dict[str, Path] = {}
    for path in paths:
        key = relative_key(path, source)
        if key in known:
            raise DataError(f'{known[key]} and {path} have the same name; keep one of them')
        if len(key.encode()) > LONGEST_KEY:
            raise DataError(f'{path}: the path below {source} is longer than {LONGEST_KEY} bytes; shorten it')
        known[key] = path


def entries(paths: Sequence[Path], source: Path, failed: list[str]) -> Iterator[tuple[bytes, bytes, str]]:
    """Key, content and line of `meta_info.txt` of every picture; messages of unreadable ones go to `failed` instead."""
    for path in tqdm(paths, unit='picture'):
        try:
            raw = path.read_bytes()
            height, width, channels = decode_picture(raw, path).shape
        except (OSError, DataError) as error:
            failed.append(str(error))
            continue
        line = f'{path.relative_to(source).as_posix()} ({height},{width},{channels}) 0'
        yield relative_key(path, source).encode(), raw, line


def pack(lmdb: Any, source: Path, target: Path) -> tuple[int, list[str]]:
    """Write the lmdb; the number of pictures in it, and what is wrong with those left out.

    Raises:
        DataError: nothing to pack, names that cannot be keys, or `target` is there or lies inside `source`.
        OSError: the disk is full, or the folder cannot be written.
    """
    if target.suffix != '.lmdb' or target.exists():
        raise DataError(f'{target}: give a new folder whose name ends in .lmdb')
    if target.resolve().is_relative_to(source.resolve()):
        raise DataError(f'{target} lies inside {source}; choose a folder outside')
    paths = list_pictures(source, '--input')
    check_names(paths, source)
    size = sum(path.stat().st_size + 4 * PAGE for path in paths) + (1 << 24)
    partial = target.with_name(f'.{target.name}.{os.getpid()}.part')
    lines, failed = [], []
    try:
        partial.mkdir(parents=True)
        with lmdb.open(str(partial), map_size=size, lock=False) as environment:
            batch: dict[bytes, bytes] = {}
            for key, raw, line in entries(paths, source, failed):
                batch[key] = raw
                lines.append(line)
                if len(batch) == BATCH:
                    write(environment, batch)
            write(environment, batch)
        write_text(partial / META, ''.join(f'{line}\n' for line in lines))
        if not lines:
            raise DataError(f'{source}: none of its {len(paths)} pictures can be read')
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(lines), failed


def write(environment: Any, batch: dict[bytes, bytes]) -> None:
    """Write a batch of pictures and empty it."""
    with environment.begin(write=True) as transaction:
        for key, raw in batch.items():
            transaction.put(key, raw)
    batch.clear()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if all pictures were packed, 1 if one could not be read, 2 without lmdb."""
    parser = ArgumentParser(description='Pack a folder of pictures into an lmdb.')
    parser.add_argument('-i', '--input', type=Path, required=True, help='folder of pictures, sub-folders included')
    parser.add_argument('-o', '--output', type=Path, required=True, help='folder to make; its name ends in .lmdb')
    args = parser.parse_args(argv)
    try:
        import lmdb
    except ImportError:
        print("error: this needs the package lmdb: pip install 'id-codeformer[lmdb]'", file=sys.stderr)
        return 2
    try:
        count, failed = pack(lmdb, args.input, args.output)
    except (DataError, OSError, lmdb.Error) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    for message in failed:
        print(f'left out: {message}', file=sys.stderr)
    print(f'{count} pictures in {args.output}')
    return 1 if failed else 0
