"""Answers of the page and its API. Every error is one sentence in words of the page."""

from __future__ import annotations

import html
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import gradio as gr

from basicsr.app.archive import pack
from basicsr.app.engine import Engine
from basicsr.app.session import Session, Sessions
from basicsr.app.settings import Settings
from basicsr.app.views import FLATTERED, Pair, face_pair, identity_rows, picture_pair
from basicsr.app.wording import plain
from basicsr.app.work import decode, decode_face, find, restore
from basicsr.inference.attempt import FILE_ERRORS, UNEXPECTED
from basicsr.inference.found_face import RESTORED, RestoredFace
from basicsr.inference.report import describe_faces, why_left
from basicsr.utils.progress import CancelledError, Step, listen

logger = logging.getLogger('basicsr')


def error_of(error: BaseException) -> gr.Error:
    """Return the text that the page shows of an error."""
    if isinstance(error, CancelledError):
        return gr.Error('ended before it was done', duration=5, title='Cancelled', print_exception=False)
    text = plain(' '.join(str(error).split())) or type(error).__name__
    if not isinstance(error, FILE_ERRORS):
        logger.error('%s', UNEXPECTED, exc_info=error)
        text = f'{UNEXPECTED} ({type(error).__name__}: {text})'
    return gr.Error(html.escape(text, quote=False), duration=None, print_exception=False)


@contextmanager
def answering(session: Session, progress: gr.Progress | None = None) -> Iterator[None]:
    """Within, the visitor reads what goes wrong; sees the progress, and can cancel, where there is one."""

    def notify(step: Step) -> None:
        if progress is not None and step.total:
            progress((step.done, step.total), unit=f'{step.unit}s')

    if progress is not None:
        session.cancel.clear()
    try:
        with listen(notify, session.cancel if progress is not None else None):
            yield
    except (Exception, CancelledError) as error:
        raise error_of(error) from error


