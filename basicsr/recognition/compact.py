"""CompactFaceNet, a small recognizer for CPUs that learns another one's embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.utils.registry import ARCH_REGISTRY

SLOPE = 0.1  # of the leaky ReLU


class ConvAct(nn.Module):
    """Convolution that keeps the size but for its stride, norm, and leaky ReLU unless linear."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, linear: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,H,W) -> (N,outputs,H/stride,W/stride)."""
        x = self.bn(self.conv(x))
        return x if self.linear else F.leaky_relu(x, SLOPE, inplace=True)


class Narrowing(nn.Module):
    """Narrow, convolve, widen; added to the input."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.narrow = ConvAct(channels, hidden, 1)
        self.middle = ConvAct(hidden, hidden, 3)
        self.widen = ConvAct(hidden, channels, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N,channels,H,W) -> the same."""
        return x + self.widen(self.middle(self.narrow(x)))


@ARCH_REGISTRY.register()
class CompactFaceNet(nn.Module):
    """A recognizer of RGB square crops of 16 times `pool` pixels, (x - 127.5) / 127.5.

    Stem and head are those of MobileFaceNet (Chen et al., CCBR 2018): an early reduction to a quarter, and a global
    depthwise convolution in place of pooling. Between them are plain convolutions on half the channels, which a CPU
    computes in a fraction of the time of depthwise ones on twice the channels.

    Args:
        widths: channels at a half, a quarter, an eighth and a sixteenth of the crop's side.
        blocks: residual blocks at the last three.
        hidden: channels of their middle convolution.
        features: channels of the head.
        embedding: numbers in an embedding.
        pool: side of the global depthwise convolution.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 64, 128, 192),
        blocks: Sequence[int] = (2, 4, 2),
        hidden: Sequence[int] = (32, 64, 64),
        features: int = 512,
        embedding: int = 512,
        pool: int = 5,
    ) -> None:
        super().__init__()
        self.stem = ConvAct(3, widths[0], 3, 2)
        for i, (count, middle) in enumerate(zip(blocks, hidden, strict=True), 1):
            reduce = ConvAct(widths[i - 1], widths[i], 3, 2)
            level = [reduce, *(Narrowing(widths[i], middle) for _ in range(count))]
            self.add_module(f'level{i}', nn.Sequential(*level))
        self.expand = ConvAct(widths[-1], features, 1)
        self.pool = nn.Conv2d(features, features, pool, groups=features, bias=False)
        self.pool_bn = nn.BatchNorm2d(features)
        self.embed = nn.Linear(features, embedding)

    @staticmethod
    def sizes(state: Mapping[str, Tensor]) -> dict:
        """Return the arguments that fit a state dict."""
        levels = range(1, 4)
        blocks = [len({k.split('.')[1] for k in state if k.startswith(f'level{i}.')}) - 1 for i in levels]
        return {
            'widths': [state[f'{name}.conv.weight'].shape[0] for name in ('stem', *(f'level{i}.0' for i in levels))],
            'blocks': blocks,
            'hidden': [state[f'level{i}.1.narrow.conv.weight'].shape[0] for i in levels],
            'features': state['pool.weight'].shape[0],
            'embedding': state['embed.weight'].shape[0],
            'pool': state['pool.weight'].shape[2],
        }

    def forward(self, x: Tensor) -> Tensor:
        """(N,3,16*pool,16*pool) -> embeddings (N,D), not normalized."""
        x = self.stem(x)
        for i in range(1, 4):
            x = self.get_submodule(f'level{i}')(x)
        return self.embed(self.pool_bn(self.pool(self.expand(x))).flatten(1))  # (N,C,1,1) -> (N,D)
