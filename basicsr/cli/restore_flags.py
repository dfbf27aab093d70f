"""Flags of `id-codeformer restore`."""

from __future__ import annotations

import argparse

from basicsr.cli.arguments import (
    ArgumentParser,
    between,
    fidelity,
    frame_rate,
    positive,
    whole_number,
)
from basicsr.faces.backends import LEAST_SCORE
from basicsr.faces.detection import DEFAULT_DETECTOR, DETECTORS, MIN_SCORE, OTHER_MIN_SCORES
from basicsr.inference.code_search import STEPS
from basicsr.inference.diffusion_restorer import DiffusionConfig
from basicsr.inference.face_restorer import AUTO_PRECISION, BACKENDS, PRECISIONS
from basicsr.inference.resume import Shard
from basicsr.inference.tasks import RESTORE, TASKS
from basicsr.utils.files import user_path
from basicsr.utils.folders import WEIGHTS_VARIABLE, weights_folder
from basicsr.utils.picture import MAX_MEGAPIXELS
from basicsr.utils.picture_formats import DEFAULT_QUALITY, EXTENSIONS

MASKS = ('box', 'parsing')


def shard(text: str) -> Shard:
    """Return the value of --shard."""
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def build_parser() -> argparse.ArgumentParser:
    """All flags; the published ones keep their meaning."""
    parser = ArgumentParser(description='Restore faces in pictures and clips.')
    add = parser.add_argument
    add(
        '-i',
        '--input_path',
        required=True,
        nargs='+',
        action='extend',
        metavar='PATH',
        help='pictures, clips, folders of them (sub-folders included), or quoted patterns such as "photos/*.jpg"',
    )
    add('-o', '--output_path', type=user_path, default='results', help='folder for the results (default: results)')
    add('-s', '--upscale', type=positive, help='factor by which pictures are enlarged (default: 2; other tasks: 1)')
    add(
        '--has_aligned',
        action=argparse.BooleanOptionalAction,
        default=False,
        help='the pictures are aligned, cropped faces',
    )
    add('--network_size', action='store_true', help="aligned faces come out in the network's size, not their own")
    add(
        '--shard',
        type=shard,
        metavar='I/N',
        help='do the I-th of N equal parts of the files, for N machines with the same -i and -o',
    )
    add('--resume', action='store_true', help='go on with -o: keep what its summary says is done')
    add_face_flags(parser.add_argument_group('which faces'))
    add(
        '--bg_upsampler',
        type=user_path,
        default='None',
        help='enlarge the background with: None (bicubic), realesrgan, or a file',
    )
    add('--face_upsample', action='store_true', help='enlarge the restored faces too (realesrgan, or --bg_upsampler)')
    add('--bg_tile', type=int, default=400, help='tile of the upsampler in pixels, 0 for none (default: 400)')
    add(
        '--max_megapixels',
        type=positive,
        default=MAX_MEGAPIXELS,
        help=f'largest picture or frame, and result (default: {MAX_MEGAPIXELS:g}); memory grows with it',
    )
    add(
        '--save_video_fps',
        type=frame_rate,
        help='frames a second of the results of clips, such as 25 or 30000/1001; the duration stays (default: as is)',
    )
    add('--suffix', default='', help='appended to the names of the results, after an underscore')
    add('--ext', choices=EXTENSIONS, default='png', help='format of the pictures written (default: png)')
    add(
        '--quality',
        type=whole_number,
        help=f'of JPEG and WebP, 1 to 100 (default: {DEFAULT_QUALITY})',
    )
    add('--keep_gps', action='store_true', help='results say where the picture or clip was taken, as their inputs do')
    add_task_flags(parser.add_argument_group('what is done to faces'))
    add_network_flags(parser.add_argument_group('the network'))
    add_identity_flags(parser.add_argument_group('who the people are'))
    add_diffusion_flags(parser.add_argument_group('diffusion (--model is a content module of RIDFR)'))
    return parser


def add_task_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of the task."""
    add = group.add_argument
    add('--task', choices=list(TASKS), default=RESTORE.name, help='what is done to faces (default: restore)')
    add(
        '--mask_path',
        type=user_path,
        help='to inpaint: a mask, or a folder of masks with the names of the pictures, white and opaque where '
        'something is to be filled (default: the pure white pixels of the pictures)',
    )
    add(
        '-w',
        '--w',
        '--fidelity_weight',
        type=fidelity,
        help='0 quality to 1 fidelity, or auto: chosen for each face (default: 0.8, to colorize 0, to inpaint 1; with '
        'a CodeFormer++, its own)',
    )


def add_face_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of finding faces, choosing among them and pasting them back."""
    add = group.add_argument
    add('--only_center_face', action='store_true', help='restore the face nearest to the middle only')
    add(
        '--faces',
        type=whole_number,
        nargs='+',
        metavar='N',
        help='restore only the faces of these numbers, which are those of the summary and of --draw_box',
    )
    add('--skip_faces', type=whole_number, nargs='+', default=[], metavar='N', help='leave these faces as they are')
    add('--min_face', type=whole_number, default=0, metavar='PIXELS', help='leave faces whose size is below this')
    add('--force', action='store_true', help='restore faces that are already sharper than the model can make them, too')
    add('--draw_box', action='store_true', help='mark the crops of the faces in the result, with their numbers')
    add(
        '--det_threshold',
        type=between(LEAST_SCORE, 1),
        help=f'least score of a face, {LEAST_SCORE:g} to 1 (default: {MIN_SCORE:g}; insightface: '
        f'{OTHER_MIN_SCORES["insightface"]:g})',
    )
    add(
        '--blend',
        type=between(0, 1),
        default=1.0,
        help='share of the restored face in the result, 0 (the original) to 1 (default: 1)',
    )
    add(
        '--mask',
        choices=MASKS,
        help='what is pasted: box, the crop with soft edges, or parsing, the face without hair and background '
        '(default: parsing where its network is downloaded)',
    )


