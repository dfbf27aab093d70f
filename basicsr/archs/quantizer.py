"""Codebooks: nearest-neighbour (van den Oord et al., 2017) and Gumbel-softmax (Jang et al., 2017) vector quantisation.

Features are (N,C,H,W); code indices run row-major over batch, height and width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def perplexity(indices: Tensor, codebook_size: int) -> Tensor:
    """exp of the entropy of code use: 1 when one code is used, `codebook_size` when all are used alike.

    Args:
        indices: code indices, any shape.
        codebook_size: number of codes.
    """
    share = torch.bincount(indices.flatten(), minlength=codebook_size).float() / indices.numel()
    return torch.exp(-(share * torch.log(share + 1e-10)).sum())


class Codebook(nn.Module):
    """Base of both quantizers: look-up by index in the table `codes` (codebook_size, emb_dim)."""

    codebook_size: int

    @property
    def codes(self) -> Tensor:
        """The table (codebook_size, emb_dim)."""
        raise AttributeError('a codebook defines its table')

    def get_codebook_feat(self, indices: Tensor, shape: Sequence[int] | None = None) -> Tensor:
        """Codes by index.

        Args:
            indices: any shape, N*H*W entries when `shape` is given.
            shape: (N,H,W,C).

        Returns:
            (N,C,H,W), or (entries,C) without `shape`.
        """
        feat = F.embedding(indices.reshape(-1), self.codes)
        return feat if shape is None else feat.view(*shape).permute(0, 3, 1, 2).contiguous()


class VectorQuantizer(Codebook):
    """Nearest code by squared distance, gradients passed straight through.

    The loss is mean((sg[z_q] - z)^2) + mean((z_q - sg[z])^2), one of the terms weighed by `beta`. The published
    training puts it on the codebook term, the second; van den Oord et al. put it on the commitment term, the first.

    Args:
        codebook_size: number of codes.
        emb_dim: length of a code.
        beta: the weight.
        beta_on: 'codebook' (as published) or 'commitment'.
    """

    def __init__(self, codebook_size: int, emb_dim: int, beta: float = 0.25, beta_on: str = 'codebook') -> None:
        super().__init__()
        if beta_on not in ('codebook', 'commitment'):
            raise ValueError(f"beta_on must be 'codebook' or 'commitment', not {beta_on!r}")
        self.codebook_size = codebook_size
        self.emb_dim = emb_dim
        self.commitment_weight = beta if beta_on == 'commitment' else 1.0
        self.codebook_weight = beta if beta_on == 'codebook' else 1.0
        self.embedding = nn.Embedding(codebook_size, emb_dim)
        nn.init.uniform_(self.embedding.weight, -1.0 / codebook_size, 1.0 / codebook_size)

    @property
    def codes(self) -> Tensor:
        """The table (codebook_size, emb_dim)."""
        return self.embedding.weight

    def distances(self, z: Tensor) -> Tensor:
        """Squared distances (N*H*W, codebook_size) of every position of z (N,C,H,W) to every code, in float32."""
        with torch.autocast(z.device.type, enabled=False):
            flat = z.float().permute(0, 2, 3, 1).reshape(-1, self.emb_dim)
            codes = self.codes.float()
            return flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.t()

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantise z (N,C,H,W).

        Returns:
            codes (N,C,H,W); the loss; `perplexity`, `min_encoding_indices` (N*H*W,1) and `mean_distance`.
        """
        with torch.no_grad():
            distances = self.distances(z)
            indices = distances.argmin(1, keepdim=True)
        n, c, h, w = z.shape
        z_q = self.get_codebook_feat(indices, (n, h, w, c))
        loss = self.commitment_weight * F.mse_loss(z, z_q.detach()) + self.codebook_weight * F.mse_loss(z_q, z.detach())
        stats = {
            'perplexity': perplexity(indices, self.codebook_size),
            'min_encoding_indices': indices,
            'mean_distance': distances.mean(),
        }
        return z + (z_q - z).detach(), loss, stats


class GumbelQuantizer(Codebook):
    """Codes sampled by Gumbel softmax in training, the most likely code otherwise.

    Args:
        codebook_size: number of codes.
        emb_dim: length of a code and of the features.
        straight_through: hard samples in training.
        kl_weight: weight of the divergence of the code distribution from the uniform one.
    """

    def __init__(
        self, codebook_size: int, emb_dim: int, straight_through: bool = False, kl_weight: float = 1e-8
    ) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.straight_through = straight_through
        self.kl_weight = kl_weight
        self.proj = nn.Conv2d(emb_dim, codebook_size, 1)
        self.embed = nn.Embedding(codebook_size, emb_dim)

    @property
    def codes(self) -> Tensor:
        """The table (codebook_size, emb_dim)."""
        return self.embed.weight

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Quantise z (N,C,H,W); returns as `VectorQuantizer` does, without `mean_distance`."""
        logits = self.proj(z)  # (N,K,H,W)
        indices = logits.argmax(1)
        if self.training:
            weights = F.gumbel_softmax(logits, tau=1.0, hard=self.straight_through, dim=1)
            indices = weights.argmax(1)
            z_q = torch.einsum('nkhw,kc->nchw', weights, self.codes)
        else:
            z_q = self.get_codebook_feat(indices, (*indices.shape, self.codes.shape[1]))
        q = logits.softmax(1)
        loss = self.kl_weight * (q * torch.log(q * self.codebook_size + 1e-10)).sum(1).mean()
        stats = {
            'perplexity': perplexity(indices, self.codebook_size),
            'min_encoding_indices': indices.reshape(-1, 1),
        }
        return z_q, loss, stats


def build_quantizer(
    kind: str,
    codebook_size: int,
    emb_dim: int,
    beta: float,
    beta_on: str,
    gumbel_straight_through: bool,
    gumbel_kl_weight: float,
) -> VectorQuantizer | GumbelQuantizer:
    """Return the quantizer called 'nearest' or 'gumbel'.

    Raises:
        ValueError: another name.
    """
    if kind == 'nearest':
        return VectorQuantizer(codebook_size, emb_dim, beta, beta_on)
    if kind == 'gumbel':
        return GumbelQuantizer(codebook_size, emb_dim, gumbel_straight_through, gumbel_kl_weight)
    raise ValueError(f"quantizer must be 'nearest' or 'gumbel', not {kind!r}")
