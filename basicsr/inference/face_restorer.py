"""Aligned faces in, restored faces out: the network with its sizes, batches, device and precision."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from basicsr.archs import CodeFormer, CodeFormerPlusPlus
from basicsr.archs.factory import load_network, tasks_of
from basicsr.archs.vqgan_arch import Upsample
from basicsr.faces.tone import Tone, fix_colour, recolour
from basicsr.inference.code_search import CodeSearch
from basicsr.inference.tasks import COLORIZE, RESTORE, Task
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.folders import packaged, weights_folder
from basicsr.utils.hub import PREFIX, fetch_from_hub, is_hub_address
from basicsr.utils.image import resized, to_tensor
from basicsr.utils.memory import give_back_freed_memory
from basicsr.utils.numerics import check_finite, computes_bf16
from basicsr.utils.progress import track

if TYPE_CHECKING:
    from basicsr.inference.onnx_network import OnnxNetwork

SMALL = Path('small') / 'codeformer_128.safetensors'
SMALL_TASKS = SMALL.with_name('tasks_128.safetensors')  # its part for colourization and inpainting
BACKENDS = ('torch', 'onnx')
PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16, 'mixed': torch.float32}
AUTO_PRECISION, MIXED = 'auto', 'mixed'
GAPS_MATTER = 256  # side of the input from which on activations are tens of megabytes each

logger = logging.getLogger('basicsr')


def choose_device(name: str) -> str:
    """`auto` is the first CUDA GPU where there is one, else the CPU. `mps`, which was never tested, must be asked for.

    Raises:
        ValueError: no such device here.
    """
    if name == 'auto':
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    if name.startswith('cuda') and not torch.cuda.is_available():
        raise ValueError(f"device '{name}': this machine has no usable CUDA device; use --device cpu")
    try:
        kind = torch.device(name).type
    except RuntimeError as error:
        raise ValueError(f"unknown device '{name}'; use auto, cpu, cuda, cuda:N or mps") from error
    try:
        torch.zeros(1, device=name).cpu()
    except (RuntimeError, AssertionError) as error:  # NotImplementedError of devices that hold nothing is among them
        first = str(error).splitlines()[0].split('. ')[0]  # what follows are lists of all that torch has
        raise ValueError(f"device '{name}': there is no such {kind} device here ({first}); use auto") from error
    return name


def choose_precision(name: str, device: str, backend: str = 'torch') -> str:
    """Return a precision; `auto` is mixed on a processor that has instructions for bf16, and fp32 elsewhere.

    `mixed` predicts codes in fp32, so that they stay the same, and decodes them in bf16.
    """
    if name != AUTO_PRECISION:
        return name
    return MIXED if device == 'cpu' and backend == 'torch' and computes_bf16(device) else 'fp32'


def find_model(model: str | os.PathLike, weights_dir: str | os.PathLike, task: Task = RESTORE) -> tuple[Path, str]:
    """Return the weights file of `auto`, `official`, `small`, `hf:…` or a path, and a line that says which it is.

    Raises:
        FileNotFoundError: it is not there; the message says how to get it.
        HubError: see `fetch_from_hub`.
    """
    if is_hub_address(model):
        path = fetch_from_hub(os.fspath(model))
        return path, f'{os.fspath(model)} ({path.name})'
    folder = Path(weights_dir)
    use = '' if task is RESTORE else f' to {task.name}'
    official = folder / task.weights
    if model == 'official' or (model == 'auto' and official.is_file()):
        if not official.is_file():
            raise FileNotFoundError(f'{official} is not there; get it with: id-codeformer download {task.group}')
        return official, f'official CodeFormer weights{use} ({official})'
    if model in ('auto', 'small'):
        file = SMALL if task is RESTORE else SMALL_TASKS
        places = [place / file for place in (folder, packaged('weights'))]
        small = next((place for place in places if place.is_file()), None)
        if small is None:
            raise FileNotFoundError(
                f'{places[0]}, which comes with the package, is not there; give the weights folder (--weights_dir) '
                'or a file (--model)'
            )
        hint = '' if task is RESTORE else f'; the official weights draw far better: id-codeformer download {task.group}'
        return small, f'embedded small model{use} ({small}{hint})'
    path = Path(model)
    if not path.is_file():
        raise FileNotFoundError(
            f'{path}: no such model file; --model takes auto, official, small, a file, or hf:OWNER/NAME[/FILE]'
        )
    return path, str(path)


def load_restorer(path: str | os.PathLike, map_location: str = 'cpu') -> CodeFormer | CodeFormerPlusPlus:
    """Load a network that restores faces, in eval mode; its keys tell which.

    Raises:
        CheckpointError: the file holds another network, or a CodeFormer++ after its first stage.
    """
    network = load_network(path, map_location)
    if isinstance(network, CodeFormerPlusPlus) and not network.transfers_texture:
        raise CheckpointError(
            f'{path}: a CodeFormer++ of stage 1 only, which transfers no texture yet; train stage 2, or give the prior '
            'itself'
        )
    if not isinstance(network, CodeFormer | CodeFormerPlusPlus):
        raise CheckpointError(f'{path}: holds a {type(network).__name__}, not a CodeFormer; it cannot restore faces')
    return network


def load_model(
    model: str | os.PathLike, weights_dir: str | os.PathLike, device: str, task: Task = RESTORE
) -> tuple[Path, str, CodeFormer | CodeFormerPlusPlus]:
    """Load the network that `find_model` finds, frozen.

    Where `auto` finds official weights that cannot be used, a damaged file for example, it takes the embedded model,
    with a warning.

    Returns:
        the file, a line that says which it is, and the network.

    Raises:
        FileNotFoundError: as `find_model`.
        CheckpointError: the file that was asked for cannot be used.
    """
    path, name = find_model(model, weights_dir, task)
    try:
        return path, name, load_restorer(path, map_location=device).requires_grad_(False)
    except CheckpointError as error:
        if model != 'auto' or path.name in (SMALL.name, SMALL_TASKS.name):
            raise
        logger.warning('%s. The embedded small model is used instead; fetch the official weights again', error)
        return load_model('small', weights_dir, device, task)


def bound_kept_memory(network: CodeFormer | CodeFormerPlusPlus) -> None:
    """Bound what a network holds in a process whose freed memory is kept, see `keep_freed_memory`.

    There, activations take the place of earlier ones, which saves a seventh of the time of a face. What is left over is
    given back before each enlargement and at the end: activations of another size do not fit into its gaps, which would
    add up. Those of a small network add up to little, and giving them back takes a tenth of its time.
    """
    if network.img_size < GAPS_MATTER:
        return
    for module in network.modules():
        if isinstance(module, Upsample):
            module.register_forward_pre_hook(_give_back)
    network.register_forward_hook(_give_back)


def _give_back(*_: Any) -> None:
    """Give freed memory back: a hook with a name, which can be pickled."""
    give_back_freed_memory()


@dataclass(frozen=True, eq=False)
class ShownFace:
    """Aligned face on its way to the network.

    Attributes:
        fitted: in the network's size, RGB uint8.
        tone: of it.
        shown: with the usual contrast, uint8 or float of the same levels.
    """

    fitted: np.ndarray
    tone: Tone
    shown: np.ndarray

    @property
    def input(self) -> torch.Tensor:
        """(3,S,S) in [-1, 1]."""
        return to_tensor(self.shown if self.shown.dtype == np.uint8 else self.shown / 255)


class FaceRestorer:
    """Restores aligned faces in batches.

    Args:
        model: `auto` (the official weights if they are in the weights folder, else the embedded small model),
            `official`, `small`, the path of a checkpoint, or `hf:OWNER/NAME[/FILE]` of the Hugging Face Hub.
        device: `auto`, `cpu`, `cuda`, `cuda:N`, or `mps` (untested).
        precision: `fp32`, `bf16`, `fp16` (CUDA only), `mixed`, or `auto`, see `choose_precision`.
        batch_size: most faces given to the network at a time.
        weights_dir: the weights folder; by default the one that the environment variable CODEFORMER_WEIGHTS names, else
            see `weights_folder`. The small model comes with the package.
        color_fix: keep the colours of the input, see `fix_colour`. By default on for the embedded small model, whose
            short training lost rare colours, and off for others.
        texture: how much texture a CodeFormer++ adds, 0 to 1 (the default).
        task: what the network is for; it says which weights `auto` and `official` are, and what `default_w` and
            `default_adain` are.
        backend: `torch`, or `onnx` for ONNX Runtime, which restores blind, in fp32 and at texture 1, see `OnnxNetwork`.

    Attributes:
        size: side of the results.
        input_size: side at which the network sees a face; a detail that this cannot hold is lost.
        takes_identity: the network can be told who the faces are.
        needs_photos: identity needs the photographs of the references, beside their embeddings.
        told_by: the recognizer whose embeddings it takes, if its checkpoint says so, and how many numbers they have.
        default_w, default_adain: what is meant where `restore` is given none.
        follows_input: the light of a colourized face is that of the input, and fillings continue what is around them.
        description: which weights these are.

    Raises:
        FileNotFoundError: the weights are not there.
        HubError: they could not be had from the hub.
        CheckpointError: see `load_restorer`.
        ValueError: an unknown device, precision or backend, a batch size below 1, a texture for a network that adds
            none, `color_fix` for a task that changes colours or hides parts, a model made for other tasks, or what the
            backend cannot do.
        OnnxError: ONNX Runtime cannot run the network.
    """

    needs_photos = False

    def __init__(
        self,
        model: str | os.PathLike = 'auto',
        device: str = 'auto',
        precision: str = 'fp32',
        batch_size: int = 8,
        weights_dir: str | os.PathLike | None = None,
        color_fix: bool | None = None,
        texture: float | None = None,
        task: Task = RESTORE,
        backend: str = 'torch',
    ) -> None:
        self.device = choose_device(device)
        precision = choose_precision(precision, self.device, backend)
        check_options(precision, batch_size, backend, texture)
        if precision == 'fp16' and not self.device.startswith('cuda'):
            raise ValueError('precision fp16 needs a CUDA device; use bf16 or fp32 on the CPU')
        if precision in ('bf16', MIXED) and not computes_bf16(self.device):
            logger.warning('this processor has no bf16 and imitates it slowly; fp32 is much faster')
        if color_fix and task is not RESTORE:
            raise ValueError(f'--color_fix keeps the colours of the input; leave it out of --task {task.name}')
        folder = weights_folder() if weights_dir is None else weights_dir
        path, name, network = load_model(model, folder, self.device, task)
        tasks = tasks_of(path)
        if tasks and task.name not in tasks:
            flags = ' or '.join(f'--task {name}' for name in tasks)
            raise ValueError(f'{path}: made for {flags}, not to {task.name}; say so, or take another --model')
        network = cast(Any, network).to(dtype=PRECISIONS[precision], memory_format=torch.channels_last)
        if precision == MIXED:
            network.decode_in(torch.bfloat16)
        for module in network.modules():
            if isinstance(module, Upsample):
                module.keep_summed_weight()
        self.follows_input = bool(tasks)
        self.color_fix = path.name == SMALL.name and task is RESTORE if color_fix is None else color_fix
        self.task = task
        self.precision = precision
        self.batch_size = batch_size
        self.size: int = network.out_size
        self.input_size: int = network.img_size
        self.backend = backend
        self.takes_identity = network.takes_identity and backend == 'torch'
        self.told_by = (network.recognizer, network.identity_dim)
        self.default_w, self.default_adain = 0.0 if self.follows_input else task.w, task.adain
        self.settings: dict[str, Any] = {}
        if isinstance(network, CodeFormerPlusPlus):
            if task is RESTORE:
                self.default_w, self.default_adain = network.w_identity, network.prior_adain
            self.settings['texture'] = 1.0 if texture is None else texture
        elif texture is not None:
            raise ValueError(f'texture: {name} adds no texture; give a CodeFormer++ model, or leave it out')
        self.network, where = self._on_backend(network, path, device)
        self.description = f'{name}, {self.size}x{self.size} pixels, {precision} on {where}'

    def _on_backend(
        self, network: CodeFormer | CodeFormerPlusPlus, path: Path, device: str
    ) -> tuple[nn.Module | OnnxNetwork, str]:
        """Return what runs the network in a file, and where."""
        if self.backend == 'torch':
            if self.device == 'cpu':
                bound_kept_memory(network)
            return network, self.device
        from basicsr.inference.onnx_network import OnnxNetwork  # needs an extra

        runtime = OnnxNetwork(partial(load_restorer, path), path, network.img_size, device)
        return runtime, runtime.describe(self.default_adain)

    @classmethod
    def from_pretrained(cls, repository: str, file: str | None = None, **options: Any) -> FaceRestorer:
        """Load a network of the Hugging Face Hub.

        Args:
            repository: OWNER/NAME.
            file: its weights; left out, the only `.safetensors` (or `.pth`) of the repository.
            options: the others of `FaceRestorer`.

        Raises:
            HubError: it could not be had.
        """
        return cls(PREFIX + '/'.join(filter(None, (repository, file))), **options)

    def restore(
        self,
        faces: Sequence[np.ndarray] | np.ndarray,
        w: float | None = None,
        adain: bool | None = None,
        identity: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        id_scale: float = 1.0,
        search: CodeSearch | None = None,
    ) -> list[np.ndarray]:
        """Restore aligned faces.

        Underexposed and faded ones are shown to the network with the contrast of others, see `Tone`.

        Args:
            faces: RGB uint8 pictures (h,w,3) of any square size, aligned as FFHQ; or one such picture.
            w: 0 for quality (codes only) to 1 for fidelity to the input; None for `default_w`, 0.8 but for a
                CodeFormer++, which says what it was trained with.
            adain: give the code features the statistics of the input's features, as the published inference does; None
                for `default_adain`, True but for a CodeFormer++ that was trained without.
            identity: who the faces are, embeddings (N,D) or (N,R,D) of the recognizer that the network was trained
                with; None restores them as if nothing were known.
            mask: which of R references there are (N,R), or how far each can be trusted, 0 to 1; None means all.
            id_scale: strength of the identity styling, 0 to 2.
            search: for codes that show known people; any CodeFormer can have it. Faces then go one at a time.

        Returns:
            RGB uint8 (size,size,3), one for each face.

        Raises:
            ValueError: `w` is outside 0 to 1, a face is no RGB uint8 picture, or identity or search do not fit the
                faces or the network.
            RuntimeError: the network failed, or returned values that are not finite.
        """
        w = self.default_w if w is None else w
        adain = self.default_adain if adain is None else adain
        check_fidelity(w)
        shown = self._shown(faces)
        inputs = [face.input for face in shown]
        if self.backend != 'torch' and (identity is not None or search is not None):
            raise ValueError(f'backend {self.backend} restores blind, without identity and search; use backend torch')
        self._check_identity(len(inputs), identity, mask, id_scale)
        if search is not None and len(search.targets) != len(inputs):
            raise ValueError(f'{len(search.targets)} targets of a search for {len(inputs)} faces')
        size = 1 if search else self.batch_size  # what gradients need is kept of every layer
        restored: list[np.ndarray] = []
        for start in track(range(0, len(inputs), size), 'face' if size == 1 else 'batch'):
            part = slice(start, start + size)
            cond: dict[str, Any] = {}
            if search is not None:
                cond['search'] = search.only(part)
            if identity is not None:
                weights = None if mask is None else self._moved(mask[part])
                cond |= {'identity': self._moved(identity[part]), 'mask': weights, 'id_scale': id_scale}
            restored += self._run(torch.stack(inputs[part]), w, adain, **cond)
        return self._finished(restored, shown)

    def _shown(self, faces: Sequence[np.ndarray] | np.ndarray) -> list[ShownFace]:
        """Return faces, or one, as the network is shown them."""
        if isinstance(faces, np.ndarray) and faces.ndim == 3:
            faces = [faces]
        fitted = [self._fit(face) for face in faces]
        tones = [Tone.of(face) if self.task.adjusts_tones else Tone() for face in fitted]
        return [
            ShownFace(face, tone, face if tone.is_usual else tone.apply(face))
            for face, tone in zip(fitted, tones, strict=True)
        ]

    def _finished(self, restored: Sequence[np.ndarray], shown: Sequence[ShownFace]) -> list[np.ndarray]:
        """Return the network's pictures with the colours and the tones of the originals, RGB uint8."""
        if self.color_fix:
            restored = [fix_colour(image, face.shown) for image, face in zip(restored, shown, strict=True)]
        if self.follows_input and self.task is COLORIZE:
            restored = [recolour(image, face.shown) for image, face in zip(restored, shown, strict=True)]
        return [
            to_levels(image if face.tone.is_usual else face.tone.undo(image, face.fitted))
            for image, face in zip(restored, shown, strict=True)
        ]

    def _fit(self, face: np.ndarray) -> np.ndarray:
        if face.dtype != np.uint8 or face.ndim != 3 or face.shape[2] != 3 or face.size == 0:
            raise ValueError(f'a face must be RGB uint8 (h,w,3), not {face.dtype} {face.shape}')
        return resized(face, self.size, self.size)

    def _check_identity(
        self, count: int, identity: torch.Tensor | None, mask: torch.Tensor | None, id_scale: float
    ) -> None:
        if identity is None:
            return
        if not self.takes_identity:
            raise ValueError(
                f'{self.description}: this network cannot be told who the faces are; restore without identity'
            )
        if len(identity) != count or (mask is not None and len(mask) != count):
            raise ValueError(f'{len(identity)} identities for {count} faces')
        if not 0 <= id_scale <= 2:
            raise ValueError(f'id_scale = {id_scale}: must be from 0 to 2')

    def _moved(self, values: torch.Tensor) -> torch.Tensor:
        """To the device; numbers in the network's precision."""
        return values.to(self.device, PRECISIONS[self.precision] if values.is_floating_point() else None)

    @torch.inference_mode(False)  # a search needs gradients, whatever the caller's mode
    @torch.no_grad()
    def _run(self, batch: torch.Tensor, w: float, adain: bool, **cond: Any) -> list[np.ndarray]:
        """(N,3,S,S) in [-1, 1] to N pictures (S,S,3), float32 from 0 to 255."""
        return self._pictures(self.network(self._moved(batch), w=w, adain=adain, **self.settings, **cond)[0])

    def _pictures(self, output: torch.Tensor) -> list[np.ndarray]:
        """Turn the network's output (N,3,S,S) in [-1, 1] into N pictures (S,S,3), float32 from 0 to 255.

        Raises:
            RuntimeError: values that are not finite.
        """
        output = output.float()
        check_finite(output, f'the network ({self.precision})')
        return list(((output.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).cpu().numpy())


def check_options(precision: str, batch_size: int, backend: str, texture: float | None) -> None:
    """Raise ValueError for an unknown or impossible option of `FaceRestorer`."""
    if precision not in PRECISIONS:
        raise ValueError(f"unknown precision '{precision}'; use {', '.join(PRECISIONS)}")
    if batch_size < 1:
        raise ValueError(f'batch size {batch_size}: must be 1 or more')
    if texture is not None and not 0 <= texture <= 1:
        raise ValueError(f'texture = {texture}: must be from 0 to 1')
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend '{backend}'; use {', '.join(BACKENDS)}")
    if backend == 'onnx' and precision != 'fp32':
        raise ValueError(f'precision {precision}: backend onnx computes in fp32; leave it out, or use backend torch')
    if backend == 'onnx' and texture not in (None, 1):
        raise ValueError(f'texture = {texture}: backend onnx has 1 only; leave it out, or use backend torch')


def to_levels(image: np.ndarray) -> np.ndarray:
    """Return a picture of float levels from 0 to 255 as uint8, clipped and rounded."""
    return np.rint(image.clip(0, 255)).astype(np.uint8)


def check_fidelity(w: float) -> None:
    """Raise ValueError unless `w` is within 0 to 1."""
    if not 0 <= w <= 1:
        raise ValueError(f'fidelity weight w = {w}: must be from 0 (quality) to 1 (fidelity)')
