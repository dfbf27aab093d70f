"""Restore faces in pictures and clips: python inference_codeformer.py -i PICTURE_CLIP_OR_FOLDER -o RESULTS."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from tqdm import tqdm

from basicsr.faces.detection import DEFAULT_DETECTOR, DETECTORS, build_detector
from basicsr.faces.paste import PARSING_FILE, ParsingMask
from basicsr.inference.build_guide import Wishes, build_guide
from basicsr.inference.code_search import STEPS
from basicsr.inference.face_restorer import PRECISIONS, FaceRestorer
from basicsr.inference.image_restorer import ImageRestorer
from basicsr.inference.people import THRESHOLD
from basicsr.inference.report import FileRecord, exit_code, format_identity, format_table, printable, write_summary
from basicsr.inference.runner import SUMMARY, Runner, plan_jobs, skipped_files
from basicsr.recognition.choose import REMEDY
from basicsr.utils.folders import WEIGHTS_VARIABLE, weights_folder
from basicsr.utils.picture import MAX_MEGAPIXELS

AUTO = 'auto'


def fidelity(text: str) -> float | str:
    """The value of -w."""
    if text == AUTO:
        return AUTO
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is outside 0 (quality) to 1 (fidelity)')
    return value


def between(least: float, most: float) -> Callable[[str], float]:
    """What reads a number from `least` to `most`."""

    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f'{text} is outside {least:g} to {most:g}')
        return value

    return number


def whole_number(text: str) -> int:
    """A number from 0 on."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f'{text} is below 0')
    return value


