"""Teach spandrel, and the programs that load models with it, the networks of this project.

    from basicsr.integrations import spandrel

    spandrel.install()

spandrel's own CodeFormer, of `spandrel_extra_arches`, has the published sizes only, and no identity.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from basicsr.archs import CodeFormer, CodeFormerPlusPlus
from basicsr.archs.factory import building, describe, read_network
from basicsr.inference.face_restorer import check_fidelity
from basicsr.inference.tasks import RESTORE
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.errors import extra
from basicsr.utils.image import resized, resized_tensor, to_image, to_tensor
from basicsr.utils.registry import ARCH_REGISTRY

with extra('upsample'):
    from spandrel import (
        MAIN_REGISTRY,
        ArchId,
        Architecture,
        ArchRegistry,
        ArchSupport,
        ImageModelDescriptor,
        ModelLoader,
        ModelTiling,
        SizeRequirements,
        StateDict,
    )

Network = CodeFormer | CodeFormerPlusPlus
ARCH_ID = ArchId('IDCodeFormer')
RESTORERS = ('CodeFormer', 'IDCodeFormer', 'CodeFormerPlusPlus')
FIRST = ('position_emb', 'prior.position_emb')
"""Keys of which all these networks have one."""


class _StatedDict(dict[str, Any]):
    """A state dict with the options that its file states, as shapes do not tell all of them."""

    network: Mapping[str, Any]


def detect(state: Mapping[str, Any]) -> bool:
    """Recognize the state dicts of networks of this project that restore faces."""
    if not any(key in state for key in FIRST):
        return False
    try:
        return describe(state)['type'] in RESTORERS
    except CheckpointError:
        return False


class IDCodeFormerArch(Architecture[Network]):
    """CodeFormer, IDCodeFormer and CodeFormer++ of any size, restoring blind.

    Args:
        w: fidelity weight, 0 to 1; a CodeFormer++ has its own.

    Raises:
        ValueError: `w` is out of its range.
    """

    def __init__(self, w: float = RESTORE.w) -> None:
        check_fidelity(w)
        super().__init__(id=ARCH_ID, name='ID-CodeFormer', detect=detect)
        self.w = w

    def load(self, state_dict: StateDict) -> ImageModelDescriptor[Network]:
        """Build the network of a state dict.

        Raises:
            CheckpointError: the sizes in it make no network.
        """
        with building(state_dict, self.name):
            options = getattr(state_dict, 'network', None) or describe(state_dict)
            network = cast(Network, ARCH_REGISTRY.build(options))
        size = network.img_size
        return ImageModelDescriptor(
            network,
            state_dict,
            architecture=self,
            purpose='FaceSR',
            tags=[f'{size}px', options['type']],
            supports_half=True,
            supports_bfloat16=True,
            scale=network.out_size // size,
            input_channels=3,
            output_channels=3,
            size_requirements=SizeRequirements(square=True),
            tiling=ModelTiling.INTERNAL,
            call_fn=self._restore,
        )

    def _restore(self, network: Network, image: Tensor) -> Tensor:
        """Restore aligned faces (N,3,H,H) in [0, 1], to (N,3,H*scale,H*scale)."""
        size = network.out_size
        fitted = [resized(to_image(face * 2 - 1), size, size) for face in image]  # a rounding may turn codes
        x = torch.stack([to_tensor(face) for face in fitted]).to(image)
        settings = {} if isinstance(network, CodeFormerPlusPlus) else {'w': self.w, 'adain': True}
        restored = cast(Any, network)(x, **settings)[0]
        scale = network.out_size // network.img_size
        return resized_tensor((restored * 0.5 + 0.5).clamp(0, 1), image.shape[-1] * scale)


def _read_options() -> None:
    """Have `ModelLoader` keep what files state beside the weights."""
    original = ModelLoader.load_state_dict_from_file

    @functools.wraps(original)
    def load_state_dict_from_file(self: ModelLoader, path: str | os.PathLike) -> StateDict:
        state = original(self, cast(Any, path))
        if not detect(state):
            return state
        stated = _StatedDict(state)
        stated.network = read_network(path)[0]
        return stated

    ModelLoader.load_state_dict_from_file = load_state_dict_from_file


def install(registry: ArchRegistry = MAIN_REGISTRY, w: float = RESTORE.w) -> None:
    """Register the networks before spandrel's CodeFormer; once, however often it is called.

    Loaders of files then also read the options in a safetensors header or a checkpoint. A state dict alone has to have
    the 8 heads that all published networks have.

    Args:
        registry: where to; that of all loaders by default.
        w: fidelity weight, 0 (quality) to 1 (fidelity).

    Raises:
        ValueError: `w` is out of its range.
    """
    arch = cast(Any, IDCodeFormerArch(w))
    registry.add(ArchSupport.from_architecture(arch, before=(ArchId('CodeFormer'),)), ignore_duplicates=True)
    if not hasattr(ModelLoader.load_state_dict_from_file, '__wrapped__'):
        _read_options()
