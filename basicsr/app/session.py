"""A visitor's pictures, people and results, kept until they leave."""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from basicsr.app.settings import Settings
from basicsr.inference.found_face import FoundFace
from basicsr.inference.identity_conditioner import IdentityConditioner
from basicsr.inference.report import FileRecord
from basicsr.utils.files import shorten_name
from basicsr.utils.picture import Picture

LIFETIME = 3600.0  # seconds without a word from a visitor, after which everything of theirs is removed
LONGEST_PERSON = 60  # bytes of a person's name


def label(name: str, number: int) -> str:
    """Return the name of a face on the page."""
    return f'{number} · {name}'


@dataclass(eq=False)
class Shown:
    """A picture of a visitor.

    Attributes:
        path: of the upload.
        name: what it is called, unique among the visitor's.
        picture: its content.
        cut: its faces, found and judged.
        known: the same, with who they are.
        faces: the same, restored.
        image: the result, RGB.
    """

    path: Path
    name: str
    picture: Picture
    cut: list[FoundFace] = field(default_factory=list)
    known: list[FoundFace] | None = None
    faces: list[FoundFace] | None = None
    image: np.ndarray | None = None

    @property
    def labels(self) -> list[str]:
        """Names of its faces."""
        return [label(self.name, number) for number in range(len(self.cut))]


@dataclass(eq=False)
class Session:
    """Everything of one visitor.

    Args:
        folder: for their files, made by the caller.

    Attributes:
        uploads: paths that the pictures and clips are from.
        pictures: those that could be read.
        clips: path and name of each.
        records: of the clips that were restored.
        notes: what there is to say of uploads and references.
        cancel: set to end what is going on.
        cut_for: model and settings that `cut` of the pictures is for.
        guide: what measures identity, for `guide_for`.
        restored_with: settings of the last restoration.
        stale: pictures are of another w or blend than `restored_with`.
        decoding: all faces are being decoded at another w.
        wanted: w, choice of w and blend where the sliders are; None where they were not moved.
        shown_face, shown_picture: what the visitor looks at; empty for the first.
        enlarged: the last picture enlarged without its faces, and what for.
    """

    folder: Path
    uploads: tuple[str, ...] = ()
    pictures: list[Shown] = field(default_factory=list)
    clips: list[tuple[Path, str]] = field(default_factory=list)
    records: list[FileRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cancel: threading.Event = field(default_factory=threading.Event)
    cut_for: tuple = ()
    guide: IdentityConditioner | None = None
    guide_for: tuple = ()
    restored_with: Settings | None = None
    stale: bool = False
    decoding: bool = False
    wanted: tuple[float, bool, float] | None = None
    shown_face: str = ''
    shown_picture: str = ''
    enlarged: tuple[tuple, np.ndarray] | None = None
    last_used: float = field(default_factory=time.monotonic)

    @property
    def people(self) -> dict[str, list[Path]]:
        """Photographs by the person's name, in order."""
        root = self.folder / 'people'
        folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
        return {folder.name: sorted(folder.iterdir()) for folder in folders}

    @property
    def references(self) -> list[Path]:
        """Return the input of `references.gather`: the folder of the one person, or that of all."""
        people = list(self.people)
        if not people:
            return []
        return [self.folder / 'people' / people[0]] if len(people) == 1 else [self.folder / 'people']

    def add_person(self, name: str, photos: Sequence[str]) -> None:
        """Keep photographs of a person; of a name that is known, further ones.

        Raises:
            ValueError: no name, or no photograph.
        """
        name = shorten_name(re.sub(r'[\s/\\:\0]+', ' ', name).strip(' .'), LONGEST_PERSON)
        if not name:
            raise ValueError('the person needs a name')
        if not photos:
            raise ValueError(f'{name}: drop one or more photographs of the person')
        folder = self.folder / 'people' / name
        folder.mkdir(parents=True, exist_ok=True)
        there = len(list(folder.iterdir()))
        for number, photo in enumerate(map(Path, photos), there + 1):
            shutil.copyfile(photo, folder / shorten_name(f'{number:03d}_{photo.name.lstrip(".")}'))

    def forget_people(self) -> None:
        """Remove all photographs of people."""
        shutil.rmtree(self.folder / 'people', ignore_errors=True)

    def start_over(self, uploads: tuple[str, ...]) -> None:
        """Forget the pictures and results; the people stay."""
        self.uploads, self.pictures, self.clips, self.records, self.notes = uploads, [], [], [], []
        self.cut_for, self.enlarged, self.restored_with = (), None, None
        shutil.rmtree(self.results, ignore_errors=True)

    @property
    def labels(self) -> list[str]:
        """Names of the faces of all pictures."""
        return [label for shown in self.pictures for label in shown.labels]

    def face(self, label: str) -> tuple[Shown, int]:
        """Return the picture of a face, and its number there.

        Raises:
            ValueError: no face has that label.
        """
        for shown in self.pictures:
            if label in shown.labels:
                return shown, shown.labels.index(label)
        raise ValueError(f"no face '{label}' here")

    @property
    def results(self) -> Path:
        """The folder that results are written to."""
        return self.folder / 'results'


class Sessions:
    """The visitors by what Gradio calls their sessions.

    Args:
        root: folder for the files of all.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __getitem__(self, key: str) -> Session:
        """Return a visitor's session, begun where there is none. Those of visitors who left are removed."""
        with self._lock:
            now = time.monotonic()
            for old in [each for each, session in self._sessions.items() if now - session.last_used > LIFETIME]:
                self._remove(old)
            if key not in self._sessions:
                self._sessions[key] = Session(Path(tempfile.mkdtemp(dir=self.root)))
            self._sessions[key].last_used = now
            return self._sessions[key]

    def leave(self, key: str) -> None:
        """Cancel what is going on for a visitor, and remove everything of theirs."""
        with self._lock:
            self._remove(key)

    def _remove(self, key: str) -> None:
        session = self._sessions.pop(key, None)
        if session is not None:
            session.cancel.set()
            shutil.rmtree(session.folder, ignore_errors=True)
