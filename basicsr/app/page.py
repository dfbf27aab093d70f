"""The page: what is on it, and which function of `Handlers` answers what."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component
from gradio.themes import Base, Default

from basicsr.app.engine import Engine
from basicsr.app.handlers import Handlers
from basicsr.app.session import Sessions
from basicsr.app.settings import COLOUR_FIXES, DEFAULT_COLOUR_FIX, NO_UPSAMPLER, Settings
from basicsr.app.views import HEADERS, WIDTHS
from basicsr.utils.files import VIDEO_EXTENSIONS
from basicsr.utils.picture import PICTURE_EXTENSIONS
from basicsr.utils.picture_formats import EXTENSIONS

TITLE = 'ID-CodeFormer'
PURPOSE = 'Restore faces, and keep the person. Everything stays on the machine that runs this page.'
HINT = 'Drop pictures or a clip; the faces found appear here. Click on one to compare it.'
# One visitor's work at a time is with the networks; a single face that follows a slider does not wait for it.
NETWORKS, FACE = 'networks', 'face'
CLEAN_EVERY, KEEP = 600, 3600  # seconds; uploads and pictures of the page are removed after so long
MOST_WAITING = 20  # visitors


@dataclass(frozen=True, eq=False)
class Choices:
    """Choices of a visitor."""

    files: gr.File
    restore: gr.Button
    cancel: gr.Button
    left_out: gr.CheckboxGroup
    w: gr.Slider
    blend: gr.Slider
    auto: gr.Checkbox
    upscale: gr.Slider
    upsampler: gr.Dropdown
    colour_fix: gr.Radio
    model: gr.Dropdown
    force: gr.Checkbox
    threshold: gr.Slider

    @property
    def settings(self) -> list[Component]:
        """All that `Settings` has, in its order."""
        first = [self.left_out, self.w, self.auto, self.blend, self.upscale, self.upsampler]
        return [*first, self.colour_fix, self.model, self.force, self.threshold]


@dataclass(frozen=True, eq=False)
class Results:
    """Results that a visitor sees."""

    message: gr.Textbox
    faces: gr.Gallery
    face: gr.ImageSlider
    whole: gr.ImageSlider
    picture: gr.Dropdown
    clip: gr.Video
    table: gr.Dataframe
    extension: gr.Radio
    gps: gr.Checkbox
    pack: gr.Button
    archive: gr.File


def theme() -> Base:
    """Return the look, without fonts from elsewhere."""
    return Default(font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'])


def build_page(engine: Engine, sessions: Sessions) -> gr.Blocks:
    """Build the page, and with it the API.

    Args:
        engine: the networks.
        sessions: of the visitors.
    """
    handle = Handlers(engine, sessions)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(CLEAN_EVERY, KEEP)) as page:
        gr.Markdown(f'## {TITLE}\n{PURPOSE}')
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                chosen = _choices(engine)
                _people(handle)
            with gr.Column(scale=3, min_width=420):
                shown = _results()
        _connect(handle, chosen, shown)
        page.unload(handle.leave)
    return page.queue(max_size=MOST_WAITING)


def _choices(engine: Engine) -> Choices:
    """Return the upload, the buttons and the settings."""
    usual, names = Settings(), sorted(PICTURE_EXTENSIONS | VIDEO_EXTENSIONS)
    files = gr.File(label='Pictures or a clip', file_count='multiple', file_types=names, height=140, elem_id='files')
    with gr.Row():
        restore = gr.Button('Restore', variant='primary', elem_id='restore')
        cancel = gr.Button('Cancel', elem_id='cancel')
    left_out = gr.CheckboxGroup([], label='Leave out', info='Faces that stay as they are', elem_id='left_out')
    with gr.Row():
        w = gr.Slider(0, 1, usual.w, step=0.05, label='w', info='0: best quality, 1: closest to the input', elem_id='w')
        blend = gr.Slider(0, 1, usual.blend, step=0.05, label='Blend', info='0: the original, 1: the result')
    auto = gr.Checkbox(usual.auto, label='Choose w for each face (needs a face recognizer)')
    with gr.Accordion('More', open=False, elem_id='more'):
        return Choices(
            *(files, restore, cancel, left_out, w, blend, auto),
            upscale=gr.Slider(1, 4, usual.upscale, step=0.5, label='Enlargement'),
            upsampler=gr.Dropdown(engine.upsamplers, value=NO_UPSAMPLER, label='Background upsampler'),
            colour_fix=gr.Radio(list(COLOUR_FIXES), value=DEFAULT_COLOUR_FIX, label='Keep the colours of the input'),
            model=gr.Dropdown(list(engine.models), value=engine.default_model, label='Model'),
            force=gr.Checkbox(usual.force, label='Restore sharp faces, too', elem_id='force'),
            threshold=gr.Slider(0, 1, usual.threshold, step=0.01, label='Least similarity of a face and a person'),
        )


def _people(handle: Handlers) -> None:
    """Photographs of people."""
    with gr.Accordion('Photographs of the people', open=False, elem_id='people'):
        gr.Markdown('Other photographs of somebody tell who the face is. They need a face recognizer.')
        name = gr.Textbox(label='Name of the person', elem_id='name')
        names = sorted(PICTURE_EXTENSIONS)
        photos = gr.File(label='Photographs', file_count='multiple', file_types=names, height=140, elem_id='photos')
        with gr.Row():
            add = gr.Button('Add', elem_id='add')
            forget = gr.Button('Remove all')
        table = gr.Dataframe(headers=['person', 'photographs'], label='People', interactive=False, elem_id='persons')
    add.click(handle.add_person, [name, photos], [name, photos, table], api_name='add_person')
    forget.click(handle.forget_people, None, table, api_name='forget_people')


def _results() -> Results:
    """Lay out what a visitor sees of the work."""
    message = gr.Textbox(HINT, label='Messages', interactive=False, lines=1, elem_id='message')
    faces = gr.Gallery(
        label='Faces',
        columns=6,
        height=170,
        object_fit='contain',
        fit_columns=False,
        allow_preview=False,
        interactive=False,
        format='png',
        elem_id='faces',
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=240):
            face = gr.ImageSlider(label='Face, before and after', format='png', interactive=False, elem_id='face')
        with gr.Column(scale=3, min_width=320):
            whole = gr.ImageSlider(label='Picture, before and after', interactive=False, elem_id='whole')
    picture = gr.Dropdown([], label='Picture', visible=False, elem_id='picture')
    clip = gr.Video(label='Clip', visible=False, interactive=False, elem_id='clip')
    table = gr.Dataframe(
        headers=HEADERS, column_widths=[*WIDTHS], label='Identity', interactive=False, wrap=True, elem_id='identity'
    )
    with gr.Row():
        extension = gr.Radio(list(EXTENSIONS), value=EXTENSIONS[0], label='Format')
        gps = gr.Checkbox(False, label='Keep where it was taken (GPS)')
        pack = gr.Button('Pack everything', elem_id='pack')
    archive = gr.File(label='All results, with summary.json', interactive=False, height=90, elem_id='archive')
    return Results(message, faces, face, whole, picture, clip, table, extension, gps, pack, archive)


def _connect(handle: Handlers, chosen: Choices, shown: Results) -> None:
    """Say which function answers what; `api_name` is its name in the API."""
    found = [shown.faces, chosen.left_out, shown.picture, shown.message]
    everything = [*found, shown.whole, shown.face, shown.table, shown.clip]
    chosen.files.upload(
        handle.find,
        [chosen.files, chosen.upscale, chosen.model, chosen.force],
        everything,
        api_name='find',
        concurrency_id=NETWORKS,
        concurrency_limit=1,
    )
    chosen.files.clear(handle.clear, None, everything, api_visibility='private')
    chosen.restore.click(
        handle.restore, [chosen.files, *chosen.settings], everything, api_name='restore', concurrency_id=NETWORKS
    )
    chosen.cancel.click(handle.cancel, None, None, api_name='cancel', queue=False)
    looked_at = [shown.face, shown.whole, shown.picture]
    shown.faces.select(handle.show_face, None, looked_at, api_visibility='private', show_progress='hidden')
    shown.picture.input(handle.show_picture, shown.picture, shown.whole, api_name='picture')
    shown.pack.click(handle.pack, [shown.extension, shown.gps], shown.archive, api_name='pack', concurrency_id=NETWORKS)
    _follow_sliders(handle, chosen, shown)


def _follow_sliders(handle: Handlers, chosen: Choices, shown: Results) -> None:
    """Decode the face that is shown while a slider moves, and all of them once it stays."""
    inputs = [chosen.w, chosen.auto, chosen.blend]
    first = gr.on(
        [chosen.w.input, chosen.blend.input, chosen.auto.input],
        handle.decode_face,
        inputs,
        shown.face,
        api_visibility='private',
        trigger_mode='always_last',
        show_progress='hidden',
        concurrency_id=FACE,
        concurrency_limit=1,
    )
    first.success(
        handle.decode,
        inputs,
        [shown.whole, shown.face, shown.table],
        api_name='decode',
        trigger_mode='multiple',
        show_progress_on=shown.whole,
        concurrency_id=NETWORKS,
    )
