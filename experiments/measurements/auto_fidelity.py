"""Measure what `-w auto` gives beside fixed weights: identity and sharpness of restored pairs, as a Markdown table.

    python scripts/measure_auto.py --pairs datasets/val_small datasets/val_large --ref datasets/people --limit 36 \
        --recognizer weights/arcface/arcface_mbf512.onnx --judge weights/arcface/mobilefacenet_casia128.pth

Each face of PAIRS/lq is restored blind, then told of other photographs of the person, which lie in REF under the path
of the picture or beside it; codes are not searched. Identity is the cosine with PAIRS/gt by the judge, sharpness that
by which `-w auto` chooses (`auto_fidelity.sharpness_of`); both are means.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from basicsr.cli.arguments import ArgumentParser
from basicsr.inference import FaceRestorer, ImageRestorer
from basicsr.inference.auto_fidelity import sharpness_of
from basicsr.inference.build_conditioner import IdentityConfig, build_conditioner
from basicsr.inference.found_face import RESTORED, RecognizedFace, restored_of
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.people import Person
from basicsr.metrics.pictures import Folder
from basicsr.recognition.choose import embed_faces
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.files import at_even_steps
from basicsr.utils.folders import weights_folder
from basicsr.utils.image import imread
from experiments.references import own_references

WEIGHTS = (0.0, 0.5, 0.8, 1.0)


def person_of(name: str, photos: Folder, count: int, guide: IdentityConditioner) -> Person:
    """Return the person of a picture, by `count` photographs at even steps.

    Raises:
        ValueError: there are none.
    """
    files = tuple(own_references(photos, name, count, 'even'))
    if not files:
        raise ValueError(f'{photos.root}: no photograph of the person in {name}; give --ref others of all people')
    return Person(name, files, guide.embed([imread(file) for file in files]))


def measure(
    pairs: Path,
    photos: Folder,
    restorer: FaceRestorer,
    guide: IdentityConditioner,
    judge: FaceEmbedder,
    faces: int,
    refs: int,
) -> dict[str, tuple[float, float]]:
    """Return the identity and the sharpness of restorations.

    Args:
        pairs: holds `lq` and `gt`.
        photos: of the people.
        restorer, guide: the network, and the recognizer that tells it who they are.
        judge: the recognizer of the figures.
        faces: how many, at even steps.
        refs: photographs that the network is told of.

    Raises:
        ValueError: a folder is empty, a picture has no counterpart or no reference.
    """
    inputs, truths = (Folder.scan(pairs / role, '--pairs') for role in ('lq', 'gt'))
    names = at_even_steps(list(inputs.files), faces)
    missing = next((name for name in names if name not in truths.files), None)
    if missing is not None:
        raise ValueError(f'{truths.root}: nothing of the name {missing}, which is in {inputs.root}')
    crops = [imread(inputs.files[name]) for name in names]
    targets = embed_faces(judge, [imread(truths.files[name]) for name in names])
    seen = guide.embed(crops)

    def figures(shown: Sequence[np.ndarray]) -> tuple[float, float]:
        likeness = (embed_faces(judge, shown) * targets).sum(1).mean().item()
        return likeness, float(np.mean([sharpness_of(face) for face in shown]))

    rows = {'input': figures(crops)}
    people = {
        'blind': guide.recognize(crops, seen, alone=False),
        'told': [person_of(name, photos, refs, guide) for name in names],
    }
    for kind, persons in people.items():
        found = [
            RecognizedFace(crop, None, RESTORED, person=person, embedding=vector)
            for crop, person, vector in zip(crops, persons, seen, strict=True)
        ]
        for w in (*WEIGHTS, None):
            images = ImageRestorer(restorer, w=0.8 if w is None else w, guide=guide, choose_w=w is None)
            done = images.faces.restore_crops(found, search=False)
            label = f'{kind}, ' + ('`-w auto`' if w is None else f'w = {w:g}')
            rows[label] = figures([face.restored for face in restored_of(done)])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Measure -w auto.')
    parser.add_argument('--pairs', type=Path, nargs='+', required=True, help='folders of scripts/make_val_pairs.py')
    parser.add_argument('--ref', type=Path, required=True, help='aligned photographs of the people')
    parser.add_argument('--recognizer', required=True, help='that the network was trained with')
    parser.add_argument('--calibration', help='how far it can be trusted (default: that of options/confidence)')
    parser.add_argument('--judge', required=True, help='another recognizer')
    parser.add_argument('--model', default='small', help='auto, official, small, or a file')
    parser.add_argument('--limit', type=int, default=sys.maxsize, help='faces of each folder, at even steps')
    parser.add_argument('--count', type=int, default=4, help='references of a face')
    parser.add_argument('--device', default='auto')
    args = parser.parse_args(argv)
    if min(args.limit, args.count) < 1:
        parser.error('--limit and --count must be 1 or more')
    try:
        restorer = FaceRestorer(args.model, args.device)
        guide = build_conditioner(
            IdentityConfig(recognizer=args.recognizer, calibration=args.calibration, choose_w=True),
            restorer,
            None,
            weights_folder(),
        )
        assert guide is not None  # a recognizer was named
        judge, photos = FaceEmbedder(args.judge).to(restorer.device), Folder.scan(args.ref, '--ref')
        columns = [measure(pairs, photos, restorer, guide, judge, args.limit, args.count) for pairs in args.pairs]
    except (OSError, ValueError, RuntimeError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    print('| | ' + ' | '.join(f'IDS, {pairs.name} | sharpness' for pairs in args.pairs) + ' |')
    print('|---|' + '---|---|' * len(columns))
    for label in columns[0]:
        cells = [f'{likeness:.3f} | {sharpness:.3f}' for likeness, sharpness in (column[label] for column in columns)]
        print(f'| {label} | ' + ' | '.join(cells) + ' |')
    return 0
