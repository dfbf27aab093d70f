"""Calibration of a recognizer on degraded faces: fit the confidence of `identity: input`, and draw its curve.

    id-codeformer recognizer calibrate -i datasets/faces -o options/confidence/mine.json --weights RECOGNIZER \
        --val datasets/faces_val --curve experiments/recognition/confidence

Clean aligned faces are degraded by the project's own degradation, from hardly at all to beyond recognition. The file
predicts the cosine between the embeddings of the degraded and of the clean face from measurements on the degraded one.
With --val are written, of faces that it was not fitted on: CURVE.csv (predicted against measured cosine), CURVE.png,
and CURVE_features.csv (how well every choice of measurements predicts).
With --people, the threshold is fitted at which one damaged face in 2,000 is taken for a given other person.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from basicsr.cli.arguments import ArgumentParser
from basicsr.data.common import DataError, list_pictures, read_picture, resize_square
from basicsr.data.degradation import DegradationRanges, degrade, to_bytes, to_unit
from basicsr.recognition.choose import embed_faces
from basicsr.recognition.confidence import FEATURES, Calibration, measure
from basicsr.recognition.confidence_chart import calibration_chart
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.download import sha256_of
from basicsr.utils.errors import extra
from basicsr.utils.files import at_even_steps, user_path, write_text
from basicsr.utils.image import imwrite, to_tensor

with extra('references'):
    from scipy.optimize import minimize

NETWORK_FREE = ('norm', 'sharpness')
"""Measurements that need no further run of the recognizer."""
BINS = 10
FALSE_MATCHES = 1 / 2000


@dataclass(frozen=True)
class Sample:
    """Degraded faces.

    Attributes:
        measured: of each the numbers of `FEATURES`, in their order (N,F).
        cosines: to the embedding of the clean face (N,).
    """

    measured: np.ndarray
    cosines: np.ndarray

    def of(self, names: Sequence[str]) -> np.ndarray:
        """Return the measurements of these names (N,len(names))."""
        return self.measured[:, [list(FEATURES).index(name) for name in names]]

    @property
    def targets(self) -> np.ndarray:
        """Targets of the confidence (N,), from 0 to 1."""
        return self.cosines.clip(0, 1)


def ranges_at(severity: float) -> DegradationRanges:
    """Ranges for 512 pixels, from hardly any harm (0) to all that stage II may do (1)."""
    return DegradationRanges(
        blur_sigma=(0.1, 0.1 + 14.9 * severity),
        downsample_range=(1, 1 + 29 * severity),
        noise_range=(0, 20 * severity),
        jpeg_range=(100 - 70 * severity, 100),
    )


def damaged(clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a face RGB uint8 (S,S,3) at a severity that is drawn too."""
    ranges = ranges_at(rng.uniform()).scaled(len(clean))
    return to_bytes(degrade(to_unit(clean), ranges, rng))


def collect(embedder: FaceEmbedder, paths: Sequence[Path], size: int, limit: int, draws: int, seed: int) -> Sample:
    """`limit` of the pictures at even steps, each degraded `draws` times.

    Raises:
        DataError: a picture cannot be read.
    """
    names = tuple(FEATURES)
    measured: list[np.ndarray] = []
    cosines: list[np.ndarray] = []
    for number, path in enumerate(tqdm(at_even_steps(paths, limit), unit='face')):
        clean = resize_square(read_picture(path, size / 4), size, path)
        rng = np.random.default_rng([seed, number])
        faces = torch.stack([to_tensor(face) for face in [clean, *(damaged(clean, rng) for _ in range(draws))]])
        faces = faces.to(next(embedder.network.parameters()).device)
        truth = embedder(faces[:1])
        embeddings, numbers = measure(embedder, faces[1:], names)
        measured.append(numbers.cpu().numpy())
        cosines.append((embeddings * truth).sum(1).cpu().numpy())
    return Sample(*(np.concatenate(parts).astype(float) for parts in (measured, cosines)))


