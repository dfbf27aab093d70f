"""Restore faces in pictures: python inference_codeformer.py -i PICTURE_OR_FOLDER -o RESULTS."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from basicsr.faces.detection import DEFAULT_DETECTOR, DETECTORS, build_detector
from basicsr.faces.paste import PARSING_FILE, ParsingMask
from basicsr.inference.face_restorer import PRECISIONS, WEIGHTS_DIR, FaceRestorer
from basicsr.inference.image_restorer import ImageRestorer
from basicsr.inference.report import FileRecord, exit_code, format_table, write_summary
from basicsr.inference.runner import SUMMARY, Runner, plan_jobs, skipped_files


def fidelity(text: str) -> float:
    """The value of -w."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is outside 0 (quality) to 1 (fidelity)')
    return value


def build_parser() -> argparse.ArgumentParser:
    """All flags; the published ones keep their meaning."""
    parser = argparse.ArgumentParser(description='Restore faces in pictures.')
    add = parser.add_argument
    add('-i', '--input_path', required=True, help='a picture, or a folder of pictures (sub-folders included)')
    add('-o', '--output_path', default='results', help='folder for the results (default: results)')
    add('-w', '--w', '--fidelity_weight', type=fidelity, default=0.8, help='0 quality to 1 fidelity (default: 0.8)')
    add('-s', '--upscale', type=float, default=2, help='factor by which pictures are enlarged (default: 2)')
    add('--has_aligned', action='store_true', help='the pictures are aligned, cropped faces')
    add('--only_center_face', action='store_true', help='restore the face nearest to the middle only')
    add('--draw_box', action='store_true', help='mark the faces in the result')
    add(
        '--detection_model',
        default=DEFAULT_DETECTOR,
        help=f'{", ".join(DETECTORS)} (default: {DEFAULT_DETECTOR}, whose weights come with its package)',
    )
    add('--bg_upsampler', default='None', help='enlarge the background with: None (bicubic), realesrgan, or a file')
    add('--face_upsample', action='store_true', help='enlarge the restored faces too (realesrgan, or --bg_upsampler)')
    add('--bg_tile', type=int, default=400, help='tile of the upsampler in pixels, 0 for none (default: 400)')
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
    add('--weights_dir', default=str(WEIGHTS_DIR), help="the weights folder (default: this repository's)")
    return parser


def build_restorer(args: argparse.Namespace) -> ImageRestorer:
    """Everything that the flags ask for, loaded."""
    faces = FaceRestorer(args.model, args.device, args.precision, args.batch_size, args.weights_dir, args.color_fix)
    background = None if args.bg_upsampler in ('None', 'none', '') else args.bg_upsampler
    upsampler = None
    if background or args.face_upsample:
        from basicsr.inference.upsampler import Upsampler, find_upsampler  # imports spandrel, which takes seconds

        upsampler = Upsampler(find_upsampler(background or 'realesrgan', args.weights_dir), args.bg_tile, faces.device)
    parsing = Path(args.weights_dir) / PARSING_FILE
    whole = not args.has_aligned
    return ImageRestorer(
        faces,
        detector=build_detector(args.detection_model, args.weights_dir, device=faces.device) if whole else None,
        w=args.w,
        adain=args.adain,
        upscale=args.upscale,
        bg_upsampler=upsampler if background else None,
        face_upsampler=upsampler if args.face_upsample else None,
        only_center_face=args.only_center_face,
        draw_box=args.draw_box,
        parsing=ParsingMask(parsing, faces.device) if whole and parsing.is_file() else None,
        force=args.force,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """0 if every file was done, 1 if one was not, 2 if nothing could be started."""
    args = build_parser().parse_args(argv)
    output = Path(args.output_path)
    try:
        jobs = plan_jobs(args.input_path, output)
        restorer = build_restorer(args)
    except (OSError, ValueError, KeyError) as error:
        print(f'error: {error.args[0] if isinstance(error, KeyError) else error}', file=sys.stderr)
        return 2
    print(f'Model: {restorer.restorer.description}')
    runner = Runner(restorer, output, args.suffix, args.has_aligned)
    records: list[FileRecord] = []
    skipped = skipped_files(args.input_path, output)
    about = {**vars(args), 'model': restorer.restorer.description, 'skipped': skipped}
    try:
        for record in tqdm(runner.run(jobs), total=len(jobs), unit='file', disable=len(jobs) == 1):
            records.append(record)
    finally:
        write_summary(output / SUMMARY, records, about)
    print(format_table(records, args.input_path))
    if skipped:
        print(f'Passed over, as the names are not those of pictures: {", ".join(skipped)}')
    print(f'Results and {SUMMARY} are in {output}')
    return exit_code(records)


if __name__ == '__main__':
    sys.exit(main())
