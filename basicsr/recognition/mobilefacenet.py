"""MobileFaceNet (Chen et al., CCBR 2018), under the state-dict keys of MobileFaceNet_Pytorch."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from basicsr.utils.registry import ARCH_REGISTRY

# Each row of bottlenecks: expansion, channels, how many, stride of the first (the paper's table 1).
BOTTLENECKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class ConvBlock(nn.Module):
    """Convolution, norm, and PReLU unless linear."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = None if linear else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,H,W) -> (N,outputs,h,w)."""
        x = self.bn(self.conv(x))
        return x if self.prelu is None else self.prelu(x)


class Bottleneck(nn.Module):
    """Widen, a depthwise convolution that may shrink, narrow; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.PReLU(hidden),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.PReLU(hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.keeps_shape = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,H,W) -> (N,outputs,H/stride,W/stride)."""
        return self.conv(x) + x if self.keeps_shape else self.conv(x)


@ARCH_REGISTRY.register()
class MobileFaceNet(nn.Module):
    """A recognizer of RGB crops, (x - 127.5) / 128.

    Args:
        embedding: numbers in an embedding.
        size: height and width of the crop, multiples of 16.
    """

    def __init__(self, embedding: int = 128, size: tuple[int, int] = (112, 96)) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, 64, 3, 2, 1)
        self.dw_conv1 = ConvBlock(64, 64, 3, 1, 1, groups=64)
        blocks, inputs = [], 64
        for expansion, outputs, count, stride in BOTTLENECKS:
            for i in range(count):
                blocks.append(Bottleneck(inputs, outputs, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = ConvBlock(inputs, 512, 1)
        self.linear7 = ConvBlock(512, 512, (size[0] // 16, size[1] // 16), groups=512, linear=True)
        self.linear1 = ConvBlock(512, embedding, 1, linear=True)

    @staticmethod
    def sizes(state: Mapping[str, Tensor]) -> dict:
        """Return the arguments that fit a state dict."""
        height, width = state['linear7.conv.weight'].shape[2:]
        return {'embedding': state['linear1.conv.weight'].shape[0], 'size': (16 * height, 16 * width)}

    def forward(self, x: Tensor) -> Tensor:
        """(N,3,H,W) of the given size -> embeddings (N,D), not normalised."""
        x = self.blocks(self.dw_conv1(self.conv1(x)))  # (N,128,H/16,W/16)
        return self.linear1(self.linear7(self.conv2(x))).flatten(1)  # (N,512,1,1) -> (N,D)