def cosines_to_people(seen: Tensor, clean: Tensor, person: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosines of faces to the mean of their person's other photographs, and to the means of other people.

    Args:
        seen: unit embeddings (N,D) of the faces as they are looked at.
        clean: of the same, undamaged.
        person: number of each one's person (N,).
    """
    same, different = [], []
    for place, face in enumerate(seen):
        for who in person.unique():
            others = (person == who) & (torch.arange(len(seen)) != place)
            mean = F.normalize(clean[others].mean(0), dim=0)
            (same if who == person[place] else different).append(face @ mean)
    return torch.stack(same), torch.stack(different)


def fit_threshold(embedder: FaceEmbedder, folder: Path, size: int, seed: int) -> float:
    """Return the cosine, rounded up to hundredths, that `FALSE_MATCHES` of damaged faces reach with another person.

    Args:
        embedder: the recognizer.
        folder: of a folder of clean aligned faces for each person.
        size: side at which faces are damaged, pixels.
        seed: of the damage.

    Raises:
        DataError: a picture cannot be read, or there are fewer than two people with two photographs.
    """
    paths = [path for path in list_pictures(folder, '--people') if path.parent != folder]
    names = [path.parent.name for path in paths]
    if len(set(names)) < 2 or min(map(names.count, names)) < 2:
        raise DataError(f'--people: {folder} needs folders of two people or more, with two faces or more in each')
    faces = [resize_square(read_picture(path, size / 4), size, path) for path in paths]
    rng = np.random.default_rng([seed, 0])
    clean = embed_faces(embedder, faces)
    seen = embed_faces(embedder, [damaged(face, rng) for face in faces])
    person = torch.tensor([sorted(set(names)).index(name) for name in names])
    different = cosines_to_people(seen, clean, person)[1]
    return ceil(100 * float(different.quantile(1 - FALSE_MATCHES))) / 100


def fit(sample: Sample, names: Sequence[str]) -> tuple[dict[str, float], float]:
    """Weights (0 or more) and bias of the logistic curve with the least cross entropy to the cosines."""
    raw = sample.of(names)
    mean, deviation = raw.mean(0), raw.std(0).clip(min=1e-9)
    normal = (raw - mean) / deviation
    targets = sample.targets

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        z = parameters[0] + normal @ parameters[1:]
        error = 1 / (1 + np.exp(-z)) - targets
        return float((np.logaddexp(0, z) - targets * z).mean()), np.array([error.mean(), *(error @ normal / len(z))])

    bounds = [(None, None), *[(0, None)] * len(names)]
    found = minimize(loss, np.zeros(len(names) + 1), jac=True, method='L-BFGS-B', bounds=bounds).x
    weights = found[1:] / deviation
    rounded = {name: float(f'{weight:.6g}') for name, weight in zip(names, weights, strict=True)}
    return rounded, float(f'{found[0] - weights @ mean:.6g}')


def predict(sample: Sample, weights: dict[str, float], bias: float) -> np.ndarray:
    """Return the confidence of each face (N,)."""
    calibration = Calibration('', '', weights, bias, '')
    return calibration(torch.from_numpy(sample.of(tuple(weights)))).numpy()


def curve(predicted: np.ndarray, measured: np.ndarray) -> list[dict[str, float]]:
    """Rows of bins of equal numbers of faces, by what was predicted: how many, and the means of both."""
    bins = np.array_split(predicted.argsort(), min(BINS, len(predicted)))
    return [
        {
            'faces': len(chosen),
            'predicted_from': predicted[chosen].min(),
            'predicted_to': predicted[chosen].max(),
            'predicted': predicted[chosen].mean(),
            'measured': measured[chosen].mean(),
            'measured_p10': np.quantile(measured[chosen], 0.1),
            'measured_p90': np.quantile(measured[chosen], 0.9),
        }
        for chosen in bins
    ]


def quality(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Correlation, root of the Brier error, and expected calibration error (over the bins of `curve`)."""
    gaps = [row['faces'] * abs(row['predicted'] - row['measured']) for row in curve(predicted, measured)]
    return {
        'correlation': np.corrcoef(predicted, measured)[0, 1],
        'rmse': np.sqrt(((predicted - measured) ** 2).mean()),
        'calibration_error': sum(gaps) / len(predicted),
    }


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Rows of one kind, numbers to four digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator='\n')
    writer.writeheader()
    for row in rows:
        writer.writerow({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    write_text(path, text.getvalue())


def compare(fitted: Sample, held_out: Sample) -> list[dict[str, Any]]:
    """Return how well each choice of measurements, fitted on one sample, predicts the other."""
    rows = []
    for number in range(1, len(FEATURES) + 1):
        for names in combinations(FEATURES, number):
            runs = 1 + sum(name not in NETWORK_FREE for name in names)
            found = quality(predict(held_out, *fit(fitted, names)), held_out.targets)
            rows.append({'measurements': ' '.join(names), 'recognizer_runs': runs, **found})
    return rows


def report(stem: Path, fitted: Sample, held_out: Sample, calibration: Calibration) -> str:
    """Write the two tables and the picture; what they say in a line."""
    predicted = predict(held_out, dict(calibration.weights), calibration.bias)
    found = quality(predicted, held_out.targets)
    rows = curve(predicted, held_out.targets)
    line = ', '.join(f'{name.replace("_", " ")} {value:.3f}' for name, value in found.items())
    write_csv(stem.with_suffix('.csv'), rows)
    write_csv(stem.with_name(f'{stem.name}_features.csv'), compare(fitted, held_out))
    title = f'{calibration.recognizer}, {len(predicted)} degraded faces: {line}'
    imwrite(stem.with_suffix('.png'), calibration_chart(predicted, held_out.targets, rows, title))
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Calibrate the confidence of an identity taken from the input.')
    parser.add_argument('-i', '--input', type=Path, required=True, help='folder of clean aligned faces to fit on')
    parser.add_argument('-o', '--output', type=Path, required=True, help='file to write (.json)')
    parser.add_argument('--weights', type=user_path, required=True, help='the recognizer: its file, pack or name')
    parser.add_argument('--val', type=Path, help='folder of other clean aligned faces, to show the curve on')
    parser.add_argument('--people', type=Path, help='folder of a folder of faces for each person: fits the threshold')
    parser.add_argument('--curve', type=Path, help='where to, without extension; by default beside the output')
    parser.add_argument('--features', nargs='+', choices=FEATURES, default=list(NETWORK_FREE), help='measurements')
    parser.add_argument('--size', type=int, default=128, help='side that faces are degraded at, pixels (default: 128)')
    parser.add_argument('--limit', type=int, default=300, help='faces of each folder (default: 300)')
    parser.add_argument('--draws', type=int, default=2, help='degradations of a face that is fitted on (default: 2)')
    parser.add_argument('--seed', type=int, default=0, help='of the degradations')
    parser.add_argument('--about', help='what the faces to fit on are called in the file (default: their folder)')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args(argv)
    if args.size < 64 or args.limit < 2 or args.draws < 1:
        parser.error('--size must be 64 or more, --limit 2 or more, --draws 1 or more')
    try:
        faces = list_pictures(args.input, '--input')
        others = list_pictures(args.val, '--val') if args.val else []
        embedder = FaceEmbedder(args.weights).to(args.device)
        fitted = collect(embedder, faces, args.size, args.limit, args.draws, args.seed)
        weights, bias = fit(fitted, args.features)
        name = args.about or args.input.name
        about = f'{len(fitted.cosines)} degraded faces of {name}, {args.size} pixels, seed {args.seed}'
        threshold = fit_threshold(embedder, args.people, args.size, args.seed) if args.people else None
        calibration = Calibration(embedder.name, sha256_of(embedder.path), weights, bias, about, threshold)
        calibration.save(args.output)
        print(f'{args.output}: {weights}, bias {bias:.4f}, threshold {threshold}')
        if others:
            held_out = collect(embedder, others, args.size, args.limit, 1, args.seed + 1)
            print(f'{args.val}: {report(args.curve or args.output.with_suffix(""), fitted, held_out, calibration)}')
    except (CheckpointError, DataError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0
