"""The IR networks of AdaFace (Kim et al., CVPR 2022), under the state-dict keys of its publishers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from basicsr.recognition.iresnet import conv3x3, shrinking_shortcut
from basicsr.utils.registry import ARCH_REGISTRY


class AdaFaceBlock(nn.Module):
    """Norm, convolution, norm, PReLU, convolution that may shrink, norm; added to the input, or to every other pixel.

    The shortcut is IResNet's where the channels change, and plain sampling where they do not.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        widens = inputs != outputs
        self.shortcut_layer = shrinking_shortcut(inputs, outputs, stride) if widens else nn.MaxPool2d(1, stride)
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            conv3x3(inputs, outputs),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            conv3x3(outputs, outputs, stride),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N,inputs,H,W) -> (N,outputs,H/stride,W/stride)."""
        return self.res_layer(x) + self.shortcut_layer(x)


@ARCH_REGISTRY.register()
class AdaFaceIR(nn.Module):
    """A recognizer of BGR crops of 112 pixels, (x - 127.5) / 127.5.

    Args:
        blocks: of the four layers, each of which halves the side; (3, 4, 14, 3) is IR-50.
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
        self.input_layer = nn.Sequential(conv3x3(3, widths[0]), nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0]))
        body: list[nn.Module] = []
        inputs = widths[0]
        for count, width in zip(blocks, widths, strict=True):
            for i in range(count):
                body.append(AdaFaceBlock(inputs, width, 2 if i == 0 else 1))
                inputs = width
        self.body = nn.Sequential(*body)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(inputs * 7 * 7, embedding),
            nn.BatchNorm1d(embedding, affine=False),
        )

    @staticmethod
    def sizes(state: Mapping[str, Tensor]) -> dict:
        """Return the arguments that fit a state dict; blocks of one width are one layer."""
        number = len({key.split('.')[1] for key in state if key.startswith('body.')})
        channels = [state[f'body.{i}.res_layer.1.weight'].shape[0] for i in range(number)]
        widths = list(dict.fromkeys(channels))
        return {
            'blocks': [channels.count(width) for width in widths],
            'widths': widths,
            'embedding': state['output_layer.3.weight'].shape[0],
        }

    def forward(self, x: Tensor) -> Tensor:
        """(N,3,112,112) -> embeddings (N,D), not normalized."""
        return self.output_layer(self.body(self.input_layer(x)))
