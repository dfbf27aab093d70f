"""Target codes of a folder of good faces, both as they are and mirrored, for `datasets:train:latent_gt_path`.

    id-codeformer data latents -i datasets/ffhq/ffhq_512 -o datasets/ffhq/latent_gt_code1024.pth \
        --vqgan weights/CodeFormer/vqgan_code1024.pth
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from basicsr.archs import CodeFormer, VQAutoEncoder
from basicsr.archs.factory import load_network
from basicsr.cli.arguments import ArgumentParser
from basicsr.data.common import DataError, resize_square
from basicsr.utils.checkpoint import CheckpointError, save_atomic
from basicsr.utils.image import ImageReadError, imread, scan_images, to_tensor


@torch.inference_mode()
def encode(network: VQAutoEncoder, faces: Tensor) -> Tensor:
    """Codes (N,positions), int16 or int32, of faces (N,3,S,S) in [-1, 1]."""
    indices = network.quantize(network.encoder(faces))[2]['min_encoding_indices']
    kind = torch.int16 if network.codebook_size < 2**15 else torch.int32
    return indices.view(len(faces), -1).to(kind).cpu()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = ArgumentParser(description='Write the target codes of a folder of good faces.')
    parser.add_argument('-i', '--input', type=Path, required=True, help='folder of aligned faces, sub-folders included')
    parser.add_argument('-o', '--output', type=Path, required=True, help='file to write (.pth)')
    parser.add_argument('--vqgan', type=Path, required=True, help='stage I checkpoint')
    parser.add_argument('--size', type=int, help="side in pixels (default: the network's, from 16x16 codes)")
    parser.add_argument('--batch_size', type=int, default=8)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args(argv)
    try:
        network = load_network(args.vqgan, args.device)
        if not isinstance(network, VQAutoEncoder) or isinstance(network, CodeFormer):
            raise CheckpointError(f'{args.vqgan}: a {type(network).__name__}; give a stage I VQAutoEncoder')
        paths = scan_images(args.input)
        if not paths:
            raise FileNotFoundError(f'{args.input}: no pictures in it')
        if args.output.is_dir():
            raise IsADirectoryError(f'{args.output}: a folder; name a file to write (.pth)')
        args.output.parent.mkdir(parents=True, exist_ok=True)
    except (CheckpointError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    size = args.size or network.img_size
    stems = Counter(path.stem for path in paths)
    codes: dict[str, dict[str, Tensor]] = {'orig': {}, 'hflip': {}}
    failed = []
    for start in tqdm(range(0, len(paths), args.batch_size), unit='batch'):
        names, faces = [], []
        for path in paths[start : start + args.batch_size]:
            try:
                face = resize_square(imread(path), size, path)
            except (DataError, ImageReadError) as error:
                failed.append(str(error))
                continue
            # Published files use the stem; where that is not unique, the path below the folder without its suffix.
            unique = stems[path.stem] == 1
            names.append(path.stem if unique else path.relative_to(args.input).with_suffix('').as_posix())
            faces.append(to_tensor(face))
        if not faces:
            continue
        batch = torch.stack(faces).to(args.device)
        for kind, pictures in (('orig', batch), ('hflip', batch.flip(3))):
            codes[kind] |= {name: code.clone() for name, code in zip(names, encode(network, pictures), strict=True)}
    save_atomic(codes, args.output)
    print(f'{len(codes["orig"])} pictures, {network.latent_side**2} codes each: {args.output}')
    for message in failed:
        print(message, file=sys.stderr)
    return 1 if failed else 0
