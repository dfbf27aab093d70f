"""VQGANDiscriminator: a patch discriminator (Isola et al., CVPR 2017), as used by VQGAN and CodeFormer."""

from __future__ import annotations

from torch import Tensor, nn

from basicsr.utils.checkpoint import load_state, load_state_dict_file
from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class VQGANDiscriminator(nn.Module):
    """Judges overlapping patches of a picture.

    Args:
        nc: channels of the picture.
        ndf: channels of the first layer.
        n_layers: layers of stride 2.
        model_path: a checkpoint to start from (`params_d`, or `params`).
    """

    def __init__(self, nc: int = 3, ndf: int = 64, n_layers: int = 4, model_path: str | None = None) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(nc, ndf, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        channels = ndf
        for n in range(1, n_layers + 1):
            out = ndf * min(2**n, 8)
            stride = 2 if n < n_layers else 1
            layers += [
                nn.Conv2d(channels, out, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(out),
                nn.LeakyReLU(0.2, inplace=True),
            ]
            channels = out
        layers.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.main = nn.Sequential(*layers)
        if model_path is not None:
            load_state(self, load_state_dict_file(model_path), source=model_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N,nc,H,W) -> one logit a patch (N,1,h,w); larger means more real."""
        return self.main(x)
