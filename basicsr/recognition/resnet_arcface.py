"""The grey ResNet of GFPGAN's identity loss, under the state-dict keys of `arcface_resnet18.pth`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from basicsr.recognition.iresnet import block_counts, conv3x3, shrinking_shortcut
from basicsr.utils.registry import ARCH_REGISTRY


class SEBlock(nn.Module):
    """Channels weighted by a small network of their means (Hu et al., CVPR 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = channels // reduction
        self.fc = nn.Sequential(nn.Linear(channels, hidden), nn.PReLU(), nn.Linear(hidden, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        """(N,C,H,W) -> the same shape."""
        return x * self.fc(x.mean(dim=(2, 3)))[..., None, None]


class GreyBlock(nn.Module):
    """Norm, convolution, norm, PReLU, convolution that may shrink, norm; added to the input, and PReLU once more."""

    def __init__(self, inputs: int, outputs: int, stride: int, use_se: bool) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, inputs)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.prelu = nn.PReLU()  # one slope for all channels and both places
        self.conv2 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = shrinking_shortcut(inputs, outputs, stride) if stride > 1 or inputs != outputs else None
        self.se = SEBlock(outputs) if use_se else None

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,H,W) -> (N,outputs,H/stride,W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.prelu(self.bn1(self.conv1(self.bn0(x))))
        x = self.bn2(self.conv2(x))
        return self.prelu((x if self.se is None else self.se(x)) + shortcut)


@ARCH_REGISTRY.register()
class ResNetArcFace(nn.Module):
    """A recognizer of whole grey faces of 128 pixels, (x - 127.5) / 127.5.

    Args:
        layers: blocks of the four layers; the last three halve the side.
        use_se: whether the blocks weigh their channels; the published weights do not.
        widths: channels of the layers.
        embedding: numbers in an embedding.
    """

    def __init__(
        self,
        layers: Sequence[int] = (2, 2, 2, 2),
        use_se: bool = False,
        widths: Sequence[int] = (64, 128, 256, 512),
        embedding: int = 512,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(1, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU()
        self.maxpool = nn.MaxPool2d(2)
        inputs = widths[0]
        for i, (count, width) in enumerate(zip(layers, widths, strict=True), 1):
            blocks = [
                GreyBlock(inputs if j == 0 else width, width, 2 if j == 0 and i > 1 else 1, use_se)
                for j in range(count)
            ]
            self.add_module(f'layer{i}', nn.Sequential(*blocks))
            inputs = width
        self.bn4 = nn.BatchNorm2d(inputs)
        self.fc5 = nn.Linear(inputs * 8 * 8, embedding)
        self.bn5 = nn.BatchNorm1d(embedding)

    @staticmethod
    def sizes(state: Mapping[str, Tensor]) -> dict:
        """Return the arguments that fit a state dict."""
        return {
            'layers': block_counts(state),
            'use_se': 'layer1.0.se.fc.0.weight' in state,
            'widths': tuple(state[f'layer{i}.0.conv2.weight'].shape[0] for i in range(1, 5)),
            'embedding': state['fc5.weight'].shape[0],
        }

    def forward(self, x: Tensor) -> Tensor:
        """(N,1,128,128) -> embeddings (N,D), not normalised."""
        x = self.maxpool(self.prelu(self.bn1(self.conv1(x))))  # (N,C,64,64)
        for i in range(1, 5):
            x = self.get_submodule(f'layer{i}')(x)
        return self.bn5(self.fc5(self.bn4(x).flatten(1)))  # (N,C,8,8) -> (N,D)
