"""Restore faces in pictures and clips: python inference_codeformer.py -i PICTURE_CLIP_OR_FOLDER -o RESULTS.

With --task, faces are colourized or masked parts of them are filled instead.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from basicsr.archs import ContentControl
from basicsr.archs.factory import stated_type
from basicsr.cli.arguments import AUTO
from basicsr.cli.restore_flags import build_parser
from basicsr.faces.detection import build_detector
from basicsr.faces.paste import PARSING_FILE, ParsingMask
from basicsr.inference.build_conditioner import IdentityConfig, build_conditioner
from basicsr.inference.code_search import STEPS
from basicsr.inference.diffusion_restorer import DiffusionConfig, DiffusionRestorer
from basicsr.inference.face_restorer import FaceRestorer
from basicsr.inference.face_selection import FaceSelection
from basicsr.inference.image_restorer import ImageRestorer
from basicsr.inference.inpainting import InpaintingRunner, MaskReader
from basicsr.inference.jobs import Job, expand_inputs, has_known_name, plan_jobs, skipped_files
from basicsr.inference.report import (
    exit_code,
    format_identity,
    format_table,
    nobody_matched,
)
from basicsr.inference.resume import RunSummary, Shard, finished
from basicsr.inference.runner import Runner
from basicsr.inference.tasks import INPAINT, RESTORE, TASKS, Task
from basicsr.recognition.choose import REMEDY
from basicsr.utils.console import patient_streams, printable
from basicsr.utils.errors import MissingExtraError
from basicsr.utils.memory import keep_freed_memory
from basicsr.utils.picture_formats import DEFAULT_QUALITY
from basicsr.utils.progress import progress, show_progress
from basicsr.utils.stopping import Stopping, stop_code, stop_signals

SAMPLING = {
    'root': 'diffusion_root', 'adapter': 'adapter', 'steps': 'steps', 'seed': 'seed', 'guidance': 'guidance',
    'content_scale': 'content_scale', 'start_from': 'start_from', 'start_share': 'start_share',
}  # fmt: skip
"""Fields of `DiffusionConfig` and their flags."""


def check_task(args: argparse.Namespace) -> Task:
    """Return the task.

    Raises:
        ValueError: flags do not go with it.
    """
    task, inpaints = TASKS[args.task], args.task == INPAINT.name
    enlarges = args.upscale not in (None, 1) or args.network_size
    for wrong, flag, reason in (
        (args.quality is not None and args.ext == 'png', '--quality', 'PNG keeps every level; add --ext jpg or webp'),
        (args.mask_path and not inpaints, '--mask_path', f'only --task {INPAINT.name} has masks'),
        (args.blend != 1 and inpaints, '--blend', 'masked parts have no original to blend with'),
        (args.mask and inpaints, '--mask', 'what is filled is given by the picture or --mask_path'),
        (args.w == AUTO and task is not RESTORE, '-w auto', f'--task {task.name} has no such choice'),
        (enlarges and inpaints, '--upscale and --network_size', 'what is not masked stays as it is'),
        (
            (args.face_upsample or background_of(args)) and inpaints,
            '--bg_upsampler and --face_upsample',
            'what is not masked stays as it is',
        ),
    ):
        if wrong:
            raise ValueError(f'{flag}: {reason}; leave it out')
    return task


def background_of(args: argparse.Namespace) -> str | None:
    """Return the upsampler of the background, or None."""
    return None if args.bg_upsampler in ('None', 'none', '') else args.bg_upsampler


def build_mask(args: argparse.Namespace, device: str) -> ParsingMask | None:
    """Return the network that tells face from hair and background, where it is asked for or there.

    Raises:
        FileNotFoundError: it is asked for and not there.
    """
    path = Path(args.weights_dir) / PARSING_FILE
    if args.mask == 'parsing' and not path.is_file():
        raise FileNotFoundError(f'--mask parsing: {path} is not there; get it with: id-codeformer download facelib')
    wanted = args.mask != 'box' and not args.has_aligned and path.is_file()
    return ParsingMask(path, device) if wanted else None


def is_diffusion(model: str) -> bool:
    """Return True if a model file states that it is a content module of RIDFR."""
    return Path(model).is_file() and stated_type(model) == ContentControl.__name__


def build_face_restorer(args: argparse.Namespace, task: Task) -> FaceRestorer:
    """Load what restores aligned faces; the file of `--model` tells which kind it is.

    Raises:
        ValueError: flags of the other kind.
    """
    sampling = {name: vars(args)[flag] for name, flag in SAMPLING.items() if vars(args)[flag] is not None}
    common = (args.device, args.precision, args.batch_size, args.weights_dir, args.color_fix)
    if not is_diffusion(args.model):
        if sampling:
            given = ', '.join(f'--{SAMPLING[name]}' for name in sampling)
            raise ValueError(f'{given}: for a diffusion model; --model names no content module of RIDFR; leave it out')
        return FaceRestorer(args.model, *common, args.texture, task, args.backend)
    for flag, given in (
        ('-w', args.w is not None),
        ('--id_search', bool(args.id_search)),
        ('--adain', args.adain is not None),
        ('--texture', args.texture is not None),
        ('--backend', args.backend != 'torch'),
        ('--task', task is not RESTORE),
        ('--identity input', args.identity == 'input'),
    ):
        if given:
            raise ValueError(f'{flag}: belongs to CodeFormer, and --model is a content module of RIDFR; leave it out')
    restorer = DiffusionRestorer(args.model, DiffusionConfig(**sampling), *common, allow_random=args.force)
    if args.ref and not restorer.takes_identity:
        raise ValueError(
            '--ref: there is no identity adapter; give --adapter, or get one with: id-codeformer download diffusion'
        )
    return restorer


def search_steps(args: argparse.Namespace, restorer: FaceRestorer) -> int:
    """Return the steps of the search for codes; 0 where there are none."""
    if isinstance(restorer, DiffusionRestorer):
        return 0
    return STEPS if args.id_search is None else args.id_search


def build_restorer(args: argparse.Namespace) -> ImageRestorer:
    """Everything that the flags ask for, loaded."""
    task = check_task(args)
    if args.backend != 'torch' and (args.ref or args.identity == 'input'):
        flag = '--ref' if args.ref else '--identity input'
        raise ValueError(f'{flag}: --backend {args.backend} restores blind; leave {flag} out, or use --backend torch')
    faces = build_face_restorer(args, task)
    background = background_of(args)
    upsampler = None
    if background or args.face_upsample:
        from basicsr.inference.upsampler import Upsampler, find_upsampler  # imports spandrel, which takes seconds

        upsampler = Upsampler(find_upsampler(background or 'realesrgan', args.weights_dir), args.bg_tile, faces.device)
    if faces.device == 'cpu':
        keep_freed_memory()
    whole, auto = not args.has_aligned, args.w == AUTO
    detector = None
    if whole or args.ref:
        detector = build_detector(
            args.detection_model, args.weights_dir, device=faces.device, min_score=args.det_threshold
        )
    wishes = IdentityConfig(
        args.ref,
        args.recognizer,
        args.id_threshold,
        args.id_scale,
        search_steps(args, faces),
        args.identity == 'input',
        args.calibration,
        auto,
        f'{args.detection_model} {args.det_threshold}',
    )
    return ImageRestorer(
        faces,
        detector=detector if whole else None,
        w=faces.default_w if auto or args.w is None else args.w,
        adain=faces.default_adain if args.adain is None else args.adain,
        upscale=task.upscale if args.upscale is None else args.upscale,
        bg_upsampler=upsampler if background else None,
        face_upsampler=upsampler if args.face_upsample else None,
        only_center_face=args.only_center_face,
        draw_box=args.draw_box,
        parsing=build_mask(args, faces.device),
        grain=args.grain and task is not INPAINT,
        force=args.force or not task.only_blurred,
        guide=build_conditioner(wishes, faces, detector, args.weights_dir),
        choose_w=auto,
        keeps_grey=task.keeps_grey,
        selection=FaceSelection(
            None if args.faces is None else frozenset(args.faces), frozenset(args.skip_faces), args.min_face
        ),
        blend=args.blend,
    )


def say_identity(restorer: ImageRestorer) -> None:
    """On the screen: how identity is measured, whose references there are, and what was left out of them."""
    guide = restorer.faces.guide
    if guide is None:
        print(f'Identity is not measured, as there is no face recognizer: {REMEDY}')
        return
    print(f'Recognizer: {guide.embedder.name}')
    for note in guide.notes:
        print(f'warning: {printable(note)}', file=sys.stderr)
    if guide.people is None:
        return
    print('References: ' + printable(', '.join(f'{p.name} ({len(p.files)})' for p in guide.people.persons)))
    if guide.search_steps:
        print(
            f'In pictures, codes are searched for the people of the references, {guide.search_steps} steps a face; '
            'likeness, measured by the recognizer that guides the search, then looks better than it is'
        )
    elif not guide.tells_people:
        print('This network cannot be told who people are: references only serve to measure, and to choose w')


def about_identity(restorer: ImageRestorer) -> dict[str, Any]:
    """Return the same for the summary."""
    guide = restorer.faces.guide
    if guide is None:
        return {'recognizer': None}
    people = guide.people
    return {
        'recognizer': guide.embedder.name,
        'network_is_told': guide.tells_people and people is not None,
        'search_steps': guide.search_steps if people else 0,
        'references': {p.name: [str(file) for file in p.files] for p in people.persons} if people else {},
        'notes': list(guide.notes),
    }


def say_slow(restorer: ImageRestorer) -> None:
    """On the screen: how long what is slow here will take."""
    canvas = restorer.canvas
    upsampler = canvas.bg_upsampler or canvas.face_upsampler
    if upsampler is None or upsampler.model.device.type != 'cpu':
        return
    seconds = upsampler.seconds_a_megapixel()
    what, size = ('a photograph of 12 megapixels', 12) if canvas.bg_upsampler else ('a face of 512 pixels', 0.26)
    print(
        f'The upsampler runs on the CPU, which is slow: some {seconds:.0f} s for each megapixel of input, '
        f'{duration(seconds * size)} for {what}'
    )


def duration(seconds: float) -> str:
    """Seconds for people: 40 s, 12 min, 3 h."""
    if seconds < 100:
        return f'{seconds:.0f} s'
    return f'{seconds / 60:.0f} min' if seconds < 6000 else f'{seconds / 3600:.0f} h'


def check_output(name: str) -> None:
    """Raise ValueError where the folder for the results has no name, is a file, or has the name of one."""
    path = Path(name)
    if not name:
        raise ValueError('-o: an empty path; name a folder for the results')
    if path.is_file():
        raise ValueError(f'{path}: a file; -o names a folder for the results')
    if has_known_name(path) and not path.is_dir():
        raise ValueError(f'{path}: looks like a file, and -o names a folder for the results, such as {path.parent}')


def make_output(path: Path) -> None:
    """Make the folder for the results where it is missing.

    Raises:
        OSError: it is a file, or cannot be written to.
    """
    path.mkdir(parents=True, exist_ok=True)
    if not os.access(path, os.W_OK | os.X_OK):
        raise PermissionError(f'{path}: no permission to write there; choose another -o')


def save_summary(run: RunSummary, **more: str) -> bool:
    """Write the summary; return whether that could be done. A full disk is said, as results before it may be whole."""
    try:
        run.write(**more)
    except OSError as error:
        print(f'error: {run.path} was not written: {error}', file=sys.stderr)
        return False
    return True


def build_runner(args: argparse.Namespace, output: Path) -> Runner:
    """Build the runner, with all networks loaded, and make the folder for the results."""
    restorer = build_restorer(args)
    task = TASKS[args.task]
    settings = {
        'max_megapixels': args.max_megapixels,
        'fps': args.save_video_fps,
        'network_size': args.network_size,
        'task': task,
        'extension': args.ext,
        'quality': DEFAULT_QUALITY if args.quality is None else args.quality,
        'keep_gps': args.keep_gps,
        'shared': args.shard is not None,
    }
    if task is INPAINT:
        masks = MaskReader(Path(args.mask_path) if args.mask_path else None)
        runner = InpaintingRunner(restorer, output, args.suffix, args.has_aligned, **settings, masks=masks)
    else:
        runner = Runner(restorer, output, args.suffix, args.has_aligned, **settings)
    make_output(output)
    return runner


def about_run(args: argparse.Namespace, jobs: Sequence[Job], skipped: Sequence[str]) -> dict[str, Any]:
    """Return the flags and the plan, for the summary; `flags` are as given, whatever the run says of them."""
    inputs = args.input_path if len(args.input_path) > 1 else args.input_path[0]
    texts = {name: str(vars(args)[name] or '') or None for name in ('save_video_fps', 'shard')}
    flags = {**vars(args), **texts, 'input_path': inputs}
    return {**flags, 'flags': flags, 'skipped': list(skipped), 'planned': len(jobs)}


def about_restorer(restorer: ImageRestorer) -> dict[str, Any]:
    """Return the model and its settings, for the summary."""
    faces, network = restorer.faces, restorer.faces.restorer
    settings = {'w': AUTO if faces.choose_w else faces.w, 'adain': faces.adain, 'upscale': restorer.canvas.upscale}
    if isinstance(network, DiffusionRestorer):
        settings |= {'w': None, 'adain': None, 'diffusion': network.settings}
    return {**settings, 'model': network.description, 'who': about_identity(restorer)}


def main(argv: Sequence[str] | None = None) -> int:
    """Restore what the flags name; returns the exit code.

    It is 0 if every file was done, 1 if one was not, 2 if nothing could be started, and 128 and the number of the
    signal if one stopped it: 130 for Ctrl-C.
    """
    args = build_parser().parse_args(argv)
    with patient_streams(), show_progress(), stop_signals() as signals:
        return restore(args, signals)


def plan(args: argparse.Namespace, inputs: Sequence[Path], output: Path) -> RunSummary:
    """Find what is to be done, and what earlier runs did of it.

    Raises:
        OSError: an input cannot be read.
        ValueError: see `plan_jobs` and `finished`.
    """
    shard = args.shard or Shard()
    jobs = shard.part(plan_jobs(inputs, output))
    about = about_run(args, jobs, skipped_files(inputs, output))
    kept, changed = finished(jobs, output, about['flags']) if args.resume else ({}, [])
    if changed:
        print(f'warning: --resume keeps results of other settings: {printable(", ".join(changed))}', file=sys.stderr)
    left = [job for job in jobs if job.path not in kept]
    return RunSummary(output / shard.summary, about, left, [kept[job.path] for job in jobs if job.path in kept])


def restore(args: argparse.Namespace, signals: Stopping) -> int:
    """See `main`."""
    output, stop, runner = Path(args.output_path), None, None
    try:
        check_output(args.output_path)
        inputs = expand_inputs(args.input_path)
        run = plan(args, inputs, output)
        try:
            if run.jobs:
                runner = build_runner(args, output)
            else:
                make_output(output)
        except KeyboardInterrupt as error:
            make_output(output)
            runner, stop = None, error
    except (OSError, ValueError, KeyError, MissingExtraError) as error:
        print(f'error: {error.args[0] if isinstance(error, KeyError) else error}', file=sys.stderr)
        return 2
    try:
        if runner is not None:
            run.about |= about_restorer(runner.restorer)
            say_what(runner.restorer)
            with progress(len(run.jobs), 'file') as step:
                for record in runner.run(run.jobs):
                    run.note(record)
                    step()
                    signals.check()
    except KeyboardInterrupt as error:
        stop = error
    finally:
        signals.hold()
        stop = stop or signals.received
        saved = save_summary(run, **({'stopped_by': str(stop) or 'SIGINT'} if stop else {}))
    say_results(run, inputs, output, saved, bool(args.ref))
    stop = stop or signals.received
    if stop is not None:
        left = len(run.jobs) - len(run.records)
        what = f'; {left} of {len(run.jobs)} files were not done' if left else ' when all files were done'
        print(f'error: interrupted{what}', file=sys.stderr)
        return stop_code(stop)
    if not saved:
        return 1
    return exit_code([*run.kept, *run.records]) if run.about['planned'] else 0


def say_what(restorer: ImageRestorer) -> None:
    """On the screen: which networks are at work, for whom, and how long they take."""
    network, guide = restorer.faces.restorer, restorer.faces.guide
    print(f'Model: {network.description}')
    if isinstance(network, DiffusionRestorer) and not (guide and guide.people):
        print('No references (--ref): faces are restored blind')
    say_identity(restorer)
    say_slow(restorer)


def say_results(run: RunSummary, inputs: Sequence[Path], output: Path, saved: bool, asks_for_people: bool) -> None:
    """On the screen: what became of each file."""
    root, records = inputs[0] if len(inputs) == 1 else Path(), run.records
    if run.kept:
        print(f'{len(run.kept)} file(s) were done by an earlier run')
    if records or not run.kept:
        print(format_table(records, root))
    if any(record.identity for record in records):
        print(format_identity(records, root))
    if asks_for_people and records and (note := nobody_matched(records, root)):
        print(f'warning: {note}', file=sys.stderr)
    if skipped := run.about['skipped']:
        print(f'Passed over, as the names are not those of pictures or clips: {printable(", ".join(skipped))}')
    print(f'Results {f"and {run.path.name} " if saved else ""}are in {printable(str(output))}')


if __name__ == '__main__':
    sys.exit(main())
