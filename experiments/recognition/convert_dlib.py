"""Convert dlib's face recognizer, which is in the public domain, to the file that comes with this package.

    python -m experiments.recognition.convert_dlib --source dlib_face_recognition_resnet_model_v1.dat \
        --faces datasets/faces/train --target weights/recognition/dlib_resnet.safetensors

SOURCE is in the package face_recognition_models (CC0), and at https://github.com/davisking/dlib-models. Layers are
stored from the first to the last: a version string, a tensor of all parameters, and what follows from its shape. The
norms (a factor and an offset for each channel) are folded into the convolutions before them.

The whitening is that of two sets with equal weights: FACES, and the 100 faces of scikit-image's `lfw_subset`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from skimage.data import lfw_subset
from torch import Tensor
from tqdm import tqdm

from basicsr.recognition.dlib_resnet import DlibResNet
from basicsr.recognition.face_crop import FaceCrop
from basicsr.recognition.registry import RECOGNIZERS
from basicsr.utils.download import sha256_of
from basicsr.utils.files import at_even_steps, replacing
from basicsr.utils.image import imread, resized, scan_images, to_tensor

SHA256 = '55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30'
TAGS = {b'\x01\x05con_4': 'conv', b'\x01\x07affine_': 'affine', b'\x01\x04fc_2': 'linear'}


def integer(data: bytes, place: int) -> tuple[int, int]:
    """Return the integer at a place, and the place after it: a byte with length and sign, then the bytes."""
    length = data[place] & 0x0F
    value = int.from_bytes(data[place + 1 : place + 1 + length], 'little')
    return (-value if data[place] & 0x80 else value), place + 1 + length


def tensor(data: bytes, place: int) -> tuple[np.ndarray, int]:
    """Return the numbers of a tensor at a place, flat, and the place after them."""
    version, place = integer(data, place)
    if version != 2:
        raise ValueError(f'a tensor of version {version} at byte {place}; expected 2')
    sizes = []
    for _ in range(4):
        size, place = integer(data, place)
        sizes.append(size)
    end = place + 4 * int(np.prod(sizes))
    return np.frombuffer(data[place:end], '<f4'), end


def layers(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Yield kind and parameters of each layer that has some, from the first on."""
    place = 0
    while True:
        found = [(where, tag) for tag in TAGS if (where := data.find(tag, place)) >= 0]
        if not found:
            return
        where, tag = min(found)
        place = where + len(tag)
        if TAGS[tag] == 'linear':  # numbers of outputs and inputs come first
            for _ in range(2):
                _, place = integer(data, place)
        values, place = tensor(data, place)
        yield TAGS[tag], values


def convert(source: Path) -> dict[str, torch.Tensor]:
    """Return the state dict of `DlibResNet`.

    Raises:
        ValueError: not that file.
    """
    if (digest := sha256_of(source)) != SHA256:
        raise ValueError(f'{source}: SHA-256 {digest}; expected {SHA256}')
    network = DlibResNet()
    found = layers(source.read_bytes())
    state: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            weights, norm = (np.array(next(found)[1]) for _ in range(2))
            filters, offsets = np.split(weights, [module.weight.numel()])
            factor, shift = np.split(norm, 2)
            filters = filters.reshape(module.weight.shape) * factor[:, None, None, None]
            state[f'{name}.weight'] = torch.from_numpy(filters)
            state[f'{name}.bias'] = torch.from_numpy(offsets * factor + shift)
        elif isinstance(module, torch.nn.Linear) and name == 'embed':
            values = np.array(next(found)[1]).reshape(module.in_features, module.out_features)
            state[f'{name}.weight'] = torch.from_numpy(values.T.copy())
    size = len(state['embed.weight'])
    return {**state, 'whiten.weight': torch.eye(size), 'whiten.bias': torch.zeros(size)}


def whitening(sets: Sequence[Tensor], shrinkage: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return weight (D,D) and bias (D,) that take off the mean of some sets and even out their spread.

    Args:
        sets: unit vectors (N,D) each; all sets weigh the same.
        shrinkage: multiple of the mean variance that is added to each direction's, so that none is blown up.
    """
    means = torch.stack([vectors.double().mean(0) for vectors in sets])
    centre = means.mean(0)
    spread = torch.stack([(v.double() - centre).T @ (v.double() - centre) / len(v) for v in sets]).mean(0)
    values, axes = torch.linalg.eigh(spread)
    weight = axes @ torch.diag((values + shrinkage * values.mean()).rsqrt()) @ axes.T
    return weight.float(), (-weight @ centre).float()


@torch.no_grad()
def unit_vectors(network: DlibResNet, faces: Path, limit: int) -> list[Tensor]:
    """Return the unit vectors of aligned faces in a folder, and of `lfw_subset`, whose faces fill their pictures."""
    crop = FaceCrop(RECOGNIZERS['dlib_resnet'].template, (150, 150))
    paths = at_even_steps(scan_images(faces), limit)
    crops = [crop((to_tensor(resized(imread(path), 256, 256))[None] + 1) * 127.5) for path in tqdm(paths, unit='face')]
    small = torch.from_numpy(lfw_subset()[:100]).float()[:, None] * 255
    large = F.interpolate(small, (150, 150), mode='bicubic').clamp(0, 255).expand(-1, 3, -1, -1)
    return [F.normalize(torch.cat([network(part) for part in parts])) for parts in (crops, large.split(10))]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description="Convert dlib's face recognizer.")
    parser.add_argument('--source', type=Path, required=True, help='dlib_face_recognition_resnet_model_v1.dat')
    parser.add_argument('--faces', type=Path, required=True, help='aligned faces that the whitening is fitted on')
    parser.add_argument('--limit', type=int, default=600, help='of them, at even steps')
    parser.add_argument('--target', type=Path, default=Path('weights/recognition/dlib_resnet.safetensors'))
    args = parser.parse_args(argv)
    try:
        state = convert(args.source)
        network = DlibResNet().eval()
        network.load_state_dict(state)
        state['whiten.weight'], state['whiten.bias'] = whitening(unit_vectors(network, args.faces, args.limit))
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 1
    args.target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.target) as partial:
        save_file({key: value.half() for key, value in state.items()}, partial)
    print(f'{args.target}: SHA-256 {sha256_of(args.target)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