def megapixels(text: str) -> float:
    """The value of --max_megapixels."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f'{text} is not above 0')
    return value


def frame_rate(text: str) -> Fraction:
    """The value of --save_video_fps, a number or a fraction."""
    try:
        value = Fraction(text).limit_denominator(1001)  # 29.97002997 is 30000/1001
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f'{text} is no number and no fraction') from None
    if not value > 0:
        raise argparse.ArgumentTypeError(f'{text} is below 1/1001')
    return value


def build_parser() -> argparse.ArgumentParser:
    """All flags; the published ones keep their meaning."""
    parser = argparse.ArgumentParser(description='Restore faces in pictures and clips.')
    add = parser.add_argument
    add('-i', '--input_path', required=True, help='a picture, a clip, or a folder of them (sub-folders included)')
    add('-o', '--output_path', default='results', help='folder for the results (default: results)')
    add(
        '-w',
        '--w',
        '--fidelity_weight',
        type=fidelity,
        default=0.8,
        help='0 quality to 1 fidelity, or auto: chosen for each face (default: 0.8)',
    )
    add('-s', '--upscale', type=float, default=2, help='factor by which pictures are enlarged (default: 2)')
    add('--has_aligned', action='store_true', help='the pictures are aligned, cropped faces')
    add('--only_center_face', action='store_true', help='restore the face nearest to the middle only')
    add('--draw_box', action='store_true', help='mark the faces in the result, with their numbers')
    add(
        '--detection_model',
        default=DEFAULT_DETECTOR,
        help=f'{", ".join(DETECTORS)} (default: {DEFAULT_DETECTOR}, whose weights come with its package)',
    )
    add('--bg_upsampler', default='None', help='enlarge the background with: None (bicubic), realesrgan, or a file')
    add('--face_upsample', action='store_true', help='enlarge the restored faces too (realesrgan, or --bg_upsampler)')
    add('--bg_tile', type=int, default=400, help='tile of the upsampler in pixels, 0 for none (default: 400)')
    add(
        '--max_megapixels',
        type=megapixels,
        default=MAX_MEGAPIXELS,
        help=f'largest picture and largest result (default: {MAX_MEGAPIXELS:g}); memory grows with it',
    )
    add(
        '--save_video_fps',
        type=frame_rate,
        help='frames a second of the results of clips, such as 25 or 30000/1001; the duration stays (default: as is)',
    )
    add('--suffix', default='', help='appended to the names of the results')
    add('--model', default='auto', help='auto (official weights if downloaded, else small), official, small, or a file')
    add('--adain', action=argparse.BooleanOptionalAction, default=True, help='as the published inference (default: on)')
    add(
        '--color_fix',
        action=argparse.BooleanOptionalAction,
        help='keep input colours (default: small model only)',
    )
    add('--device', default='auto', help='auto, cpu, cuda or cuda:N (default: auto)')
    add('--precision', choices=list(PRECISIONS), default='fp32', help='of the network (default: fp32)')
    add('--batch_size', type=int, default=8, help='faces at a time (default: 8)')
    add('--force', action='store_true', help='restore faces that are already sharper than the model can make them, too')
    add(
        '--weights_dir',
        default=str(weights_folder()),
        help=f"the weights folder (default: ${WEIGHTS_VARIABLE}, else this repository's)",
    )
    add_identity_flags(parser.add_argument_group('who the people are'))
    return parser


def add_identity_flags(group: argparse._ArgumentGroup) -> None:
    """Those about references and recognisers."""
    add = group.add_argument
    add(
        '--ref',
        nargs='+',
        action='extend',
        default=[],
        metavar='PATH',
        help='photographs of the person, or a folder of them; or a folder with a sub-folder for each person',
    )
    add(
        '--id_search',
        type=whole_number,
        default=STEPS,
        metavar='STEPS',
        help='search for codes that show the person of --ref, in so many steps; each takes as long as two '
        f'faces; 0: none (default: {STEPS})',
    )
    add('--id_scale', type=between(0, 2), default=1.0, help='strength of the identity styling, 0 to 2 (default: 1)')
    add(
        '--id_threshold',
        type=between(-1, 1),
        default=THRESHOLD,
        help=f'smallest cosine at which a face is taken for a person (default: {THRESHOLD:g})',
    )
    add('--recogniser', help="file, pack or name of a face recogniser (default: the network's, or one in the weights)")
    add(
        '--identity',
        choices=('none', 'input'),
        default='none',
        help='faces without reference: restore blind, or tell the network what the input itself says (default: none)',
    )
    add('--calibration', help='for --identity input and -w auto: how far the recogniser can be trusted')


def build_restorer(args: argparse.Namespace) -> ImageRestorer:
    """Everything that the flags ask for, loaded."""
    faces = FaceRestorer(args.model, args.device, args.precision, args.batch_size, args.weights_dir, args.color_fix)
    background = None if args.bg_upsampler in ('None', 'none', '') else args.bg_upsampler
    upsampler = None
    if background or args.face_upsample:
        from basicsr.inference.upsampler import Upsampler, find_upsampler  # imports spandrel, which takes seconds

        upsampler = Upsampler(find_upsampler(background or 'realesrgan', args.weights_dir), args.bg_tile, faces.device)
    parsing = Path(args.weights_dir) / PARSING_FILE
    whole, auto = not args.has_aligned, args.w == AUTO
    detector = None
    if whole or args.ref:
        detector = build_detector(args.detection_model, args.weights_dir, device=faces.device)
    wishes = Wishes(
        args.ref,
        args.recogniser,
        args.id_threshold,
        args.id_scale,
        args.id_search,
        args.identity == 'input',
        args.calibration,
        auto,
    )
    return ImageRestorer(
        faces,
        detector=detector if whole else None,
        w=0.8 if auto else args.w,
        adain=args.adain,
        upscale=args.upscale,
        bg_upsampler=upsampler if background else None,
        face_upsampler=upsampler if args.face_upsample else None,
        only_center_face=args.only_center_face,
        draw_box=args.draw_box,
        parsing=ParsingMask(parsing, faces.device) if whole and parsing.is_file() else None,
        force=args.force,
        guide=build_guide(wishes, faces, detector, args.weights_dir),
        choose_w=auto,
    )


def say_identity(restorer: ImageRestorer) -> None:
    """On the screen: how identity is measured, whose references there are, and what was left out of them."""
    guide = restorer.guide
    if guide is None:
        print(f'Identity is not measured, as there is no face recogniser: {REMEDY}')
        return
    print(f'Recogniser: {guide.embedder.name}')
    for note in guide.notes:
        print(f'warning: {printable(note)}', file=sys.stderr)
    if guide.people is None:
        return
    print('References: ' + printable(', '.join(f'{p.name} ({len(p.files)})' for p in guide.people.persons)))
    if guide.search_steps:
        print(
            f'In pictures, codes are searched for the people of the references, {guide.search_steps} steps a face; '
            'likeness, measured by the recogniser that guides the search, then looks better than it is'
        )
    elif not guide.tells_people:
        print('This network cannot be told who people are: references only serve to measure, and to choose w')


def about_identity(restorer: ImageRestorer) -> dict[str, Any]:
    """The same for the summary."""
    guide = restorer.guide
    if guide is None:
        return {'recogniser': None}
    people = guide.people
    return {
        'recogniser': guide.embedder.name,
        'network_is_told': guide.tells_people and people is not None,
        'search_steps': guide.search_steps if people else 0,
        'references': {p.name: [str(file) for file in p.files] for p in people.persons} if people else {},
        'notes': list(guide.notes),
    }


def make_output(path: Path) -> None:
    """Make the folder for the results where it is missing.

    Raises:
        OSError: it is a file, or cannot be written to.
    """
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f'{path}: no permission to write there; choose another -o')


def save_summary(path: Path, records: Sequence[FileRecord], about: Mapping[str, Any]) -> bool:
    """Write the summary; whether that could be done. A full disk is said, as the results before it may be whole."""
    try:
        write_summary(path, records, about)
    except OSError as error:
        print(f'error: {path} was not written: {error}', file=sys.stderr)
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every file was done, 1 if one was not, 2 if nothing could be started, 130 if it was interrupted."""
    args = build_parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # names of files may have letters that the screen has not
    output = Path(args.output_path)
    try:
        jobs = plan_jobs(args.input_path, output)
        restorer = build_restorer(args)
        runner = Runner(restorer, output, args.suffix, args.has_aligned, args.max_megapixels, args.save_video_fps)
        make_output(output)
    except (OSError, ValueError, KeyError) as error:
        print(f'error: {error.args[0] if isinstance(error, KeyError) else error}', file=sys.stderr)
        return 2
    print(f'Model: {restorer.restorer.description}')
    say_identity(restorer)
    records: list[FileRecord] = []
    skipped = skipped_files(args.input_path, output)
    flags = {**vars(args), 'save_video_fps': str(args.save_video_fps or '') or None}
    about = {**flags, 'model': restorer.restorer.description, 'skipped': skipped, 'who': about_identity(restorer)}
    about['planned'] = len(jobs)
    interrupted = False
    try:
        for record in tqdm(runner.run(jobs), total=len(jobs), unit='file', disable=len(jobs) == 1):
            records.append(record)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        saved = save_summary(output / SUMMARY, records, about)
    print(format_table(records, args.input_path))
    if any(record.identity for record in records):
        print(format_identity(records, args.input_path))
    if skipped:
        print(f'Passed over, as the names are not those of pictures or clips: {printable(", ".join(skipped))}')
    print(f'Results {f"and {SUMMARY} " if saved else ""}are in {output}')
    if interrupted:
        print(f'error: interrupted; {len(jobs) - len(records)} of {len(jobs)} files were not done', file=sys.stderr)
        return 130
    return exit_code(records) if saved else 1
