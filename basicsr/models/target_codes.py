"""Target codes of stages II and III: what the frozen stage I network says about the ground truth."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from basicsr.archs import VQAutoEncoder, build_network
from basicsr.utils.options import OptionError

logger = logging.getLogger('basicsr')


class TargetCodes:
    """Finds the codes of a batch: from its latent file if the dataset has one, else from a frozen VQGAN.

    Args:
        opt: the options of a run. `network_vqgan:model_path` names the stage I weights; where it is missing,
            `network_g:vqgan_path` does, the same checkpoint by its other name.
        network: the trained network, whose codebook must be that of the VQGAN.

    Raises:
        OptionError: neither a latent file nor weights are given (codes of a random network mean nothing, as do codes
            for a random codebook), or the codebooks differ.
    """

    def __init__(self, opt: Mapping[str, Any], network: VQAutoEncoder, device: torch.device) -> None:
        train_set = (opt.get('datasets') or {}).get('train') or {}
        self.teacher: VQAutoEncoder | None = None
        self.positions, self.codebook_size = network.latent_side**2, network.codebook_size
        self.to_input = network.to_input  # of network_g, whose images may be larger than those of stage I
        section = dict(opt.get('network_vqgan') or {})
        vqgan_path = (opt.get('network_g') or {}).get('vqgan_path')
        if train_set.get('latent_gt_path'):
            if not (vqgan_path or (opt.get('path') or {}).get('pretrain_network_g')):
                raise OptionError(
                    'network_g: its codebook is random, so the codes of latent_gt_path mean nothing to it; give '
                    'network_g:vqgan_path or path:pretrain_network_g'
                )
            logger.info('target codes: %s', train_set['latent_gt_path'])
            return
        weights = section.get('model_path') or vqgan_path
        if not section or not weights:
            raise OptionError(
                'no target codes: give network_vqgan with model_path (a stage I checkpoint), or '
                'datasets:train:latent_gt_path (made by id-codeformer data latents)'
            )
        teacher = build_network({**section, 'model_path': weights}).to(device).eval().requires_grad_(False)
        self.teacher = cast(VQAutoEncoder, teacher)
        codes, own = self.teacher.quantize.codes, network.quantize.codes
        if codes.shape != own.shape or not torch.allclose(codes, own, atol=1e-2):
            raise OptionError(
                f'network_vqgan: the codebook of {weights} is not that of network_g, so its codes mean other things; '
                'start both from the same stage I checkpoint'
            )
        logger.info('target codes: frozen VQGAN %s', weights)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        """Return the codes (N,positions), int64.

        Raises:
            OptionError: the codes of a latent file are those of another network.
        """
        if self.teacher is None:
            codes = batch['latent_gt']
            if codes.shape[1] != self.positions or codes.max() >= self.codebook_size:
                raise OptionError(
                    f'latent_gt_path: {codes.shape[1]} codes up to {codes.max()} a picture, but network_g has '
                    f'{self.positions} positions and {self.codebook_size} codes; make the file from its own VQGAN'
                )
            return codes
        gt = batch['gt']
        network_input = self.to_input(gt)
        indices = self.teacher.quantize(self.teacher.encoder(network_input))[2]['min_encoding_indices']
        return indices.view(gt.shape[0], -1)
