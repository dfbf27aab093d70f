"""Embeddings of photographs, computed once for training with references (`datasets:train:embeddings`).

    id-codeformer data embed -i datasets/people -o datasets/people.safetensors --weights arcface_ir_se50

Photographs are aligned faces. Of each, the recognizer sees several variants, the first as it is, the others lightly
degraded, and all of them mirrored too. They are found by content: run again, the script embeds what is new or changed.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from basicsr.cli.arguments import ArgumentParser
from basicsr.data.common import DataError, decode_picture, resize_square
from basicsr.data.embeddings import SMALLEST, SUM, Embeddings, reference_variants, stamp_of
from basicsr.data.storage import Files, open_files
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.files import find_recognizer
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.download import sha256_of
from basicsr.utils.files import user_path
from basicsr.utils.image import to_tensor

LARGEST = 512  # side that the recognizer is shown, pixels
SAVE_EVERY = 2000  # photographs


def open_table(file: Path, embedder: FaceEmbedder, recognizer_sum: str, variants: int, seed: int) -> Embeddings:
    """Return the file's embeddings, none where there is no file.

    Raises:
        DataError: it is damaged, or was made with another recognizer, seed or number of variants.
    """
    fresh = Embeddings.empty(embedder.name, recognizer_sum, seed, variants, embedder.dim, file)
    if not file.exists():
        return fresh
    table = Embeddings.read(file)
    found, wanted = ((each.recognizer_sum, each.seed, *each.vectors.shape[2:]) for each in (table, fresh))
    if found != wanted:
        raise DataError(
            f"{file}: made with the recognizer '{table.recognizer}', seed {table.seed} and {table.vectors.shape[2]} "
            f"variants, not with '{embedder.name}', {seed} and {variants}; give another --output, or remove it"
        )
    return table


@torch.inference_mode()
def embed(embedder: FaceEmbedder, raw: bytes | memoryview, path: Path, variants: int, seed: int) -> Tensor:
    """Return unit vectors (2,K,D) of a photograph, on the CPU.

    Raises:
        DataError: it is damaged, too small or not square.
    """
    image = decode_picture(raw, path, SMALLEST)
    image = resize_square(image, min(max(image.shape[:2]), LARGEST), path)
    rng = np.random.default_rng([seed, *hashlib.sha256(raw).digest()])
    faces = torch.stack([to_tensor(variant) for variant in reference_variants(image, variants, rng)])
    faces = faces.to(next(embedder.network.parameters()).device)
    return torch.stack([embedder(faces), embedder(faces.flip(3))]).cpu()


def update(table: Embeddings, files: Files, root: Path, embedder: FaceEmbedder, failed: list[str]) -> Embeddings:
    """Add the missing `files` to the table, saved from time to time; messages of bad pictures go to `failed`."""
    missing = [index for index, row in enumerate(table.rows(files, root)) if row is None]
    known: set[bytes] = set()
    for start in range(0, len(missing), SAVE_EVERY):
        digests: list[bytes] = []
        stamps: list[bytes] = []
        vectors: list[Tensor] = []
        for index in tqdm(missing[start : start + SAVE_EVERY], unit='photo'):
            path = files.paths[index]
            try:
                raw = files.read(index)
                digest = hashlib.sha256(raw).digest()
                if digest in known:
                    continue
                vectors.append(embed(embedder, raw, path, table.vectors.shape[2], table.seed))
            except (DataError, OSError) as error:
                failed.append(str(error))
                continue
            known.add(digest)
            digests.append(digest)
            stamps.append(stamp_of(path, root) or bytes(SUM))
        table = table.with_photos(digests, stamps, vectors)
        table.save()
    table = table.stamped(files, root)
    table.save()
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 when all is embedded, 1 when something is not, 2 when nothing was begun."""
    parser = ArgumentParser(description='Embed photographs once, for training with references.')
    parser.add_argument('-i', '--input', type=Path, required=True, help='folder of aligned faces, or an lmdb of them')
    parser.add_argument('-o', '--output', type=Path, required=True, help='file to write or to add to (.safetensors)')
    parser.add_argument('--weights', type=user_path, required=True, help='the recognizer: its file, pack or name')
    parser.add_argument('--variants', type=int, default=4, help='of a photograph, the clean one included (default: 4)')
    parser.add_argument('--seed', type=int, default=0, help='of the variants')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args(argv)
    if args.variants < 1:
        parser.error('--variants: 1 or more')
    failed: list[str] = []
    try:
        embedder = FaceEmbedder(args.weights).to(args.device)
        table = open_table(args.output, embedder, sha256_of(find_recognizer(args.weights)), args.variants, args.seed)
        kind = 'lmdb' if args.input.suffix == '.lmdb' else 'disk'
        files = open_files({'dataroot_gt': str(args.input), 'io_backend': {'type': kind}}, 'dataroot_gt')
    except (CheckpointError, DataError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    before = len(table.digests)
    try:
        table = update(table, files, args.input, embedder, failed)
    except OSError as error:
        print(f'error: {args.output}: {error}; what was saved before stays', file=sys.stderr)
        return 1
    added = len(table.digests) - before
    print(f'{added} photographs embedded by {table.recognizer}, {before} were there: {args.output}')
    for message in failed:
        print(message, file=sys.stderr)
    return 1 if failed else 0
