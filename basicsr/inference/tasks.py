"""Tasks of a CodeFormer: restoration, colourization and inpainting, each with its weights and settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Task:
    """A use of the network.

    Attributes:
        name: for `--task`.
        w: fidelity weight where none is given.
        adain: match the statistics of features where nothing is said of it.
        weights: official file below the weights folder.
        group: of the manifest, which fetches `weights`.
        upscale: enlargement of whole pictures where none is given.
        adjusts_tones: show underexposed and faded faces with the usual contrast, see `Tone`.
        keeps_grey: a face without colour stays so.
        only_blurred: leave faces alone that are sharp already.
    """

    name: str
    w: float
    adain: bool
    weights: Path
    group: str
    upscale: float = 1
    adjusts_tones: bool = True
    keeps_grey: bool = True
    only_blurred: bool = False


FOLDER = Path('CodeFormer')
RESTORE = Task(
    'restore',
    w=0.8,
    adain=True,
    weights=FOLDER / 'codeformer.pth',
    group='CodeFormer',
    upscale=2,
    only_blurred=True,
)
COLORIZE = Task(
    'colorize',
    w=0.0,
    adain=True,
    weights=FOLDER / 'codeformer_colorization.pth',
    group='colorization',
    keeps_grey=False,
)
INPAINT = Task(
    'inpaint',
    w=1.0,
    adain=False,
    weights=FOLDER / 'codeformer_inpainting.pth',
    group='inpainting',
    adjusts_tones=False,
)
TASKS = {task.name: task for task in (RESTORE, COLORIZE, INPAINT)}
