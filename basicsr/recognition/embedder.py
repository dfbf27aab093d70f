"""Face recognizers, told by their weights files, and `FaceEmbedder`, which turns aligned faces into embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.recognition.adaface import AdaFaceIR
from basicsr.recognition.dlib_resnet import DlibResNet
from basicsr.recognition.face_crop import FaceCrop
from basicsr.recognition.files import find_recognizer
from basicsr.recognition.iresnet import IResNet
from basicsr.recognition.mobilefacenet import MobileFaceNet
from basicsr.recognition.onnx_network import onnx_network, onnx_signature, read_onnx
from basicsr.recognition.registry import RECOGNIZERS, SHIPPED, Recognizer
from basicsr.recognition.resnet_arcface import ResNetArcFace
from basicsr.utils.checkpoint import CheckpointError, load_state, read_checkpoint, unwrap
from basicsr.utils.download import sha256_of
from basicsr.utils.errors import extra
from basicsr.utils.registry import ARCH_REGISTRY, nearest

ORIGIN_UNKNOWN = {'training_set': 'not known', 'licence': 'not known', 'url': None, 'sha256': None}
WRAPPINGS = ('model.net.', 'model.', 'net.')  # that AdaFace's trainers put before the names of parameters
GREY = (0.2989, 0.5870, 0.1140)  # of red, green and blue: the luma of ITU-R BT.601 with GFPGAN's digits
State = Mapping[str, Tensor]
Description = tuple[Recognizer, Callable[[], nn.Module]]


def _iresnet(state: State) -> Description:
    sizes = IResNet.sizes(state)
    depth = 2 * sum(sizes['blocks']) + 2
    other = replace(RECOGNIZERS['arcface_r50'], name=f'arcface_r{depth}', network=f'IResNet-{depth}', **ORIGIN_UNKNOWN)
    return replace(RECOGNIZERS.get(other.name, other), embedding=sizes['embedding']), partial(IResNet, **sizes)


def _ir_se50(state: State) -> Description:
    with extra('references'):
        from facexlib.recognition.arcface_arch import Backbone  # the package takes seconds to import

    return RECOGNIZERS['arcface_ir_se50'], partial(Backbone, num_layers=50, drop_ratio=0.0, mode='ir_se')


def _mobilefacenet_112(state: State) -> Description:
    with extra('references'):
        from facexlib.recognition.arcface_arch import MobileFaceNet as SquareMobileFaceNet

    embedding = state['linear.weight'].shape[0]
    return replace(RECOGNIZERS['mobilefacenet_112'], embedding=embedding), partial(SquareMobileFaceNet, embedding)


def _mobilefacenet(state: State) -> Description:
    entry, sizes = RECOGNIZERS['mobilefacenet_casia128'], MobileFaceNet.sizes(state)
    if sizes != {'embedding': entry.embedding, 'size': entry.size}:
        entry = replace(entry, name='mobilefacenet_{}x{}'.format(*sizes['size']), **sizes, **ORIGIN_UNKNOWN)
    return entry, partial(MobileFaceNet, **sizes)


def _adaface(state: State) -> Description:
    sizes = AdaFaceIR.sizes(state)
    return replace(RECOGNIZERS['adaface_ir50'], embedding=sizes['embedding']), partial(AdaFaceIR, **sizes)


def _dlib(state: State) -> Description:
    sizes = DlibResNet.sizes(state)
    return replace(RECOGNIZERS[SHIPPED], **sizes), partial(DlibResNet, **sizes)


def _resnet_arcface(state: State) -> Description:
    sizes = ResNetArcFace.sizes(state)
    entry = replace(RECOGNIZERS['arcface_resnet18_grey'], embedding=sizes['embedding'])
    return entry, partial(ResNetArcFace, **sizes)


# Keys that one kind of network has and no other, and what builds it to the sizes of a state dict.
FAMILIES: tuple[tuple[tuple[str, ...], Callable[[State], Description]], ...] = (
    (('layer1.0.bn3.weight', 'fc.weight', 'features.weight'), _iresnet),
    (('input_layer.0.weight', 'body.0.res_layer.5.fc1.weight'), _ir_se50),
    (('input_layer.0.weight', 'body.0.res_layer.5.running_var'), _adaface),
    (('conv_6_dw.conv.weight', 'linear.weight'), _mobilefacenet_112),
    (('dw_conv1.conv.weight', 'linear7.conv.weight', 'linear1.conv.weight'), _mobilefacenet),
    (('layer1.0.bn0.weight', 'fc5.weight'), _resnet_arcface),
    (('stem.weight', 'blocks.13.conv2.weight', 'embed.weight'), _dlib),
)


def _from_state(path: Path) -> tuple[Recognizer, nn.Module]:
    """Return the recognizer in a state dict."""
    checkpoint = read_checkpoint(path)
    key = 'net_state_dict' if 'net_state_dict' in checkpoint else None  # MobileFaceNet_Pytorch's own checkpoints
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in unwrap(checkpoint, key, str(path)).items()
    }
    for prefix in WRAPPINGS:
        if f'{prefix}input_layer.0.weight' in state:  # what lies beside it is the head of the training
            state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    build = next((build for marks, build in FAMILIES if all(mark in state for mark in marks)), None)
    if build is None:
        raise CheckpointError(
            f'{path}: no face recognizer that is known. Found keys such as {", ".join(list(state)[:3])}; expected such '
            f'as {" or ".join(marks[0] for marks, _ in FAMILIES)}'
        )
    try:
        entry, make = build(state)
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f'{path}: like a face recognizer, but {error} is missing or odd') from error
    with torch.device('meta'):
        network = make()
    load_state(network, state, source=path, assign=True)
    return entry, network


def _from_onnx(path: Path) -> tuple[Recognizer, nn.Module]:
    """Return the recognizer in an ONNX file."""
    model = read_onnx(path)
    signature = onnx_signature(model)
    if not signature.is_recognizer:
        raise CheckpointError(
            f'{path}: no face recognizer. Found {signature}; expected one input (N,3,112,112) or (N,3,112,96) and one '
            'output (N,D)'
        )
    network, embedding = onnx_network(model, path)
    like = next((entry for entry in RECOGNIZERS.values() if Path(entry.file).name == path.name), None)
    entry = like or Recognizer(name=path.stem, network='ONNX', file=path.name, **ORIGIN_UNKNOWN)
    scaling = {'mean': 0.0, 'std': 1.0} if signature.normalises else {}
    return replace(entry, name=path.stem, size=signature.size, embedding=embedding, **scaling), network


def load_recognizer(path: str | Path, arch: str | None = None) -> tuple[Recognizer, nn.Module]:
    """Return the recognizer in a file: what it expects, and its network with its weights.

    Args:
        path: `.onnx`, `.safetensors`, or a state dict as PyTorch saves it.
        arch: the table's name that the file must answer to; None takes it for what it is.

    Raises:
        CheckpointError: damaged, no recognizer, or another one than `arch`; the message says what was found.
    """
    path = Path(path)
    if arch is not None and arch not in RECOGNIZERS:
        raise CheckpointError(f"unknown recognizer '{arch}'{nearest(arch, RECOGNIZERS)}")
    entry, network = _from_onnx(path) if path.suffix == '.onnx' else _from_state(path)
    digest = sha256_of(path)
    same = next((known for known in RECOGNIZERS.values() if known.sha256 == digest), None)
    if same is not None:
        entry = same
    elif entry.sha256 is not None:  # the network of a file that is known, with other weights
        entry = replace(entry, **ORIGIN_UNKNOWN)
    wanted = RECOGNIZERS.get(arch or entry.name, entry)
    if wanted.name != entry.name and not (wanted.pack and Path(wanted.file).stem == entry.name):
        raise CheckpointError(
            f'{path}: found {entry.name}, which is {entry.network} with {entry.embedding} numbers; expected '
            f'{wanted.name}, which is {wanted.network} with {wanted.embedding}'
        )
    return entry, network


@ARCH_REGISTRY.register()
class FaceEmbedder(nn.Module):
    """A frozen face recognizer with the crop it was trained on: faces in, unit vectors out.

    The network follows its owner to a device, and is otherwise no part of it: it is in no state dict and no list of
    parameters, stays in evaluation mode, and computes in its own precision (float32) under autocast. Gradients flow to
    the faces only.

    Attributes:
        recognizer: the table's entry, as far as it holds for this file.
        path: its weights file.
        name: for reports; with the file's name where that tells more.

    Args:
        weights: a file, an InsightFace pack, or a name of the table `RECOGNIZERS`; see `find_recognizer`.
        flip: embed the mirrored face as well, and take the mean.
        arch: the table's name that the file must answer to, see `load_recognizer`.

    Raises:
        CheckpointError: the file is missing, damaged or not what was asked for; the message says where to get it.
    """

    network: nn.Module

    def __init__(self, weights: str | Path | None = None, flip: bool = False, arch: str | None = None) -> None:
        super().__init__()
        self.path = path = find_recognizer(weights)
        self.recognizer, network = load_recognizer(path, arch)
        if next(network.parameters(), None) is None:
            raise CheckpointError(
                f'{path}: a network without parameters, which can recognize nobody; choose another file'
            )
        # Past nn.Module.__setattr__, which would register it.
        object.__setattr__(self, 'network', network.eval().requires_grad_(False))
        self.crop = FaceCrop(self.recognizer.template, self.recognizer.size)
        self.flip = flip
        tells = path.stem == self.recognizer.name or self.recognizer.sha256 is not None
        self.name = self.recognizer.name if tells else f'{self.recognizer.name} ({path.name})'
        super().train(False)

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self.recognizer.embedding

    def train(self, mode: bool = True) -> FaceEmbedder:
        """Nothing: it stays in evaluation mode."""
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        self.network._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, faces: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Return unit vectors (N,D).

        Args:
            faces: (N,3,H,W), RGB, in [-1, 1], sides at least 64, square and on the FFHQ template unless there are
                landmarks.
            landmarks: (N,5,2), pixels; they get no gradient.

        Raises:
            ValueError: see `FaceCrop`.
        """
        dtype = next(self.network.parameters()).dtype
        with torch.autocast(faces.device.type, enabled=False):
            crops = self.preprocess(faces.to(dtype), landmarks)
            embedding = self.network(crops)
            if self.flip:
                embedding = F.normalize(embedding) + F.normalize(self.network(crops.flip(3)))
            return F.normalize(embedding)

    def preprocess(self, faces: Tensor, landmarks: Tensor | None = None) -> Tensor:
        """Crop `faces` to the network's input (N,C,h,w); outside the image it is black, as in training."""
        crops = self.crop((faces + 1) * 127.5, landmarks)
        if self.recognizer.channels == 'grey':
            crops = (crops * crops.new_tensor(GREY).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
        elif self.recognizer.channels == 'bgr':
            crops = crops.flip(1)
        return (crops - self.recognizer.mean) / self.recognizer.std
