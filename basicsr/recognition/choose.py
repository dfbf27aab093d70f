"""Choice of the face recognizer for inference, and its embeddings of aligned faces."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from basicsr.recognition.embedder import FaceEmbedder
from basicsr.recognition.files import find_recognizer
from basicsr.recognition.registry import RECOGNIZERS
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.image import resized, to_tensor
from basicsr.utils.numerics import check_finite

SIDE = 256  # pixels; every face is shown to the recognizer at this side, so that its own resolution does not matter
AT_A_TIME = 16
REMEDY = "get one with 'id-codeformer download arcface', or name a file with --recognizer"


def choose_recognizer(
    wanted: str | None,
    trained_with: str | None,
    weights_dir: str | os.PathLike,
    dim: int | None = None,
    needed_by: str = '',
) -> FaceEmbedder | None:
    """Return the recognizer asked for, else the network's, else one of the weights folder, else the shipped one.

    The network's is the one that it was trained with, or where that is missing one that gives the same embeddings.

    Args:
        wanted: a file, an InsightFace pack or a name; None asks for nothing.
        trained_with: the same, as the network's checkpoint has it; None if it says nothing.
        weights_dir: where the files of known names are looked for first.
        dim: numbers of the embeddings that the network takes, which are preferred in the weights folder; or None.
        needed_by: what cannot be done without one.

    Returns:
        It, or None where nothing needs it, nothing was asked for and not even the shipped one is there.

    Raises:
        CheckpointError: the one asked for is missing or damaged, or none is there and it is needed.
    """
    folder = Path(weights_dir)
    if wanted is not None:
        return FaceEmbedder(_place(wanted, folder))
    if trained_with is not None:
        place = None
        with suppress(CheckpointError):  # it is not there
            place = find_recognizer(_place(trained_with, folder))
        if place is not None:
            return FaceEmbedder(place)
    fetched = [entry for entry in RECOGNIZERS.values() if not (entry.pack or entry.shipped)]
    here = [folder / e.file for e in sorted(fetched, key=lambda e: e.embedding != dim) if (folder / e.file).is_file()]
    shipped = [entry.place for entry in RECOGNIZERS.values() if entry.shipped and entry.place.is_file()]
    if here := [*here, *shipped]:
        return FaceEmbedder(here[0])
    if needed_by:
        own = f' (the network was trained with {trained_with})' if trained_with is not None else ''
        raise CheckpointError(f'{needed_by} needs a face recognizer, and none is in {folder}{own}: {REMEDY}')
    return None


def _place(recognizer: str, folder: Path) -> Path:
    """Return the file of a known name in the weights folder, if it is there; else what was given."""
    path = Path(recognizer)
    known = RECOGNIZERS.get(recognizer)
    if known is not None and not known.pack and not known.shipped:
        return folder / known.file if (folder / known.file).is_file() else path
    beside = next((e.file for e in RECOGNIZERS.values() if not e.pack and Path(e.file).name == path.name), '')
    return folder / beside if beside and not path.is_file() and (folder / beside).is_file() else path


@torch.inference_mode()
def embed_faces(embedder: FaceEmbedder, faces: Sequence[np.ndarray]) -> torch.Tensor:
    """Return unit vectors (N,D), float32 on the CPU, of aligned faces: RGB uint8 (n,n,3) of any sizes."""
    shown = [to_tensor(show(face)) for face in faces]
    device = next(embedder.network.parameters()).device
    parts = [
        embedder(torch.stack(shown[start : start + AT_A_TIME]).to(device)).float().cpu()
        for start in range(0, len(shown), AT_A_TIME)
    ]
    vectors = torch.cat(parts) if parts else torch.zeros(0, embedder.dim)
    check_finite(vectors, f'the recognizer {embedder.name}')
    return vectors


def show(face: np.ndarray) -> np.ndarray:
    """Return an aligned face, RGB uint8 (n,n,3), at the side at which the recognizer is shown it."""
    return resized(face, SIDE, SIDE)