def add_network_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of the face network, its device and precision."""
    add = group.add_argument
    add('--texture', type=between(0, 1), help='how much texture a CodeFormer++ adds, 0 to 1 (default: 1)')
    add(
        '--adain',
        action=argparse.BooleanOptionalAction,
        help='as published (default: on; to inpaint: off)',
    )
    add(
        '--color_fix',
        action=argparse.BooleanOptionalAction,
        help='keep the colours and contrast of the input (default: small model only)',
    )
    add(
        '--grain',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='give pasted faces the noise of the picture around them (default: on)',
    )
    add_shared_flags(group)
    add(
        '--precision',
        choices=[AUTO_PRECISION, *PRECISIONS],
        default='fp32',
        help='of the network; mixed: codes in fp32, pictures in bf16; auto: mixed on a CPU with bf16, else fp32 '
        '(default: fp32)',
    )
    add(
        '--backend',
        choices=BACKENDS,
        default='torch',
        help='what runs the face network: torch, or onnx for ONNX Runtime, which restores blind (default: torch)',
    )
    add('--batch_size', type=int, default=8, help='faces at a time (default: 8)')


def add_shared_flags(group: argparse._ActionsContainer) -> None:
    """Add the flags of `restore` that `app` has, too."""
    add = group.add_argument
    add(
        '--model',
        type=user_path,
        default='auto',
        help='auto (official weights if downloaded, else small), official, small, a file, or hf:OWNER/NAME[/FILE]',
    )
    add(
        '--detection_model',
        default=DEFAULT_DETECTOR,
        help=f'{", ".join(DETECTORS)} (default: {DEFAULT_DETECTOR}, whose weights come with its package)',
    )
    add('--device', default='auto', help='auto, cpu, cuda, cuda:N, or mps, which is untested (default: auto)')
    add(
        '--weights_dir',
        type=user_path,
        default=str(weights_folder()),
        help=f"the weights folder (default: ${WEIGHTS_VARIABLE}, else that of the clone or the user's cache)",
    )


def add_diffusion_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of sampling from a diffusion model."""
    add, defaults = group.add_argument, DiffusionConfig()
    add('--diffusion_root', type=user_path, help='folder of the diffusion model (default: sd15 in the weights folder)')
    add(
        '--adapter',
        type=user_path,
        help='file of the identity adapter (default: that of the folder, or a downloaded one)',
    )
    add('--steps', type=whole_number, help=f'steps of sampling, 2 to 1000 (default: {defaults.steps})')
    add('--seed', type=whole_number, help=f'of the noise (default: {defaults.seed})')
    add('--guidance', type=between(1, 20), help='how far the prediction leaves the blind one, 1 to 20 (default: 1)')
    add('--content_scale', type=between(0, 2), help='strength of the degraded face, 0 to 2 (default: 1)')
    add(
        '--start_from',
        type=user_path,
        metavar='MODEL',
        help='start from the restoration of this CodeFormer (default: noise)',
    )
    add('--start_share', type=between(0.01, 1), help='share of the steps left to do from there (default: 0.5)')


def add_identity_flags(group: argparse._ArgumentGroup) -> None:
    """Add the flags of references and recognizers."""
    add = group.add_argument
    add(
        '--ref',
        type=user_path,
        nargs='+',
        action='extend',
        default=[],
        metavar='PATH',
        help='photographs of the person, or a folder of them; or a folder with a sub-folder for each person',
    )
    add(
        '--id_search',
        type=whole_number,
        metavar='STEPS',
        help='search for codes that show the person of --ref, in so many steps; each takes as long as two '
        f'faces; 0: none (default: {STEPS})',
    )
    add('--id_scale', type=between(0, 2), default=1.0, help='strength of the identity styling, 0 to 2 (default: 1)')
    add(
        '--id_threshold',
        type=between(-1, 1),
        help='smallest cosine at which a face is taken for a person of --ref (default: that of the calibration, else '
        "the recognizer's)",
    )
    add(
        '--recognizer',
        type=user_path,
        help="file, pack or name of a face recognizer (default: the network's, or one in the weights)",
    )
    add(
        '--identity',
        choices=('none', 'input'),
        default='none',
        help='faces without reference: restore blind, or tell the network what the input itself says (default: none)',
    )
    add(
        '--calibration',
        type=user_path,
        help='how far the recognizer can be trusted on damaged faces (default: that of options/confidence, if any)',
    )
