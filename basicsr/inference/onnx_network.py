"""Run a network that restores faces on ONNX Runtime, in place of torch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import basicsr
from basicsr.inference.onnx_export import PLAIN, TOLERANCE, Network, Restoration, compare, export, feed
from basicsr.utils.download import sha256_of
from basicsr.utils.errors import IDCodeFormerError, extra
from basicsr.utils.files import replacing
from basicsr.utils.folders import cache_folder
from basicsr.utils.image import resized_tensor

with extra('export'):
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import EPFail, Fail, InvalidProtobuf, NoSuchFile, RuntimeException

PROVIDERS = (
    'CUDAExecutionProvider', 'DmlExecutionProvider', 'CoreMLExecutionProvider', 'OpenVINOExecutionProvider',
    'CPUExecutionProvider',
)  # fmt: skip
"""Execution providers, the first that is there before the others."""
OPTIONS = {'CUDAExecutionProvider': {'use_tf32': '0'}}  # whose 10 bits choose other codes
LAYOUT = 1  # of the graph; files of another one are not used

logger = logging.getLogger('basicsr')


class OnnxError(IDCodeFormerError, RuntimeError):
    """ONNX Runtime failed, or gives other values than torch."""


def choose_providers(device: str) -> list[tuple[str, dict[str, str]]]:
    """Choose what computes, with its options.

    Args:
        device: `auto` for all that are there, in the order of `PROVIDERS`; `cpu`; `cuda` or `cuda:N`, with the CPU for
            what that cannot do.

    Raises:
        ValueError: CUDA is asked for and not there, or the device is another.
    """
    available = onnxruntime.get_available_providers()
    kind, _, index = device.partition(':')
    if kind not in ('auto', 'cpu', 'cuda'):
        raise ValueError(f"device '{device}': backend onnx takes auto, cpu, cuda or cuda:N")
    wanted = PROVIDERS if kind == 'auto' else PROVIDERS[-1:] if kind == 'cpu' else (PROVIDERS[0], PROVIDERS[-1])
    if kind == 'cuda' and PROVIDERS[0] not in available:
        raise ValueError(f"device '{device}': this onnxruntime has no {PROVIDERS[0]}; install onnxruntime-gpu, or cpu")
    numbered = {'device_id': index} if index else {}
    return [
        (name, {**OPTIONS.get(name, {}), **(numbered if name == PROVIDERS[0] else {})})
        for name in wanted
        if name in available
    ]


def onnx_file(load: Callable[[], Network], weights: Path, adain: bool) -> Path:
    """Find the ONNX file of a network in the user's cache; export it where it is not there.

    Args:
        load: gives the network, in float32 on the CPU; called only for an export.
        weights: its file, by whose SHA-256 the ONNX file is found.
        adain: see `Restoration`.

    Raises:
        OnnxError: what was exported gives other values than the network.
    """
    name = f'{sha256_of(weights)}-{"adain" if adain else "plain"}-{basicsr.__version__}-{LAYOUT}.onnx'
    path = cache_folder() / 'onnx' / name
    if not path.is_file():
        logger.warning('%s is exported to ONNX, once; this may take a minute (%s)', weights, path)
        network = load()
        with replacing(path) as partial:
            export(Restoration(network, adain).eval(), partial)
            difference, _ = compare(Restoration(network, adain).eval(), PLAIN, partial)
            if not difference <= TOLERANCE:
                raise OnnxError(f'{weights}: the exported network differs by {difference:.2g}; use --backend torch')
    return path


class OnnxNetwork:
    """A network on ONNX Runtime, restoring blind.

    Args:
        load, weights: see `onnx_file`.
        img_size: side of its input in pixels; faces of a multiple of it are reduced.
        device: see `choose_providers`.

    Raises:
        ValueError: see `choose_providers`.
        OnnxError: see `onnx_file`.
    """

    def __init__(self, load: Callable[[], Network], weights: Path, img_size: int, device: str) -> None:
        self._load, self._weights, self._img_size = load, weights, img_size
        self._providers = choose_providers(device)
        self._sessions: dict[bool, onnxruntime.InferenceSession] = {}

    def session(self, adain: bool) -> onnxruntime.InferenceSession:
        """Open the session with or without AdaIN, once.

        Raises:
            OnnxError: ONNX Runtime cannot load the file.
        """
        if adain not in self._sessions:
            path = onnx_file(self._load, self._weights, adain)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3  # errors
            options.add_session_config_entry('session.intra_op.allow_spinning', '0')
            names, settings = zip(*self._providers, strict=True)
            try:
                self._sessions[adain] = onnxruntime.InferenceSession(str(path), options, list(names), list(settings))
            except (Fail, InvalidProtobuf, NoSuchFile, EPFail, RuntimeException) as error:
                raise OnnxError(f'{path}: ONNX Runtime cannot load it ({error}); delete it to export again') from error
        return self._sessions[adain]

    def describe(self, adain: bool) -> str:
        """Name what computes, in order."""
        names = self.session(adain).get_providers()
        return f'ONNX Runtime ({", ".join(name.removesuffix("ExecutionProvider") for name in names)})'

    def __call__(self, x: Tensor, w: float, adain: bool, **_: Any) -> tuple[Tensor, Tensor]:
        """Restore faces (N,3,S,S) in [-1, 1] to images and logits, as `CodeFormer.forward`.

        Raises:
            OnnxError: ONNX Runtime failed.
        """
        faces = resized_tensor(x.float().cpu(), self._img_size)
        try:
            image, logits = self.session(adain).run(None, feed(PLAIN, faces, w))
        except (Fail, EPFail, RuntimeException) as error:
            raise OnnxError(f'{self._weights}: ONNX Runtime failed ({error}); use --backend torch') from error
        return torch.from_numpy(image), torch.from_numpy(logits)
