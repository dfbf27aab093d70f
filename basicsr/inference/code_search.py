"""References for any CodeFormer: codes that show a known person, searched from those that the network predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.progress import track

STEPS = 5
RATE = 2.4  # of Adam, on code logits
SHIFT = 1 / 40  # of the side: the recognizer never sees a face twice at one place, so that it is not merely deceived
COARSE = 32  # the picture is to stay at this many pixels a side
SCALE = 2.0**12  # of the loss while going back, so that gradients of fp16 do not vanish; no other precision feels it


def _shifts(side: int, steps: int) -> list[list[list[int]]]:
    """Draw shifts (steps,2,2) of a face and its mirror image, (y,x) in pixels; each once before any twice."""
    reach = round(SHIFT * side)
    span, generator = 2 * reach + 1, torch.Generator().manual_seed(0)
    orders = torch.stack([torch.randperm(span**2, generator=generator) for _ in range(2)], 1)
    places = orders[torch.arange(steps) % len(orders)]
    return (torch.stack([places // span, places % span], 2) - reach).tolist()


@dataclass(frozen=True, eq=False)
class CodeSearch:
    """Moves code logits until the decoded faces are like somebody, by the gradient of a recognizer.

    Minimises 1 - cos(recognizer(face), target), the mean over the face and its mirror image, + |difference to the first
    face, both shrunk|. The gradient reaches the logits as that of the identity loss does in training
    (`CodeFormer.lookup_codes_ste`). Each step decodes codes of the codebook, so faces stay such as the network can
    make.

    Args:
        embedder: the recognizer.
        targets: unit embeddings (N,D) of whom the faces are to be like; zeros for a face that is to stay as it is.
        steps: 1 or more; the time grows with them.

    Raises:
        ValueError: `steps` below 1.
    """

    embedder: FaceEmbedder
    targets: Tensor
    steps: int = STEPS

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f'{self.steps} steps: a search has 1 or more')

    def only(self, faces: slice) -> CodeSearch | None:
        """Return the search for some of the faces; None if all of them stay as they are."""
        targets = self.targets[faces]
        return replace(self, targets=targets) if targets.any() else None

    @torch.enable_grad()
    def __call__(self, logits: Tensor, render: Callable[[Tensor], Tensor]) -> Tensor:
        """Better logits.

        Args:
            logits: of the network (N,positions,K), without a graph.
            render: logits to faces (N,3,S,S) in [-1, 1], with a gradient.
        """
        targets = self.targets.to(logits.device, torch.float32).clone()  # inference tensors have no gradient
        start = logits.float()
        change = torch.zeros_like(start, requires_grad=True)
        adam = torch.optim.Adam([change], lr=RATE)
        first, shifts = None, []
        for step in track(range(self.steps), 'step', 'code search'):
            faces = render(start + change).float()
            coarse = F.adaptive_avg_pool2d(faces, COARSE)
            if first is None:
                first, shifts = coarse.detach(), _shifts(faces.shape[3], self.steps)
            views = [view.roll(shift, (2, 3)) for view, shift in zip((faces, faces.flip(3)), shifts[step], strict=True)]
            likeness = (self.embedder(torch.cat(views)) * targets.repeat(2, 1)).sum(1).view(2, -1).mean(0)
            loss = ((coarse - first).abs().mean((1, 2, 3)) - likeness).sum()
            (gradient,) = torch.autograd.grad(SCALE * loss, [change])
            change.grad = gradient / SCALE
            adam.step()
        return (start + change).detach().to(logits.dtype)
