"""The table of identity on the page: who each face was taken for, and what became of the likeness, in plain words."""

from __future__ import annotations

from basicsr.app.session import Session
from basicsr.app.wording import plain
from basicsr.inference.identity_meter import MARGIN, FaceIdentity
from basicsr.inference.runner import likeness_of

HEADERS = ['face', 'compared with', 'before', 'after', 'w', 'what it means']
WIDTHS = ['20%', '17%', '12%', '10%', '9%', '32%']
FLATTERED = 'similarities are measured by the recognizer that guided the restoration, and look better than they are'


def in_words(face: FaceIdentity) -> str:
    """Say what became of the likeness; the warning, where there is one."""
    if face.warning:
        return plain(face.warning)
    if face.before is None:
        return 'still the person of the input'
    change = face.after - face.before
    if abs(change) <= MARGIN:
        return f'as like {face.person} as the input was'
    return f'more like {face.person} than the input was'


def row(label: str, face: FaceIdentity) -> list[str]:
    """One line of the table."""
    who = face.person or 'the input itself'
    before = '' if face.before is None else f'{face.before:.2f}'
    return [label, who, before, f'{face.after:.2f}', f'{face.w:g}', in_words(face)]


def identity_rows(session: Session) -> list[list[str]]:
    """Return the lines for all restored faces whose likeness was measured."""
    rows = [row(shown.labels[face.face], face) for shown in session.pictures for face in likeness_of(shown.faces or [])]
    clips = [row(f'{face.face} · {record.input}', face) for record in session.records for face in record.identity]
    return rows + clips
