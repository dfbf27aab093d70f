"""IResNet, the residual network of ArcFace (Deng et al., CVPR 2019), under the state-dict keys of arcface_torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from basicsr.utils.registry import ARCH_REGISTRY


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size but for its stride, without bias."""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


def shrinking_shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return the shortcut of a residual block whose output has another size than its input."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def block_counts(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Count the blocks of `layer1` to `layer4` in a state dict."""
    blocks = {tuple(key.split('.')[:2]) for key in state if key.startswith('layer')}
    return tuple(sum(layer == f'layer{i}' for layer, _ in blocks) for i in range(1, 5))


class IResNetBlock(nn.Module):
    """Norm, convolution, norm, PReLU, convolution that may shrink, norm; added to the input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = conv3x3(outputs, outputs, stride)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = shrinking_shortcut(inputs, outputs, stride) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,H,W) -> (N,outputs,H/stride,W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.prelu(self.bn2(self.conv1(self.bn1(x))))
        return self.bn3(self.conv2(x)) + shortcut


@ARCH_REGISTRY.register()
class IResNet(nn.Module):
    """A recognizer of RGB crops of 112 pixels, (x - 127.5) / 127.5.

    Args:
        blocks: of the four layers, each of which halves the side; (2, 2, 2, 2) is IResNet-18, (3, 4, 6, 3) 34,
            (3, 4, 14, 3) 50 and (3, 13, 30, 3) 100.
        widths: channels of the layers.
        embedding: numbers in an embedding.
    """

    def __init__(
        self,
        blocks: Sequence[int] = (3, 4, 14, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        embedding: int = 512,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(3, widths[0])
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        inputs = widths[0]
        for i, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
            layers = [IResNetBlock(inputs, width, 2), *(IResNetBlock(width, width, 1) for _ in range(count - 1))]
            self.add_module(f'layer{i}', nn.Sequential(*layers))
            inputs = width
        self.bn2 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs * 7 * 7, embedding)
        self.features = nn.BatchNorm1d(embedding)

    @staticmethod
    def sizes(state: Mapping[str, Tensor]) -> dict:
        """Return the arguments that fit a state dict."""
        return {
            'blocks': block_counts(state),
            'widths': tuple(state[f'layer{i}.0.conv1.weight'].shape[0] for i in range(1, 5)),
            'embedding': state['fc.weight'].shape[0],
        }

    def forward(self, x: Tensor) -> Tensor:
        """(N,3,112,112) -> embeddings (N,D), not normalised."""
        x = self.prelu(self.bn1(self.conv1(x)))
        for i in range(1, 5):
            x = self.get_submodule(f'layer{i}')(x)
        return self.features(self.fc(self.bn2(x).flatten(1)))  # (N,C,7,7) -> (N,D)
