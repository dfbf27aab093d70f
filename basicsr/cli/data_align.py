"""Cut the faces out of photographs at their FFHQ places, for training: OUTPUT/NAME_00.png and so on, one for each face.

id-codeformer data align -i photos -o datasets/faces --size 512
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from basicsr.cli.arguments import ArgumentParser
from basicsr.faces.detection import DEFAULT_DETECTOR, DETECTORS, FaceDetector, build_detector
from basicsr.faces.geometry import align_face, crop_side
from basicsr.inference.attempt import FILE_ERRORS
from basicsr.inference.jobs import Job, plan_jobs
from basicsr.utils.files import is_video_file
from basicsr.utils.folders import weights_folder
from basicsr.utils.image import ImageReadError, imwrite, to_8_bits
from basicsr.utils.picture import read_picture


def crop_faces(job: Job, detector: FaceDetector, output: Path, size: int, least: float) -> tuple[int, int]:
    """Write every face of a photograph that is at least `least` pixels large; how many, and how many were uncertain.

    Raises:
        OSError, ValueError, cv2.error: the photograph cannot be read, or a crop not written.
    """
    image = to_8_bits(read_picture(job.path).image)
    faces = [face for face in detector.detect(image) if crop_side(face.landmarks) >= least]
    certain = [face for face in faces if face.consistent]
    for index, face in enumerate(certain):
        imwrite(output / f'{job.name}_{index:02d}.png', align_face(image, face.landmarks, size)[0])
    return len(certain), len(faces) - len(certain)


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every file gave a face, 1 when one did not, 2 when nothing could be started."""
    parser = ArgumentParser(description='Cut the faces out of photographs at their FFHQ places.')
    parser.add_argument('-i', '--input', type=Path, required=True, help='folder of photographs, sub-folders included')
    parser.add_argument('-o', '--output', type=Path, required=True, help='folder for the crops')
    parser.add_argument('--size', type=int, default=512, help='side of the crops (default: 512)')
    parser.add_argument('--min_size', type=float, default=0, help='pass over faces that are smaller in the photograph')
    parser.add_argument('--detection_model', default=DEFAULT_DETECTOR, help=', '.join(DETECTORS))
    parser.add_argument('--weights_dir', type=Path, default=weights_folder())
    args = parser.parse_args(argv)
    try:
        if args.output.resolve().is_relative_to(args.input.resolve()):
            raise ValueError(f'-o {args.output} lies inside -i {args.input}; choose a folder outside')
        jobs = [job for job in plan_jobs(args.input, args.output) if not is_video_file(job.path)]
        if not jobs:
            raise FileNotFoundError(f'{args.input}: no photographs in it')
        detector = build_detector(args.detection_model, args.weights_dir)
    except (OSError, ValueError, KeyError) as error:
        print(f'error: {error.args[0] if isinstance(error, KeyError) else error}', file=sys.stderr)
        return 2
    total, without = 0, []
    for job in tqdm(jobs, unit='file'):
        try:
            found, uncertain = crop_faces(job, detector, args.output, args.size, args.min_size)
        except FILE_ERRORS as error:
            without.append(str(error) if isinstance(error, ImageReadError) else f'{job.path}: {error}')
            continue
        total += found
        if uncertain:
            without.append(f'{job.path}: {uncertain} face(s) left out: two looks disagree on where eyes and mouth are')
        elif not found:
            without.append(f'{job.path}: no face found')
    print('\n'.join([*without, f'{total} face(s) of {len(jobs)} file(s) written to {args.output}']))
    return 1 if without else 0
