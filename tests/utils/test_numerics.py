"""Which precisions are worth it on this processor, which is chosen, and the check of what networks return."""

from __future__ import annotations

import platform

import numpy as np
import pytest
import torch

from basicsr.inference import face_restorer
from basicsr.inference.face_restorer import choose_precision
from basicsr.utils.numerics import BF16_INSTRUCTIONS, check_finite, computes_bf16


@pytest.mark.parametrize(
    ('onednn', 'machine', 'instructions', 'worth'),
    [
        (True, 'x86_64', None, False),  # AVX-512 without bf16, which oneDNN imitates
        (True, 'x86_64', '_is_avx512_bf16_supported', True),
        (True, 'AMD64', '_is_amx_tile_supported', True),
        (True, 'aarch64', None, True),
        (False, 'aarch64', None, False),
        (False, 'x86_64', '_is_amx_tile_supported', False),
    ],
)
def test_bf16_is_worth_it_where_there_are_instructions(onednn, machine, instructions, worth, monkeypatch):
    monkeypatch.setattr('torch.ops.mkldnn._is_mkldnn_bf16_supported', lambda: onednn)
    monkeypatch.setattr(platform, 'machine', lambda: machine)
    for name in BF16_INSTRUCTIONS:
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == instructions, raising=False)
    assert computes_bf16('cpu') is worth
    assert computes_bf16('cuda') is True


@pytest.mark.parametrize('native', [True, False])
def test_auto_is_mixed_where_the_processor_has_bf16(native, monkeypatch):
    monkeypatch.setattr(face_restorer, 'computes_bf16', lambda device: native)
    assert choose_precision('auto', 'cpu') == ('mixed' if native else 'fp32')
    assert choose_precision('auto', 'cpu', 'onnx') == choose_precision('auto', 'cuda') == 'fp32'
    assert choose_precision('fp32', 'cpu') == 'fp32' and choose_precision('bf16', 'cpu') == 'bf16'


def test_the_check_takes_numbers_and_nothing_else():
    check_finite(torch.ones(3), 'a network')
    check_finite(np.zeros((0, 15)), 'a network')
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(RuntimeError, match='a network returned'):
            check_finite(torch.tensor([1.0, value]), 'a network')
