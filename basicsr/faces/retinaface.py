"""RetinaFace (Deng et al., 2020) with facexlib's parts and keys."""

from __future__ import annotations

import os

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models._utils import IntermediateLayerGetter

from basicsr.faces.anchors import decode, preprocess
from basicsr.utils.checkpoint import load_state, load_state_dict_file
from basicsr.utils.errors import extra

with extra('detectors'):
    from facexlib.detection.retinaface_net import (
        FPN,
        SSH,
        MobileNetV1,
        make_bbox_head,
        make_class_head,
        make_landmark_head,
    )


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
        boxes, classes, points = (output[0].float().cpu().numpy() for output in outputs)
        return decode(boxes, classes, points, image.shape[1], image.shape[0])
