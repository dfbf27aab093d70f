"""Pictures in other sizes."""

from __future__ import annotations

import pytest
import torch

from basicsr.utils.image import resized_tensor


@pytest.mark.parametrize('side', [16, 48, 512])
def test_resizing_keeps_a_ramp(side):
    ramp = torch.linspace(-1, 1, 512)[None, None, None].expand(1, 1, 512, 512).contiguous()
    smaller = resized_tensor(ramp, side)
    assert smaller.shape == (1, 1, side, side)
    middles = (torch.arange(side) + 0.5) / side * 2 - 1
    inner = slice(side // 8, side - side // 8)
    torch.testing.assert_close(smaller[0, 0, side // 2, inner], middles[inner] * 512 / 511, atol=0.01, rtol=0)
    torch.testing.assert_close(
        resized_tensor(smaller, 512)[0, 0, 256, 64:-64], ramp[0, 0, 256, 64:-64], atol=0.02, rtol=0
    )
