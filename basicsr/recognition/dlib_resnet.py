"""DlibResNet, the face recognizer that dlib published into the public domain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.registry import ARCH_REGISTRY

LEVELS = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
"""Channels and residual blocks; the first block of each level but the first halves the side."""
MEAN = (122.782, 117.001, 104.298)  # of red, green and blue


class Residual(nn.Module):
    """Two convolutions, added to the input; both are padded with zeros to the larger of the two.

    The norms of the original are folded into the convolutions.

    Args:
        inputs: channels that come.
        outputs: channels that go.
        halves: with a stride of 2, without padding, beside an average over 2x2.
    """

    def __init__(self, inputs: int, outputs: int, halves: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 2 if halves else 1, 0 if halves else 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.halves = halves

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,H,W) -> (N,outputs,h,w)."""
        made = self.conv2(F.relu(self.conv1(x)))
        kept = F.avg_pool2d(x, 2) if self.halves else x
        sizes = [max(own, other) for own, other in zip(made.shape[1:], kept.shape[1:], strict=True)]
        return F.relu(_padded(made, sizes) + _padded(kept, sizes))


def _padded(x: Tensor, sizes: list[int]) -> Tensor:
    """Return x (N,...) with zeros after it up to these sizes of channels, rows and columns."""
    missing = [size - own for size, own in zip(sizes, x.shape[1:], strict=True)]
    return F.pad(x, (0, missing[2], 0, missing[1], 0, missing[0])) if any(missing) else x


@ARCH_REGISTRY.register()
class DlibResNet(nn.Module):
    """Recognizer of RGB crops of 150 pixels, 0 to 255: the 29 layers of dlib's `face_recognition_resnet_model_v1`.

    King, "High Quality Face Recognition with Deep Metric Learning", 2017. A metric loss left all its unit vectors
    within a narrow cone (cosine of strangers 0.83). `whiten`, which is this project's, takes off the mean of all faces
    and evens out the spread, so that strangers are near 0 as with other recognizers; see experiments/recognition.

    Args:
        embedding: numbers in an embedding.
    """

    def __init__(self, embedding: int = 128) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, LEVELS[0][0], 7, 2)
        blocks: list[nn.Module] = []
        inputs = LEVELS[0][0]
        for level, (channels, count) in enumerate(LEVELS):
            for number in range(count):
                blocks.append(Residual(inputs, channels, level > 0 and number == 0))
                inputs = channels
        self.blocks = nn.Sequential(*blocks)
        self.embed = nn.Linear(inputs, embedding, bias=False)
        self.whiten = nn.Linear(embedding, embedding)

    @staticmethod
    def sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
        """Read the arguments off a state dict."""
        return {'embedding': state['embed.weight'].shape[0]}

    def forward(self, x: Tensor) -> Tensor:
        """(N,3,150,150) -> (N,embedding)."""
        x = (x - x.new_tensor(MEAN).view(1, 3, 1, 1)) / 256
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        return self.whiten(F.normalize(self.embed(cast(Tensor, self.blocks(x)).mean((2, 3)))))
