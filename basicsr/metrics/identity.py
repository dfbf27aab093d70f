"""Scores of embeddings and landmarks of faces; where these come from is the caller's concern."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

SAME = 1.0  # degrees; VQFR leaves out pairs below it as the same picture


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Return the cosine of two vectors (D,), -1 to 1."""
    first, second = (np.asarray(vector, np.float64) for vector in (first, second))
    return float(np.clip(first @ second / np.sqrt((first @ first) * (second @ second)), -1, 1))


def degrees(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the angle of two vectors (D,), 0 to 180 degrees; None below 1 degree, where VQFR drops the pair."""
    angle = float(np.degrees(np.arccos(cosine(first, second))))
    return angle if angle >= SAME else None


def identity_variance(embeddings: np.ndarray) -> float:
    """Return the variance of unit vectors (N,D) about their mean, summed over the numbers: 1 - |mean|^2, 0 to 1.

    RIDFR's identity variance (section 4.3) of the restorations of one picture under N references. The paper does not
    say whether it sums or averages over the numbers, nor the divisor; here it is the sum, and N.

    Raises:
        ValueError: fewer than two vectors.
    """
    vectors = np.asarray(embeddings, np.float64)
    if len(vectors) < 2:
        raise ValueError(f'a variance needs two restorations at least, not {len(vectors)}')
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return float(np.square(vectors - vectors.mean(0)).sum(1).mean())


def group_by_input(names: Sequence[str]) -> Mapping[str, list[str]]:
    """Restorations by the picture that they restore: of `<stem>__<reference>`, or of `<stem>/<reference>`.

    A name with neither is left out, and so is a group of one.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        if (key := input_of(name)) is not None:
            groups.setdefault(key, []).append(name)
    return {key: members for key, members in groups.items() if len(members) > 1}


def input_of(name: str) -> str | None:
    """Return the picture that `name` restores, see `group_by_input`; None where the name does not say."""
    folder, _, last = name.rpartition('/')
    stem, mark, _ = last.rpartition('__')
    if mark and stem:
        return f'{folder}/{stem}' if folder else stem
    return folder or None


def face_of(name: str) -> str | None:
    """Return the picture of a restored face by its name, `<picture>_00`; None if it is not one."""
    picture = re.fullmatch(r'(.+)_\d{2,}', name)
    return picture[1] if picture else None


def affine_landmark_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean distance of landmarks (N,2) after the affine map that brings the first nearest to the second.

    The map is that of least squares. What is left is a change of the face: pose, size and place do not count.
    """
    first, second = (np.asarray(points, np.float64) for points in (first, second))
    known = np.column_stack([first, np.ones(len(first))])
    mapped = known @ np.linalg.lstsq(known, second, rcond=None)[0]
    return landmark_distance(mapped, second)


def clip_of(name: str) -> str:
    """Return the clip of a frame `<clip>/<frame>`; frames without a folder are one clip, of the empty name."""
    return name.rpartition('/')[0]


def landmark_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the mean distance of landmarks (N,2), in their unit."""
    return float(np.linalg.norm(np.asarray(first, np.float64) - np.asarray(second, np.float64), axis=1).mean())