class Handlers:
    """The functions of the page.

    Args:
        engine: the networks.
        sessions: of the visitors.
    """

    def __init__(self, engine: Engine, sessions: Sessions) -> None:
        self.engine = engine
        self.sessions = sessions

    # ---- uploads and restoration

    def find(
        self,
        files: list[str] | None,
        upscale: float,
        model: str,
        force: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio finds it
    ) -> tuple[Any, ...]:
        """Find the faces of pictures: their crops, their names, the pictures and messages."""
        session = self._session(request)
        with answering(session, progress):
            find(self.engine, session, files or [], Settings(upscale=upscale, model=model, force=force))
            for note in session.notes:
                gr.Warning(html.escape(note, quote=False), duration=None)
            return self._found(session) + self._shown(session)

    def restore(
        self,
        files: list[str] | None,
        left_out: list[str],
        w: float,
        auto: bool,
        blend: float,
        upscale: float,
        upsampler: str,
        colour_fix: str,
        model: str,
        force: bool,
        threshold: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio finds it
    ) -> tuple[Any, ...]:
        """Restore pictures and clips: faces, messages, the first picture and face before and after, the identity."""
        session = self._session(request)
        chosen = frozenset(left_out), w, auto, blend, upscale, upsampler, colour_fix, model, force, threshold
        settings = Settings(*chosen)
        with answering(session, progress):
            if tuple(files or ()) != session.uploads:
                find(self.engine, session, files or [], settings)
            restore(self.engine, session, settings)
            session.wanted = None
            return self._found(session, left_out) + self._shown(session)

    def decode_face(self, w: float, auto: bool, blend: float, request: gr.Request) -> Any:
        """Decode the face that is shown at another w or blend, and end an older decoding of all."""
        session = self._session(request)
        if session.restored_with is None or not session.labels:
            raise gr.Error('restore the pictures first', visible=False, print_exception=False)
        session.wanted = w, auto, blend
        if session.decoding:
            session.cancel.set()
        with answering(session):
            label = self._label(session)
            decode_face(self.engine, session, Settings(w=w, auto=auto, blend=blend), label)
            return face_pair(self.engine, session, label)

    def decode(
        self,
        w: float,
        auto: bool,
        blend: float,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio finds it
    ) -> tuple[Any, ...]:
        """Decode all faces at another w or blend: the picture and face before and after, the identity."""
        session = self._session(request)
        if session.wanted not in (None, (w, auto, blend)):  # the slider is elsewhere by now
            return gr.skip(), gr.skip(), gr.skip()
        session.decoding = True
        try:
            with answering(session, progress), suppress(CancelledError):
                decode(self.engine, session, Settings(w=w, auto=auto, blend=blend))
                return self._shown(session)[:3]
            return gr.skip(), gr.skip(), gr.skip()
        finally:
            session.decoding = False

    def cancel(self, request: gr.Request) -> None:
        """End what is going on for this visitor."""
        self._session(request).cancel.set()

    def clear(self, request: gr.Request) -> tuple[Any, ...]:
        """Forget the uploads and results."""
        session = self._session(request)
        session.cancel.set()
        session.start_over(())
        return self._found(session) + self._shown(session)

    def leave(self, request: gr.Request) -> None:
        """Remove everything of a visitor who closed the page."""
        self.sessions.leave(str(request.session_hash))

    # ---- what is looked at

    def show_face(self, event: gr.SelectData, request: gr.Request) -> tuple[Any, ...]:
        """Return a face before and after, its picture likewise, and the name of that."""
        session = self._session(request)
        with answering(session):
            session.shown_face = session.labels[event.index]
            session.shown_picture = session.face(session.shown_face)[0].name
            return face_pair(self.engine, session, session.shown_face), self._whole(session), session.shown_picture

    def show_picture(self, name: str, request: gr.Request) -> Pair | None:
        """Return a picture before and after, by its name."""
        session = self._session(request)
        session.shown_picture = name
        return self._whole(session)

    # ---- people and downloads

    def add_person(self, name: str, photos: list[str] | None, request: gr.Request) -> tuple[Any, ...]:
        """Add photographs of a person: the list of people with the number of their photographs."""
        session = self._session(request)
        with answering(session):
            session.add_person(name or '', photos or [])
        return '', None, self._people(session)

    def forget_people(self, request: gr.Request) -> list[list[str]]:
        """Remove all photographs of people."""
        session = self._session(request)
        session.forget_people()
        return self._people(session)

    def pack(
        self,
        extension: str,
        keep_gps: bool,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio finds it
    ) -> str:
        """Pack all results and summary.json into a ZIP file."""
        session = self._session(request)
        with answering(session, progress):
            return str(pack(self.engine, session, extension, keep_gps))

    # ---- parts of answers

    def _session(self, request: gr.Request) -> Session:
        return self.sessions[str(request.session_hash)]

    @staticmethod
    def _people(session: Session) -> list[list[str]]:
        return [[name, str(len(files))] for name, files in session.people.items()]

    @staticmethod
    def _label(session: Session) -> str:
        """Return the face that is shown, the first where none was chosen."""
        return session.shown_face if session.shown_face in session.labels else session.labels[0]

    def _found(self, session: Session, left_out: Sequence[str] = ()) -> tuple[Any, ...]:
        """Faces with their captions, the choice of those to leave out, that of the picture, and messages."""
        gallery = [
            (face.restored if isinstance(face, RestoredFace) else face.crop, label)
            for shown in session.pictures
            for label, face in zip(shown.labels, shown.faces or shown.cut, strict=True)
        ]
        names = [shown.name for shown in session.pictures]
        kept = [label for label in left_out if label in session.labels]
        return (
            gallery,
            gr.update(choices=session.labels, value=kept),
            gr.update(choices=names, value=self._picture(session), visible=len(names) > 1),
            self._message(session),
        )

    @staticmethod
    def _message(session: Session) -> str:
        """Return the counts of faces, what was done with them, and all notes."""
        count, done = len(session.labels), session.restored_with is not None
        said = [f'{count} {"face" if count == 1 else "faces"} found'] if session.pictures else []
        if done and session.pictures:
            faces = [face for shown in session.pictures for face in shown.faces or ()]
            said.append(f'{sum(face.status == RESTORED for face in faces)} restored')
            left = {shown.name: plain(why_left(describe_faces(shown.faces or ()))) for shown in session.pictures}
            said += [f'{name}: {reasons}' for name, reasons in left.items() if reasons]
        said += [name for _, name in session.clips if not done]
        said += session.notes
        said += [plain(note) for note in (session.guide.notes if session.guide and done else ())]
        said += [f'{record.input}: {record.status}, {record.message}' for record in session.records]
        guide = session.guide if done else None
        said += [FLATTERED] if guide and guide.people and guide.search_steps and identity_rows(session) else []
        return '; '.join(said)

    @staticmethod
    def _picture(session: Session) -> str | None:
        """Return the name of the picture that is shown, the first where none was chosen."""
        names = [shown.name for shown in session.pictures]
        return session.shown_picture if session.shown_picture in names else next(iter(names), None)

    def _whole(self, session: Session) -> Pair | None:
        name = self._picture(session)
        return next((picture_pair(shown) for shown in session.pictures if shown.name == name), None)

    def _shown(self, session: Session) -> tuple[Any, ...]:
        """Return the picture and the face before and after, the identity, and the clip."""
        face = face_pair(self.engine, session, self._label(session)) if session.labels else None
        clips = [session.results / output for record in session.records for output in record.outputs]
        clip = gr.update(value=str(clips[0]) if clips else None, visible=bool(clips))
        return self._whole(session), face, identity_rows(session), clip
