"""All results of a visitor in one ZIP file, with the summary that the command writes."""

from __future__ import annotations

import zipfile
from dataclasses import asdict, replace
from pathlib import Path

from basicsr.app.engine import Engine
from basicsr.app.session import Session
from basicsr.app.settings import Settings
from basicsr.app.wording import plain
from basicsr.app.work import NOT_YET, decode, images_for, without_folders
from basicsr.inference.image_restorer import ImageResult
from basicsr.inference.jobs import SUMMARY, Job
from basicsr.inference.report import write_summary
from basicsr.inference.runner import Runner
from basicsr.utils.files import replacing
from basicsr.utils.progress import track

ARCHIVE = 'restored.zip'


def pack(engine: Engine, session: Session, extension: str = 'png', keep_gps: bool = False) -> Path:
    """Write all results and their summary into a ZIP file.

    Args:
        engine: that restored them.
        session: of the visitor.
        extension: of the pictures, `png`, `jpg` or `webp`.
        keep_gps: pictures say where they were taken, as far as the uploads did.

    Returns:
        Its path.

    Raises:
        ValueError: nothing is restored yet, or a format that is none.
        OSError: it cannot be written.
    """
    settings, records = session.restored_with, list(session.records)
    if settings is None or not (records or any(shown.image is not None for shown in session.pictures)):
        raise ValueError(NOT_YET)
    if session.stale:
        decode(engine, session, settings)
    for shown in track(session.pictures, 'picture'):
        if shown.image is None:
            continue
        images = images_for(engine, session, settings, shown)
        runner = Runner(images, session.results, extension=extension, keep_gps=keep_gps, shared=True)
        result = ImageResult(shown.image, list(shown.faces or []))
        picture = shown.picture
        if not keep_gps:
            picture = replace(picture, metadata=picture.metadata.without_position())
        records.append(without_folders(runner.write(Job(shown.path, shown.name), picture, result)))
    write_summary(session.results / SUMMARY, records, describe(engine, session, settings))
    archive = session.folder / ARCHIVE
    with replacing(archive) as partial, zipfile.ZipFile(partial, 'w') as file:  # pictures and clips are compressed
        for name in (SUMMARY, *(output for record in records for output in record.outputs)):
            file.write(session.results / name, name)
    return archive


def describe(engine: Engine, session: Session, settings: Settings) -> dict[str, object]:
    """Return the choices, for the summary."""
    people = {name: len(files) for name, files in session.people.items()}
    chosen = {**asdict(settings), 'left_out': sorted(settings.left_out), 'people': people}
    return {**chosen, 'model': plain(engine.restorer(settings.model).description)}
