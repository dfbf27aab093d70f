"""The networks behind the page: each loaded when it is first asked for, and kept."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from basicsr.app.settings import COLOUR_FIXES, NO_UPSAMPLER, Settings
from basicsr.faces.detection import DEFAULT_DETECTOR, FaceDetector, build_detector
from basicsr.faces.paste import PARSING_FILE, ParsingMask
from basicsr.inference.build_conditioner import IdentityConfig, build_conditioner
from basicsr.inference.encoded_face import CachingRestorer
from basicsr.inference.face_selection import EVERY_FACE, FaceSelection
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.image_restorer import ImageRestorer
from basicsr.inference.people import THRESHOLD
from basicsr.inference.tasks import RESTORE
from basicsr.utils.picture import MAX_MEGAPIXELS

if TYPE_CHECKING:  # spandrel imports torchvision, which takes seconds
    from basicsr.inference.upsampler import Upsampler


@dataclass(eq=False)
class Engine:
    """Networks by the names that the page has for them.

    Args:
        model: of the command line, `auto`, `official`, `small` or a file.
        device: see `FaceRestorer`.
        weights_dir: the weights folder.
        detection_model: see `build_detector`.
        recognizer: see `choose_recognizer`.
        max_megapixels: largest picture, and result.

    Raises:
        FileNotFoundError, CheckpointError, KeyError: the model or the detector is not there, or cannot be used.
    """

    model: str
    device: str
    weights_dir: Path
    detection_model: str = DEFAULT_DETECTOR
    recognizer: str | None = None
    max_megapixels: float = MAX_MEGAPIXELS
    _restorers: dict[str, CachingRestorer] = field(default_factory=dict, init=False)
    _upsamplers: dict[str, Upsampler] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.models = self._models()
        first = self.restorer(self.default_model)
        self.detector: FaceDetector = build_detector(self.detection_model, self.weights_dir, device=first.device)
        parsing = self.weights_dir / PARSING_FILE
        self.parsing = ParsingMask(parsing, first.device) if parsing.is_file() else None

    def _models(self) -> dict[str, str]:
        """Names that the page shows to what `FaceRestorer` takes."""
        named = ['auto', 'small', *(['official'] if (self.weights_dir / RESTORE.weights).is_file() else [])]
        given = {} if self.model in ('auto', 'small', 'official') else {Path(self.model).name: self.model}
        return {**given, **{name: name for name in named}}

    @property
    def default_model(self) -> str:
        """The name of the model of the command line."""
        return next(name for name, model in self.models.items() if model == self.model)

    @property
    def upsamplers(self) -> list[str]:
        """Names of upsamplers of the background that are there."""
        from importlib.util import find_spec

        there = find_spec('spandrel') is not None and self._upsampler_file.is_file()
        return [NO_UPSAMPLER, *(['Real-ESRGAN'] if there else [])]

    @property
    def _upsampler_file(self) -> Path:
        return self.weights_dir / 'realesrgan' / 'RealESRGAN_x2plus.pth'

    def restorer(self, model: str) -> CachingRestorer:
        """Load a model, or return the one loaded.

        Raises:
            ValueError: no such name.
            FileNotFoundError, CheckpointError: it is not there, or cannot be used.
        """
        if model not in self.models:
            raise ValueError(f"no model '{model}' here; choose one of {', '.join(self.models)}")
        if model not in self._restorers:
            self._restorers[model] = CachingRestorer(
                self.models[model], self.device, 'fp32', weights_dir=self.weights_dir
            )
        return self._restorers[model]

    def _upsampler(self, name: str) -> Upsampler | None:
        if name == NO_UPSAMPLER:
            return None
        if name not in self.upsamplers:
            raise ValueError(f"no upsampler '{name}' here; choose one of {', '.join(self.upsamplers)}")
        if name not in self._upsamplers:
            from basicsr.inference.upsampler import Upsampler

            device = self.restorer(self.default_model).device
            self._upsamplers[name] = Upsampler(self._upsampler_file, device=device)
        return self._upsamplers[name]

    def guide(self, settings: Settings, references: Sequence[Path]) -> IdentityConditioner | None:
        """Read references, and find what measures identity; None where nothing asks for it and nothing is there.

        Raises:
            CheckpointError: there is no recognizer, or it is not calibrated where w is to be chosen.
            ValueError: no reference can be used.
        """
        wishes = IdentityConfig(
            [str(path) for path in references],
            self.recognizer,
            threshold=None if settings.threshold == THRESHOLD else settings.threshold,  # the recognizer's own
            choose_w=settings.auto,
        )
        return build_conditioner(wishes, self.restorer(settings.model), self.detector, self.weights_dir)

    def images(
        self, settings: Settings, guide: IdentityConditioner | None = None, selection: FaceSelection = EVERY_FACE
    ) -> ImageRestorer:
        """Build what restores whole pictures by these settings.

        Raises:
            ValueError: a setting out of its range, or a name that is not there.
        """
        faces = copy.copy(self.restorer(settings.model))  # with the same network and the same kept faces
        if settings.colour_fix not in COLOUR_FIXES:
            raise ValueError(f"colour fix '{settings.colour_fix}': must be one of {', '.join(COLOUR_FIXES)}")
        fix = COLOUR_FIXES[settings.colour_fix]
        faces.color_fix = faces.color_fix if fix is None else fix
        if not 1 <= settings.upscale <= 4:
            raise ValueError(f'enlargement {settings.upscale:g}: must be from 1 to 4')
        return ImageRestorer(
            faces,
            self.detector,
            w=settings.w,
            adain=faces.default_adain,
            upscale=settings.upscale,
            bg_upsampler=self._upsampler(settings.upsampler),
            parsing=self.parsing,
            force=settings.force,
            guide=guide,
            choose_w=settings.auto,
            selection=selection,
            blend=settings.blend,
        )
